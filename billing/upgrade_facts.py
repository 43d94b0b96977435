"""What the books say of organizations, as upgrade rules ask it. Reads only: rollups, grants, changes of tier.

A History holds everything about one organization over a span of days, so that the night's job asks a few questions per
five hundred organizations, and the simulator may judge any night of the span.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from django.db.models import F, Sum

from billing.models import Grant, LedgerAccount, LimitScope, Tier, TierChange, TierLimit, Unit, UsageDay, Window
from billing.upgrade_rules import DayUse, Facts
from keys.models import Brand, Organization

_DAILY = {Unit.REQUESTS: "requests", Unit.TOKENS: "tokens", Unit.CREDITS: "credits"}
_TOKENS = F("uncached_input_tokens") + F("cache_read_tokens") + F("cache_write_tokens") + F("output_tokens")

VerifiedOf = Callable[[Collection[int]], set[int]]
_verified_of: list[VerifiedOf] = []


def register_verified(question: VerifiedOf) -> None:
    """`question`: which of these organizations (ids) have an owner whose address is confirmed. Sign-in is not this
    room's, so the room that knows answers."""
    _verified_of[:] = [question]


class Change(NamedTuple):
    """A change of tier; `on` is the brand day it began to hold, `by_hand` whether people made it."""

    on: date
    from_tier_id: int | None
    to_tier_id: int
    by_hand: bool


@dataclass(frozen=True, slots=True)
class History:
    organization: Organization
    zone: ZoneInfo
    days: dict[date, DayUse] = field(default_factory=dict)
    payments: list[tuple[date, int]] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    is_verified: bool = False
    is_in_good_standing: bool = False

    def facts(self, night: date, daily_limits: Mapping[str, int], changed_on: date | None) -> Facts:
        """As of the end of `night`. Confirmation and standing are as of now: nothing remembers what they were."""
        paid = [(day, nanos) for day, nanos in self.payments if day <= night]
        return Facts(
            night=night,
            days=self.days,
            daily_limits=daily_limits,
            paid_nanos=sum(nanos for _, nanos in paid),
            paid_on=min((day for day, _ in paid), default=None),
            opened_on=self.organization.created_at.astimezone(self.zone).date(),
            changed_on=changed_on,
            is_verified=self.is_verified,
            is_in_good_standing=self.is_in_good_standing,
        )

    def changed_on(self, night: date) -> date | None:
        """When the tier on which the organization stood at the end of `night` (or since) began to hold."""
        return max((change.on for change in self.changes if change.on <= night + timedelta(days=1)), default=None)


def histories(brand: Brand, organizations: Sequence[Organization], *, first: date, last: date) -> dict[int, History]:
    """By organization id; the use of the brand days `first` to `last`, both included."""
    zone = ZoneInfo(brand.timezone)
    ids = [organization.id for organization in organizations]
    verified, sound = _verified(ids), _sound(organizations)
    found = {
        organization.id: History(
            organization, zone, is_verified=organization.id in verified, is_in_good_standing=organization.id in sound
        )
        for organization in organizations
    }
    rows = UsageDay.objects.filter(organization_id__in=ids, day__range=(first, last))
    sums = rows.values("organization_id", "day").annotate(
        requests_made=Sum(F("requests") - F("failures")), tokens_used=Sum(_TOKENS), credits_used=Sum("credits")
    )
    for row in sums:
        use = DayUse(row["requests_made"], row["tokens_used"], row["credits_used"])
        found[row["organization_id"]].days[row["day"]] = use
    paid = Grant.objects.filter(organization_id__in=ids, kind=Grant.Kind.PAID)
    for organization_id, at, nanos in paid.values_list("organization_id", "created_at", "amount_nanos"):
        found[organization_id].payments.append((at.astimezone(zone).date(), nanos))
    for change in TierChange.objects.filter(organization_id__in=ids).exclude(from_tier=None).order_by("at", "pk"):
        found[change.organization_id].changes.append(_change(change, zone))
    return found


def daily_limits(tiers: Iterable[Tier]) -> dict[int, dict[str, int]]:
    """Per tier id: unit → what the whole organization may use a day, the tightest of several. Trial limits that refuse
    nobody do not count, nor do exceptions of single organizations."""
    found: dict[int, dict[str, int]] = {tier.id: {} for tier in tiers}
    limits = TierLimit.objects.filter(
        tier__in=list(found), window=Window.DAY, scope=LimitScope.ORGANIZATION, unit__in=_DAILY, is_shadow=False
    )
    for limit in limits:
        own, unit = found[limit.tier_id], _DAILY[Unit(limit.unit)]
        own[unit] = min(limit.amount, own.get(unit, limit.amount))
    return found


def day_before(now: datetime, brand: Brand) -> date:
    """The last brand day that has ended."""
    return now.astimezone(ZoneInfo(brand.timezone)).date() - timedelta(days=1)


def _change(change: TierChange, zone: ZoneInfo) -> Change:
    """One that a night's judgement made holds from the day after, however late the night was caught up."""
    on = change.at.astimezone(zone).date() if change.night is None else change.night + timedelta(days=1)
    return Change(on, change.from_tier_id, change.to_tier_id, change.night is None)


def _verified(ids: Collection[int]) -> set[int]:
    return {found for question in _verified_of for found in question(ids)}


def _sound(organizations: Sequence[Organization]) -> set[int]:
    active = {found.id for found in organizations if found.state == Organization.State.ACTIVE}
    wallets = LedgerAccount.objects.filter(organization_id__in=active, kind=LedgerAccount.Kind.WALLET)
    return active - set(wallets.filter(balance_nanos__lt=0).values_list("organization_id", flat=True))


def moment_after(night: date, brand: Brand) -> datetime:
    """When `night`, a brand day, has ended."""
    midnight = datetime(night.year, night.month, night.day, tzinfo=ZoneInfo(brand.timezone)) + timedelta(days=1)
    return midnight.astimezone(UTC)
