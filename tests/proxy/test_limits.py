from dataclasses import dataclass

import pytest

from proxy.limits import TOKEN_UNITS, go_duration, tightest


@dataclass
class State:
    name: str
    unit: str
    limit: int | None
    posted: int = 0
    held: int = 0
    window: str = "minute"
    resets_at_ms: int | None = None


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, b"0ms"),
        (12, b"12ms"),
        (1000, b"1s"),
        (1500, b"1.5s"),
        (59_999, b"59.999s"),
        (360_000, b"6m0s"),
        (90_250, b"1m30.25s"),
        (86_400_000, b"24h0m0s"),
        (3_661_000, b"1h1m1s"),
    ],
)
def test_durations_are_written_as_go_writes_them(milliseconds: int, text: bytes) -> None:
    assert go_duration(milliseconds) == text


def test_the_limit_with_least_room_is_shown() -> None:
    states = [
        State("day", "tokens", 1000, 100, 50, resets_at_ms=5_000),
        State("minute", "tokens", 500, 100, 300, resets_at_ms=2_000),
        State("counted", "tokens", None, 10**9),
        State("requests", "requests", 1, 1),
    ]
    shown = tightest(states, TOKEN_UNITS, 1_000, with_held=True)
    assert shown is not None
    assert (shown.name, shown.limit, shown.remaining, shown.reset_ms) == ("minute", 500, 100, 1_000)
    refused = tightest(states, TOKEN_UNITS, 1_000, with_held=False)
    assert refused is not None
    assert refused.remaining == 400


def test_room_is_never_negative_and_no_limit_shows_nothing() -> None:
    shown = tightest([State("day", "tokens", 10, 100)], TOKEN_UNITS, 0, with_held=False)
    assert shown is not None
    assert (shown.remaining, shown.reset_ms) == (0, None)
    month, day = State("month", "tokens", 10, 11, resets_at_ms=9), State("day", "tokens", 10, 100, resets_at_ms=4)
    for states in ([month, day], [day, month]):
        both = tightest(states, TOKEN_UNITS, 0, with_held=False)
        assert both is not None
        assert both == ("month", 10, 0, 9, 9), "of two that are used up the one that lasts longest"
    ever = State("ever", "tokens", 10, 10)
    longest = tightest([month, ever, day], TOKEN_UNITS, 0, with_held=False)
    assert longest is not None
    assert longest.name == "ever"
    assert tightest([], TOKEN_UNITS, 0, with_held=True) is None
