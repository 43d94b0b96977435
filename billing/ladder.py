"""The only writers of Tier, TierLimit, TierAssignment, TierChange and FirstAccount. Each publishes before it returns:
a tier and its limits hold on the very next request.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone

from billing import ledger, notices, upgrade_rules, webhook_deliveries
from billing.choices import reach
from billing.limits import Place
from billing.models import (
    FirstAccount,
    Grant,
    Model,
    Payer,
    Tier,
    TierAssignment,
    TierChange,
    TierLimit,
    Unit,
    Window,
)
from keys import audit, mailboxes, organizations, publication
from keys.audit import Actor
from keys.models import Organization, User

ORGANIZATION_FACTS = {
    "tier_id": "SELECT t.tier_id FROM billing_tierassignment t WHERE t.organization_id = o.id",
}
"""What an organization's published record says of its tier; null where nobody assigned one."""

TIER_FIELDS = (
    *("rank", "slug", "name", "label", "payer", "model_slugs", "monthly_price_nanos", "priority", "is_default"),
    *("is_listed", "upgrade_rule"),
)
SIGN_UP = "sign-up"
"""The reason of the tier that an account begins on."""
PREMIUM = "premium"
"""A tier with this label is entered by people or payment only."""
LIMIT_FIELDS = ("unit", "window", "scope", "model_id", "amount", "is_allotment", "is_shadow")

Row = Tier | TierLimit


class OtherBrandsTier(ValueError):
    """The tier belongs to another brand's ladder."""


def assign(
    *,
    organization: Organization,
    tier: Tier,
    reason: str,
    actor: Actor,
    facts: dict[str, Any] | None = None,
    address: str | None = None,
    only_from: Tier | None = None,
    night: date | None = None,
) -> TierChange | None:
    """Put the organization on the tier; None when it stands there already, or not on `only_from` where that is given.
    It holds on the next request. `night`: the brand day whose judgement moves it, at most once (else IntegrityError).
    """
    if tier.brand_id != organization.brand_id:
        raise OtherBrandsTier(f"{tier} is not on the ladder of {organization}'s brand")
    with transaction.atomic():
        # Two changes of tier at once must not read the same "from".
        Organization.objects.select_for_update(no_key=True).get(pk=organization.pk)
        standing = TierAssignment.objects.filter(organization=organization).select_related("tier").first()
        before = standing.tier if standing else None
        if before == tier or (only_from is not None and (before or _default_of(tier)) != only_from):
            return None
        TierAssignment.objects.update_or_create(
            organization=organization, defaults={"tier": tier, "assigned_at": Now()}
        )
        publication.record(publication.ORGANIZATION, organization.id)
        audit.note(
            *("organization.tier_changed", organization.public_id),
            actor=actor,
            organization=organization,
            before={"tier": before.slug if before else None},
            after={"tier": tier.slug, "reason": reason},
            address=address,
        )
        change = TierChange.objects.create(
            organization=organization,
            from_tier=before or only_from,
            to_tier=tier,
            actor=actor if isinstance(actor, User) else None,
            reason=reason,
            facts=facts or {},
            night=night,
            rule_version=None if night is None else tier.rule_version,
        )
        if change.from_tier is not None:
            _tell(change)
        return change


def _default_of(tier: Tier) -> Tier | None:
    return Tier.objects.filter(brand_id=tier.brand_id, is_default=True).first()


def _tell(change: TierChange) -> None:
    assert change.from_tier is not None
    is_up = change.to_tier.rank > change.from_tier.rank
    payload = {"from": change.from_tier.name, "to": change.to_tier.name, "is_up": is_up, "reason": change.reason}
    once = f"tier-changed:{change.pk}"
    notices.tell(organization=change.organization, kind="tier_changed", once=once, payload=payload)
    data = {"from": change.from_tier.slug, "to": change.to_tier.slug, "is_up": is_up}
    webhook_deliveries.record(change.organization, "tier.changed", data)


def welcome(*, organization: Organization, actor: Actor, address: str | None = None) -> None:
    """What a new organization starts with: the brand's default tier and, as its person's first, the sign-up credit and
    what tiers include. Whatever a person's mailboxes, accounts and memberships become, there is one first per brand;
    others, and those of throw-away mailboxes, are marked `is_further`. Twice changes nothing."""
    brand = organization.brand
    tier = Tier.objects.filter(brand=brand, is_default=True).first()
    with transaction.atomic():
        if isinstance(actor, User) and not _is_first(organization, actor):
            organizations.change(organization=organization, actor=actor, address=address, is_further=True)
        if tier is not None and not TierAssignment.objects.filter(organization=organization).exists():
            assign(organization=organization, tier=tier, reason=SIGN_UP, actor=actor, address=address)
        if brand.sign_up_grant_nanos and not organization.is_further:
            ledger.grant(
                organization=organization,
                amount_nanos=brand.sign_up_grant_nanos,
                kind=Grant.Kind.SIGN_UP,
                reason="Sign-up credit",
                reference=f"sign-up:{organization.public_id}",
                actor=actor,
                address=address,
            )


def owned(organization: Organization, person: User) -> None:
    """`person` owns the organization now, maybe by the hand of staff, who welcome nobody: it is their first where it is
    nobody's yet, so that they open no other with credit later. Gives nothing by itself."""
    if not organization.is_further and not FirstAccount.objects.filter(organization=organization).exists():
        _is_first(organization, person)


def _is_first(organization: Organization, person: User) -> bool:
    """Locks the person, so that two organizations opened at once do not both see none; two people of one mailbox meet
    in the constraint."""
    if mailboxes.is_disposable(person.email):
        return False
    User.objects.select_for_update(no_key=True).get(pk=person.pk)
    mailbox = mailboxes.mailbox(person.email)
    theirs = Q(mailbox=mailbox) | Q(user=person) | Q(user__mailbox=mailbox)
    earlier = FirstAccount.objects.filter(theirs, brand_id=organization.brand_id)
    taken = earlier.values_list("organization_id", flat=True).first()
    if taken is None:
        values = {"organization": organization, "user": person}
        first, _ = FirstAccount.objects.get_or_create(brand_id=organization.brand_id, mailbox=mailbox, defaults=values)
        taken = first.organization_id
    return taken == organization.pk


def payer_of(organization: Organization, tier: Tier | None) -> str:
    """Who pays for calls of an organization that stands on the tier."""
    return Payer.PREPAID if tier is None or not includes(organization, tier) else tier.payer


def includes(organization: Organization, tier: Tier) -> bool:
    """Whether what the tier includes is this organization's, rather than paid from its balance (as tiers.as_paid)."""
    return not organization.is_further or bool(tier.monthly_price_nanos)


def save_tier(tier: Tier, *, actor: Actor, address: str | None = None) -> Tier:
    """Write a new or changed tier; the trail has what changed. ValidationError names the field that is wrong."""
    with transaction.atomic():
        publication.record(publication.BRAND, tier.brand_id)  # locks the brand: its ladder is changed by one at a time
        if tier.is_default:  # one default per brand: the new one takes over
            Tier.objects.filter(brand_id=tier.brand_id, is_default=True).exclude(pk=tier.pk).update(is_default=False)
        tier.full_clean()
        _refuse(tier_problems(tier))
        known = Tier.objects.filter(pk=tier.pk).first() if tier.pk else None
        before, after = _difference(known, tier, TIER_FIELDS)
        if "upgrade_rule" in after and (known is not None or tier.upgrade_rule is not None):
            tier.rule_version = (known.rule_version if known else 0) + 1
            tier.rule_since = timezone.now()
        tier.save()
        action = "tier.changed" if known else "tier.created"
        audit.note(action, tier.slug, actor=actor, brand=tier.brand, before=before, after=after, address=address)
    return tier


def save_limit(limit: TierLimit, *, actor: Actor, address: str | None = None) -> TierLimit:
    """Write a new or changed limit. ValidationError names the field that is wrong."""
    with transaction.atomic():
        brand = limit.tier.brand
        publication.record(publication.BRAND, brand.id)
        limit.full_clean()
        others = limit.tier.limits.exclude(pk=limit.pk)
        if place_of(limit) in {place_of(other) for other in others}:
            raise ValidationError({"unit": twice(limit)})
        _refuse(limit_problems(limit, limit.tier))
        known = TierLimit.objects.filter(pk=limit.pk).first() if limit.pk else None
        before, after = _difference(known, limit, LIMIT_FIELDS)
        limit.save()
        slug = limit.tier.slug
        audit.note("tier.limit_set", slug, actor=actor, brand=brand, before=before, after=after, address=address)
    return limit


def remove_limit(limit: TierLimit, *, actor: Actor, address: str | None = None) -> None:
    with transaction.atomic():
        brand = limit.tier.brand
        publication.record(publication.BRAND, brand.id)
        _, before = _difference(None, limit, LIMIT_FIELDS)
        audit.note("tier.limit_removed", limit.tier.slug, actor=actor, brand=brand, before=before, address=address)
        limit.delete()


def tier_problems(tier: Tier) -> dict[str, str]:
    """What is wrong with a tier beyond what its fields check themselves, by field name."""
    found: dict[str, str] = {}
    known = Tier.objects.filter(pk=tier.pk).first() if tier.pk else None
    if known is not None and known.brand_id != tier.brand_id:
        found["brand"] = "A tier stays on its brand's ladder."
    sold = set(Model.objects.filter(brand_id=tier.brand_id).values_list("slug", flat=True))
    unknown = sorted(set(tier.model_slugs or ()) - sold)
    if unknown:
        found["model_slugs"] = f"No such model: {', '.join(unknown)}."
    others = Tier.objects.filter(brand_id=tier.brand_id).exclude(pk=tier.pk)
    for name in ("rank", "slug"):
        other = others.filter(**{name: getattr(tier, name)}).first()
        if other is not None:
            found[name] = f"{other.name} has it: each tier of a ladder has its own {name}."
    unfit_rule = rule_problem(tier)
    if unfit_rule:
        found["upgrade_rule"] = unfit_rule
    if tier.monthly_price_nanos is not None and tier.monthly_price_nanos < 0:
        found["monthly_price_nanos"] = "Not below nothing."
    limits = known.limits.all() if known else ()
    unfit = [problem for limit in limits for problem in limit_problems(limit, tier).values()]
    if unfit:
        found["payer"] = f"A limit of this tier does not fit: {unfit[0]}"
    return found


def rule_problem(tier: Tier) -> str:
    """Why nobody may enter the tier by its rule; empty where somebody may."""
    if tier.upgrade_rule is None:
        return ""
    if tier.label.strip().lower() == PREMIUM or not tier.is_listed or tier.monthly_price_nanos is not None:
        return (
            "Nobody enters this tier by use alone: one that is labelled Premium, sold by the month or not listed is"
            " given by hand, with a reason, or by its paid plan. Remove the rule."
        )
    try:
        upgrade_rules.read(tier.upgrade_rule)
    except upgrade_rules.RuleInvalid as error:
        return str(error)
    return ""


def limit_problems(limit: TierLimit, tier: Tier) -> dict[str, str]:
    """What is wrong with a limit on that tier beyond what its fields check themselves, by field name."""
    found: dict[str, str] = {}
    if limit.is_allotment and tier.payer != Payer.INCLUDED_THEN_PREPAID:
        found["is_allotment"] = "Only where the balance pays past it: included_then_prepaid."
    if limit.is_allotment and limit.window == Window.MINUTE:
        found["window"] = "An allotment is of a day, a month or a lifetime: nobody can see what of a minute is paid."
    if limit.is_shadow and limit.unit == Unit.CONCURRENT:
        found["is_shadow"] = "Calls at once are not counted over time, so there is nothing to try out."
    if limit.unit == Unit.NANOS and tier.payer == Payer.INCLUDED:
        found["unit"] = "An included tier charges nothing, so a spend limit would never act."
    if limit.model is not None and limit.model.brand_id != tier.brand_id:
        found["model"] = "This model is another brand's."
    return found


def place_of(limit: TierLimit) -> Place:
    """What makes two limits the same (as limits.place_of)."""
    window = "" if limit.unit == Unit.CONCURRENT else limit.window
    return limit.unit, window, limit.scope, limit.model_id, limit.is_allotment, limit.is_shadow


def twice(limit: TierLimit) -> str:
    """In words, that a tier has this limit already."""
    what = limit.get_unit_display().lower() if limit.unit != Unit.NANOS else "spend"
    return f"This tier limits {what} {reach(limit.unit, limit.window, limit.scope)} already: change that limit instead."


def _refuse(problems: dict[str, str]) -> None:
    if problems:
        raise ValidationError(problems)


def _difference(known: Row | None, row: Row, names: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(before, after) of what differs, as JSON values."""
    after = {name: audit.plain(getattr(row, name)) for name in names}
    if known is None:
        return {}, after
    before = {name: audit.plain(getattr(known, name)) for name in names}
    differing = [name for name in names if before[name] != after[name]]
    return {name: before[name] for name in differing}, {name: after[name] for name in differing}


def standing_of(organization: Organization) -> tuple[Tier | None, datetime | None]:
    """The tier the organization stands on and since when; the brand's default where nobody assigned one."""
    assignment = TierAssignment.objects.filter(organization=organization).select_related("tier").first()
    if assignment is not None:
        return assignment.tier, assignment.assigned_at
    return Tier.objects.filter(brand_id=organization.brand_id, is_default=True).first(), None
