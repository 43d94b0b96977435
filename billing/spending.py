"""Which credit a customer's spending used up. Pure: the wallet's moves in, what is left of each grant out.

Nobody records, call by call, from which grant it was paid; it follows from the moves and one order:

    lower priority number first; then what expires soonest (never is last); then what was given before what was paid;
    then the older grant.

So credit that would be lost is used first. Money given back (a refund, a dispute) comes out of what was paid, latest
first; an expiry out of its grant. What comes in without a grant (a charge corrected downwards, an adjustment) is spent
last and does not expire. What is spent beyond all credit is a debt, which the next credit pays first.

    sum of what is left + what is loose - debt = the wallet's balance
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """A grant as spending sees it. Amounts are nanos."""

    id: int
    amount_nanos: int
    is_paid: bool
    expires_at: datetime | None = None
    priority: int = 0

    @property
    def order(self) -> tuple[int, datetime, bool, int]:
        return self.priority, self.expires_at or NEVER, self.is_paid, self.id


class Move(NamedTuple):
    """A change of the wallet that is no grant: negative is spent or taken. `grant_id` takes it out of that grant,
    `is_refund` out of what was paid."""

    amount_nanos: int
    grant_id: int | None = None
    is_refund: bool = False


@dataclass(slots=True)
class Left:
    """What is left, grant by grant; those used up are not in it."""

    nanos: dict[int, int] = field(default_factory=dict)
    loose_nanos: int = 0
    debt_nanos: int = 0

    @property
    def balance_nanos(self) -> int:
        return sum(self.nanos.values()) + self.loose_nanos - self.debt_nanos


def left_of(moves: Iterable[Credit | Move], since: Left | None = None, known: Iterable[Credit] = ()) -> Left:
    """`moves` in the order of the books. `since` is what was left before them, of the grants that are `known`."""
    left = since or Left()
    credits = {credit.id: credit for credit in known}
    for move in moves:
        if isinstance(move, Credit):
            credits[move.id] = move
            _keep(left, move.id, _pay_debt(left, move.amount_nanos))
        elif move.amount_nanos >= 0:
            left.loose_nanos += _pay_debt(left, move.amount_nanos)
        else:
            _take(left, -move.amount_nanos, move, credits)
    return left


def in_order(credits: Iterable[Credit]) -> list[Credit]:
    """As they are spent."""
    return sorted(credits, key=lambda credit: credit.order)


def takeable(left: Mapping[int, int], expired: Iterable[Credit], running_nanos: int) -> dict[int, int]:
    """What may be taken now of each expired grant: what is left of it, but for what running calls have set aside or
    used already (`running_nanos`). They began while it was good, and it is what they are paid from first."""
    taken: dict[int, int] = {}
    for credit in in_order(expired):
        nanos = left.get(credit.id, 0)
        spared = min(nanos, running_nanos)
        running_nanos -= spared
        if nanos > spared:
            taken[credit.id] = nanos - spared
    return taken


def _take(left: Left, nanos: int, move: Move, credits: Mapping[int, Credit]) -> None:
    there = in_order(credits[id] for id in left.nanos)
    if move.grant_id is not None:
        there.sort(key=lambda credit: credit.id != move.grant_id)
    elif move.is_refund:
        there.sort(key=lambda credit: (not credit.is_paid, -credit.id))
    for credit in there:
        part = min(nanos, left.nanos[credit.id])
        nanos -= part
        _keep(left, credit.id, left.nanos.pop(credit.id) - part)
        if not nanos:
            return
    part = min(nanos, left.loose_nanos)
    left.loose_nanos -= part
    left.debt_nanos += nanos - part


def _pay_debt(left: Left, nanos: int) -> int:
    paid = min(nanos, left.debt_nanos)
    left.debt_nanos -= paid
    return nanos - paid


def _keep(left: Left, id: int, nanos: int) -> None:
    if nanos:
        left.nanos[id] = nanos
