"""The stand-in for Stripe, for every test about payments. (Other modules have tills and customers of their own.)"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from billing import stripe_gateway
from keys.models import Organization
from tests import cast as casting
from tests.stripes import Stripe, connected, fake_stripe


@pytest.fixture(scope="module")
def running() -> Iterator[Stripe]:
    with fake_stripe() as found:
        yield found


@pytest.fixture
def till(running: Stripe, monkeypatch: pytest.MonkeyPatch) -> Stripe:
    """Empty, and the SDK tries nothing twice by itself."""
    running.fake.__init__()  # type: ignore[misc]
    monkeypatch.setattr(stripe_gateway, "RETRIES", 0)
    return running


@pytest.fixture
def customer(till: Stripe) -> Organization:
    """Of a brand that is paid through the stand-in."""
    organization = casting.organization(casting.brand())
    connected(till, organization.brand)
    return organization
