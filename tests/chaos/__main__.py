"""`python -m tests.chaos`: breaks a running installation by plan, and says whether its books are right all the same."""

from __future__ import annotations

import argparse
import secrets
import sys

from tests.chaos import stores


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="how long faults begin (default 600)")
    parser.add_argument("--seed", type=int, help="the faults, their order and the load (default: drawn, and printed)")
    parser.add_argument(
        "--without",
        choices=["wal-replay"],
        help="the control: dead workers' write-ahead logs are taken away, so charges must be found lost",
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs and data")
    parser.add_argument(
        "--tables", default="", help="a data folder of PostgreSQL to begin with (default: migrated anew)"
    )
    asked = parser.parse_args()
    seed = secrets.randbelow(10**6) if asked.seed is None else asked.seed
    with stores.started(keep=asked.keep, tables=asked.tables) as ours:
        from tests.chaos import table, trial  # models: not before Django is set up

        if asked.keep:
            _tell(f"Logs stay in {ours.place.logs}")
        report = trial.run(ours, seed=seed, seconds=asked.seconds, replays=asked.without is None, tell=_tell)
        for line in table.lines(report):
            _tell(line)
    return 0 if report.is_good else 1


def _tell(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
