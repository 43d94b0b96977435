"""Credit for a customer from the command line: posted in the books, and there on the next request."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any
from uuid import uuid4

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing import ledger, money
from billing.models import CounterChange, Grant
from portal.management.choosing import brand_named, moment_named, organization_named

ACTOR = "manage.py grant"


class Command(BaseCommand):
    help = "Give an organization credit."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--brand", help="the brand's slug")
        parser.add_argument("--organization", required=True, help="the organization's slug or its id (org_…)")
        parser.add_argument("--amount", required=True, help='in currency units, e.g. "10.00"')
        parser.add_argument("--reason", required=True, help="kept in the books and shown to the customer")
        parser.add_argument("--kind", choices=Grant.Kind.values, default=Grant.Kind.PROMOTIONAL.value)
        parser.add_argument("--expires", help="ISO 8601: what is left then is taken back; never when not given")
        parser.add_argument("--priority", type=int, default=0, help="lower is spent first, whatever expires")
        booked = parser.add_mutually_exclusive_group()
        booked.add_argument("--reference", help="with the same reference the same grant is given once only")
        booked.add_argument("--bank-transfer", metavar="REFERENCE", help="paid credit, under the transfer's reference")

    def handle(
        self,
        *,
        brand: str | None,
        organization: str,
        amount: str,
        reason: str,
        kind: str,
        reference: str | None,
        bank_transfer: str | None,
        expires: str | None,
        priority: int,
        **_: Any,
    ) -> None:
        owner = organization_named(organization, brand_named(brand))
        if not reason.strip() or len(reason) > 200:
            raise CommandError("--reason: say why, in 200 characters at most.")
        expires_at = moment_named(expires, "--expires")
        if expires_at is not None and expires_at <= timezone.now():
            raise CommandError("--expires: credit that has expired already helps nobody.")
        try:
            grant = ledger.grant(
                organization=owner,
                amount_nanos=money.nanos(amount),
                kind=Grant.Kind.PAID if bank_transfer else kind,
                reason=reason.strip(),
                reference=ledger.bank_reference(owner.brand_id, bank_transfer)
                if bank_transfer
                else f"grant:{reference or uuid4()}",
                expires_at=expires_at,
                priority=priority,
                actor=ACTOR,
            )
        except (money.AmountInvalid, ledger.PostingConflict, ValueError) as error:
            raise CommandError(str(error)) from None
        currency = owner.brand.currency
        given, balance = grant.amount_nanos, ledger.balance_nanos(owner)
        self.stdout.write(f"{owner.slug}: given {money.display(given, currency)} ({grant.posting.reference}).")
        self.stdout.write(f"Its books say {money.display(balance, currency)} now.")
        if CounterChange.objects.filter(organization=owner, applied_at=None).exists():
            self.stderr.write("Redis has not taken it yet: it holds as soon as it has.")
