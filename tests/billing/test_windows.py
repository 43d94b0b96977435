from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing import windows

ZONES = [
    "UTC", "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "America/Havana", "America/St_Johns",
    "Africa/Cairo", "Asia/Beirut", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia", "Pacific/Kiritimati",
]  # fmt: skip
anchors = st.integers(1, 31)
days = st.dates(date(2000, 1, 1), date(2049, 12, 31))
instants = st.integers(946_684_800_000, 2_524_608_000_000)


def ms(text):
    return int(datetime.fromisoformat(text).timestamp() * 1000)


@given(instants, st.sampled_from(ZONES), anchors)
def test_windows_around_now_touch_and_hold_now(now, zone, anchor):
    for kind, found in windows.windows(now, zone, anchor):
        assert found[0].start_ms <= now < found[-1].end_ms
        assert all(bounds.start_ms < bounds.end_ms for bounds in found)
        assert all(one.end_ms == other.start_ms for one, other in pairwise(found))
        assert len({bounds.id for bounds in found}) == len(found)
        if kind != "lifetime":
            assert found[0].end_ms <= now, "a clock slightly behind still finds its window"
            assert found[-1].start_ms > now, "a clock slightly ahead still finds its window"


@given(instants, st.sampled_from(ZONES), st.sampled_from(["minute", "day", "month", "lifetime"]), anchors)
def test_a_window_is_found_again_by_its_id(now, zone, kind, anchor):
    bounds = windows.window_at(now, kind, zone, anchor)
    assert windows.bounds_of(bounds.id, zone) == bounds


@given(instants, st.sampled_from(ZONES), anchors)
def test_a_call_counts_in_the_month_that_its_day_counts_in(now, zone, anchor):
    """What Redis judges by its clock, and what seeds and reconcile add up by days, are the same windows."""
    month = windows.window_at(now, "month", zone, anchor)
    day = windows.day_of(now, zone)
    assert windows.month_of_day(day, anchor) == month.id
    first, after = windows.days_of(month.id)
    assert first <= date.fromisoformat(day) < after
    assert windows.days_of(f"d{day}") == (date.fromisoformat(day), date.fromisoformat(day) + timedelta(days=1))


@given(days, anchors)
def test_anchored_months_cover_every_day_once_and_begin_on_their_anchor_or_a_months_last_day(day, anchor):
    found = windows.month_of_day(f"{day:%Y%m%d}", anchor)
    first, after = windows.days_of(found)
    assert first <= day < after
    assert 28 <= (after - first).days <= 31
    assert first.day == anchor or (first.day < anchor and (first + timedelta(days=1)).day == 1)
    last = after - timedelta(days=1)
    assert windows.month_of_day(f"{last:%Y%m%d}", anchor) == found
    assert windows.month_of_day(f"{after:%Y%m%d}", anchor) != found


@pytest.mark.parametrize(
    ("day", "anchor", "window_id", "first", "after"),
    [
        ("20261121", 1, "m202611", "2026-11-01", "2026-12-01"),
        ("20261121", 21, "m202611a21", "2026-11-21", "2026-12-21"),
        ("20261120", 21, "m202610a21", "2026-10-21", "2026-11-21"),
        ("20270228", 31, "m202702a31", "2027-02-28", "2027-03-31"),
        ("20270227", 31, "m202701a31", "2027-01-31", "2027-02-28"),
        ("20280229", 30, "m202802a30", "2028-02-29", "2028-03-30"),
        ("20280101", 15, "m202712a15", "2027-12-15", "2028-01-15"),
        ("20271231", 31, "m202712a31", "2027-12-31", "2028-01-31"),
    ],
)
def test_months_that_begin_on_another_day(day, anchor, window_id, first, after):
    assert windows.month_of_day(day, anchor) == window_id
    assert [f"{found}" for found in windows.days_of(window_id)] == [first, after]


def test_an_anchored_month_begins_at_the_brands_midnight_whatever_the_clock_does():
    """In the night in which this month begins, Berlin loses an hour."""
    found = windows.window_at(ms("2026-03-29T12:00+02:00"), "month", "Europe/Berlin", 29)
    assert (found.id, found.start_ms) == ("m202603a29", ms("2026-03-29T00:00+01:00"))
    assert found.end_ms == ms("2026-04-29T00:00+02:00")
    assert found.end_ms - found.start_ms == (31 * 24 - 1) * 3_600_000


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


@pytest.mark.parametrize(
    "window_id",
    ["", "x1", "d2026", "i", "m20261", "m202613", "d20260231", "life2", "m202611a01", "m202611a32", "m202611a1"],
)
def test_an_id_that_names_no_window_is_refused(window_id):
    with pytest.raises(ValueError):  # noqa: PT011
        windows.bounds_of(window_id, "UTC")
