"""The tiers and limits of a brand file, as rows."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError

from billing import ladder, money
from billing.limits import AMOUNT_MAX
from billing.models import Model, Tier, TierLimit, Window
from keys.models import Brand
from portal.brandfile.judging import Judge
from portal.brandfile.structure import BrandFile, LimitEntry, TierEntry

TIER_APART = frozenset({"slug", "models", "monthly_price", "rank", "limits"})
TIER_COLUMNS = tuple(name for name in TierEntry.__struct_fields__ if name not in TIER_APART)
TIER_KEYS = {"model_slugs": "models", "monthly_price_nanos": "monthly_price"}
RANK_APART = 20_000
"""Ranks that are exchanged pass through numbers from here on: no two tiers may have one rank even for a moment."""

Where = tuple[str, str, str, int | None, bool, bool]
"""What makes a limit the same one: unit, window, scope, model, allotment, on trial."""


def set_tiers(file: BrandFile, brand: Brand, judge: Judge) -> None:
    _refuse_unnamed(file, brand, judge)
    _make_room(file, brand, judge)
    models = dict(Model.objects.filter(brand=brand).values_list("slug", "id"))
    refused = {entry.id for entry in file.models} - set(models)  # their own problems are told already
    for number, entry in enumerate(file.tiers):
        path = f"tiers[{number}]"
        if refused & {*(entry.models or ()), *(limit.model for limit in entry.limits)}:
            continue
        with judge.writing(path, TIER_KEYS):
            tier = _tier(brand, entry, number, path, judge)
            _set_limits(tier, entry, models, path, judge)


def rank_of(entry: TierEntry, number: int) -> int:
    return number + 1 if entry.rank is None else entry.rank


def _refuse_unnamed(file: BrandFile, brand: Brand, judge: Judge) -> None:
    named = {entry.slug for entry in file.tiers}
    for tier in Tier.objects.filter(brand=brand).exclude(slug__in=named).order_by("rank"):
        judge.wrong("tiers", f"{tier.slug} is missing; tiers stay, because customers stand or stood on them")


def _make_room(file: BrandFile, brand: Brand, judge: Judge) -> None:
    """Tiers that change their rank to one that another has now step aside first."""
    ranks = {entry.slug: rank_of(entry, number) for number, entry in enumerate(file.tiers)}
    standing = {tier.slug: tier for tier in Tier.objects.filter(brand=brand)}
    moving = [tier for slug, tier in standing.items() if ranks.get(slug, tier.rank) != tier.rank]
    taken = {tier.rank for tier in standing.values()}
    if any(ranks[tier.slug] in taken for tier in moving):
        for tier in moving:
            tier.rank += RANK_APART
            ladder.save_tier(tier, actor=judge.actor)


def _tier(brand: Brand, entry: TierEntry, number: int, path: str, judge: Judge) -> Tier:
    price = entry.monthly_price
    values: dict[str, Any] = {name: getattr(entry, name) for name in TIER_COLUMNS} | {
        "rank": rank_of(entry, number),
        "model_slugs": entry.models,
        "monthly_price_nanos": None if price is None else judge.nanos(f"{path}.monthly_price", price),
    }
    tier = Tier.objects.filter(brand=brand, slug=entry.slug).first()
    if tier is None:
        judge.changes.append(f"tier {entry.slug}: new")
        return ladder.save_tier(Tier(brand=brand, slug=entry.slug, **values), actor=judge.actor)
    _drop_unfit(tier, entry, judge)
    if judge.changed(f"tier {entry.slug}", tier, values):
        for name, value in values.items():
            setattr(tier, name, value)
        ladder.save_tier(tier, actor=judge.actor)
    return tier


def _drop_unfit(tier: Tier, entry: TierEntry, judge: Judge) -> None:
    """Who pays may change only when no limit stands against it: those that the file changes anyway go first."""
    if tier.payer == entry.payer:
        return
    draft = Tier(brand=tier.brand, payer=entry.payer)
    for limit in tier.limits.select_related("model"):
        if ladder.limit_problems(limit, draft):
            ladder.remove_limit(limit, actor=judge.actor)


def _set_limits(tier: Tier, entry: TierEntry, models: dict[str, int], path: str, judge: Judge) -> None:
    standing = {_where(limit): limit for limit in tier.limits.all()}
    kept: set[Where] = set()
    for number, said in enumerate(entry.limits):
        with judge.writing(f"{path}.limits[{number}]"):
            drafted = _drafted(tier, said, models)
            kept.add(_where(drafted))
            limit = standing.get(_where(drafted))
            if limit is None:
                ladder.save_limit(drafted, actor=judge.actor)
            elif limit.amount != drafted.amount:
                limit.amount = drafted.amount
                ladder.save_limit(limit, actor=judge.actor)
            else:
                continue
            judge.changes.append(f"tier {tier.slug}: {drafted}")
    for where, limit in standing.items():
        if where not in kept:
            ladder.remove_limit(limit, actor=judge.actor)
            judge.changes.append(f"tier {tier.slug}: no more {limit}")


def _drafted(tier: Tier, entry: LimitEntry, models: dict[str, int]) -> TierLimit:
    """An unsaved row. Raises ValidationError."""
    if entry.model and entry.model not in models:
        raise ValidationError({"model": f"no model {entry.model!r} in this file"})
    window = Window.MINUTE if entry.unit == "concurrent" and not entry.window else entry.window
    if not window:
        raise ValidationError({"window": f"one of {', '.join(Window.values)}"})
    return TierLimit(
        tier=tier,
        unit=entry.unit,
        window=window,
        scope=entry.scope,
        model_id=models.get(entry.model),
        amount=_amount(entry),
        is_allotment=entry.is_allotment,
        is_shadow=entry.is_shadow,
    )


def _amount(entry: LimitEntry) -> int:
    if entry.unit == "nanos":
        try:
            amount = money.nanos(entry.amount)
        except money.AmountInvalid as error:
            raise ValidationError({"amount": str(error)}) from None
    elif type(entry.amount) is int:
        amount = entry.amount
    else:
        raise ValidationError({"amount": f"a whole number of {entry.unit}"})
    if not 0 <= amount <= AMOUNT_MAX:
        raise ValidationError({"amount": f"from 0 to {AMOUNT_MAX}"})
    return amount


def _where(limit: TierLimit) -> Where:
    return limit.unit, limit.window, limit.scope, limit.model_id, limit.is_allotment, limit.is_shadow
