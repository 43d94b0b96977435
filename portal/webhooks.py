"""Webhooks that come in. Verified on the raw body, recorded once, answered at once; the work is done from the table.

An account without a signing secret takes none: the poller finds what happened.
"""

from __future__ import annotations

import logging

from django.core.exceptions import RequestDataTooBig
from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from billing import stripe_accounts, stripe_events, stripe_gateway
from billing.payment_models import StripeAccount, StripeEvent
from portal.celery import app

WORK = "billing.tasks.work_on_stripe_events"
log = logging.getLogger(__name__)


@csrf_exempt
@require_POST
def stripe(request: HttpRequest, account: str) -> HttpResponse:
    """400 for whatever is not signed by Stripe for this account; Stripe sends it again, and shows it to its owner."""
    row = StripeAccount.objects.filter(public_id=account).first()
    if row is None:
        raise Http404("No such account.")
    try:
        event = stripe_gateway.verified(
            request.body, request.headers.get("Stripe-Signature", ""), stripe_accounts.webhook_secrets(row)
        )
    except (stripe_gateway.SignatureRefused, RequestDataTooBig) as error:
        return _answer(400, str(error))
    if event.livemode != row.livemode:
        return _answer(400, "an event of the other mode")
    if stripe_events.record(row, event, StripeEvent.Source.WEBHOOK):
        _hint()
    return _answer(200, "noted")


def _hint() -> None:
    """So that the work begins at once. Without it the schedule finds the row some seconds later."""
    try:
        app.send_task(WORK, retry=False)
    except (OperationalError, RedisError, OSError) as error:
        log.warning("the work on events waits for its schedule: %s", error)


def _answer(status: int, text: str) -> HttpResponse:
    return HttpResponse(f"{text}\n", status=status, content_type="text/plain")
