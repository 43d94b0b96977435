"""A customer's balance moved by a new entry: nothing in the books is ever changed."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any
from uuid import uuid4

from django.core.management.base import BaseCommand, CommandError

from billing import ledger, money
from billing.models import Posting
from portal.management.choosing import brand_named, organization_named

ACTOR = "manage.py adjust"
KINDS = (Posting.Kind.ADJUSTMENT.value, Posting.Kind.REFUND.value)


class Command(BaseCommand):
    help = "Take from an organization's balance, or give back, by a new entry in the books."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--brand", help="the brand's slug")
        parser.add_argument("--organization", required=True, help="the organization's slug or its id (org_…)")
        amount = parser.add_mutually_exclusive_group(required=True)
        amount.add_argument("--take", metavar="AMOUNT", help='in currency units, e.g. "10.00"')
        amount.add_argument("--give", metavar="AMOUNT")
        parser.add_argument("--kind", choices=KINDS, default=KINDS[0], help="refund: the money was paid back")
        parser.add_argument("--reason", required=True, help="kept in the books and shown to the customer")
        parser.add_argument("--reference", help="with the same reference it is done once only")

    def handle(self, *, brand: str | None, organization: str, **options: Any) -> None:
        owner = organization_named(organization, brand_named(brand))
        reason = options["reason"].strip()
        if not reason or len(reason) > 200:
            raise CommandError("--reason: say why, in 200 characters at most.")
        if options["kind"] == KINDS[1] and options["give"]:
            raise CommandError("A refund is taken from the balance: --take.")
        try:
            nanos = money.nanos(options["take"] or options["give"])
            posted = ledger.adjust(
                organization=owner,
                amount_nanos=-nanos if options["take"] else nanos,
                kind=options["kind"],
                reason=reason,
                reference=f"{options['kind']}:{options['reference'] or uuid4()}",
                actor=ACTOR,
            )
        except (money.AmountInvalid, ledger.PostingConflict, ValueError) as error:
            raise CommandError(str(error)) from None
        balance = money.display(ledger.balance_nanos(owner), owner.brand.currency)
        done = "done" if posted.is_new else "was done before"
        self.stdout.write(f"{owner.slug}: {posted.posting.reference} {done}. Its books say {balance} now.")
