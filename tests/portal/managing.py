"""An account with something of everything, its management keys, and a program that uses the management API."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import orjson
import redis
from django.test import Client
from django.utils import timezone

from billing import journal, ladder, ledger, promo_codes, webhook_deliveries, webhook_endpoints
from billing.models import Grant, PromoCode, Tier
from billing.webhook_models import WebhookDelivery
from keys import invitations, issuing, service_accounts
from keys.models import Organization, Role
from tests import cast as casting
from tests.billing import draining, settled
from tests.billing.settled import Customer

PREFIX = "/api/manage/v1"


@dataclass(frozen=True, slots=True)
class Program:
    """Calls the management API with a key."""

    secret: str

    def __call__(self, method: str, path: str, data: Any = None, **headers: str) -> Any:
        body = b"" if data is None else orjson.dumps(data)
        sent = {"Authorization": f"Bearer {self.secret}", **{k.replace("_", "-"): v for k, v in headers.items()}}
        client = Client(enforce_csrf_checks=True, raise_request_exception=False)
        return client.generic(method.upper(), PREFIX + path, body, content_type="application/json", headers=sent)

    def get(self, path: str) -> Any:
        return self("get", path)

    def post(self, path: str, data: Any = None, **headers: str) -> Any:
        return self("post", path, data, **headers)


def program(organization: Organization, role: Role = Role.OWNER, **fields: Any) -> Program:
    issued = issuing.issue_for_management(
        organization=organization, name="terraform", role=role, actor="tests", **fields
    )
    return Program(issued.secret)


@dataclass(frozen=True, slots=True)
class Stage:
    cast: casting.Cast
    customer: Customer
    addresses: dict[str, str]
    """By the name of a path's parameter, something of the account to put there."""
    call_id: str


def furnish(cast: casting.Cast, connection: redis.Redis) -> Stage:
    """Keys, an invitation, credit, a settled call, a tier, an endpoint with a delivery, a code."""
    organization, owner = cast.organization, cast.owner
    key = issuing.issue(organization=organization, name="server", actor=owner).key
    customer = Customer(cast.brand, organization, key, casting.model(cast.brand, "m-1"))
    Tier.objects.create(brand=cast.brand, slug="free", name="Free", rank=0, is_default=True, payer="prepaid")
    ladder.assign(organization=organization, tier=Tier.objects.get(slug="free"), actor="tests", reason="tests")
    ledger.grant(
        organization=organization,
        amount_nanos=10**12,
        kind=Grant.Kind.COMPENSATION,
        reason="tests",
        reference=f"tests:{uuid.uuid4()}",
        actor="tests",
    )
    event = customer.event()
    settled.settle(connection, event)
    draining.drain(journal.Journal(connection, name="test", notify=lambda _line: None))
    invitations.invite(organization=organization, email="grace@example.com", role=Role.VIEWER, actor=owner)
    endpoint, _secret = webhook_endpoints.add(
        organization=organization, url="https://example.com/hooks", events=["key.revoked"], actor=owner
    )
    program = service_accounts.create(organization=organization, name="import", role=Role.DEVELOPER, actor=owner)
    manages = issuing.issue_for_management(
        organization=organization, name="import", role=Role.DEVELOPER, actor=owner, service_account=program
    ).key
    delivery = webhook_deliveries.send_test(endpoint, actor=owner)
    WebhookDelivery.objects.filter(pk=delivery.pk).update(state="delivered", ended_at=timezone.now())
    code = PromoCode(brand=cast.brand, code="WELCOME", amount_nanos=10**9, claims_max=5)
    promo_codes.save(code, actor="tests")
    addresses = {
        "key": key.public_id,
        "member": cast.member.email,
        "email": "grace@example.com",
        "request_id": str(event.call_id),
        "month": f"{timezone.now():%Y-%m}",
        "top_up": "top_22222222222222222222",
        "endpoint": endpoint.public_id,
        "event_id": delivery.event_id,
        "service_account": program.public_id,
        "management_key": manages.public_id,
    }
    return Stage(cast, customer, addresses, str(event.call_id))


LATER = timedelta(hours=1)
