from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing import windows

ZONES = [
    "UTC", "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "America/Havana", "America/St_Johns",
    "Africa/Cairo", "Asia/Beirut", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia", "Pacific/Kiritimati",
]  # fmt: skip
instants = st.integers(946_684_800_000, 2_524_608_000_000)


def ms(text):
    return int(datetime.fromisoformat(text).timestamp() * 1000)


@given(instants, st.sampled_from(ZONES))
def test_windows_around_now_touch_and_hold_now(now, zone):
    for kind, found in windows.windows(now, zone):
        assert found[0].start_ms <= now < found[-1].end_ms
        assert all(bounds.start_ms < bounds.end_ms for bounds in found)
        assert all(one.end_ms == other.start_ms for one, other in pairwise(found))
        assert len({bounds.id for bounds in found}) == len(found)
        if kind != "lifetime":
            assert found[0].end_ms <= now, "a clock slightly behind still finds its window"
            assert found[-1].start_ms > now, "a clock slightly ahead still finds its window"


@given(instants, st.sampled_from(ZONES), st.sampled_from(["minute", "day", "month", "lifetime"]))
def test_a_window_is_found_again_by_its_id(now, zone, kind):
    bounds = windows.window_at(now, kind, zone)
    assert windows.bounds_of(bounds.id, zone) == bounds


def test_a_day_of_daylight_saving_has_23_or_25_hours():
    spring = windows.window_at(ms("2026-03-29T12:00+02:00"), "day", "Europe/Berlin")
    autumn = windows.window_at(ms("2026-10-25T12:00+01:00"), "day", "Europe/Berlin")
    assert (spring.id, spring.end_ms - spring.start_ms) == ("d20260329", 23 * 3_600_000)
    assert (autumn.id, autumn.end_ms - autumn.start_ms) == ("d20261025", 25 * 3_600_000)


def test_days_follow_the_brands_zone():
    instant = ms("2026-11-21T23:30+00:00")
    assert windows.day_of(instant, "UTC") == "20261121"
    assert windows.day_of(instant, "Asia/Tokyo") == "20261122"
    assert windows.window_at(instant, "month", "Asia/Tokyo").id == "m202611"


def test_resets_are_the_end_of_the_window():
    instant = ms("2026-12-31T23:59:30+00:00")
    new_year = int(datetime(2027, 1, 1, tzinfo=UTC).timestamp() * 1000)
    assert [windows.resets_at_ms(instant, kind, "UTC") for kind in ("minute", "day", "month")] == [new_year] * 3
    assert windows.resets_at_ms(instant, "lifetime", "UTC") is None


@pytest.mark.parametrize("window_id", ["", "x1", "d2026", "i", "m20261", "m202613", "d20260231", "life2"])
def test_an_id_that_names_no_window_is_refused(window_id):
    with pytest.raises(ValueError):  # noqa: PT011
        windows.bounds_of(window_id, "UTC")
