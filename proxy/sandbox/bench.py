"""What test calls find in place of what serves, judges and counts the others."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from billing.seeds import Seeds
from proxy.engine_slots import EngineSlots
from proxy.leavers import Leavers
from proxy.metrics import Metrics
from proxy.sandbox.admission import TestAdmission
from proxy.sandbox.engine import HouseEngine, HouseRouting

if TYPE_CHECKING:
    from proxy.call import Call
    from proxy.meter import Measured
    from proxy.worker import Worker


class TestMetrics(Metrics):
    """Counts test calls, in the worker's own numbers, and nothing else of them."""

    __test__ = False

    def __init__(self, metrics: Metrics) -> None:
        self.__dict__ = metrics.__dict__

    def dispatched(self, call: Call) -> None:
        """How fast the house's own engine is, is no news."""

    def settled(self, call: Call, measured: Measured) -> None:
        self._count("gateway_test_calls", (call.endpoint.name, measured.end_reason))


def bench_of(worker: Worker) -> Worker:
    """The same worker, with another's engines, slots and books. What changes about a worker later (its leases, its
    tasks, whether it drains) is the worker's to know and not the bench's: ask it there."""
    bench = copy.copy(worker)
    parts = (worker.counters, worker.wal, worker.catalogue, worker.directory)
    seeds = Seeds(worker.counters, worker.postgresql)
    bench.admission = TestAdmission(*parts, seeds, redis=worker.redis, log=worker.refusals)
    bench.upstream = HouseEngine()
    bench.slots = EngineSlots()
    bench.routing = HouseRouting(bench.slots)
    bench.leavers = Leavers()
    bench.metrics = TestMetrics(worker.metrics)
    return bench
