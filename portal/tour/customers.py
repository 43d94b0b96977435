"""New customers for claims: on the tier and among the prices of the demo's own, with credit of their own to count."""

from __future__ import annotations

import time

from billing import ladder, ledger
from billing.models import Grant, TierAssignment
from keys import issuing, organizations
from keys.models import ApiKey, Organization
from portal.tour.demo import Demo

ACTOR = "manage.py tour"


def new_customer(demo: Demo, credit_nanos: int) -> tuple[Organization, str]:
    """The account and its key's secret."""
    own = issuing.existing(demo.brand["api_key"])
    assert isinstance(own, ApiKey)
    organization = organizations.create(brand=own.organization.brand, name=f"Tour {time.time_ns()}", actor=ACTOR)
    tier = TierAssignment.objects.get(organization=own.organization).tier
    ladder.assign(organization=organization, tier=tier, reason="tour", actor=ACTOR)
    ledger.grant(
        organization=organization,
        amount_nanos=credit_nanos,
        kind=Grant.Kind.PROMOTIONAL,
        reason="tour",
        reference=f"tour:{organization.public_id}",
        actor=ACTOR,
    )
    return organization, issuing.issue(organization=organization, name="tour", actor=ACTOR).secret
