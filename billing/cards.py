"""The only writer of StripeCustomer: an organization's name at Stripe, and the one card that is kept there for it."""

from __future__ import annotations

from typing import Any

from billing import stripe_accounts, stripe_gateway
from billing.payment_models import StripeAccount, StripeCustomer, idempotency_key
from keys import audit
from keys.audit import Actor
from keys.models import Organization


def kept(organization: Organization) -> StripeCustomer | None:
    """At the brand's active account; None where no card is kept."""
    return (
        StripeCustomer.objects.filter(organization=organization, account__is_active=True)
        .exclude(payment_method="")
        .select_related("account")
        .first()
    )


def customer(account: StripeAccount, organization: Organization) -> StripeCustomer:
    """With its id at Stripe, made there at the first time. Raises what the gateway raises."""
    row, _ = StripeCustomer.objects.get_or_create(account=account, organization=organization)
    if not row.customer_id:
        try:
            made = _made(row)
        except stripe_gateway.KeptFailure:  # asking with that key again would fail for a day
            _change_key(row)
            made = _made(row)
        StripeCustomer.objects.filter(pk=row.pk, customer_id="").update(customer_id=made)
        row.refresh_from_db()
    return row


def _made(row: StripeCustomer) -> str:
    return stripe_gateway.of(row.account).create_customer(
        name=row.organization.public_id,  # its name may change, and the question must stay the same
        metadata={"organization": row.organization.public_id},
        key=row.idempotency_key,
    )


def _change_key(row: StripeCustomer) -> None:
    """Perhaps the failed attempt made a customer all the same: nobody has its name, so it is never used. Of several who
    change the key at once the first does, and all ask with that one."""
    before = row.idempotency_key
    StripeCustomer.objects.filter(pk=row.pk, idempotency_key=before).update(idempotency_key=idempotency_key())
    row.refresh_from_db()


def keep(row: StripeCustomer, payment_method: str) -> None:
    """From now on this card is charged. The one before is forgotten at Stripe too, best effort."""
    if not payment_method or row.payment_method == payment_method:
        return
    gateway = stripe_gateway.of(row.account)
    card, before = gateway.card(payment_method), row.payment_method
    row.payment_method, row.card_brand, row.card_last4 = card.payment_method, card.brand[:20], card.last4
    row.card_expires = card.expires
    row.save(update_fields=["payment_method", "card_brand", "card_last4", "card_expires"])
    audit.note(
        *("card.kept", row.organization.public_id),
        actor="stripe",
        organization=row.organization,
        after={"card": f"{card.brand} {card.last4}"},
    )
    if before:
        _forget_at_stripe(gateway, before)


def forget(organization: Organization, *, actor: Actor, address: str | None = None) -> bool:
    """No card is charged any more; whether one was kept."""
    row = kept(organization)
    if row is None:
        return False
    before, shown = row.payment_method, f"{row.card_brand} {row.card_last4}"
    row.payment_method = row.card_brand = row.card_last4 = row.card_expires = ""
    row.save(update_fields=["payment_method", "card_brand", "card_last4", "card_expires"])
    audit.note(
        *("card.forgotten", organization.public_id),
        actor=actor,
        organization=organization,
        before={"card": shown},
        address=address,
    )
    _forget_at_stripe(stripe_gateway.of(row.account), before)
    return True


def setup_url(organization: Organization, *, return_url: str) -> str:
    """Stripe's page where a card is left without paying. Raises NotConnected and what the gateway raises."""
    account = stripe_accounts.active(organization.brand)
    row = customer(account, organization)
    params: dict[str, Any] = {
        "mode": "setup",
        "currency": organization.brand.currency.lower(),
        "customer": row.customer_id,
        "success_url": return_url,
        "cancel_url": return_url,
        "metadata": {"organization": organization.public_id},
    }
    if account.automatic_tax:  # which tax is due depends on where the customer is
        params |= {"billing_address_collection": "required", "customer_update": {"address": "auto"}}
    session = stripe_gateway.of(account).create_session(params, key=idempotency_key())  # a second one costs nothing
    return session.url


def portal_url(organization: Organization, *, return_url: str) -> str:
    """Stripe's page of a customer's cards and receipts. Raises NotConnected and what the gateway raises."""
    account = stripe_accounts.active(organization.brand)
    return stripe_gateway.of(account).portal_url(customer(account, organization).customer_id, return_url=return_url)


def _forget_at_stripe(gateway: stripe_gateway.Gateway, payment_method: str) -> None:
    try:
        gateway.detach(payment_method)
    except (stripe_gateway.Unknown, stripe_gateway.Refused):
        return  # nobody charges it any more: no row names it
