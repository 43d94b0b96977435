"""A brand's account at Stripe from the command line: connect it, hear its webhooks, give a payment back."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from getpass import getpass
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from billing import money, reversals, stripe_accounts, stripe_events, stripe_gateway
from billing.payment_models import StripeAccount, TopUp
from keys.models import Brand
from portal.management.choosing import brand_named, complaint

ACTOR = "manage.py stripe_account"


class Command(BaseCommand):
    help = "Connect a brand to its account at Stripe. Secrets are read from the terminal or standard input only."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--brand", help="its slug; not needed when there is one, or DEFAULT_BRAND is set")
        doing = parser.add_subparsers(dest="doing", required=True)
        connect = doing.add_parser(
            "connect", help="reads the secret key (sk_… or rk_…); again with a new one replaces it"
        )
        connect.add_argument("--tax", action="store_true", help="Stripe Tax adds what is due to each Checkout")
        doing.add_parser("webhook", help="reads a signing secret (whsec_…); the two before stay good while you rotate")
        doing.add_parser("show", help="what is connected, and where its webhooks go")
        doing.add_parser("disconnect", help="take no new payments")
        back = doing.add_parser("refund", help="give a payment back, with its tax")
        back.add_argument("top_up", help="top_…")
        back.add_argument("--credit", help="only as much credit, e.g. 10.00; otherwise all that is left of it")
        back.add_argument("--reason", required=True, help="shown on the customer's postings")

    def handle(self, *args: Any, doing: str, **options: Any) -> None:
        brand = brand_named(options["brand"])
        try:
            if doing == "connect":
                self._connect(brand, tax=options["tax"])
            elif doing == "refund":
                self._refund(brand, options["top_up"], options["credit"], options["reason"])
            else:
                self._about(stripe_accounts.active(brand), doing)
        except ValidationError as error:
            raise complaint(error) from None
        except stripe_accounts.NotConnected as error:
            raise CommandError(f"{error}. Connect its account: manage.py stripe_account connect") from None

    def _connect(self, brand: Brand, *, tax: bool) -> None:
        account = stripe_accounts.connect(
            brand=brand, secret_key=_secret("Secret key: "), automatic_tax=tax, actor=ACTOR
        )
        self.stdout.write(f"{brand.slug} is paid through {account.stripe_id}.")
        self._show(account)

    def _about(self, account: StripeAccount, doing: str) -> None:
        if doing == "webhook":
            stripe_accounts.add_webhook_secret(account=account, secret=_secret("Signing secret: "), actor=ACTOR)
            account.refresh_from_db()
        elif doing == "disconnect":
            stripe_accounts.disconnect(account=account, actor=ACTOR)
            self.stdout.write(f"{account.brand.slug} takes no payments by card any more.")
            return
        self._show(account)

    def _show(self, account: StripeAccount) -> None:
        mode = "a stand-in, no money moves" if account.is_stand_in else "live" if account.livemode else "test mode"
        secrets = len(stripe_accounts.webhook_secrets(account))
        self.stdout.write(f"Account {account.stripe_id}: {mode}; tax {'on' if account.automatic_tax else 'off'}")
        self.stdout.write(f"Webhook endpoint: https://YOUR-HOST/webhooks/stripe/{account.public_id}/")
        self.stdout.write(
            f"Signing secrets kept: {secrets}" + ("" if secrets else " (the poller alone hears of payments)")
        )
        self.stdout.write(f"Events to send: {', '.join(stripe_events.KINDS)}")

    def _refund(self, brand: Brand, public_id: str, credit: str | None, reason: str) -> None:
        row = TopUp.objects.filter(public_id=public_id, organization__brand=brand).first()
        if row is None:
            raise CommandError(f"Brand {brand.slug} has no top-up {public_id!r}.")
        try:
            nanos = None if credit is None else money.nanos(credit)
            made = reversals.refund(top_up=row, actor=ACTOR, reason=reason, credit_nanos=nanos)
        except (money.AmountInvalid, reversals.NotRefundable) as error:
            raise CommandError(str(error)) from None
        except stripe_gateway.Unknown as error:
            raise CommandError(
                f"Stripe did not answer ({error}). It is asked again within minutes; do not repeat this."
            ) from None
        taken = money.display(made.nanos, row.currency)
        self.stdout.write(f"{row.organization.slug}: {taken} of credit taken back; refund {made.stripe_id}")


def _secret(prompt: str) -> str:
    return (getpass(prompt) if sys.stdin.isatty() else sys.stdin.readline()).strip()
