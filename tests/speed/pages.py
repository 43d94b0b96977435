"""`python -m tests.speed.pages`: how long the server takes for each page of an account with a million calls behind it.

And which tables PostgreSQL goes through for it. One page after the other, on stores of its own, nothing else running.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

from tests.chaos import stores

if TYPE_CHECKING:
    from django.test import Client

    from keys.models import Organization
    from tests.speed.plans import Read

P95_MS_MAX = 100.0
BRAND_FILE = Path("portal/demo/brands/dialogix.toml")
ADDRESS = "developer@example.com"


class Row(NamedTuple):
    """Server time in ms over the rounds. `wrong` says what should not be: too slow, or single calls read by a
    page of sums, or a day of them read whole."""

    path: str
    median: float
    p95: float
    worst: float
    statements: int
    wrong: str


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.speed.pages", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=40, help="times that each page is opened")
    given = parser.parse_args()
    with stores.started(keep=False):
        organization, client = _account(given.events, given.days)
        rows = _measured(organization, client, given.rounds)
    _print(rows, given.events)
    return 1 if any(row.wrong for row in rows) else 0


def _account(events: int, days: int) -> tuple[Organization, Client]:
    from django.core.management import call_command
    from django.test import Client, override_settings

    from keys.models import Organization, User
    from portal.accounts import make_verified
    from portal.brandfile.importing import import_brand
    from portal.brandfile.reading import read
    from portal.demo.engines import demo_engine

    demo_engine("http://127.0.0.1:9/v1", "tests")
    import_brand(read(BRAND_FILE.read_bytes()), actor="tests")
    owner = User.objects.create_user(email=ADDRESS, password=None)
    make_verified(owner)
    with override_settings(DEMO=True):
        call_command("seed_usage", brand="dialogix", events=events, days=days, owner=ADDRESS)
    client = Client(raise_request_exception=True)
    client.force_login(owner)
    return Organization.objects.get(slug="busy-1"), client


def _measured(organization: Organization, client: Client, rounds: int) -> list[Row]:
    from django.db import connection

    from portal import server
    from tests.speed import plans
    from tests.speed.addresses import addresses

    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    found = {address.path: address for address in addresses(organization, client)}
    reads = {path: plans.read(client, path) for path in found}
    small = plans.small_tables()
    server.post_worker_init(None)  # the collector as workers have it
    times: dict[str, list[float]] = {path: [] for path in found}
    for _ in range(rounds):
        for path in found:
            times[path].append(_milliseconds(client, path))
    return [_row(path, times[path], reads[path], found[path].may_read_events, small) for path in found]


def _milliseconds(client: Client, path: str) -> float:
    began = perf_counter()
    client.get(path)
    return (perf_counter() - began) * 1000


def _row(path: str, times: list[float], read: Read, may_read_events: bool, small: set[str]) -> Row:
    p95 = statistics.quantiles(times, n=20, method="inclusive")[-1] if len(times) > 1 else times[0]
    wrong = [f"status {read.status}"] if read.status != 200 else []
    wrong += [f"p95 above {P95_MS_MAX:.0f} ms"] if p95 > P95_MS_MAX else []
    for scan in sorted(read.of_events):
        if not may_read_events or ("Seq" in scan.kind and scan.table not in small):
            wrong.append(f"{scan.kind} of {scan.table}")
    return Row(path, statistics.median(times), p95, max(times), read.statements, "; ".join(wrong))


def _print(rows: list[Row], events: int) -> None:
    print(f"\n{events:,} calls of one account. Server time of a page, ms; statements it sent.")
    print(f"{'page':62} {'median':>7} {'p95':>7} {'worst':>7} {'sql':>4}")
    for row in sorted(rows, key=lambda row: -row.p95):
        print(f"{row.path:62} {row.median:7.1f} {row.p95:7.1f} {row.worst:7.1f} {row.statements:4}  {row.wrong}")


if __name__ == "__main__":
    sys.exit(main())
