"""What a brand may rule about request fields: {"temperature": {"min": 0, "max": 1, "default": 0.7}}. Pure.

A rule only narrows: its bounds lie within what the house takes from anybody, so that a default that is sent to engines
is one that a customer could have sent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1
RULE_WORDS = ("min", "max", "default", "values")
VALUES_MAX = 50


class Number(NamedTuple):
    """A field that holds a number from `low` to `high`."""

    low: float
    high: float
    whole: bool = False

    def problem(self, value: Any) -> str | None:
        kinds = (int,) if self.whole else (int, float)
        if type(value) not in kinds or not math.isfinite(value):
            return "A whole number." if self.whole else "A number."
        if not self.low <= value <= self.high:
            return f"From {self.low:g} to {self.high:g} for everybody; a brand only narrows that."
        return None


class Text(NamedTuple):
    """A field that holds one of a few words, named by the rule or the model."""

    def problem(self, value: Any) -> str | None:
        return None if isinstance(value, str) and 0 < len(value) <= 100 else "A text."


class Switch(NamedTuple):
    def problem(self, value: Any) -> str | None:
        return None if type(value) is bool else "true or false."


TOKENS = Number(1, INT32_MAX, whole=True)
FIELDS: dict[str, Number | Text | Switch] = {
    "temperature": Number(0, 2),
    "top_p": Number(0, 1),
    "min_p": Number(0, 1),
    "top_k": Number(-1, INT32_MAX, whole=True),
    "frequency_penalty": Number(-2, 2),
    "presence_penalty": Number(-2, 2),
    "repetition_penalty": Number(0, 10),
    "max_tokens": TOKENS,
    "max_completion_tokens": TOKENS,
    "max_output_tokens": TOKENS,
    "n": Number(1, 128, whole=True),
    "seed": Number(-INT64_MAX - 1, INT64_MAX, whole=True),
    "top_logprobs": Number(0, 20, whole=True),
    "parallel_tool_calls": Switch(),
    "reasoning_effort": Text(),
    "verbosity": Text(),
    "aspect_ratio": Text(),
    "image_size": Text(),
}


def problems(parameters: Any) -> dict[str, str]:
    """What is wrong, by path ("temperature.default"; "" where it is no table at all)."""
    if not isinstance(parameters, Mapping):
        return {"": 'A table of rules by field, e.g. {"temperature": {"max": 1}}.'}
    return dict(found for name, rule in parameters.items() for found in _rule_problems(name, rule))


def _rule_problems(name: str, rule: Any) -> Iterator[tuple[str, str]]:
    field = FIELDS.get(name)
    if field is None:
        yield name, f"No field that can be ruled; there are {', '.join(FIELDS)}."
        return
    if not isinstance(rule, Mapping) or not rule:
        yield name, f"A table of {', '.join(RULE_WORDS)}."
        return
    for word in rule:
        if word not in RULE_WORDS:
            yield f"{name}.{word}", f"Only {', '.join(RULE_WORDS)}."
    yield from _bound_problems(name, field, rule)
    yield from _default_problems(name, field, rule)


def _bound_problems(name: str, field: Number | Text | Switch, rule: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for word in ("min", "max"):
        if word in rule:
            problem = field.problem(rule[word]) if isinstance(field, Number) else "Only numbers have bounds."
            if problem:
                yield f"{name}.{word}", problem
                return
    if "min" in rule and "max" in rule and rule["min"] > rule["max"]:
        yield f"{name}.min", f"{rule['min']} is above max, {rule['max']}."
    if "values" in rule:
        values = rule["values"]
        if not isinstance(values, list) or not 0 < len(values) <= VALUES_MAX or any(map(field.problem, values)):
            yield f"{name}.values", f"A list of 1 to {VALUES_MAX} values that the field may have."


def _default_problems(name: str, field: Number | Text | Switch, rule: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "default" not in rule:
        return
    default = rule["default"]
    problem = field.problem(default)
    low, high, values = rule.get("min"), rule.get("max"), rule.get("values")
    if problem:
        yield f"{name}.default", problem
    elif isinstance(low, int | float) and default < low:
        yield f"{name}.default", f"{default} is below min, {low}."
    elif isinstance(high, int | float) and default > high:
        yield f"{name}.default", f"{default} is above max, {high}."
    elif isinstance(values, list) and default not in values:
        yield f"{name}.default", f"{default} is none of values."
