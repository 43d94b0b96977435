"""What is left of each grant of an organization, read from its wallet's moves by the rules of spending.py.

Usage is summed by the database between two other moves, so a wallet costs as many rows as it had grants. How far that
went is marked now and then, so that a year of usage is not summed at every look.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from django.db import connection
from django.db.models import Max

from billing.models import Grant, LedgerAccount, Posting, PostingLine, WalletMark
from billing.spending import Credit, Left, Move, in_order, left_of
from keys.models import Organization

MARK_AFTER_LINES = 2_000
REFUNDS = frozenset({Posting.Kind.REFUND, Posting.Kind.DISPUTE})
EXPIRY_PREFIX = "expiry:"


@dataclass(frozen=True, slots=True)
class Wallet:
    """`grants` are those with something left, as they will be spent; `left` says what, in nanos by grant id."""

    grants: Sequence[Grant]
    left: Mapping[int, int]
    loose_nanos: int
    debt_nanos: int

    @property
    def balance_nanos(self) -> int:
        return sum(self.left.values()) + self.loose_nanos - self.debt_nanos

    @property
    def paid_nanos(self) -> int:
        """Of what is left, what was paid for: it is owed, not earned."""
        return sum(self.left[grant.id] for grant in self.grants if grant.kind == Grant.Kind.PAID)


def credit(grant: Grant) -> Credit:
    return Credit(
        id=grant.id,
        amount_nanos=grant.amount_nanos,
        is_paid=grant.kind == Grant.Kind.PAID,
        expires_at=grant.expires_at,
        priority=grant.priority,
    )


def of(organization: Organization) -> Wallet:
    """As the books say it now, running calls and those still in the journal not counted."""
    account = LedgerAccount.objects.filter(organization=organization, kind=LedgerAccount.Kind.WALLET).first()
    if account is None:
        return Wallet([], {}, 0, 0)
    after, left = _marked(organization)
    grants = {grant.id: grant for grant in Grant.objects.filter(pk__in=left.nanos)}
    last = PostingLine.objects.filter(account=account).aggregate(last=Max("posting_id"))["last"] or after
    others = _others(organization, after, last)
    usage = _usage(account, after, last, [posting.pk for posting in others])
    left = left_of(_moves(account, others, usage), left, map(credit, grants.values()))
    grants |= {grant.id: grant for posting in others if (grant := _grant_of(posting)) is not None}
    if sum(lines for _, lines in usage.values()) >= MARK_AFTER_LINES:
        _mark(organization, last, left)
    order = in_order(credit(grants[id]) for id in left.nanos)
    return Wallet([grants[credit.id] for credit in order], left.nanos, left.loose_nanos, left.debt_nanos)


def _marked(organization: Organization) -> tuple[int, Left]:
    """Up to which posting, and what was left then."""
    mark = WalletMark.objects.filter(pk=organization.pk).first()
    if mark is None:
        return 0, Left()
    return mark.posting_id, Left({int(id): left for id, left in mark.left.items()}, mark.loose_nanos, mark.debt_nanos)


def _others(organization: Organization, after: int, until: int) -> list[Posting]:
    usage = (Posting.Kind.USAGE, Posting.Kind.CORRECTION)
    rows = Posting.objects.filter(organization=organization, pk__gt=after, pk__lte=until).exclude(kind__in=usage)
    return list(rows.select_related("grant").prefetch_related("lines").order_by("pk"))


def _grant_of(posting: Posting) -> Grant | None:
    return getattr(posting, "grant", None)


def _usage(account: LedgerAccount, after: int, until: int, others: list[int]) -> dict[int, tuple[int, int]]:
    """How much usage moved the wallet, and by how many lines, between the other moves: 0 is before the first."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT width_bucket(posting_id, %s::bigint[]) AS place, sum(amount_nanos)::bigint, count(*)"
            " FROM billing_postingline WHERE account_id = %s AND posting_id > %s AND posting_id <= %s"
            " AND posting_id <> ALL (%s::bigint[]) GROUP BY place",
            [others, account.pk, after, until, others],
        )
        return {place: (nanos, lines) for place, nanos, lines in cursor.fetchall()}


def _moves(
    account: LedgerAccount, others: Sequence[Posting], usage: Mapping[int, tuple[int, int]]
) -> Iterator[Credit | Move]:
    yield Move(usage.get(0, (0, 0))[0])
    for place, posting in enumerate(others, start=1):
        grant = _grant_of(posting)
        yield credit(grant) if grant is not None else _other(account, posting)
        yield Move(usage.get(place, (0, 0))[0])


def _other(account: LedgerAccount, posting: Posting) -> Move:
    nanos = sum(line.amount_nanos for line in posting.lines.all() if line.account_id == account.pk)
    grant_id = int(posting.reference.split(":")[1]) if posting.kind == Posting.Kind.EXPIRY else None
    return Move(nanos, grant_id=grant_id, is_refund=posting.kind in REFUNDS)


def _mark(organization: Organization, posting_id: int, left: Left) -> None:
    """Postings of one wallet are numbered in the order in which they are committed (its row is locked first), so
    nothing comes before the mark later."""
    said = {"left": left.nanos, "loose_nanos": left.loose_nanos, "debt_nanos": left.debt_nanos}
    WalletMark.objects.update_or_create(pk=organization.pk, defaults={"posting_id": posting_id, **said})
