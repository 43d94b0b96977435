"""What a call cost, told in its own answer to who asks: `?include=cost`, or the header `x-include: cost`."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from billing.money import amount
from proxy.call import Call

HEADER = b"x-include"


def is_asked(call: Call) -> bool:
    if b"cost" in call.fields.get(HEADER, b"").replace(b" ", b"").split(b","):
        return True
    return bool(call.query) and b"cost" in parse_qs(call.query, max_num_fields=20).get(b"include", ())


def told(call: Call) -> str:
    """In currency units, a plain decimal like every price; of a call that was settled."""
    assert call.hold.charge is not None
    return amount(call.hold.charge.cost_nanos)


def add(call: Call, body: dict[str, Any]) -> None:
    usage = body.get("usage")
    if type(usage) is dict and is_asked(call):
        usage["cost"] = told(call)
