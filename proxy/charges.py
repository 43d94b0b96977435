"""What one call cost and why, to programs: the same lines as the page about a request has, in the same words."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

from django.db import DatabaseError, connection

from billing import calls, explaining
from billing.admission import StoreUnavailable
from billing.calls import Call as Settled
from billing.models import Model
from billing.money import amount, decimal
from keys.models import ApiKey
from proxy.call import Call
from proxy.endpoints import CHARGE_PREFIX
from proxy.models import TestCall
from proxy.refusals import Reason, decline
from proxy.sandbox import calls as test_calls

PICO_PLACES = 12


async def of(call: Call) -> dict[str, Any]:
    """The call that the path names, for any key of its organization that may read usage; another one's is missing. The
    books have it a second or so after its end."""
    try:
        call_id = UUID(call.place.rest[len(CHARGE_PREFIX) :])
    except ValueError:
        raise decline(Reason.CALL_NOT_FOUND) from None
    told = await asyncio.to_thread(_told, call_id, call.caller.organization.id, call.snapshot.brand.currency)
    if told is None:
        raise decline(Reason.CALL_NOT_FOUND)
    return told


def _told(call_id: UUID, organization_id: int, currency: str) -> dict[str, Any] | None:
    try:
        found = calls.call_of(call_id, organization_id=organization_id)
        if found is None:
            test = test_calls.of_id(call_id, organization_id=organization_id)
            return None if test is None else _tried(test, currency)
        return _what(found) | _whose(found) | _charged(found, currency)
    except DatabaseError as error:
        raise StoreUnavailable(str(error)) from error
    finally:
        connection.close()


def _what(found: Settled) -> dict[str, Any]:
    event = found.event
    return {
        "id": str(event.call_id),
        "object": "charge",
        "endpoint": event.endpoint,
        "stream": event.stream,
        "started_at": event.started_at.isoformat(),
        "first_token_ms": event.first_token_ms,
        "duration_ms": event.duration_ms,
        "settled_at": found.settled_at.isoformat(),
        "end_reason": event.end_reason,
        "usage_source": found.usage_source,
        "flags": event.flags,
        "explanation": [explaining.ended(found), *explaining.flags_in_words(event.flags)],
    }


def _tried(test: TestCall, currency: str) -> dict[str, Any]:
    """A test call, in the same form."""
    nothing = amount(0)
    return {
        "id": str(test.call_id),
        "object": "charge",
        "endpoint": test.endpoint,
        "stream": test.stream,
        "started_at": test.at.isoformat(),
        "first_token_ms": test.first_token_ms,
        "duration_ms": test.duration_ms,
        "settled_at": test.settled_at.isoformat(),
        "end_reason": test.end_reason,
        "usage_source": "final",
        "flags": ["test"],
        "explanation": ["A test call: no model was asked, and it costs nothing."],
        "model": test.model,
        "key": test.key_hint,
        "address": test.address,
        "user": None,
        "metadata": {},
        "currency": currency,
        "payer": "test",
        "lines": [],
        "sum": nothing,
        "list_cost": nothing,
        "held": nothing,
        "cost": nothing,
        "cost_nanos": 0,
        "credits": 0,
        "note": None,
        "corrections": [],
    }


def _whose(found: Settled) -> dict[str, Any]:
    event = found.event
    model = Model.objects.filter(pk=event.model_id).values_list("slug", flat=True).first()
    hint = ApiKey.objects.filter(pk=event.key_id).values_list("hint", flat=True).first()
    return {
        "model": model,
        "key": hint,
        "address": event.address,
        "user": event.user or None,
        "metadata": event.metadata,
    }


def _charged(found: Settled, currency: str) -> dict[str, Any]:
    """Amounts in units of the currency, exact, as plain decimals. `lines` add up to `sum`; rounded up once, that is
    `list_cost`; `cost` is what was charged."""
    bill = explaining.bill(found)
    return {
        "currency": currency,
        "payer": found.event.payer,
        "lines": [
            {
                "name": line.name,
                "quantity": line.quantity,
                "unit": line.unit,
                "price": decimal(line.price_picos // line.per, PICO_PLACES),
                "amount": decimal(line.picos, PICO_PLACES),
            }
            for line in bill.lines
        ],
        "sum": decimal(bill.picos, PICO_PLACES),
        "list_cost": amount(bill.rounded_nanos),
        "held": amount(found.event.held_nanos),
        "cost": amount(bill.cost_nanos),
        "cost_nanos": bill.cost_nanos,
        "credits": found.total("credits") or 0,
        "note": bill.note or None,
        "corrections": [
            {"settled_at": row.settled_at.isoformat(), "cost": amount(row.cost_nanos)} for row in found.corrections
        ],
    }
