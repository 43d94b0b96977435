"""Prices that are to begin are told to those concerned: by mail, on their pages and in the documentation."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.core import mail
from django.utils import timezone

from billing import notices, price_announcements, prices, tasks
from billing.models import Notice, Rate, UsageDay
from portal import notify
from tests import cast as casting

pytestmark = pytest.mark.django_db
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
CHEAP, DEAR = {"input": "0.20", "output": "0.40"}, {"input": "0.30", "output": "0.60"}


@pytest.fixture
def model(cast):
    found = casting.model(cast.brand, "m-1")
    prices.set_price(model=found, actor="test", per_million=CHEAP)
    used(cast.organization, found)
    return found


def used(organization, model, days=1):
    UsageDay.objects.create(
        brand_id=organization.brand_id,
        organization_id=organization.pk,
        key_id=1,
        model_id=model.pk,
        end_reason="stop",
        day=(timezone.now() - days * DAY).date(),
        requests=1,
    )


def schedule(model, days=10, **fields):
    at = (timezone.now() + days * DAY).replace(hour=8, minute=0, second=0, microsecond=0)
    return prices.set_price(model=model, actor="test", effective_from=at, **({"per_million": DEAR} | fields))


def told(kind=notices.PRICES):
    rows = Notice.objects.filter(kind=kind).select_related("organization").order_by("pk")
    return [(row.organization, [entry["model"] for entry in row.payload["rates"]]) for row in rows]


def later():
    return timezone.now() + HOUR


def overview(user, organization):
    return casting.browser_of(user).get(f"/{organization.public_id}/").content.decode()


def test_those_who_used_the_model_are_told_once_with_before_and_after(cast, model):
    used(cast.elsewhere, model, days=31)
    rate = schedule(model)
    assert price_announcements.run(later()) == 1
    assert price_announcements.run(later()) == 0
    assert told() == [(cast.organization, ["m-1"])]
    assert notify.deliver(now=later()) == 1
    (message,) = mail.outbox
    assert message.to == [cast.owner.email]
    assert message.subject == f"Prices change from {rate.effective_from:%-d %b %Y, %H:%M} UTC on"
    assert "input 0.30, output 0.60 USD per million tokens" in message.body
    assert "until then: input 0.20, output 0.40 USD per million tokens" in message.body
    assert cast.organization.name in message.body


def test_prices_set_in_one_sitting_are_one_notice_and_a_slip_is_told_to_nobody(cast, model):
    second = casting.model(cast.brand, "m-2")
    used(cast.organization, second)
    slip = schedule(model, days=5)
    schedule(model)
    schedule(second)
    assert price_announcements.run(timezone.now()) == 0, "the sitting may not be over"
    prices.withdraw_price(rate=slip, actor="test")
    assert price_announcements.run(later()) == 1
    assert told() == [(cast.organization, ["m-1", "m-2"])]


def test_what_begins_soon_is_told_without_waiting(cast, model):
    at = timezone.now() + timedelta(minutes=15)
    prices.set_price(model=model, actor="test", effective_from=at, per_million=DEAR)
    tasks.announce_prices(unknown="argument")
    assert told() == [(cast.organization, ["m-1"])]


def test_what_began_before_any_pass_came_by_is_told_late_and_once(cast, model):
    """And nobody who began under the new price, and no price that was set to hold from now on."""
    rate = schedule(model)
    used(cast.elsewhere, model, days=-11)
    begun = rate.effective_from + DAY
    assert price_announcements.run(begun) == 1
    assert price_announcements.run(begun) == price_announcements.run(begun + HOUR) == 0
    assert (told(), told(notices.PRICES_LATE)) == ([], [(cast.organization, ["m-1"])])
    notify.deliver(now=begun)
    (message,) = mail.outbox
    assert message.subject == f"Prices have changed since {rate.effective_from:%-d %b %Y, %H:%M} UTC"
    assert "we are late" in message.body
    assert "until then: input 0.20, output 0.40 USD per million tokens" in message.body
    page = overview(cast.owner, cast.organization)
    assert "Prices have changed." in page
    assert "input 0.30, output 0.60 USD per million tokens" in page
    prices.set_price(model=model, actor="test", per_million=CHEAP)
    assert price_announcements.run(later()) == 0


def test_who_heard_in_time_does_not_hear_late_and_after_a_week_nobody_does(cast, model):
    rate = schedule(model)
    assert price_announcements.run(later()) == 1
    assert price_announcements.run(rate.effective_from + HOUR) == 0
    Notice.objects.all().delete()
    assert price_announcements.run(rate.effective_from + 7 * DAY) == 0


def test_whoever_begins_to_use_it_hears_too_and_whoever_has_an_own_price_only_of_that(cast, model):
    schedule(model)
    price_announcements.run(later())
    used(cast.elsewhere, model)
    price_announcements.run(later())
    assert told() == [(cast.organization, ["m-1"]), (cast.elsewhere, ["m-1"])]
    Notice.objects.all().delete()
    prices.set_price(model=model, organization=cast.elsewhere, actor="test", per_million=CHEAP)
    own = schedule(model, days=3, organization=cast.elsewhere)
    price_announcements.run(later())
    assert sorted((row.organization.name, [r["id"] for r in row.payload["rates"]]) for row in Notice.objects.all()) == [
        ("Acme", [Rate.objects.get(organization=None, effective_from__gt=later()).pk]),
        ("Elsewhere", [own.pk]),
    ]


def test_the_banner_stands_until_put_away_or_begun(cast, model):
    schedule(model)
    price_announcements.run(later())
    page = overview(cast.viewer, cast.organization)
    assert "Prices change." in page
    assert "input 0.30, output 0.60 USD per million tokens" in page
    assert 'href="/docs/changelog/"' in page
    assert "Prices change." not in overview(cast.stranger, cast.elsewhere)
    notice = Notice.objects.get()
    assert notices.banner(cast.organization, cast.viewer, timezone.now() + 11 * DAY) is None
    browser = casting.browser_of(cast.viewer)
    browser.post(f"/{cast.organization.public_id}/limits/", {"put_away": notice.pk, "section": "overview"})
    assert "Prices change." not in overview(cast.viewer, cast.organization)
    assert "Prices change." in overview(cast.owner, cast.organization)


def test_of_two_banners_the_older_comes_first_so_that_neither_is_lost(cast, model):
    schedule(model)
    price_announcements.run(later())
    payload = {"is_up": True, "to": "Pro", "reason": "Earned"}
    notices.tell(organization=cast.organization, kind="tier_changed", once="t", payload=payload)
    assert "Prices change." in overview(cast.owner, cast.organization)
    notices.put_away(cast.organization, cast.owner, Notice.objects.get(kind=notices.PRICES).pk)
    assert "You moved up to Pro" in overview(cast.owner, cast.organization)


def test_a_withdrawn_price_is_gone_from_pages_at_once_and_those_who_heard_are_told(cast, model):
    rate = schedule(model)
    price_announcements.run(later())
    notify.deliver(now=later())
    prices.withdraw_price(rate=rate, actor="test")
    assert "Prices change." not in overview(cast.owner, cast.organization)
    assert price_announcements.run(later()) == 1
    assert price_announcements.run(later()) == 0
    assert told(notices.WITHDRAWN) == [(cast.organization, ["m-1"])]
    notify.deliver(now=later())
    assert mail.outbox[1].subject == "An announced change of prices will not come"
    assert "m-1" in mail.outbox[1].body
    schedule(model)
    assert price_announcements.run(later()) == 1, "another price is news again"


@pytest.mark.parametrize("pass_first", [True, False])
def test_a_price_withdrawn_before_the_mail_went_is_never_mailed(cast, model, pass_first):
    second = casting.model(cast.brand, "m-2")
    used(cast.organization, second)
    rate, other = schedule(model), schedule(second)
    price_announcements.run(later())
    prices.withdraw_price(rate=rate, actor="test")
    if pass_first:
        assert price_announcements.run(later()) == 0
    notify.deliver(now=later())
    assert [(message.body.count("m-1, from"), message.body.count("m-2, from")) for message in mail.outbox] == [(0, 1)]
    assert told(notices.WITHDRAWN) == []
    prices.withdraw_price(rate=other, actor="test")
    assert price_announcements.run(later()) == 1


def test_one_that_waited_for_the_mail_server_past_its_beginning_is_still_mailed(cast, model):
    schedule(model)
    price_announcements.run(later())
    assert notify.deliver(now=timezone.now() + 30 * DAY) == 1
    assert len(mail.outbox) == 1


def test_the_changelog_says_what_is_to_come_and_what_was(client, cast, model):
    rate = schedule(model)
    schedule(model, days=2, organization=cast.elsewhere, per_million={"input": "0.11", "output": "0.12"})
    text = client.get("/docs/changelog/").content.decode()
    ahead, until_now = text.split('id="prices-until-now"')
    assert f"{rate.effective_from:%-d %b %Y, 08:00} UTC" in ahead
    assert "input 0.30, output 0.60 USD" in ahead
    assert "input 0.20, output 0.40 USD" in until_now
    assert "0.11" not in text, "a customer's own price is nobody else's business"
    prices.withdraw_price(rate=rate, actor="test")
    assert "0.30" not in client.get("/docs/changelog/").content.decode()


def test_a_brand_without_the_page_is_not_pointed_to_it(cast, model):
    cast.brand.docs_pages = ["quick-start"]
    cast.brand.save()
    schedule(model)
    price_announcements.run(later())
    page = overview(cast.owner, cast.organization)
    assert "Prices change." in page
    assert "changelog" not in page
    notify.deliver(now=later())
    assert "All changes" not in mail.outbox[0].body
