"""`python -m tests.exactness`: every kind of limit against 10,000 requests each, on stores of its own, in a table."""

from __future__ import annotations

import argparse
import sys

from tests.chaos import stores


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.exactness", description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000, help="against each limit")
    parser.add_argument("--only", nargs="*", default=[], help="requests, tokens, credits, spend, concurrency")
    given = parser.parse_args()
    with stores.started(keep=False) as started:
        import redis

        from billing import rebuild
        from tests.exactness.house import house
        from tests.exactness.kinds import KINDS, MORE
        from tests.exactness.trial import run, table

        store = redis.Redis.from_url(started.place.redis_url())
        rebuild.ensure_epochs(store)
        rows = []
        with house(store, started.place.var) as built:
            for kind in KINDS + MORE:
                if not given.only or kind.what in given.only:
                    rows.append(run(built, kind, given.requests))
                    rows[-1].wrong += built.differences()
                    print(table(rows[-1:]), flush=True)
        print(f"\n{table(rows)}", flush=True)
        return 1 if any(row.wrong for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
