"""What a call cost, told in its own answer to who asks: `?include=cost`, or the header `x-include: cost`."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from billing.money import amount
from proxy.answers import Header
from proxy.call import Call

HEADER = b"x-include"


def is_asked(call: Call) -> bool:
    if b"cost" in call.fields.get(HEADER, b"").replace(b" ", b"").split(b","):
        return True
    return bool(call.query) and b"cost" in parse_qs(call.query, max_num_fields=20).get(b"include", ())


def nanos(call: Call) -> int:
    """Of a call that was settled."""
    assert call.hold.charge is not None
    return call.hold.charge.cost_nanos


def told(call: Call) -> str:
    """In currency units, a plain decimal like every price."""
    return amount(nanos(call))


def header(cost_nanos: int) -> Header:
    return (b"x-cost-nanos", b"%d" % cost_nanos)


def added(answer: dict[str, Any], cost_nanos: int) -> dict[str, Any]:
    """The body of a whole answer with what it cost."""
    usage = answer.get("usage")
    return answer | {"usage": usage | {"cost": amount(cost_nanos)}} if type(usage) is dict else answer
