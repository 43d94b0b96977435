"""What the books say of organizations, as upgrade rules ask it. Reads only: rollups, grants, changes of tier.

A History holds everything about one organization over a span of days, so that the night's job asks a few questions per
five hundred organizations, and the simulator may judge any night of the span.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from django.db.models import F, Q, Sum

from billing import ladder
from billing.models import (
    Grant,
    LedgerAccount,
    LimitScope,
    Posting,
    PostingLine,
    Tier,
    TierChange,
    TierLimit,
    Unit,
    UsageDay,
    Window,
)
from billing.payment_models import Reversal
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
    """A change of tier; `on` is the brand day it began to hold, `by_hand` whether people made it. `from_tier_id` None:
    nobody had assigned one, so it stood on the brand's default."""

    on: date
    from_tier_id: int | None
    to_tier_id: int
    by_hand: bool


class Standing(NamedTuple):
    """Since when an organization has its tier; `by_hand`: since some moment of that day, else since its midnight."""

    on: date
    by_hand: bool


class Payment(NamedTuple):
    on: date
    nanos: int
    posting_id: int


class Back(NamedTuple):
    """Money that a refund or a dispute took (positive), or gave again when it did not go through. `of` is the posting
    of the payment; None where a person refunded without naming one."""

    on: date
    nanos: int
    of: int | None


@dataclass(slots=True)
class History:
    """`by_hand_on`: when people last put it on a tier, whichever day that was."""

    organization: Organization
    zone: ZoneInfo
    days: dict[date, DayUse] = field(default_factory=dict)
    payments: list[Payment] = field(default_factory=list)
    backs: list[Back] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    by_hand_on: date | None = None
    is_verified: bool = False
    is_in_good_standing: bool = False

    def facts(self, night: date, daily_limits: Mapping[str, int], change: Standing | None) -> Facts:
        """As of the end of `night`. Confirmation and standing are as of now: nothing remembers what they were."""
        paid_nanos, paid_on = self._paid(night)
        return Facts(
            night=night,
            days=self.days,
            daily_limits=daily_limits,
            paid_nanos=paid_nanos,
            paid_on=paid_on,
            opened_on=self.opened_on,
            changed_on=change.on if change else None,
            is_changed_by_hand=change is not None and change.by_hand,
            is_verified=self.is_verified,
            is_in_good_standing=self.is_in_good_standing,
        )

    @property
    def opened_on(self) -> date:
        return self.organization.created_at.astimezone(self.zone).date()

    def standing(self, night: date) -> Standing | None:
        """Since when the organization has the tier on which it stood at the end of `night` (or since)."""
        begun = [
            Standing(change.on, change.by_hand) for change in self.changes if change.on <= night + timedelta(days=1)
        ]
        return max(begun, default=None)

    def is_open(self, night: date) -> bool:
        """Whether the night may still move it: not one before what another night did, nor one up to the day of what
        people decided. They knew those days, and a night that is caught up late must not undo it."""
        if self.by_hand_on is not None and night <= self.by_hand_on:
            return False
        return all(change.on <= night for change in self.changes)

    def _paid(self, night: date) -> tuple[int, date | None]:
        """What was paid and kept up to `night`, and the day of the first payment of which anything was kept."""
        backs = [back for back in self.backs if back.on <= night]
        payments = [payment for payment in self.payments if payment.on <= night]
        kept = sum(payment.nanos for payment in payments) - sum(back.nanos for back in backs)
        if kept <= 0:
            return 0, None
        taken: Counter[int | None] = Counter()
        for back in backs:
            taken[back.of] += back.nanos
        days = [payment.on for payment in payments if taken[payment.posting_id] < payment.nanos]
        return kept, min(days, default=None)


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
    _add_payments(found, zone)
    _add_changes(found, zone)
    return found


def _add_payments(found: Mapping[int, History], zone: ZoneInfo) -> None:
    paid = Grant.objects.filter(organization_id__in=list(found), kind=Grant.Kind.PAID)
    for organization_id, at, *rest in paid.values_list("organization_id", "created_at", "amount_nanos", "posting_id"):
        found[organization_id].payments.append(Payment(at.astimezone(zone).date(), *rest))
    postings = Q(
        posting__organization_id__in=list(found), posting__kind__in=(Posting.Kind.REFUND, Posting.Kind.DISPUTE)
    )
    lines = list(
        PostingLine.objects.filter(postings, account__kind=LedgerAccount.Kind.WALLET).values_list(
            "posting__organization_id", "posting__posted_at", "amount_nanos", "posting_id"
        )
    )
    if not lines:
        return
    of: dict[int | None, int | None] = {}
    reversals = Reversal.objects.filter(top_up__organization_id__in=list(found)).exclude(posting=None)
    for taken_id, returned_id, payment_id in reversals.values_list("posting_id", "returned_id", "top_up__posting_id"):
        of[taken_id] = of[returned_id] = payment_id
    for organization_id, at, nanos, posting_id in lines:
        back = Back(at.astimezone(zone).date(), -nanos, of.get(posting_id))
        found[organization_id].backs.append(back)


def _add_changes(found: Mapping[int, History], zone: ZoneInfo) -> None:
    """What an account began with is no change of tier; what people put it on later is, whether or not it had one."""
    for row in TierChange.objects.filter(organization_id__in=list(found)).order_by("at", "pk"):
        history, change = found[row.organization_id], _change(row, zone)
        if row.from_tier_id is None and row.reason == ladder.SIGN_UP:
            continue
        history.changes.append(change)
        if change.by_hand:
            history.by_hand_on = max(change.on, history.by_hand_on or change.on)


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
