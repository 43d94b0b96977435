"""Paid plans: a tier of the brand's ladder that an organization pays for by the month, through Stripe.

A row with its idempotency key comes first, then Stripe is asked; one of an organization begins or runs at a time, which
a partial unique index says. What became of it is subscription_state.py's business. Between two prices Stripe settles
the rest of the month; where that cannot be paid nothing changes.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from billing import cards, currencies, stripe_accounts, stripe_gateway, subscription_state
from billing.models import Tier
from billing.payment_models import StripeAccount, idempotency_key
from billing.subscription_models import Subscription, SubscriptionPrice
from billing.subscription_state import BEGINNING, RUNNING
from keys import audit
from keys.audit import Actor
from keys.models import Brand, Organization, User

State = Subscription.State
BEGUN_PER_HOUR_MAX = 10
UNANSWERED_FOR = timedelta(hours=1)
BUSY = "Another page for a paid plan is open. Try again in a minute."
HAS_ONE = "This account has a paid plan: change that one."
log = logging.getLogger(__name__)


class NotAccepted(Exception):
    """Nothing was begun or changed. The message says to the customer what to do instead."""


def sold(brand: Brand) -> list[Tier]:
    """The tiers that may be bought, lowest first: listed, with a price that can be charged."""
    tiers = Tier.objects.filter(brand=brand, is_listed=True, monthly_price_nanos__gt=0).order_by("rank")
    return [tier for tier in tiers if not currencies.charge_problem(tier.monthly_price_nanos or 0, brand.currency)]


def of(organization: Organization) -> Subscription | None:
    """The one that begins or runs."""
    rows = Subscription.objects.filter(organization=organization, state__in=[*BEGINNING, *RUNNING])
    return rows.select_related("account__brand", "organization__brand", "price__tier", "granted", "fallback").first()


# Beginning one


def start(
    *, organization: Organization, tier: Tier, return_url: str, actor: Actor, address: str | None = None
) -> Subscription:
    """An open Checkout: send who pays to its `checkout_url`. Asked again for the same tier it is the same page, asked
    for another tier the page before is closed. `return_url` has {plan} where its public id belongs.

    Raises NotAccepted, stripe_accounts.NotConnected; stripe_gateway.Unknown: the row stays, the poller sees to it.
    """
    account = stripe_accounts.active(organization.brand)
    if tier not in sold(organization.brand):
        raise NotAccepted(f"{tier.name} is not sold by the month.")
    for _ in range(2):
        row = _claimed(account, organization, tier, return_url=return_url, actor=actor, address=address)
        if row.state == State.OPEN:
            subscription_state.look(row, timezone.now())  # paid meanwhile, or over
        if row.state in RUNNING:
            raise NotAccepted(HAS_ONE)
        if row.state in BEGINNING and _is_for(row, account, tier):
            return prepare(row)
        if row.state in BEGINNING:
            _close(row)
    raise NotAccepted(BUSY)


def _is_for(row: Subscription, account: StripeAccount, tier: Tier) -> bool:
    price = row.price
    return (row.account_id, price.tier_id, price.amount_nanos) == (account.pk, tier.pk, tier.monthly_price_nanos)


def _claimed(
    account: StripeAccount,
    organization: Organization,
    tier: Tier,
    *,
    return_url: str,
    actor: Actor,
    address: str | None,
) -> Subscription:
    """The row that begins or runs, or a new one; any number of clicks at once make one."""
    with transaction.atomic():
        Organization.objects.select_for_update(no_key=True).get(pk=organization.pk)
        there = of(organization)
        if there is not None:
            return there
        since = timezone.now() - timedelta(hours=1)
        begun = Subscription.objects.filter(organization=organization, created_at__gte=since)
        if begun.count() >= BEGUN_PER_HOUR_MAX:
            raise NotAccepted("Too many plans were begun and not finished. Try again in an hour.")
        row = Subscription(
            account=account,
            organization=organization,
            price=_price(account, tier),
            actor=actor if isinstance(actor, User) else None,
            address=address,
            next_look_at=timezone.now() + subscription_state.LOOK_AFTER,
        )
        row.return_url = return_url.replace("{plan}", row.public_id)
        row.save()
        _note("plan.begun", row, actor, address)
    return row


def _price(account: StripeAccount, tier: Tier) -> SubscriptionPrice:
    found, _ = SubscriptionPrice.objects.get_or_create(
        account=account,
        tier=tier,
        amount_nanos=tier.monthly_price_nanos or 0,
        currency=tier.brand.currency,
        defaults={"name": tier.name},
    )
    return found


def _price_id(price: SubscriptionPrice) -> str:
    """At Stripe, made there at the first time. Raises what the gateway raises."""
    if not price.price_id:
        params = {
            "currency": price.currency.lower(),
            "unit_amount": currencies.minor_units(price.amount_nanos, price.currency),
            "recurring": {"interval": "month"},
            "tax_behavior": "exclusive",
            "product_data": {"name": price.name},
            "metadata": {"tier": price.tier.slug},
        }
        try:
            made = stripe_gateway.of(price.account).create_price(params, key=price.idempotency_key)
        except stripe_gateway.Failed:  # a second price that nobody uses harms nobody
            SubscriptionPrice.objects.filter(pk=price.pk, price_id="").update(idempotency_key=idempotency_key())
            raise
        SubscriptionPrice.objects.filter(pk=price.pk, price_id="").update(price_id=made)
        price.refresh_from_db()
    return price.price_id


def prepare(row: Subscription) -> Subscription:
    """Have Stripe open its page for a row that was just begun; asking again with the row's key opens no second one."""
    if row.checkout_url:
        return row
    try:
        customer = cards.customer(row.account, row.organization)
        params = _session_params(row, customer.customer_id, _price_id(row.price))
        session = stripe_gateway.of(row.account).create_session(params, key=row.idempotency_key)
    except stripe_gateway.Refused as error:
        subscription_state.give_up(row, State.FAILED, str(error), timezone.now())
        raise NotAccepted("Stripe does not take this plan. Nothing was charged.") from error
    except stripe_gateway.Failed:  # nobody can pay on a page of which nobody knows the address
        Subscription.objects.filter(pk=row.pk, session_id=None).update(idempotency_key=idempotency_key())
        raise
    Subscription.objects.filter(pk=row.pk, session_id=None).update(session_id=session.id)
    Subscription.objects.filter(pk=row.pk, state__in=BEGINNING).update(state=State.OPEN, checkout_url=session.url)
    row.refresh_from_db()
    return row


def _session_params(row: Subscription, customer_id: str, price_id: str) -> dict[str, Any]:
    """The same for one row at any time: an idempotency key is for one question only."""
    metadata = {"plan": row.public_id}
    params: dict[str, Any] = {
        "mode": "subscription",
        "customer": customer_id,
        "client_reference_id": row.public_id,
        "metadata": metadata,
        "subscription_data": {"metadata": metadata},
        "line_items": [{"price": price_id, "quantity": 1}],
        "success_url": f"{row.return_url}&returned=1",
        "cancel_url": row.return_url,
    }
    if row.account.automatic_tax:
        params |= {"automatic_tax": {"enabled": True}, "customer_update": {"address": "auto"}}
    return params


def _close(row: Subscription) -> None:
    """So that nobody can pay it any more."""
    prepare(row)
    assert row.session_id is not None
    with suppress(stripe_gateway.Refused):  # it is paid or over already: the look says which
        stripe_gateway.of(row.account).expire_session(row.session_id)
    subscription_state.look(row, timezone.now())


def attend(row: Subscription, now: datetime) -> None:
    """What the poller does about a row: it is looked at, and asked for again where Stripe's answer was lost."""
    subscription_state.look(row, now)
    if row.state == State.CREATED and row.session_id is None:
        if now - row.created_at > UNANSWERED_FOR:  # nobody was sent to a page that we never heard of
            subscription_state.give_up(row, State.FAILED, "Stripe did not answer", now)
        else:
            prepare(row)


# Changing one that runs


def change(*, organization: Organization, tier: Tier, actor: Actor, address: str | None = None) -> Subscription:
    """To another paid tier from now on; Stripe settles the rest of the month. Raises NotAccepted, and what the gateway
    raises."""
    row = _running(organization)
    if row.state != State.ACTIVE:
        raise NotAccepted("The month is not paid. Pay it first, then change the plan.")
    if tier not in sold(organization.brand):
        raise NotAccepted(f"{tier.name} is not sold by the month.")
    item = stripe_gateway.of(row.account).subscription(row.stripe_id or "").item
    wish = {"items": [{"id": item, "price": _price_id(_price(row.account, tier))}]}
    settle = {"proration_behavior": "always_invoice", "payment_behavior": "error_if_incomplete"}
    return _told(row, wish | settle, "plan.changed", actor, address)


def cancel(*, organization: Organization, actor: Actor, address: str | None = None) -> Subscription:
    """It ends with the month that is paid. Raises NotAccepted, and what the gateway raises."""
    return _told(_running(organization), {"cancel_at_period_end": True}, "plan.cancelled", actor, address)


def resume(*, organization: Organization, actor: Actor, address: str | None = None) -> Subscription:
    """It goes on after all. Raises NotAccepted, and what the gateway raises."""
    row = _running(organization)
    said = stripe_gateway.of(row.account).subscription(row.stripe_id or "")
    wish: dict[str, Any] = {"cancel_at_period_end": False} if said.ends_with_period else {"cancel_at": ""}
    return _told(row, wish, "plan.resumed", actor, address)


def _running(organization: Organization) -> Subscription:
    row = of(organization)
    if row is None or row.state not in RUNNING:
        raise NotAccepted("This account has no paid plan.")
    return row


def _told(row: Subscription, wish: dict[str, Any], action: str, actor: Actor, address: str | None) -> Subscription:
    try:
        stripe_gateway.of(row.account).change_subscription(row.stripe_id or "", wish)
    except stripe_gateway.Declined as error:
        raise NotAccepted("The card was declined, so nothing was changed. Keep another card and try again.") from error
    except stripe_gateway.Refused as error:
        log.warning("Stripe does not take %s of %s: %s", wish, row, error)
        raise NotAccepted("Stripe does not take this change. Nothing was changed.") from error
    subscription_state.look(row, timezone.now())
    _note(action, row, actor, address)
    return row


def _note(action: str, row: Subscription, actor: Actor, address: str | None) -> None:
    after = {"plan": row.price.name, "ends_at": None if row.ends_at is None else row.ends_at.isoformat()}
    audit.note(action, row.public_id, actor=actor, organization=row.organization, after=after, address=address)
