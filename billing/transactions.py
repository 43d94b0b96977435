"""The books as operators read them: transactions newest first, the balance of an account after each, sums that come to
nothing, and what caused them. Reads only.

Any number of rows is paged by key: (posted_at, id) along an index of the brand or the organization by kind, so that a
late page costs what the first does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import Model, Q, QuerySet, Sum

from billing.models import Grant, LedgerAccount, Posting, PostingLine, UsageEvent
from billing.payment_models import Reversal, TopUp
from billing.statements import SUMMED
from billing.subscription_models import InvoiceReversal, SubscriptionInvoice
from keys.models import Brand, Organization

SUMMED_MAX = 10_000
"""Transactions that a selection's totals are read over; of more than that a statement or a report tells."""
WALLET = LedgerAccount.Kind.WALLET
CAUSES: tuple[type[Model], ...] = (Grant, TopUp, Reversal, SubscriptionInvoice, InvoiceReversal)
"""What has a posting of its own. What is used is named by the posting's reference: the first call it pays for."""


class Place(NamedTuple):
    """Where a page ended: its last transaction, and the account's balance before that one (None: not followed)."""

    posted_at: datetime
    id: int
    balance_nanos: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """`account`: a kind. `since` is in it, `until` is not. `call_id` finds what paid for a call, and its corrections;
    `reference` is the beginning of one."""

    brand: Brand
    organization: Organization | None = None
    account: str = ""
    kind: str = ""
    since: datetime | None = None
    until: datetime | None = None
    reference: str = ""
    call_id: UUID | None = None

    @property
    def followed(self) -> LedgerAccount | None:
        """The account whose balance the rows tell: an organization's wallet, or one of the brand's own. None where rows
        of it are left out, or of several."""
        if self.kind or self.reference or self.call_id:
            return None
        accounts = LedgerAccount.objects.filter(brand=self.brand)
        if self.organization is not None:
            wallet = accounts.filter(organization=self.organization, kind=WALLET)
            return wallet.first() if self.account in ("", WALLET) else None
        if self.account in ("", WALLET):
            return None
        return accounts.filter(organization=None, kind=self.account).first()


@dataclass(frozen=True, slots=True)
class Transaction:
    """`lines` sum to nothing. `balance_nanos`: of the followed account, after it. `moved_nanos`: of that account, or of
    the wallets where none is followed. `call_id`: the first call that it pays for, where it pays for calls."""

    posting: Posting
    lines: tuple[PostingLine, ...]
    moved_nanos: int
    balance_nanos: int | None
    cause: Model | None
    call_id: UUID | None


@dataclass(frozen=True, slots=True)
class Page:
    rows: tuple[Transaction, ...]
    after: Place | None
    followed: LedgerAccount | None


@dataclass(frozen=True, slots=True)
class Totals:
    """By kind of account; together nothing. `postings` None: too many to sum."""

    by_kind: dict[str, int] = field(default_factory=dict)
    postings: int | None = None

    @property
    def sum_nanos(self) -> int:
        return sum(self.by_kind.values())


def listed(asked: Selection, *, after: Place | None = None, limit: int) -> Page:
    followed = asked.followed
    rows = _newest(asked, after, limit + 1)
    shown = rows[:limit]
    lines, causes, calls = _lines_of(shown), _causes_of(shown), _calls_of(shown)
    running = _balance_before(asked, followed, after)
    found = []
    for posting in shown:
        moved = sum(line.amount_nanos for line in lines[posting.pk] if _is_followed(line, followed))
        balance = running
        found.append(
            Transaction(
                *(posting, tuple(lines[posting.pk]), moved, balance),
                causes.get(posting.pk),
                calls.get(posting.pk),
            )
        )
        running = None if running is None else running - moved
    more = len(rows) > limit
    return Page(tuple(found), Place(shown[-1].posted_at, shown[-1].pk, running) if more else None, followed)


def totals(asked: Selection) -> Totals:
    ids = list(_selected(asked).order_by().values_list("pk", flat=True)[: SUMMED_MAX + 1])
    if len(ids) > SUMMED_MAX:
        return Totals()
    sums = PostingLine.objects.filter(posting__in=ids).order_by().values_list("account__kind")
    return Totals(_by_kind(sums.annotate(Sum("amount_nanos"))), len(ids))


def books(brand: Brand) -> Totals:
    """What the brand's accounts hold now."""
    sums = LedgerAccount.objects.filter(brand=brand).order_by().values_list("kind").annotate(Sum("balance_nanos"))
    return Totals(_by_kind(sums))


def _by_kind(sums: Iterable[tuple[Any, ...]]) -> dict[str, int]:
    found = {kind: int(nanos) for kind, nanos in sums}
    return {kind: found[kind] for kind in LedgerAccount.Kind.values if kind in found}


def _newest(asked: Selection, after: Place | None, limit: int) -> list[Posting]:
    """By kind where a brand's are read, one index scan each: there is no other index of a brand by time."""
    rows = _selected(asked)
    if after is not None:
        past = Q(posted_at__lt=after.posted_at) | Q(posted_at=after.posted_at, pk__lt=after.id)
        rows = rows.filter(past, posted_at__lte=after.posted_at)
    newest = ("-posted_at", "-pk")
    if asked.reference or asked.call_id or (asked.organization is not None and not asked.kind and not asked.account):
        return list(rows.order_by(*newest)[:limit])
    parts = [rows.filter(kind=kind).order_by(*newest).values_list("pk")[:limit] for kind in _kinds(asked)]
    first, *others = parts
    ids = [id for (id,) in first.union(*others, all=True)]
    return list(Posting.objects.select_related("organization").filter(pk__in=ids).order_by(*newest)[:limit])


def _selected(asked: Selection) -> QuerySet[Posting]:
    rows = Posting.objects.filter(brand=asked.brand).select_related("organization")
    if asked.organization is not None:
        rows = rows.filter(organization=asked.organization)
    if asked.kind:
        rows = rows.filter(kind=asked.kind)
    if asked.account == WALLET:
        rows = rows.exclude(organization=None)
    elif asked.account:
        account = LedgerAccount.objects.filter(brand=asked.brand, organization=None, kind=asked.account)
        lines = PostingLine.objects.filter(account__in=account)
        rows = rows.filter(kind__in=_kinds(asked), pk__in=lines.values("posting"))
    if asked.since is not None:
        rows = rows.filter(posted_at__gte=asked.since)
    if asked.until is not None:
        rows = rows.filter(posted_at__lt=asked.until)
    if asked.reference:
        rows = rows.filter(reference__startswith=asked.reference)
    if asked.call_id is not None:
        events = UsageEvent.objects.filter(Q(call_id=asked.call_id) | Q(corrects=asked.call_id))
        rows = rows.filter(pk__in=[id for id in events.values_list("posting_id", flat=True) if id])
    return rows


def _kinds(asked: Selection) -> list[str]:
    """Calls move wallets and revenue only (ledger.charge_lines): in the other accounts they need not be looked for."""
    if asked.kind:
        return [asked.kind]
    apart = asked.account not in ("", WALLET, LedgerAccount.Kind.REVENUE)
    return [kind for kind in Posting.Kind.values if not (apart and kind in SUMMED)]


def _balance_before(asked: Selection, followed: LedgerAccount | None, after: Place | None) -> int | None:
    """The balance after the newest row that is to be shown: that of now, less what was posted since."""
    if followed is None:
        return None
    if after is not None:
        return after.balance_nanos
    if asked.until is None:
        return followed.balance_nanos
    since = PostingLine.objects.filter(account=followed, posting__posted_at__gte=asked.until)
    if asked.organization is not None:  # along its index
        since = since.filter(posting__organization=asked.organization)
    return followed.balance_nanos - (since.aggregate(moved=Sum("amount_nanos"))["moved"] or 0)


def _is_followed(line: PostingLine, followed: LedgerAccount | None) -> bool:
    return line.account.kind == WALLET if followed is None else line.account_id == followed.pk


def _lines_of(postings: Sequence[Posting]) -> dict[int, list[PostingLine]]:
    found: dict[int, list[PostingLine]] = defaultdict(list)
    rows = PostingLine.objects.filter(posting__in=[posting.pk for posting in postings])
    for line in rows.select_related("account__organization").order_by("pk"):
        found[line.posting_id].append(line)
    return found


def _causes_of(postings: Sequence[Posting]) -> dict[int, Model]:
    ids = [posting.pk for posting in postings if posting.kind not in SUMMED]
    rows = (row for model in CAUSES for row in model._default_manager.filter(posting__in=ids)) if ids else ()
    return {row.posting_id: row for row in rows}  # type: ignore[attr-defined]


def _calls_of(postings: Sequence[Posting]) -> dict[int, UUID]:
    """The call that a posting is named by; of a correction, the call that it corrects."""
    named = {posting.pk: id for posting in postings if posting.kind in SUMMED and (id := _named(posting.reference))}
    corrections = {posting.pk for posting in postings if posting.kind == Posting.Kind.CORRECTION}
    wanted = [named[pk] for pk in corrections & named.keys()]
    corrects = dict(UsageEvent.objects.filter(call_id__in=wanted).values_list("call_id", "corrects")) if wanted else {}
    return {pk: corrects.get(id) or id for pk, id in named.items()}


def _named(reference: str) -> UUID | None:
    try:
        return UUID(reference.rpartition(":")[2])
    except ValueError:
        return None
