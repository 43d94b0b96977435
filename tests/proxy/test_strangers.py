import pytest

from proxy import strangers
from proxy.refusals import Declined
from proxy.strangers import AT_ONCE, PER_SECOND, Strangers


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def taken(door: Strangers, address: str, times: int) -> int:
    """How many of `times` requests were let in."""
    served, refused = 0, []
    for _ in range(times):
        try:
            door.take(address)
            served += 1
        except Declined as declined:
            refused.append(declined.problem)
    assert all(problem.status == 429 and problem.retry_after_ms >= 1 for problem in refused)
    return served


def test_each_address_has_its_own_and_gets_it_back_in_time() -> None:
    clock = Clock()
    door = Strangers(clock)
    assert taken(door, "192.0.2.1", AT_ONCE + 10) == AT_ONCE
    assert taken(door, "192.0.2.2", AT_ONCE + 10) == AT_ONCE
    clock.now += 10
    assert taken(door, "192.0.2.1", AT_ONCE) == 10 * PER_SECOND
    clock.now += 10_000
    assert taken(door, "192.0.2.1", AT_ONCE * 2) == AT_ONCE


def test_a_network_of_ipv6_is_one_address() -> None:
    door = Strangers(Clock())
    assert taken(door, "2001:db8::1", AT_ONCE) == AT_ONCE
    assert taken(door, "2001:db8::ffff", 1) == 0
    assert taken(door, "2001:db8:0:1::1", 1) == 1
    assert taken(door, "::ffff:192.0.2.1", 1) == 1


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "ADDRESSES_MAX", 3)
    door = Strangers(Clock())
    for number in range(10):
        taken(door, f"192.0.2.{number}", 1)
    assert len(door._buckets) == 3
