"""The only writer of StripeAccount: a brand's account at Stripe. Secrets are sealed, never shown.

A brand without an active account sells everything else: credit comes from operators, and the pages say so.
"""

from __future__ import annotations

import json
from datetime import datetime

from django.core.exceptions import ValidationError
from django.db import transaction

from billing import stripe_gateway
from billing.payment_models import StripeAccount
from keys import audit
from keys.audit import Actor
from keys.models import Brand
from keys.sealing import open_text, seal_text

WEBHOOK_SECRETS_MAX = 3
KEY_PREFIXES = ("sk_test_", "sk_live_", "rk_test_", "rk_live_")


class NotConnected(Exception):
    """The brand takes no payments by card."""


def active(brand: Brand) -> StripeAccount:
    """Raises NotConnected."""
    found = StripeAccount.objects.filter(brand=brand, is_active=True).first()
    if found is None:
        raise NotConnected(f"{brand.name} takes no payments by card")
    found.brand = brand
    return found


def connect(
    *,
    brand: Brand,
    secret_key: str,
    actor: Actor,
    webhook_secret: str = "",
    automatic_tax: bool = False,
    api_base: str = "",
    address: str | None = None,
) -> StripeAccount:
    """Take payments through the account that this key belongs to; asks Stripe whether it does. The same account again
    gets the new key, another one takes the place of the one before. ValidationError names what is wrong."""
    stripe_id = _account_id(secret_key, api_base)
    livemode = "_live_" in secret_key
    with transaction.atomic():
        before = StripeAccount.objects.select_for_update().filter(brand=brand, is_active=True).first()
        account = StripeAccount.objects.filter(brand=brand, stripe_id=stripe_id, livemode=livemode).first()
        account = account or StripeAccount(brand=brand, stripe_id=stripe_id, livemode=livemode)
        if before is not None and before.pk != account.pk:
            before.is_active = False
            before.save(update_fields=["is_active"])
        account.secret_key_sealed = seal_text(secret_key)
        account.automatic_tax, account.api_base, account.is_active = automatic_tax, api_base, True
        if webhook_secret:
            account.webhook_secrets_sealed = _sealed([webhook_secret, *webhook_secrets(account)])
        account.save()
        audit.note(
            *("stripe.connected", account.public_id),
            actor=actor,
            brand=brand,
            before={"stripe_id": before.stripe_id} if before else {},
            after={"stripe_id": stripe_id, "livemode": livemode, "automatic_tax": automatic_tax},
            address=address,
        )
    return account


def _account_id(secret_key: str, api_base: str) -> str:
    if not secret_key.startswith(KEY_PREFIXES):
        raise ValidationError({"secret_key": "A secret key begins with sk_live_, sk_test_, rk_live_ or rk_test_."})
    try:
        return stripe_gateway.Gateway(secret_key, api_base=api_base).account_id()
    except stripe_gateway.Refused as error:
        raise ValidationError({"secret_key": str(error)}) from None
    except stripe_gateway.Unknown as error:
        raise ValidationError({"secret_key": f"Stripe cannot be asked just now: {error}"}) from None


def add_webhook_secret(*, account: StripeAccount, secret: str, actor: Actor, address: str | None = None) -> None:
    """The newest signs next; the ones before are still taken, up to three in all, while Stripe rolls over."""
    if not secret.startswith("whsec_"):
        raise ValidationError({"webhook_secret": "A webhook's signing secret begins with whsec_."})
    with transaction.atomic():
        row = StripeAccount.objects.select_for_update().get(pk=account.pk)
        row.webhook_secrets_sealed = _sealed([secret, *webhook_secrets(row)])
        row.save(update_fields=["webhook_secrets_sealed"])
        audit.note("stripe.webhook_secret_added", row.public_id, actor=actor, brand=row.brand, address=address)


def disconnect(*, account: StripeAccount, actor: Actor, address: str | None = None) -> None:
    """No new payments; what was paid may still be refunded, and is still heard of."""
    with transaction.atomic():
        StripeAccount.objects.filter(pk=account.pk).update(is_active=False)
        audit.note("stripe.disconnected", account.public_id, actor=actor, brand=account.brand, address=address)


def webhook_secrets(account: StripeAccount) -> tuple[str, ...]:
    if not account.webhook_secrets_sealed:
        return ()
    return tuple(json.loads(open_text(account.webhook_secrets_sealed)))


def seen_until(account: StripeAccount, moment: datetime) -> None:
    StripeAccount.objects.filter(pk=account.pk).update(events_seen_until=moment)


def _sealed(secrets: list[str]) -> str:
    return seal_text(json.dumps(list(dict.fromkeys(secrets))[:WEBHOOK_SECRETS_MAX]))
