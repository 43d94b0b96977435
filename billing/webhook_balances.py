"""Looks at balances for the endpoints that want to hear of them: each step down is an event, once.

What is looked at is the books, so an event comes seconds after the call that used the balance up. How the balance stood
is kept on the endpoint and changes in the event's own transaction: two jobs at once tell once, and one that dies in
between tells later. Credit brings the step back up, so the next fall is told again.
"""

from __future__ import annotations

from django.db import transaction

from billing import ledger, money, webhook_deliveries, webhook_endpoints
from billing.models import LedgerAccount
from billing.webhook_models import WebhookEndpoint, WebhookEvent

Level = WebhookEndpoint.Level
DEPTH = {Level.ENOUGH: 0, Level.LOW: 1, Level.EXHAUSTED: 2}
EVENTS = {WebhookEvent.BALANCE_LOW: 1, WebhookEvent.BALANCE_EXHAUSTED: 2}
"""The depth from which on each is told."""
BATCH = 500


def look() -> int:
    """How many events were recorded."""
    told, last = 0, 0
    wanted = WebhookEndpoint.objects.filter(is_enabled=True, events__overlap=list(EVENTS)).order_by("pk")
    while batch := list(wanted.filter(pk__gt=last)[:BATCH]):
        balances = _balances({endpoint.organization_id for endpoint in batch})
        for endpoint in batch:
            balance = balances.get(endpoint.organization_id, 0)
            if webhook_endpoints.level_of(balance, endpoint.low_balance_nanos) != endpoint.balance_level:
                told += _step(endpoint.pk)
        last = batch[-1].pk
    return told


def _balances(organizations: set[int]) -> dict[int, int]:
    wallets = LedgerAccount.objects.filter(organization__in=organizations, kind=LedgerAccount.Kind.WALLET)
    return {row.organization_id: row.balance_nanos for row in wallets if row.organization_id is not None}


def _step(endpoint_id: int) -> int:
    """Looked at once more under the endpoint's lock."""
    with transaction.atomic():
        rows = WebhookEndpoint.objects.select_for_update(of=("self",), no_key=True).select_related(
            "organization__brand"
        )
        endpoint = rows.filter(pk=endpoint_id, is_enabled=True).first()
        if endpoint is None:
            return 0
        balance = ledger.balance_nanos(endpoint.organization)
        level = webhook_endpoints.level_of(balance, endpoint.low_balance_nanos)
        before, after = DEPTH[Level(endpoint.balance_level)], DEPTH[Level(level)]
        webhook_endpoints.stand(endpoint, level)
        events = [event for event, depth in EVENTS.items() if event in endpoint.events and before < depth <= after]
        for event in events:
            data = {
                "balance": money.amount(balance),
                "threshold": money.amount(endpoint.low_balance_nanos if event == WebhookEvent.BALANCE_LOW else 0),
                "currency": endpoint.organization.brand.currency,
            }
            webhook_deliveries.write([endpoint], endpoint.organization, event, data)
    return len(events)
