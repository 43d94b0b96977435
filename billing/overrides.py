"""Exceptions: a limit of its tier, raised or lowered for one organization, ending by itself. The only writer of
LimitOverride; it holds on the next request, and so does its end (by Redis' clock).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone

from billing import ladder
from billing.limits import AMOUNT_MAX, place_overridden
from billing.models import LimitOverride, LimitScope, Model, Payer, Unit, Window
from keys import audit, publication
from keys.audit import Actor
from keys.models import Organization, User

ORGANIZATION_FACTS = {
    "overrides": """SELECT jsonb_agg(jsonb_build_object('unit', v.unit, 'window', v."window", 'scope', v.scope,
        'model_id', v.model_id, 'amount', v.amount, 'is_raise', v.is_raise,
        'until_ms', floor(extract(epoch FROM v.expires_at) * 1000)::bigint)
        ORDER BY v.id) FROM billing_limitoverride v WHERE v.organization_id = o.id""",
}
"""Of an organization's published record; null where there are none. Workers leave out what has ended."""


def put(
    *,
    organization: Organization,
    unit: str,
    window: str,
    amount: int,
    reason: str,
    actor: Actor,
    scope: str = LimitScope.ORGANIZATION,
    model: Model | None = None,
    expires_at: datetime | None = None,
    address: str | None = None,
) -> LimitOverride:
    """In place of the tier's limit of that unit, window, scope and model, and of an earlier exception to it. Where it
    is no lower than that limit now it is a raise, and never stands below what a later tier gives.
    ValidationError names the field that is wrong."""
    values: dict[str, Any] = {
        "organization": organization,
        "unit": unit,
        "window": Window.MINUTE if unit == Unit.CONCURRENT else window,
        "scope": scope,
        "model": model,
    }
    rest: dict[str, Any] = {
        "amount": amount,
        "reason": reason,
        "expires_at": expires_at,
        "created_by": actor if isinstance(actor, User) else None,
    }
    wanted = LimitOverride(**values, **rest)
    _refuse(problems(wanted))
    rest["is_raise"] = _is_raise(wanted)
    with transaction.atomic():
        override, _ = LimitOverride.objects.update_or_create(**values, defaults={**rest, "created_at": Now()})
        _publish(override, "limit.override_put", actor, address)
    return override


def end(override: LimitOverride, *, actor: Actor, address: str | None = None) -> None:
    """The tier's own limit holds again from the next request on."""
    with transaction.atomic():
        _publish(override, "limit.override_ended", actor, address)
        override.delete()


def problems(override: LimitOverride) -> dict[str, str]:
    """What is wrong with it, by field name."""
    organization, unit, scope, model = override.organization, override.unit, override.scope, override.model
    tier, _ = ladder.standing_of(organization)
    found = {
        "unit": None if unit in Unit.values else f"One of {', '.join(Unit.values)}.",
        "window": None if override.window in Window.values else f"One of {', '.join(Window.values)}.",
        "scope": None if scope in LimitScope.values else f"One of {', '.join(LimitScope.values)}.",
        "amount": None if 0 <= override.amount <= AMOUNT_MAX else f"From 0 to {AMOUNT_MAX}.",
        "reason": None if override.reason.strip() else "Say why: it is kept, and shown to the organization.",
    }
    if unit == Unit.NANOS and tier is not None and tier.payer == Payer.INCLUDED:
        found["unit"] = "An included tier charges nothing, so a spend limit would never act."
    if model is not None and (scope != LimitScope.MODEL or model.brand_id != organization.brand_id):
        found["model"] = "Only with the scope model, and one of this brand."
    if override.expires_at is not None and override.expires_at <= timezone.now():
        found["expires_at"] = "This moment has passed."
    return {name: problem for name, problem in found.items() if problem}


def _is_raise(override: LimitOverride) -> bool:
    tier, _ = ladder.standing_of(override.organization)
    amounts = {} if tier is None else {ladder.place_of(limit): limit.amount for limit in tier.limits.all()}
    amount = amounts.get(place_overridden(override, amounts))
    return amount is not None and override.amount >= amount


def _publish(override: LimitOverride, action: str, actor: Actor, address: str | None) -> None:
    organization = override.organization
    publication.record(publication.ORGANIZATION, organization.id)
    names = ("unit", "window", "scope", "model_id", "amount", "reason", "expires_at")
    said = {name: audit.plain(getattr(override, name)) for name in names}
    is_end = action.endswith("ended")
    audit.note(
        *(action, organization.public_id),
        actor=actor,
        organization=organization,
        before=said if is_end else {},
        after={} if is_end else said,
        address=address,
    )


def _refuse(wrong: dict[str, str]) -> None:
    if wrong:
        raise ValidationError(wrong)
