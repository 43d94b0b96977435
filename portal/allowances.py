"""How much of its plan's limits an account has used. From the books, so a few seconds behind the gateway."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from billing import reports
from billing.models import LimitScope, Payer, Tier, TierLimit, Unit, Window
from keys.models import Organization

BEGINNING = date(2000, 1, 1)
_USED = {
    Unit.REQUESTS: "requests",
    Unit.INPUT_TOKENS: "input_tokens",
    Unit.OUTPUT_TOKENS: "output_tokens",
    Unit.TOKENS: "total_tokens",
    Unit.CREDITS: "credits",
    Unit.NANOS: "cost_nanos",
}


@dataclass(frozen=True, slots=True)
class Allowance:
    """`used` is None where the books cannot tell: minutes, calls at once, and limits of single keys or models."""

    limit: TierLimit
    used: int | None

    @property
    def is_included(self) -> bool:
        """Whether it tells how much may still be used without paying."""
        all_included = self.limit.tier.payer == Payer.INCLUDED
        return self.used is not None and (self.limit.is_allotment or all_included)

    @property
    def left(self) -> int:
        return max(0, self.limit.amount - (self.used or 0))


def of(organization: Organization, tier: Tier | None, today: date) -> list[Allowance]:
    """The plan's limits in their order. One question to the rollups per window that occurs."""
    limits = list(tier.limits.select_related("model").order_by("pk")) if tier else []
    firsts = {Window.DAY: today, Window.MONTH: today.replace(day=1), Window.LIFETIME: BEGINNING}
    wanted = {Window(limit.window) for limit in limits if _is_told(limit)}
    totals = {window: reports.total(organization.pk, first=firsts[window], last=today) for window in wanted}
    return [
        Allowance(limit, getattr(totals[Window(limit.window)], _USED[Unit(limit.unit)]) if _is_told(limit) else None)
        for limit in limits
    ]


def _is_told(limit: TierLimit) -> bool:
    whole_account = limit.scope == LimitScope.ORGANIZATION
    return whole_account and limit.window != Window.MINUTE and limit.unit != Unit.CONCURRENT
