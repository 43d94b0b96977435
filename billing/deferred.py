"""Deferred revenue: credit that customers paid for and have not spent. It is owed until it is used or expires."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from django.db.models import QuerySet

from billing import wallets
from billing.models import Grant, LedgerAccount
from keys.models import Brand, Organization


@dataclass(frozen=True, slots=True)
class Owed:
    """By the books now: `paid_nanos` of a wallet's balance was paid for, the rest was given or came back."""

    organization: Organization
    balance_nanos: int
    paid_nanos: int

    @property
    def other_nanos(self) -> int:
        return self.balance_nanos - self.paid_nanos


def customers(brand: Brand) -> QuerySet[Organization]:
    """Who has a balance and ever paid, the largest balance first."""
    wallets_left = LedgerAccount.objects.filter(brand=brand, kind=LedgerAccount.Kind.WALLET, balance_nanos__gt=0)
    paid = Grant.objects.filter(kind=Grant.Kind.PAID, organization__brand=brand)
    found = Organization.objects.filter(accounts__in=wallets_left, pk__in=paid.values("organization_id"))
    return found.order_by("-accounts__balance_nanos", "pk")


def owed(brand: Brand, at_most: int | None = None) -> Iterator[Owed]:
    """One wallet after the other, each read by the rules of spending."""
    for organization in customers(brand)[:at_most].iterator(chunk_size=500):
        wallet = wallets.of(organization)
        if wallet.paid_nanos:
            yield Owed(organization, wallet.balance_nanos, wallet.paid_nanos)
