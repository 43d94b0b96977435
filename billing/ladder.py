"""The only writers of Tier, TierLimit, TierAssignment and TierChange. Each publishes before it returns: a tier and its
limits hold on the very next request.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models.functions import Now

from billing import ledger
from billing.models import Grant, Model, Payer, Tier, TierAssignment, TierChange, TierLimit, Unit
from keys import audit, publication
from keys.audit import Actor
from keys.models import Organization, User

ORGANIZATION_FACTS = {
    "tier_id": "SELECT t.tier_id FROM billing_tierassignment t WHERE t.organization_id = o.id",
}
"""What an organization's published record says of its tier; null where nobody assigned one."""


class OtherBrandsTier(ValueError):
    """The tier belongs to another brand's ladder."""


def assign(
    *,
    organization: Organization,
    tier: Tier,
    reason: str,
    actor: Actor,
    facts: dict[str, Any] | None = None,
) -> TierChange | None:
    """Put the organization on the tier; None when it stands there already. It holds on the next request."""
    if tier.brand_id != organization.brand_id:
        raise OtherBrandsTier(f"{tier} is not on the ladder of {organization}'s brand")
    with transaction.atomic():
        # Two changes of tier at once must not read the same "from".
        Organization.objects.select_for_update(no_key=True).get(pk=organization.pk)
        standing = TierAssignment.objects.filter(organization=organization).select_related("tier").first()
        if standing is not None and standing.tier_id == tier.id:
            return None
        TierAssignment.objects.update_or_create(
            organization=organization, defaults={"tier": tier, "assigned_at": Now()}
        )
        publication.record(publication.ORGANIZATION, organization.id)
        before = standing.tier if standing else None
        audit.note(
            *("organization.tier_changed", organization.public_id),
            actor=actor,
            organization=organization,
            before={"tier": before.slug if before else None},
            after={"tier": tier.slug, "reason": reason},
        )
        return TierChange.objects.create(
            organization=organization,
            from_tier=before,
            to_tier=tier,
            actor=actor if isinstance(actor, User) else None,
            reason=reason,
            facts=facts or {},
        )


def welcome(*, organization: Organization, actor: Actor) -> None:
    """What a new organization starts with: the brand's default tier and its sign-up credit. Twice changes nothing, and
    a person gets a brand's credit once, however many organizations they open."""
    brand = organization.brand
    tier = Tier.objects.filter(brand=brand, is_default=True).first()
    with transaction.atomic():
        if tier is not None and not TierAssignment.objects.filter(organization=organization).exists():
            assign(organization=organization, tier=tier, reason="sign-up", actor=actor)
        if brand.sign_up_grant_nanos and not _credited_before(actor, organization):
            ledger.grant(
                organization=organization,
                amount_nanos=brand.sign_up_grant_nanos,
                kind=Grant.Kind.SIGN_UP,
                reason="Sign-up credit",
                reference=f"sign-up:{organization.public_id}",
                actor=actor,
            )


def _credited_before(actor: Actor, organization: Organization) -> bool:
    credits = Grant.objects.filter(kind=Grant.Kind.SIGN_UP, organization__brand_id=organization.brand_id)
    theirs = credits.exclude(organization=organization)
    return isinstance(actor, User) and theirs.filter(posting__actor=actor).exists()


def save_tier(tier: Tier, *, actor: Actor) -> Tier:
    """Write a new or changed tier. ValidationError names the field that is wrong."""
    with transaction.atomic():
        if tier.is_default:  # one default per brand: the new one takes over
            Tier.objects.filter(brand_id=tier.brand_id, is_default=True).exclude(pk=tier.pk).update(is_default=False)
        tier.full_clean()
        _check_tier(tier)
        is_new = tier.pk is None
        tier.save()
        publication.record(publication.BRAND, tier.brand_id)
        after = {name: getattr(tier, name) for name in ("rank", "payer", "model_slugs", "is_default")}
        audit.note("tier.created" if is_new else "tier.changed", tier.slug, actor=actor, brand=tier.brand, after=after)
    return tier


def save_limit(limit: TierLimit, *, actor: Actor) -> TierLimit:
    """Write a new or changed limit. ValidationError names the field that is wrong."""
    with transaction.atomic():
        limit.full_clean()
        _check_limit(limit, limit.tier)
        before = TierLimit.objects.filter(pk=limit.pk).first() if limit.pk else None
        limit.save()
        publication.record(publication.BRAND, limit.tier.brand_id)
        audit.note(
            *("tier.limit_set", limit.tier.slug),
            actor=actor,
            brand=limit.tier.brand,
            before={"limit": str(before)} if before else {},
            after={"limit": str(limit)},
        )
    return limit


def remove_limit(limit: TierLimit, *, actor: Actor) -> None:
    with transaction.atomic():
        publication.record(publication.BRAND, limit.tier.brand_id)
        audit.note(
            *("tier.limit_removed", limit.tier.slug),
            actor=actor,
            brand=limit.tier.brand,
            before={"limit": str(limit)},
        )
        limit.delete()


def _check_tier(tier: Tier) -> None:
    if tier.pk is not None and Tier.objects.get(pk=tier.pk).brand_id != tier.brand_id:
        raise ValidationError({"brand": "A tier stays on its brand's ladder."})
    known = set(Model.objects.filter(brand_id=tier.brand_id).values_list("slug", flat=True))
    unknown = sorted(set(tier.model_slugs or ()) - known)
    if unknown:
        raise ValidationError({"model_slugs": f"No such model: {', '.join(unknown)}."})
    try:
        for limit in tier.limits.all() if tier.pk is not None else ():
            _check_limit(limit, tier)
    except ValidationError as error:
        raise ValidationError({"payer": f"A limit of this tier does not fit: {' '.join(error.messages)}"}) from error


def _check_limit(limit: TierLimit, tier: Tier) -> None:
    if limit.is_allotment and tier.payer != Payer.INCLUDED_THEN_PREPAID:
        raise ValidationError({"is_allotment": "Only where the balance pays past it: included_then_prepaid."})
    if limit.unit == Unit.NANOS and tier.payer == Payer.INCLUDED:
        raise ValidationError({"unit": "An included tier charges nothing, so a spend limit would never act."})
    if limit.model is not None and limit.model.brand_id != tier.brand_id:
        raise ValidationError({"model": "This model is another brand's."})


def standing_of(organization: Organization) -> tuple[Tier | None, datetime | None]:
    """The tier the organization stands on and since when; the brand's default where nobody assigned one."""
    assignment = TierAssignment.objects.filter(organization=organization).select_related("tier").first()
    if assignment is not None:
        return assignment.tier, assignment.assigned_at
    return Tier.objects.filter(brand_id=organization.brand_id, is_default=True).first(), None
