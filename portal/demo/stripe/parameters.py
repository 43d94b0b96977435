"""Form bodies as Stripe's SDKs write them (`a[b][0][c]=d`) into nested dictionaries and lists, and typed reading."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl

_PART = re.compile(r"\[([^\]]*)\]")
MISSING = "Missing required param: {0}."


class StripeRefuses(Exception):
    """An error as Stripe's API words it. `is_saved`: the work had begun, so the answer is kept under its idempotency
    key and given again."""

    def __init__(
        self, status: int, kind: str, message: str, *, code: str = "", is_saved: bool = False, **more: Any
    ) -> None:
        super().__init__(message)
        self.status = status
        self.is_saved = is_saved
        self.body = {"error": {"type": kind, "message": message} | ({"code": code} if code else {}) | more}


def refused(message: str, *, param: str = "", code: str = "parameter_invalid", status: int = 400) -> StripeRefuses:
    return StripeRefuses(status, "invalid_request_error", message, code=code, param=param)


def parsed(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        head = name.partition("[")[0]
        _put(found, [head, *_PART.findall(name[len(head) :])], value)
    listed = _listed(found)
    assert isinstance(listed, dict)
    return listed


def _put(into: dict[str, Any], path: list[str], value: str) -> None:
    for part in path[:-1]:
        into = into.setdefault(part or str(len(into)), {})
    into[path[-1] or str(len(into))] = value


def _listed(found: Any) -> Any:
    """Dictionaries whose names are 0, 1, 2, … are lists."""
    if not isinstance(found, dict):
        return found
    values = {name: _listed(value) for name, value in found.items()}
    return list(values.values()) if values and list(values) == [str(n) for n in range(len(values))] else values


def integer(params: dict[str, Any], name: str, *, default: int | None = None) -> int:
    given = params.get(name, default)
    if given is None:
        raise refused(MISSING.format(name), param=name, code="parameter_missing")
    try:
        return int(given)
    except (TypeError, ValueError):
        raise refused(f"Invalid integer: {given}", param=name, code="parameter_invalid_integer") from None


def text(params: dict[str, Any], name: str) -> str:
    given = params.get(name)
    if not isinstance(given, str) or not given:
        raise refused(MISSING.format(name), param=name, code="parameter_missing")
    return given


def flag(params: dict[str, Any], name: str) -> bool:
    return bool(params.get(name) == "true")
