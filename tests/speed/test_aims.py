"""What a benchmark exits with: a missed aim, or a run that does not count, is a failure for whoever asks."""

from __future__ import annotations

import pytest

from tests.speed.table import Aim, exit_status

RATE = Aim("rate", 0.07, 0.06, is_least=True)
CPU = Aim("CPU", 16.0, 16.0, is_least=False)


@pytest.mark.parametrize(
    ("aims", "void", "status"),
    [
        ([RATE, CPU], [], 0),
        ([RATE._replace(value=0.0599), CPU], [], 1),
        ([RATE, CPU._replace(value=16.01)], [], 1),
        ([RATE, CPU], ["3 calls failed"], 1),
        ([RATE._replace(value=float("nan")), CPU], [], 1),
    ],
)
def test_a_benchmark_fails_when_an_aim_is_missed_or_its_run_is_void(aims, void, status):
    assert exit_status(aims, void) == status


def test_each_aim_says_whether_it_was_met():
    assert RATE.line() == "rate: 0.07 (aim: at least 0.06): met."
    assert CPU._replace(value=17.25).line() == "CPU: 17.2 (aim: at most 16): MISSED."
