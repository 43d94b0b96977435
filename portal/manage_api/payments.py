"""Paying: top-ups, the kept card, charging by itself. What became of a payment is what Stripe says."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.core.exceptions import ValidationError
from django.http import Http404
from django.urls import reverse
from django.utils import timezone
from rest_framework import serializers

from billing import auto_top_ups, cards, stripe_accounts, stripe_gateway, subscriptions, top_ups
from billing.payment_models import AutoTopUp, TopUp
from keys.models import Role
from portal.manage_api.fields import EmptyWish, Shape, Truth, Wish, nanos, nanos_wish, utc
from portal.manage_api.operation import Call, Endpoint, operation
from portal.manage_api.paging import Page, Paged, Place, newest_first
from portal.manage_api.problems import Problem

TAG = "Payments"
log = logging.getLogger(__name__)


class TopUpShape(Shape):
    id = serializers.CharField()
    kind = serializers.ChoiceField(TopUp.Kind.choices)
    state = serializers.ChoiceField(TopUp.State.choices)
    amount_nanos = nanos()
    credited_nanos = nanos(allow_null=True)
    currency = serializers.CharField()
    checkout_url = serializers.CharField(allow_null=True, help_text="Where a person pays, while it is open")
    failure = serializers.CharField(allow_null=True)
    created_at = utc()
    ended_at = utc(allow_null=True)
    EXAMPLE = {
        "id": "top_22222222222222222222",
        "kind": "checkout",
        "state": "open",
        "amount_nanos": 25_000_000_000,
        "credited_nanos": None,
        "currency": "USD",
        "checkout_url": "https://checkout.stripe.com/c/pay/cs_live_1",
        "failure": None,
        "created_at": "2026-11-21T09:00:00Z",
        "ended_at": None,
    }


class TopUpWish(Wish):
    amount_nanos = nanos_wish(min_value=1)
    keeps_card = Truth(required=False, help_text="The card may be charged again, by automatic top-ups")
    EXAMPLE = {"amount_nanos": 25_000_000_000, "keeps_card": True}


class LinkShape(Shape):
    url = serializers.CharField(help_text="For a person to open")
    EXAMPLE = {"url": "https://checkout.stripe.com/c/pay/cs_live_2"}


class CardShape(Shape):
    brand = serializers.CharField()
    last4 = serializers.CharField()
    expires = serializers.CharField(allow_blank=True, help_text="MM/YYYY")
    EXAMPLE = {"brand": "visa", "last4": "4242", "expires": "08/2029"}


class AutoTopUpShape(Shape):
    is_on = serializers.BooleanField()
    threshold_nanos = nanos(allow_null=True)
    amount_nanos = nanos(allow_null=True)
    monthly_cap_nanos = nanos(allow_null=True)
    spent_this_month_nanos = nanos()
    stopped_because = serializers.CharField(allow_null=True)
    card = CardShape(allow_null=True)
    EXAMPLE = {
        "is_on": True,
        "threshold_nanos": 5_000_000_000,
        "amount_nanos": 25_000_000_000,
        "monthly_cap_nanos": 200_000_000_000,
        "spent_this_month_nanos": 0,
        "stopped_because": None,
        "card": CardShape.EXAMPLE,
    }


class AutoTopUpWish(Wish):
    threshold_nanos = nanos_wish()
    amount_nanos = nanos_wish(min_value=1)
    monthly_cap_nanos = nanos_wish(min_value=1)
    EXAMPLE = {
        "threshold_nanos": 5_000_000_000,
        "amount_nanos": 25_000_000_000,
        "monthly_cap_nanos": 200_000_000_000,
    }


class TopUps(Endpoint):
    @operation("List top-ups", name="list_top_ups", tag=TAG, role=Role.VIEWER, query=Paged, gives=TopUpShape)
    def get(self, call: Call) -> Page[Any]:
        page = newest_first(call.organization.top_ups.all(), Place.of(call.query, f"top-ups {call.organization.pk}"))
        return Page([_shown(row) for row in page.rows], page.next_cursor)

    @operation(
        "Begin a top-up",
        name="begin_top_up",
        tag=TAG,
        role=Role.BILLING,
        takes=TopUpWish,
        gives=TopUpShape,
        status=201,
        counted="payments",
    )
    def post(self, call: Call) -> dict[str, Any]:
        """Nothing is paid yet: a person opens `checkout_url`. Then read the top-up until its state is an end."""
        with asking_stripe():
            row = top_ups.start(
                organization=call.organization,
                amount_nanos=call.data["amount_nanos"],
                keeps_card=call.data.get("keeps_card", False),
                return_url=f"{page_of(call, 'top_ups')}?top_up={{top_up}}",
                **call.by,
            )
        return _shown(row)


class OneTopUp(Endpoint):
    @operation("Read a top-up", name="read_top_up", tag=TAG, role=Role.VIEWER, gives=TopUpShape)
    def get(self, call: Call, top_up: str) -> dict[str, Any]:
        row = call.organization.top_ups.filter(public_id=top_up).first()
        if row is None:
            raise Http404
        return _shown(row)


class Card(Endpoint):
    @operation("Read the kept card", name="read_card", tag=TAG, role=Role.BILLING, gives=CardShape)
    def get(self, call: Call) -> dict[str, Any]:
        """404 when none is kept."""
        found = _card(call)
        if found is None:
            raise Http404
        return found

    @operation("Have the kept card forgotten", name="forget_card", tag=TAG, role=Role.BILLING)
    def delete(self, call: Call) -> None:
        """Here and at the payment service. Without a card nothing changes."""
        cards.forget(call.organization, **call.by)


class CardSetup(Endpoint):
    @operation(
        "Have a card left",
        name="leave_card",
        tag=TAG,
        role=Role.BILLING,
        takes=EmptyWish,
        gives=LinkShape,
        status=201,
        counted="payments",
    )
    def post(self, call: Call) -> dict[str, Any]:
        """The payment service's page where a person leaves a card without paying."""
        return _link(lambda: cards.setup_url(call.organization, return_url=page_of(call, "auto_top_up")))


class BillingPortal(Endpoint):
    @operation(
        "Open the payment service's page of cards and receipts",
        name="open_billing_portal",
        tag=TAG,
        role=Role.BILLING,
        takes=EmptyWish,
        gives=LinkShape,
        status=201,
        counted="payments",
    )
    def post(self, call: Call) -> dict[str, Any]:
        return _link(lambda: cards.portal_url(call.organization, return_url=page_of(call, "top_ups")))


class AutomaticTopUps(Endpoint):
    @operation(
        "Read automatic top-ups", name="read_automatic_top_ups", tag=TAG, role=Role.BILLING, gives=AutoTopUpShape
    )
    def get(self, call: Call) -> dict[str, Any]:
        return _automatic(call)

    @operation(
        "Turn automatic top-ups on",
        name="put_automatic_top_ups",
        tag=TAG,
        role=Role.BILLING,
        takes=AutoTopUpWish,
        gives=AutoTopUpShape,
    )
    def put(self, call: Call) -> dict[str, Any]:
        """The kept card is charged when the balance falls below the threshold, up to the cap of a month."""
        try:
            auto_top_ups.put(organization=call.organization, **call.data, **call.by)
        except ValidationError as error:
            if not hasattr(error, "error_dict"):
                raise Problem(409, "no_card", error.messages[0]) from None
            raise ValidationError({f"{name}_nanos": texts for name, texts in error.message_dict.items()}) from None
        return _automatic(call)

    @operation("Turn automatic top-ups off", name="end_automatic_top_ups", tag=TAG, role=Role.BILLING)
    def delete(self, call: Call) -> None:
        auto_top_ups.turn_off(organization=call.organization, **call.by)


def _shown(row: TopUp) -> dict[str, Any]:
    names = ("kind", "state", "amount_nanos", "credited_nanos", "currency", "created_at", "ended_at")
    return {
        "id": row.public_id,
        **{name: getattr(row, name) for name in names},
        "checkout_url": row.checkout_url if row.state == TopUp.State.OPEN and row.checkout_url else None,
        "failure": row.failure or None,
    }


def _card(call: Call) -> dict[str, Any] | None:
    row = cards.kept(call.organization)
    return None if row is None else {"brand": row.card_brand, "last4": row.card_last4, "expires": row.card_expires}


def _automatic(call: Call) -> dict[str, Any]:
    wish = AutoTopUp.objects.filter(organization=call.organization).first()
    names = ("threshold_nanos", "amount_nanos", "monthly_cap_nanos")
    return {
        "is_on": wish is not None and wish.is_on,
        **{name: getattr(wish, name, None) for name in names},
        "spent_this_month_nanos": auto_top_ups.spent_this_month(call.organization, timezone.now()),
        "stopped_because": (wish.stopped_because or None) if wish else None,
        "card": _card(call),
    }


def page_of(call: Call, name: str) -> str:
    """Of the dashboard: where whoever paid comes back to."""
    return call.http.build_absolute_uri(reverse(name, args=[call.organization.public_id]))


def _link(ask: Callable[[], str]) -> dict[str, Any]:
    with asking_stripe():
        return {"url": ask()}


@contextmanager
def asking_stripe() -> Iterator[None]:
    try:
        yield
    except stripe_accounts.NotConnected:
        raise Problem(409, "payments_not_set_up", "Payments by card are not set up here.") from None
    except (top_ups.NotAccepted, subscriptions.NotAccepted) as error:
        raise Problem(422, "payment_not_accepted", str(error)) from None
    except (stripe_gateway.Unknown, stripe_gateway.Refused) as error:
        log.warning("Stripe gave no answer to the management API: %s", error)
        text = "The payment service does not answer just now. Nothing was charged; try again in a minute."
        raise Problem(503, "payments_unavailable", text, headers={"Retry-After": "60"}) from None
