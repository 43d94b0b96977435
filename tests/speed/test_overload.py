"""What an overload trial exits with: a call that broke in any of its parts is a failure for whoever asks."""

from __future__ import annotations

import pytest

from tests.speed.overload import Burst, exit_status

FEW = Burst(1.0, [0.5] * 100, [], 0)
MANY = Burst(1.0, [0.5] * 90, [0.01] * 50, 0)
AFTER = Burst(1.0, [0.5] * 95, [], 0)


@pytest.mark.parametrize(
    ("few", "many", "after", "status"),
    [
        (FEW, MANY, AFTER, 0),
        (FEW._replace(failed=1), MANY, AFTER, 1),
        (FEW, MANY._replace(failed=1), AFTER, 1),
        (FEW, MANY, AFTER._replace(failed=1), 1),
        (FEW, MANY._replace(answered=[0.5] * 79), AFTER, 1),
        (FEW, MANY, AFTER._replace(answered=[0.5] * 79), 1),
        (FEW._replace(answered=[]), MANY._replace(answered=[]), AFTER._replace(answered=[]), 1),
    ],
)
def test_an_overload_trial_fails_where_any_call_broke_or_a_rate_was_not_kept(few, many, after, status):
    assert exit_status(few, many, after) == status
