"""A day of Axione's first tier, used up on two workers by the real clock: the thousand-and-first request is refused
until the brand's midnight, which is seconds away because the zone is made so."""

from __future__ import annotations

import asyncio
import os
import struct
import threading
import time
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import redis

from billing import engines, script
from billing.models import UsageDay, UsageEvent
from billing.reconcile import reconcile
from keys import issuing, organizations
from keys.caller import shard_of
from keys.models import Brand, Organization
from portal.brandfile.importing import import_brand
from portal.brandfile.reading import read
from portal.stores.children import wait_until
from portal.stores.place import PROJECT_DIR
from tests.billing.stage import open_epoch
from tests.inference import CAPABILITIES, demo_engine
from tests.proxy.test_limit_refusals import seconds_of
from tests.stories.workers import Answer, Caller, journal, proxy_workers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.django_db(transaction=True)]
ACTOR = "story"
WORKERS = 2
CALLERS = 16
REQUESTS_A_DAY = 1_000
SECONDS = (8, 90)
"""Until midnight; the second time, should the machine be too slow for the first."""
PATH = "/axione/api/v1/chat/completions"
BODY: dict[str, Any] = {"model": "openai/gpt-4o", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}


class Midnight(NamedTuple):
    zone: str
    at: float

    def day(self, seconds: float) -> date:
        """The brand's day, so long after midnight."""
        return datetime.fromtimestamp(self.at + seconds, zoneinfo.ZoneInfo(self.zone)).date()

    @property
    def told(self) -> str:
        return datetime.fromtimestamp(self.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def wait(self, seconds: float) -> None:
        time.sleep(max(0.0, self.at + seconds - time.time()))


def zone_file(offset: int) -> bytes:
    """A TZif file (RFC 8536, version 1) of one unchanging offset, in seconds east of Greenwich."""
    header = struct.pack(">4sc15x6I", b"TZif", b"\0", 0, 0, 0, 0, 1, 4)
    return header + struct.pack(">iBB", offset, 0, 0) + b"TST\0"


@pytest.fixture
def zones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where this process and those that it starts look for zones, too."""
    folder, before = tmp_path / "zones", zoneinfo.TZPATH
    (folder / "Soon").mkdir(parents=True)
    monkeypatch.setenv("PYTHONTZPATH", os.pathsep.join([str(folder), *before]))
    zoneinfo.reset_tzpath([str(folder), *before])
    yield folder
    zoneinfo.reset_tzpath(before)


def midnight_in(seconds: int, zones: Path) -> Midnight:
    at = int(time.time()) + seconds
    name = f"Soon/At{at}"
    (zones / name).write_bytes(zone_file((-at + 43_200) % 86_400 - 43_200))
    return Midnight(name, float(at))


def axione(midnight: Midnight) -> Brand:
    """As its file says, but for where it is."""
    text = (PROJECT_DIR / "portal" / "demo" / "brands" / "axione.toml").read_text()
    import_brand(read(text.replace('timezone = "UTC"', f'timezone = "{midnight.zone}"').encode()), actor=ACTOR)
    brand = Brand.objects.get(slug="axione")
    assert brand.timezone == midnight.zone
    return brand


def customer(brand: Brand, slug: str) -> tuple[Organization, str]:
    organization = organizations.create(brand=brand, name=slug.title(), slug=slug, actor=ACTOR)
    return organization, issuing.issue(organization=organization, name=slug, actor=ACTOR).secret


def use(port: int, secret: str, times: int) -> list[Answer]:
    left = iter(range(times))

    async def one() -> list[Answer]:
        caller = await Caller(port, PATH, secret, BODY).connect()
        answers = [await caller.call() for _ in left]
        await caller.close()
        return answers

    async def all_of_them() -> list[Answer]:
        found = await asyncio.gather(*[one() for _ in range(CALLERS)])
        return [answer for answers in found for answer in answers]

    return asyncio.run(all_of_them())


def ask(port: int, secret: str, **fields: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {secret}"}
    return httpx.post(f"http://127.0.0.1:{port}{PATH}", json=BODY | fields, headers=headers, timeout=120)


def requests_counted(store: Any, organization: Organization, day: date) -> dict[str, int]:
    """Posted and held in Redis."""
    name = script.name(shard_of(organization.pk), f"w:{organization.pk}:d{day:%Y%m%d}")
    return {kind: int(store.hget(name, f"o.req.{kind}") or 0) for kind in ("p", "h")}


def says_that_the_day_is_used_up(refused: httpx.Response, midnight: Midnight) -> None:
    left = midnight.at - time.time()
    assert refused.status_code == 429
    assert refused.json() == {
        "error": {
            "type": "rate_limit_error",
            "message": f"Daily requests limit exceeded: 1,000 of 1,000 used. It resets at {midnight.told}.",
            "code": "daily_requests_exceeded",
            "param": None,
        }
    }
    headers = refused.headers
    names = ("limit", "remaining", "used")
    assert [headers[f"x-ratelimit-{name}-requests"] for name in names] == ["1000", "0", "1000"]
    assert headers["x-should-retry"] == "false"
    assert left <= float(headers["retry-after-ms"]) / 1000 <= left + 2
    assert left <= seconds_of(headers["x-ratelimit-reset-requests"]) <= left + 2


def test_the_1001st_request_of_a_day_waits_for_midnight_and_a_hold_stays_on_its_day(
    redis_connection: redis.Redis, tmp_path: Path, zones: Path
) -> None:
    open_epoch(redis_connection)
    with demo_engine() as inference, journal(tmp_path), proxy_workers(WORKERS, tmp_path) as port:
        engines.register(name="demo", kind="vllm", base_url=inference.base_url, actor=ACTOR, capabilities=CAPABILITIES)
        for seconds in SECONDS:
            midnight = midnight_in(seconds, zones)
            brand = axione(midnight)
            early, secret = customer(brand, f"early-{seconds}")
            late, late_secret = customer(brand, f"late-{seconds}")
            words = f"demo:delay={int((midnight.at - time.time() + 1.5) * 1000)}"
            slow: list[httpx.Response] = []
            fields = {"messages": [{"role": "user", "content": words}], "stream": True}
            running = threading.Thread(target=lambda: slow.append(ask(port, late_secret, **fields)))  # noqa: B023
            running.start()
            began = time.monotonic()
            answers = use(port, secret, REQUESTS_A_DAY)
            took = time.monotonic() - began
            refused = ask(port, secret)
            if time.time() < midnight.at - 1:
                break
            running.join()
        assert {answer.status for answer in answers} == {200}
        says_that_the_day_is_used_up(refused, midnight)
        midnight.wait(-0.5)
        assert ask(port, secret).status_code == 429
        before, after = midnight.day(-1), midnight.day(1)
        assert requests_counted(redis_connection, early, before) == {"p": REQUESTS_A_DAY, "h": 0}
        assert requests_counted(redis_connection, late, before) == {"p": 0, "h": 1}
        midnight.wait(1.0)
        served = ask(port, secret)
        assert served.status_code == 200, served.text
        assert served.headers["x-ratelimit-remaining-requests"] == "999"
        running.join()
        assert slow[0].status_code == 200
        assert slow[0].text.endswith("data: [DONE]\n\n")
        assert wait_until(lambda: events_of(late) == [before], within_seconds=20, every_seconds=0.1)
        assert requests_counted(redis_connection, late, before) == {"p": 1, "h": 0}
        assert requests_counted(redis_connection, late, after) == {"p": 0, "h": 0}
        assert wait_until(lambda: len(events_of(early)) == REQUESTS_A_DAY + 1, within_seconds=20, every_seconds=0.1)
        booked = UsageDay.objects.filter(organization_id=early.pk).order_by("day").values_list("day", "requests")
        assert list(booked) == [(before, REQUESTS_A_DAY), (after, 1)]
        assert list(reconcile(redis_connection)) == []
    print(f"{REQUESTS_A_DAY} requests in {took:.1f} s; the next refused until {midnight.told}, served a second after")


def events_of(organization: Organization) -> list[date]:
    return list(UsageEvent.objects.filter(organization_id=organization.pk).values_list("day", flat=True))
