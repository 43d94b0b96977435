"""How much of an engine's time goes to clients that leave."""

from proxy.leavers import FREE_SECONDS, FREE_SHARE, Leavers


def test_what_leavers_get_for_nothing_is_bounded() -> None:
    """An hour of ten calls a second, each left after two seconds; and who leaves once a minute is always let go."""
    now = [0.0]
    leavers = Leavers(clock=lambda: now[0])
    free = 0.0
    for _ in range(36_000):
        free += 2 * leavers.may_go(1, 2.0)
        now[0] += 0.1
    assert FREE_SECONDS <= free <= FREE_SECONDS + 3_600 * FREE_SHARE + 2
    assert not leavers.may_go(1, 0.001)
    assert leavers.may_go(2, 10 * FREE_SECONDS)  # a long one, once
    assert not leavers.may_go(2, 1)
    for _ in range(1_000):
        now[0] += 60
        assert leavers.may_go(3, 3.0)
