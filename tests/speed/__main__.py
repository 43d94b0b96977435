"""`make bench`: what one proxy worker adds to a call, beside nginx on the same engine. Everything runs in a folder of
its own, on private stores and loopback; README.md says what is measured."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.speed.load import WRK
from tests.speed.programs import NGINX

NOT_OURS = ("DATABASE_", "REDIS_", "BROKER_", "CACHE_", "SECRET_KEY", "KEY_PEPPER", "SEALING_KEYS", "WAL_DIR", "DEMO")
"""Settings that would lead to somebody's installation."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.speed", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of whole calls")
    parser.add_argument("--seconds", type=int, default=4, help="of each burst")
    parser.add_argument("--stream-rounds", type=int, default=2)
    parser.add_argument("--limit-rounds", type=int, default=3, help="rounds of whole calls with few and many limits")
    given = parser.parse_args()
    missing = [name for name in (NGINX, WRK) if shutil.which(name) is None]
    if missing:
        sys.exit(f"{' and '.join(missing)} not found (Debian: apt-get install nginx-light wrk).")
    with tempfile.TemporaryDirectory(prefix="gw-speed-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)  # the unprivileged PostgreSQL passes through
        for setting in [name for name in os.environ if name.startswith(NOT_OURS)]:
            del os.environ[setting]
        os.environ |= {"VAR_DIR": str(folder / "var"), "DEMO": "0", "DJANGO_SETTINGS_MODULE": "portal.settings"}
        return _bench(folder, given)


def _bench(folder: Path, given: argparse.Namespace) -> int:
    from portal.stores import running
    from portal.stores.place import Place

    began = time.monotonic()
    _tell("Starting PostgreSQL and Redis")
    with running.stores(Place.from_environment()):
        import django

        django.setup()
        from django.core.management import call_command

        call_command("migrate", verbosity=0, interactive=False)
        from tests.speed.customer import customers
        from tests.speed.programs import engines, programs
        from tests.speed.table import aims, exit_status, table, void
        from tests.speed.trial import USUAL, Trial

        plan = USUAL._replace(
            rounds=given.rounds,
            seconds=given.seconds,
            stream_rounds=given.stream_rounds,
            limit_rounds=given.limit_rounds,
        )
        _tell("Starting engines, nginx, the journal and one proxy worker")
        with engines(folder, plan.pace) as ports:
            buyers = customers(
                whole_url=f"http://127.0.0.1:{ports.engine}/v1", streamed_url=f"http://127.0.0.1:{ports.paced}/v1"
            )
            with programs(folder / "var", ports, folder / "gateway") as started:
                results = Trial(plan, started, buyers, folder).run(_tell)
    _tell(f"\n{table(results)}\n\n{time.monotonic() - began:.0f} s.")
    return exit_status(aims(results), void(results))


def _tell(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
