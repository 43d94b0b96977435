"""Charts in parts, and lines: shapes with their sizes, told apart by pattern and said as a table."""

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from billing.reports import Usage
from portal import stacks, usage_chart

FIRST = date(2026, 11, 1)


def days(number: int) -> list[date]:
    return [FIRST + timedelta(days=n) for n in range(number)]


def test_the_largest_groups_are_told_apart_and_the_others_stand_together():
    amounts = {(0, f"g{n}"): 10 + n for n in range(8)} | {(2, "g7"): 100}
    chart = stacks.stacked(days(3), amounts, str)
    assert [(group.name, group.text) for group in chart.groups] == [
        ("g7", "117"),
        *((f"g{n}", str(10 + n)) for n in (6, 5, 4, 3)),
        ("3 others", "33"),
    ]
    full, empty, single = chart.columns
    assert len(full.bars) == 6
    assert sum(height for _, height in full.bars.values()) == pytest.approx(stacks.HEIGHT, abs=0.05)
    assert full.bars[0][0] == pytest.approx(stacks.HEIGHT - full.bars[0][1], abs=0.01), "the largest is lowest"
    assert list(single.bars) == [0]
    assert (empty.bars, empty.is_empty, empty.text, empty.told) == ({}, True, "0", "0")
    assert (chart.most, full.text, full.cells[-1]) == ("108", "108", "33")
    assert full.told.splitlines() == ["108", "g7: 17", "g6: 16", "g5: 15", "g4: 14", "g3: 13", "3 others: 33"]
    assert [(shape.group.number, shape.path.count("M")) for shape in chart.shapes] == [(0, 2)] + [
        (number, 1) for number in range(1, 6)
    ]
    assert chart.nothing == "M259.2 119h201.6v1h-201.6z"


def test_a_single_group_more_has_its_own_name():
    groups = stacks.stacked(days(1), {(0, f"g{n}"): 10 - n for n in range(6)}, str).groups
    assert [group.name for group in groups] == [f"g{n}" for n in range(6)]
    assert groups[-1].text == "5"


def test_a_small_step_beside_a_big_one_is_still_seen():
    chart = stacks.stacked(days(2), {(0, "a"): 1, (1, "a"): 10**12}, str)
    assert [column.bars[0] for column in chart.columns] == [(118, 2), (0, stacks.HEIGHT)]
    assert chart.shapes[0].path == "M28.8 118.0h302.4v2.0h-302.4zM388.8 0.0h302.4v120.0h-302.4z"
    assert [column.ground for column in chart.columns] == ["M0.0 0h360.0v120H0.0z", "M360.0 0h360.0v120H360.0z"]


def test_a_line_breaks_where_nothing_is_known():
    chart = stacks.lined(days(4), {"half": [10, None, 5, 0], "most": [None, 20, None, None]}, str)
    assert chart.lines[0].path == "M90.0 60.0h0M450.0 90.0h0L630.0 120.0h0"
    assert chart.lines[1].path == "M270.0 0.0h0"
    assert (chart.most, chart.columns[1].cells, chart.shapes) == ("20", ("", "20"), [])
    assert [column.told for column in chart.columns] == ["10", "20", "5", "0"]
    assert stacks.lined(days(2), {"half": [None, None]}, str).lines == ()


@pytest.mark.parametrize(
    ("zone", "day", "number"), [("UTC", 21, 24), ("Europe/Berlin", 25, 25), ("Asia/Kolkata", 21, 24)]
)
def test_hours_of_a_day_are_the_brands(zone, day, number):
    """In Berlin the 25th of October 2026 has an hour twice; in Kolkata hours begin at half past of UTC."""
    since, until = (datetime(2026, 10, each, tzinfo=ZoneInfo(zone)) for each in (day, day + 1))
    steps = usage_chart.hours(since, until)
    assert len(steps) == number
    assert steps[0].astimezone(UTC) == since
    assert (steps[-1] + timedelta(hours=1)).astimezone(UTC) == until
    assert [f"{step:%H:%M}" for step in steps][:2] == ["00:00", "01:00"]


def test_what_is_gone_has_a_name_too():
    names = (
        "requests failures uncached_input_tokens cache_read_tokens cache_write_tokens output_tokens reasoning_tokens"
    )
    sums: dict[str, Any] = dict.fromkeys([*names.split(), "images", "credits", "list_cost_nanos", "cost_nanos"], 0)
    row = Usage(**sums)
    assert usage_chart.name_of(row, "model_id") == "a model that is gone"
    assert usage_chart.name_of(row, "key_id") == "a key that is gone"
