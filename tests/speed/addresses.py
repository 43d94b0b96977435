"""The pages of an account, from the URL conf so that a new one is covered by itself, and variants that read most."""

from __future__ import annotations

from typing import NamedTuple

from django.test import Client
from django.urls import reverse

from billing import calls, webhook_endpoints
from billing.models import Model
from keys import issuing
from keys.models import Organization, Role
from portal.urls import account

READS_CALLS = frozenset({"requests", "requests_live"})
"""The log of single calls; every other page reads sums."""
FILTERED = ("?key={key}&model={model}", "?end=failed", "?end=lapsed&since=2026-01-01", "?day=2026-11-20&show=served")
VARIANTS = {
    "usage": ("?days=1", "?days=90&by=model", "?days=90&by=key", "?days=7&by=end", "?days=90&model={model}&key={key}"),
    "requests": ("?show=refused", "?id={call}", "?before={call}", "?user=user-7", "?user=nobody", *FILTERED),
}


class Address(NamedTuple):
    path: str
    may_read_events: bool


def addresses(organization: Organization, client: Client) -> list[Address]:
    """Every page that can be opened (not those that only take forms), of an account that has keys and calls."""
    endpoint, _ = webhook_endpoints.add(
        organization=organization, url="https://x.example/", events=["key.revoked"], actor="tests"
    )
    key = organization.keys.order_by("pk")[0]
    call = calls.latest(organization.pk, limit=200)[-1].event
    words = {"key": key.public_id, "call": call.call_id, "model": Model.objects.get(pk=call.model_id).slug}
    manager = issuing.issue_for_management(organization=organization, name="tool", role=Role.VIEWER, actor="tests").key
    arguments = {"key": key.public_id, "endpoint": endpoint.public_id}
    of_manager = {**arguments, "key": manager.public_id}
    found = []
    for pattern in account:
        name = str(pattern.name)
        given = of_manager if name.startswith("management") else arguments
        path = reverse(name, args=[organization.public_id, *(given[one] for one in pattern.pattern.converters)])
        if client.get(path).status_code != 405:
            found += [
                Address(path + more.format(**words), name in READS_CALLS) for more in ("", *VARIANTS.get(name, ()))
            ]
    return found
