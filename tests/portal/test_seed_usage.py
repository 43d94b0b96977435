"""A made-up history: its books agree, and no page but the log of requests reads single calls."""

from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from billing import prices
from billing.models import Tier, UsageEvent
from billing.reconcile import reconcile
from keys.models import Organization
from tests import cast as casting
from tests.billing import books
from tests.speed import plans
from tests.speed.addresses import addresses

pytestmark = pytest.mark.django_db
CALLS, DAYS = 600, 3


@pytest.fixture
def demo(settings, cast):
    settings.DEMO = True
    Tier.objects.create(brand=cast.brand, rank=1, slug="pays", name="Pays", payer="prepaid")
    prices.set_price(
        model=casting.model(cast.brand), actor="tests", per_million={"input": "1", "cache_read": "0.1", "output": "4"}
    )
    return cast


def seeded(brand: str, **more: object) -> Organization:
    out, err = StringIO(), StringIO()
    call_command("seed_usage", brand=brand, events=CALLS, days=DAYS, stdout=out, stderr=err, **more)
    assert f"[{'#' * 40}] {CALLS} of {CALLS}" in err.getvalue()
    organization = Organization.objects.order_by("-pk")[0]
    assert f"/{organization.public_id}/usage/" in out.getvalue()
    return organization


@pytest.mark.django_db(transaction=True)
def test_the_books_agree_with_made_up_calls(redis_connection, demo):
    organization = seeded(demo.brand.slug)
    days = UsageEvent.objects.filter(organization_id=organization.pk).values_list("day", flat=True)
    assert len(days) == CALLS
    assert len(set(days)) in (DAYS, DAYS + 1)
    books.assert_consistent()
    assert list(reconcile(redis_connection)) == []
    assert books.wallet(organization.pk) > 0


def test_the_same_seed_draws_the_same_calls_and_every_time_is_a_new_account(redis_connection, demo):
    one, other = (seeded(demo.brand.slug, seed=7) for _ in range(2))
    drawn = [
        list(
            UsageEvent.objects.filter(organization_id=each.pk)
            .order_by("call_id")
            .values_list("output_tokens", "cost_nanos", "end_reason")
        )
        for each in (one, other)
    ]
    assert (one.slug, other.slug) == ("busy-1", "busy-2")
    assert drawn[0] == drawn[1]


def test_only_the_log_of_requests_reads_single_calls(redis_connection, demo):
    organization = seeded(demo.brand.slug, owner=demo.owner.email)
    client = casting.browser_of(demo.owner)
    read = {each.path: plans.read(client, each.path) for each in addresses(organization, client)}
    wrong = {
        path: found.status
        for path, found in read.items()
        if found.status != 200 or (found.of_events and "/requests/" not in path)
    }
    assert wrong == {}
    assert read[f"/{organization.public_id}/requests/"].of_events


def test_what_cannot_be_made_up(settings, demo):
    with pytest.raises(CommandError, match="no user 'nobody"):
        call_command("seed_usage", brand=demo.brand.slug, owner="nobody@example.com")
    with pytest.raises(CommandError, match="at least 1"):
        call_command("seed_usage", brand=demo.brand.slug, events=0)
    with pytest.raises(CommandError, match="sells no model"):
        call_command("seed_usage", brand=casting.brand().slug, owner=demo.owner.email)
    settings.DEMO = False
    with pytest.raises(CommandError, match="made up"):
        call_command("seed_usage", brand=demo.brand.slug)
