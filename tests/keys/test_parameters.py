"""Rules of a brand for request fields: which can be kept."""

import pytest

from keys import parameters
from keys.parameters import FIELDS, Number
from proxy import fields


@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"temperature": {"min": 0, "max": 1, "default": 0.7}},
        {"max_tokens": {"min": 1, "default": 4096}},
        {"n": {"max": 1}},
        {"reasoning_effort": {"values": ["low", "high"], "default": "low"}},
        {"parallel_tool_calls": {"default": False}},
    ],
)
def test_rules_that_hold_together_are_kept(rules):
    assert parameters.problems(rules) == {}


@pytest.mark.parametrize(
    ("rules", "path"),
    [
        ([], ""),
        ({"heat": {"max": 1}}, "heat"),
        ({"temperature": {}}, "temperature"),
        ({"temperature": 1}, "temperature"),
        ({"temperature": {"least": 1}}, "temperature.least"),
        ({"temperature": {"max": 3}}, "temperature.max"),
        ({"temperature": {"min": "0"}}, "temperature.min"),
        ({"temperature": {"min": True}}, "temperature.min"),
        ({"temperature": {"max": float("nan")}}, "temperature.max"),
        ({"temperature": {"min": 1, "max": 0}}, "temperature.min"),
        ({"temperature": {"min": 1, "default": 0}}, "temperature.default"),
        ({"temperature": {"max": 1, "default": 2}}, "temperature.default"),
        ({"max_tokens": {"default": 1.5}}, "max_tokens.default"),
        ({"max_tokens": {"min": 0}}, "max_tokens.min"),
        ({"reasoning_effort": {"max": 1}}, "reasoning_effort.max"),
        ({"reasoning_effort": {"values": []}}, "reasoning_effort.values"),
        ({"reasoning_effort": {"values": ["low"], "default": "high"}}, "reasoning_effort.default"),
        ({"parallel_tool_calls": {"default": "yes"}}, "parallel_tool_calls.default"),
    ],
)
def test_rules_that_nobody_could_obey_are_refused_by_path(rules, path):
    assert list(parameters.problems(rules)) == [path]


@pytest.mark.parametrize("name", [name for name in FIELDS if name in fields.CHAT])
def test_bounds_are_those_that_the_proxy_has_for_everybody(name):
    """So that a default, which is sent unasked, is one that a customer could have sent."""
    bounds = FIELDS[name]
    if isinstance(bounds, Number):
        check = fields.CHAT[name].check
        for value in (bounds.low, bounds.high):
            check(name, value)
        for value in (bounds.low - 1, bounds.high + 1):
            with pytest.raises(Exception, match="is not from"):
                check(name, value)
