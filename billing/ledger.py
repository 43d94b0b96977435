"""The books: the only writer of LedgerAccount, Posting, PostingLine, Grant and CounterChange.

A posting is double-entry: its lines sum to zero (a deferred trigger proves it at commit) and its reference is unique,
so posting again changes nothing. Everything of one call is written under row locks taken in account id order, so
writers wait for one another but never in a circle. Balances are kept in the posting's own transaction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from django.db import connection, transaction
from django.db.models import Q

from billing import outbox
from billing.models import CounterChange, Grant, LedgerAccount, Posting, PostingLine
from keys import audit
from keys.audit import Actor
from keys.models import Organization, User

AccountKind = LedgerAccount.Kind


class PostingConflict(Exception):
    """The reference is taken by a posting that says something else. Nothing was written."""


@dataclass(frozen=True, slots=True)
class Line:
    """Positive raises the account. A wallet belongs to an organization, every other account to the brand alone."""

    account: str
    amount_nanos: int
    organization_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What Redis must take over: a difference of the balance, and amounts per unit ("req", "tok", …) of a brand day."""

    brand_id: int
    organization_id: int
    balance_nanos: int = 0
    day: str = ""
    key_id: int | None = None
    model_id: int | None = None
    amounts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One posting to make; its changes are written only when it is new."""

    brand_id: int
    organization_id: int | None
    kind: str
    reference: str
    lines: tuple[Line, ...]
    changes: tuple[Change, ...] = ()
    memo: str = ""
    actor_id: int | None = None


@dataclass(frozen=True, slots=True)
class Posted:
    posting: Posting
    is_new: bool


AccountKey = tuple[int, int | None, str]


def charge_lines(organization_id: int, cost_nanos: int) -> tuple[Line, ...]:
    """What a customer used: out of the wallet, into revenue. Negative gives back."""
    return (Line(AccountKind.WALLET, -cost_nanos, organization_id), Line(AccountKind.REVENUE, cost_nanos))


def credit_lines(organization_id: int, amount_nanos: int, *, source: str) -> tuple[Line, ...]:
    """Credit for a customer: into the wallet, out of `source` (cash, promotion or adjustment)."""
    return (Line(AccountKind.WALLET, amount_nanos, organization_id), Line(source, -amount_nanos))


def post(entry: Entry) -> Posted:
    """See post_all."""
    return post_all([entry])[0]


def post_all(entries: Sequence[Entry], changes: Sequence[Change] = ()) -> list[Posted]:
    """Post every entry and number every change, in one transaction (the caller's, where there is one). The answers are
    in the entries' order. `changes` are those that go with no posting. Lines of one account are added up, and none is
    written for an account that does not move. Raises PostingConflict."""
    with transaction.atomic():
        return _post_all(entries, changes)


def _post_all(entries: Sequence[Entry], changes: Sequence[Change]) -> list[Posted]:
    accounts = _locked(
        [(entry.brand_id, line.organization_id, line.account) for entry in entries for line in entry.lines]
        + [(change.brand_id, change.organization_id, AccountKind.WALLET) for change in changes]
        + [(c.brand_id, c.organization_id, AccountKind.WALLET) for entry in entries for c in entry.changes]
    )
    # Read after the locks: another writer of the same reference is done by now, whatever it did.
    existing = {row.reference: row for row in Posting.objects.filter(reference__in=[e.reference for e in entries])}
    fresh: dict[str, Entry] = {}
    for entry in entries:
        if entry.reference in existing:
            _check_same(existing[entry.reference], entry, accounts)
        elif fresh.setdefault(entry.reference, entry) != entry:
            raise PostingConflict(f"two entries of one batch share the reference {entry.reference}")
    made = {row.reference: row for row in Posting.objects.bulk_create(map(_posting, fresh.values()))}
    moves = {reference: _moves(entry, accounts) for reference, entry in fresh.items()}
    PostingLine.objects.bulk_create(
        PostingLine(posting=made[reference], account_id=account_id, amount_nanos=amount)
        for reference, amounts in moves.items()
        for account_id, amount in amounts.items()
    )
    _move_balances(moves.values())
    _number([change for entry in fresh.values() for change in entry.changes] + list(changes), accounts)
    rows = existing | made
    return [Posted(rows[entry.reference], is_new=fresh.get(entry.reference) is entry) for entry in entries]


def _posting(entry: Entry) -> Posting:
    return Posting(
        brand_id=entry.brand_id,
        organization_id=entry.organization_id,
        kind=entry.kind,
        reference=entry.reference,
        memo=entry.memo,
        actor_id=entry.actor_id,
    )


def _locked(keys: Iterable[AccountKey]) -> dict[AccountKey, LedgerAccount]:
    """The accounts, made where missing, then locked in id order. Making comes first: who waits for another's new row
    must not yet hold a lock that the other may want."""
    wanted = sorted(set(keys), key=lambda key: (key[0], key[1] or 0, key[2]))
    if not wanted:
        return {}
    rows = LedgerAccount.objects.filter(
        Q(organization_id__in={organization_id for _, organization_id, _ in wanted if organization_id})
        | Q(organization=None, brand_id__in={brand for brand, _, _ in wanted}, kind__in={kind for *_, kind in wanted})
    )
    there = set(rows.values_list("brand_id", "organization_id", "kind"))
    LedgerAccount.objects.bulk_create(
        (LedgerAccount(brand_id=key[0], organization_id=key[1], kind=key[2]) for key in wanted if key not in there),
        ignore_conflicts=True,
    )
    locked = rows.order_by("id").select_for_update(no_key=True)
    return {(row.brand_id, row.organization_id, row.kind): row for row in locked}


def hold_still(organization: Organization) -> None:
    """Lock, for the rest of the transaction, every account that an entry about the organization's credit may move:
    what is read of the wallet from now on is still so when it is posted by."""
    brand_id, shared = organization.brand_id, (AccountKind.PROMOTION, AccountKind.REVENUE, AccountKind.CASH)
    _locked([(brand_id, organization.id, AccountKind.WALLET), *((brand_id, None, kind) for kind in shared)])


def _moves(entry: Entry, accounts: Mapping[AccountKey, LedgerAccount]) -> dict[int, int]:
    """Account id → amount; sums to zero, as the trigger would find out only at commit."""
    moves: dict[int, int] = defaultdict(int)
    for line in entry.lines:
        moves[accounts[entry.brand_id, line.organization_id, line.account].id] += line.amount_nanos
    assert sum(moves.values()) == 0, f"the lines of {entry.reference} do not sum to zero"
    return {account_id: amount for account_id, amount in sorted(moves.items()) if amount}


def _check_same(posting: Posting, entry: Entry, accounts: Mapping[AccountKey, LedgerAccount]) -> None:
    lines = dict(posting.lines.values_list("account_id", "amount_nanos"))
    if (posting.kind, lines) != (entry.kind, _moves(entry, accounts)):
        raise PostingConflict(f"{entry.reference} is posted already, with other lines")


def _move_balances(moves: Iterable[Mapping[int, int]]) -> None:
    deltas: dict[int, int] = defaultdict(int)
    for amounts in moves:
        for account_id, amount in amounts.items():
            deltas[account_id] += amount
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE billing_ledgeraccount AS account SET balance_nanos = account.balance_nanos + moved.amount"
            " FROM unnest(%s::bigint[], %s::bigint[]) AS moved (id, amount) WHERE account.id = moved.id",
            [list(deltas.keys()), list(deltas.values())],
        )


def _number(changes: Sequence[Change], accounts: Mapping[AccountKey, LedgerAccount]) -> None:
    """Write the changes, numbered without gaps per organization: the wallet row is locked, so nobody else counts."""
    rows, wallets = [], {}
    for change in changes:
        wallet = accounts[change.brand_id, change.organization_id, AccountKind.WALLET]
        wallet.changes += 1
        wallets[wallet.id] = wallet
        rows.append(
            CounterChange(
                organization_id=change.organization_id,
                seq=wallet.changes,
                balance_nanos=change.balance_nanos,
                day=change.day,
                key_id=change.key_id,
                model_id=change.model_id,
                amounts=dict(change.amounts),
            )
        )
    if not rows:
        return
    CounterChange.objects.bulk_create(rows)
    LedgerAccount.objects.bulk_update(wallets.values(), ["changes"])
    for organization_id in sorted({change.organization_id for change in changes}):
        transaction.on_commit(partial(outbox.apply_changes, organization_id), robust=True)


GRANT_SOURCES = {
    Grant.Kind.PAID: AccountKind.CASH,
    Grant.Kind.PROMOTIONAL: AccountKind.PROMOTION,
    Grant.Kind.COMPENSATION: AccountKind.PROMOTION,
    Grant.Kind.SIGN_UP: AccountKind.PROMOTION,
}


def grant(
    *,
    organization: Organization,
    amount_nanos: int,
    kind: str,
    reason: str,
    reference: str,
    actor: Actor,
    expires_at: datetime | None = None,
    priority: int = 0,
    address: str | None = None,
) -> Grant:
    """Credit an organization. It counts on the next request: after commit Redis is told before this returns; if Redis
    is away the outbox tells it later. The same reference again gives the same grant and credits nothing.

    Raises ValueError for an amount that is not a positive whole number of nanos, PostingConflict.
    """
    if type(amount_nanos) is not int or amount_nanos <= 0:
        raise ValueError(f"a grant is a positive whole number of nanos, not {amount_nanos!r}")
    source = GRANT_SOURCES[Grant.Kind(kind)]
    with transaction.atomic():
        posted = post(
            Entry(
                brand_id=organization.brand_id,
                organization_id=organization.id,
                kind=Posting.Kind.TOP_UP if kind == Grant.Kind.PAID else Posting.Kind.GRANT,
                reference=reference,
                lines=credit_lines(organization.id, amount_nanos, source=source),
                changes=(
                    Change(brand_id=organization.brand_id, organization_id=organization.id, balance_nanos=amount_nanos),
                ),
                memo=reason,
                actor_id=actor.id if isinstance(actor, User) else None,
            )
        )
        if not posted.is_new:
            return Grant.objects.get(posting=posted.posting)
        audit.note(
            *("grant.given", organization.public_id),
            actor=actor,
            organization=organization,
            after={"amount_nanos": amount_nanos, "kind": str(kind), "reason": reason, "reference": reference},
            address=address,
        )
        return Grant.objects.create(
            organization=organization,
            kind=kind,
            amount_nanos=amount_nanos,
            reason=reason,
            posting=posted.posting,
            expires_at=expires_at,
            priority=priority,
        )


def bank_reference(brand_id: int, payment: str) -> str:
    """What a bank transfer is booked under: recorded twice, it credits once; for another customer, it is refused."""
    return f"bank:{brand_id}:{' '.join(payment.split())}"


COUNTERPARTS = {
    Posting.Kind.REFUND: AccountKind.CASH,
    Posting.Kind.DISPUTE: AccountKind.CASH,
    Posting.Kind.ADJUSTMENT: AccountKind.ADJUSTMENT,
}


def adjust(
    *,
    organization: Organization,
    amount_nanos: int,
    reason: str,
    reference: str,
    actor: Actor,
    kind: str = Posting.Kind.ADJUSTMENT,
    counterpart: str | None = None,
    address: str | None = None,
) -> Posted:
    """Move a customer's balance by a new entry: an adjustment, a refund or a dispute (negative: money went back to the
    customer), the end of a grant (then say the `counterpart`). It holds on the next request, like a grant. The balance
    may go below nothing: the money is gone already, and calls are refused until it is made good. The same reference
    again moves nothing.

    Raises ValueError for an amount that is not a whole number of nanos other than nought, PostingConflict.
    """
    if type(amount_nanos) is not int or not amount_nanos:
        raise ValueError(f"a balance moves by a whole number of nanos, not by {amount_nanos!r}")
    source = counterpart or COUNTERPARTS[Posting.Kind(kind)]
    with transaction.atomic():
        posted = post(
            Entry(
                brand_id=organization.brand_id,
                organization_id=organization.id,
                kind=kind,
                reference=reference,
                lines=credit_lines(organization.id, amount_nanos, source=source),
                changes=(
                    Change(brand_id=organization.brand_id, organization_id=organization.id, balance_nanos=amount_nanos),
                ),
                memo=reason,
                actor_id=actor.id if isinstance(actor, User) else None,
            )
        )
        if posted.is_new:
            audit.note(
                *("balance.moved", organization.public_id),
                actor=actor,
                organization=organization,
                after={"amount_nanos": amount_nanos, "kind": str(kind), "reason": reason, "reference": reference},
                address=address,
            )
    return posted


def balance_nanos(organization: Organization) -> int:
    """What the books say the organization has, without what is still in the journal or held."""
    return balances_nanos([organization])[organization.pk]


def balances_nanos(organizations: Collection[Organization]) -> dict[int, int]:
    """The same of many, by organization id; nothing was ever posted of whoever has no wallet."""
    wallets = LedgerAccount.objects.filter(organization__in=organizations, kind=AccountKind.WALLET)
    found = dict(wallets.values_list("organization_id", "balance_nanos"))
    return {organization.pk: found.get(organization.pk, 0) for organization in organizations}
