"""A brand's own rules for request fields: ranges, values, defaults (Brand.parameters). Pure.

A rule is {"min", "max", "values", "default"}, all optional. What is out of range is refused by name; a default is what
a request that leaves the field out is taken to have said, so that it goes to the engine explicitly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.fields import invalid

Parameters = Mapping[str, Mapping[str, Any]]

LENGTH = "max_tokens"
_SAME_RULE = {"max_completion_tokens": LENGTH, "max_output_tokens": LENGTH}
"""Other spellings of a field, which its rule holds for, too."""


def check(parameters: Parameters, name: str, value: Any) -> None:
    """Raises Declined (400) where `value` is not what the brand's rule for the field allows."""
    rule = parameters.get(name)
    if rule is None:
        rule = parameters.get(_SAME_RULE.get(name, ""))
        if rule is None:
            return
    low, high = rule.get("min"), rule.get("max")
    if low is not None or high is not None:
        _check_range(name, value, low, high)
    values = rule.get("values")
    if values is not None and value not in values:
        raise invalid(name, "expected one of " + ", ".join(map(str, values)))


def _check_range(name: str, value: Any, low: Any, high: Any) -> None:
    where = _range(low, high)
    if type(value) not in (int, float):
        raise invalid(name, f"expected a number {where}")
    if (low is not None and value < low) or (high is not None and value > high):
        raise invalid(name, f"{value:.12g} is not {where}")


def _range(low: Any, high: Any) -> str:
    if low is None:
        return f"at most {high:.12g}"
    return f"at least {low:.12g}" if high is None else f"from {low:.12g} to {high:.12g}"


def default_length(parameters: Parameters) -> int | None:
    """The output length that the brand documents for requests which name none."""
    found = parameters.get(LENGTH, {}).get("default")
    return found if type(found) is int else None


def defaults(parameters: Parameters) -> dict[str, Any]:
    """Field → default, but for the length: a length nobody asked for may give way to the prompt."""
    return {
        name: rule["default"] for name, rule in parameters.items() if name != LENGTH and rule.get("default") is not None
    }
