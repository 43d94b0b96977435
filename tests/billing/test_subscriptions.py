"""Paid plans: money in, tier up; not paid, tier back; changed, ended and refunded as Stripe says."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection

from billing import (
    ladder,
    ledger,
    reconcile_books,
    reconcile_stripe,
    revenue,
    seals,
    stripe_accounts,
    stripe_gateway,
    subscription_state,
    subscriptions,
    upgrades,
)
from billing.models import LedgerAccount, Notice, Posting, PostingLine, Tier, TierChange, UsageDay
from billing.payment_models import StripeEvent
from billing.stripe_objects import Subscription as Said
from billing.subscription_models import Subscription, SubscriptionInvoice
from billing.webhook_models import WebhookDelivery
from tests import cast as casting
from tests.billing import plans
from tests.billing.plans import advance, begin, clock, earned, hear, received, subscribed, tier_of
from tests.stripes import connected, control, credited, fake_stripe

pytestmark = pytest.mark.django_db


@pytest.fixture(scope="module")
def running():
    with fake_stripe() as found:
        yield found


@pytest.fixture
def till(running, monkeypatch):
    running.fake.__init__()
    monkeypatch.setattr(stripe_gateway, "RETRIES", 0)
    return running


@pytest.fixture
def shop(till):
    """The tiers by slug."""
    brand = casting.brand()
    connected(till, brand)
    return plans.tiers_of(brand)


@pytest.fixture
def buyer(shop):
    found = casting.organization(shop["free"].brand)
    ladder.assign(organization=found, tier=shop["free"], reason=ladder.SIGN_UP, actor="test")
    return found


def differences(now):
    return [str(found) for found in reconcile_stripe.differences(now + timedelta(minutes=10))]


def test_a_plan_gives_its_tier_and_its_month_is_revenue_not_credit(till, shop, buyer):
    row = begin(buyer, shop["plus"])
    assert (row.state, tier_of(buyer)) == ("open", "free")
    till.post(row.checkout_url, card="pm_card_visa")
    for _ in range(3):
        subscription_state.look(row, clock(till))
    assert (row.state, tier_of(buyer)) == ("active", "plus")
    assert (earned(buyer), credited(buyer), till.money()) == (1000, 0, 1000)
    (posting,) = Posting.objects.filter(organization=buyer)
    assert (posting.kind, posting.reference) == ("subscription", f"stripe:{row.invoices.get().invoice_id}")
    assert dict(posting.lines.values_list("account__kind", "amount_nanos")) == {"revenue": 10**10, "cash": -(10**10)}
    change = TierChange.objects.latest("id")
    assert (change.reason, change.from_tier, change.facts) == ("Paid plan: Plus", shop["free"], {"plan": row.public_id})
    assert Notice.objects.filter(organization=buyer, kind="tier_changed").count() == 1
    assert differences(advance(till, 0.01)) == []


def test_each_month_is_paid_and_booked_and_reports_tell_plans_apart(till, shop, buyer):
    subscribed(till, buyer, shop["plus"])
    for _ in range(2):
        hear(advance(till, 32))
    assert (earned(buyer), received(till, buyer), tier_of(buyer)) == (3000, 3000, "plus")
    today = datetime.now(UTC).date()
    moves = revenue.moves(buyer.brand, first=today, last=today)
    assert (moves.received_nanos, moves.plans_nanos, moves.other_revenue_nanos) == (30 * 10**9, 30 * 10**9, 0)
    with connection.cursor() as cursor:
        assert list(reconcile_books.differences(cursor)) == []
    assert differences(clock(till)) == []


def test_stripe_tax_is_not_our_revenue(till):
    brand = casting.brand()
    connected(till, brand, automatic_tax=True)
    buyer, tiers = casting.organization(brand), plans.tiers_of(brand)
    subscribed(till, buyer, tiers["plus"])
    hear(advance(till, 32))
    assert (earned(buyer), till.money()) == (2000, 2400)
    refund(till, SubscriptionInvoice.objects.latest("id"), 600)
    hear(clock(till))
    assert (earned(buyer), till.money()) == (1500, 1800)
    assert differences(advance(till, 0.01)) == []


def test_an_unpaid_month_keeps_the_tier_for_a_grace_then_leads_back_until_it_is_paid(till, shop, buyer):
    row = subscribed(till, buyer, shop["plus"], "pm_card_chargeCustomerFail")
    till.knobs.unpaid_ends = False
    hear(advance(till, 32))
    row.refresh_from_db()
    assert (row.state, tier_of(buyer)) == ("past_due", "plus")
    notice = Notice.objects.get(organization=buyer, kind="plan_unpaid")
    assert notice.payload["plan"] == "Plus"
    with pytest.raises(subscriptions.NotAccepted, match="not paid"):
        subscriptions.change(organization=buyer, tier=shop["pro"], actor="test")
    hear(advance(till, subscription_state.GRACE / timedelta(days=1) - 1))
    assert tier_of(buyer) == "plus"
    hear(advance(till, 1.1))
    assert tier_of(buyer) == "free"
    assert TierChange.objects.latest("id").reason == "The paid plan was not paid"
    page = till.client().v1.billing_portal.sessions.create({"customer": till.account.all("customer")[0]["id"]})
    till.post(page.url, subscription=row.stripe_id, card="pm_card_visa")
    hear(clock(till))
    row.refresh_from_db()
    assert (row.state, row.grace_until, tier_of(buyer)) == ("active", None, "plus")
    assert (earned(buyer), Notice.objects.filter(kind="plan_unpaid").count()) == (2000, 1)


def test_a_plan_that_is_never_paid_ends_and_leads_back(till, shop, buyer):
    row = subscribed(till, buyer, shop["plus"], "pm_card_chargeCustomerFail")
    hear(advance(till, 60))
    row.refresh_from_db()
    assert (row.state, row.granted, tier_of(buyer), earned(buyer)) == ("ended", None, "free", 1000)
    assert begin(buyer, shop["pro"]).state == "open"


def test_it_ends_with_the_month_goes_on_when_told_and_leads_back_to_where_it_began(till, shop, buyer):
    ladder.assign(organization=buyer, tier=shop["busy"], reason="a friend", actor="test")
    subscribed(till, buyer, shop["plus"])
    assert tier_of(buyer) == "plus"
    row = subscriptions.cancel(organization=buyer, actor="test")
    assert row.ends_at == row.period_end
    assert tier_of(buyer) == "plus"
    assert subscriptions.resume(organization=buyer, actor="test").ends_at is None
    hear(advance(till, 32))
    assert earned(buyer) == 2000
    subscriptions.cancel(organization=buyer, actor="test")
    hear(advance(till, 32))
    row.refresh_from_db()
    assert (row.state, tier_of(buyer), earned(buyer)) == ("ended", "busy", 2000)
    assert TierChange.objects.latest("id").reason == "The paid plan ended"


def test_where_people_put_it_meanwhile_it_stays(till, shop, buyer):
    subscribed(till, buyer, shop["plus"])
    ladder.assign(organization=buyer, tier=shop["pro"], reason="a present", actor="test")
    hear(advance(till, 32))
    assert tier_of(buyer) == "pro"
    subscriptions.cancel(organization=buyer, actor="test")
    hear(advance(till, 32))
    assert tier_of(buyer) == "pro"


def test_another_plan_holds_at_once_and_a_card_that_cannot_pay_changes_nothing(till, shop, buyer):
    subscribed(till, buyer, shop["plus"])
    till.knobs.decline = True
    with pytest.raises(subscriptions.NotAccepted, match="declined"):
        subscriptions.change(organization=buyer, tier=shop["pro"], actor="test")
    assert tier_of(buyer) == "plus"
    till.knobs.decline = False
    row = subscriptions.change(organization=buyer, tier=shop["pro"], actor="test")
    assert (tier_of(buyer), row.price.tier, row.fallback) == ("pro", shop["pro"], shop["free"])
    assert earned(buyer) == received(till, buyer) == pytest.approx(5000, abs=2)
    subscriptions.change(organization=buyer, tier=shop["plus"], actor="test")
    assert tier_of(buyer) == "plus"
    hear(advance(till, 32))  # the balance at Stripe pays
    assert earned(buyer) == received(till, buyer) == pytest.approx(5000, abs=2)
    assert differences(advance(till, 0.01)) == []


def refund(till, invoice, cents):
    return till.client().v1.refunds.create({"payment_intent": invoice.payment_intent, "amount": cents})


@pytest.mark.parametrize("is_heard_first", [True, False])
def test_what_goes_back_of_a_month_is_taken_from_revenue_and_no_wallet(till, shop, buyer, is_heard_first):
    row = begin(buyer, shop["plus"])
    till.post(row.checkout_url, card="pm_card_visa")
    if is_heard_first:
        hear(clock(till))
    intent = till.account.all("payment_intent")[0]["id"]
    till.knobs.refunds_wait = True
    made = till.client().v1.refunds.create({"payment_intent": intent, "amount": 333})
    hear(clock(till))
    assert (earned(buyer), credited(buyer)) == (667, 0)
    disputed = control(till, "/control/dispute", payment_intent=intent)
    hear(clock(till))
    assert (earned(buyer), till.money()) == (0, 0)
    control(till, "/control/refund", refund=made.id, status="failed")
    control(till, "/control/close_dispute", dispute=disputed["id"], status="won")
    for _ in range(2):
        hear(clock(till))
    assert (earned(buyer), till.money(), credited(buyer)) == (1000, 1000, 0)
    assert not PostingLine.objects.filter(account__kind=LedgerAccount.Kind.WALLET).exists()
    assert differences(advance(till, 0.01)) == []


def test_no_night_moves_who_pays_for_the_tier(till, shop, buyer):
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    type(buyer).objects.filter(pk=buyer.pk).update(created_at=datetime.now(UTC) - timedelta(days=9))
    TierChange.objects.filter(organization=buyer).update(at=datetime.now(UTC) - timedelta(days=9))
    Tier.objects.filter(pk=shop["busy"].pk).update(rule_since=datetime.now(UTC) - timedelta(days=9))
    buyer.refresh_from_db()
    ids = dict.fromkeys(("key_id", "model_id", "engine_id"), 1)
    UsageDay.objects.create(
        brand_id=buyer.brand_id, organization_id=buyer.pk, day=yesterday, requests=5, end_reason="stop", **ids
    )
    row = subscribed(till, buyer, shop["pro"])
    TierChange.objects.filter(organization=buyer).update(at=datetime.now(UTC) - timedelta(days=8))
    assert upgrades.judge_night(buyer.brand, yesterday) == []
    assert upgrades.judge_one(buyer, yesterday) is None
    assert upgrades.standing_judgement(buyer, datetime.now(UTC)) is None
    Subscription.objects.filter(pk=row.pk).update(granted=None, state="ended")
    moved = upgrades.judge_one(buyer, yesterday)
    assert moved is not None
    assert moved.to_tier == shop["busy"]


def test_an_answer_that_comes_late_does_not_undo_a_later_one(till, shop, buyer, monkeypatch):
    row = subscribed(till, buyer, shop["plus"])
    gateway, late = stripe_gateway.Gateway, list[Said]()
    ask = gateway.subscription

    def slow(self, subscription_id):
        said = ask(self, subscription_id)
        if not late:
            late.append(said)
            till.client().v1.subscriptions.cancel(subscription_id)
            subscription_state.look(Subscription.objects.get(pk=row.pk), clock(till))
        return said

    monkeypatch.setattr(gateway, "subscription", slow)
    subscription_state.look(row, clock(till))
    assert (late[0].status, row.state, tier_of(buyer)) == ("active", "ended", "free")


def test_another_tier_closes_the_page_before_and_a_paid_one_is_refused(till, shop, buyer):
    first = begin(buyer, shop["plus"])
    second = begin(buyer, shop["pro"])
    first.refresh_from_db()
    assert (first.state, second.state) == ("expired", "open")
    assert till.post(first.checkout_url or f"{till.base_url}/c/pay/{first.session_id}", card="pm_card_visa")[0] != 303
    till.post(second.checkout_url, card="pm_card_visa")
    with pytest.raises(subscriptions.NotAccepted, match="has a paid plan"):
        begin(buyer, shop["plus"])
    assert (tier_of(buyer), till.money()) == ("pro", 5000)


def test_what_is_not_sold_is_not_begun(till, shop, buyer):
    for slug in ("free", "busy"):
        with pytest.raises(subscriptions.NotAccepted, match="not sold"):
            begin(buyer, shop[slug])
    stripe_accounts.disconnect(account=stripe_accounts.active(buyer.brand), actor="test")
    with pytest.raises(stripe_accounts.NotConnected):
        begin(buyer, shop["plus"])
    with pytest.raises(subscriptions.NotAccepted, match="no paid plan"):
        subscriptions.cancel(organization=buyer, actor="test")
    assert not Subscription.objects.exists()


def test_pages_that_are_never_paid_are_counted(till, shop, buyer):
    for number in range(subscriptions.BEGUN_PER_HOUR_MAX):
        row = begin(buyer, shop["plus"])
        till.client().v1.checkout.sessions.expire(row.session_id)
        subscription_state.look(row, clock(till))
        assert row.state == "expired", number
    with pytest.raises(subscriptions.NotAccepted, match="Too many"):
        begin(buyer, shop["plus"])


@pytest.mark.django_db(transaction=True)
def test_twenty_clicks_at_once_are_one_plan(till, shop, buyer):
    def click(_number):
        try:
            return begin(buyer, shop["plus"]).checkout_url
        except (stripe_gateway.Unknown, subscriptions.NotAccepted) as error:
            return error
        finally:
            connection.close()

    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(click, range(20)))
    pages = {url for url in found if isinstance(url, str)}
    assert len(pages) == 1, found
    assert len(till.account.all("checkout.session")) == len(till.account.all("price")) == 1
    till.post(pages.pop(), card="pm_card_visa")
    hear(clock(till))
    assert (len(till.account.all("subscription")), till.money(), earned(buyer)) == (1, 1000, 1000)


def test_reconcile_names_what_is_missing_on_either_side(till, shop, buyer):
    row = subscribed(till, buyer, shop["plus"])
    now = advance(till, 31.5)
    assert any("stripe invoice" in found for found in differences(now))
    hear(now)
    assert differences(now) == []
    Subscription.objects.filter(pk=row.pk).update(state="ended", granted=None)
    assert [found for found in differences(now) if "stripe plan" in found]


def test_the_seal_covers_what_plans_brought(till, shop, buyer):
    subscribed(till, buyer, shop["plus"])
    tomorrow = datetime.now(UTC) + timedelta(days=1, minutes=30)
    seals.run(tomorrow)
    assert list(seals.verify(buyer.brand)) == []
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute("UPDATE billing_postingline SET amount_nanos = amount_nanos * 2")
        cursor.execute("SET LOCAL session_replication_role = DEFAULT")
    assert list(seals.verify(buyer.brand)) != []


def test_events_without_a_plan_of_ours_do_nothing(till, shop, buyer):
    subscribed(till, buyer, shop["plus"])
    other = till.client().v1.customers.create({}).id
    asked = {"mode": "subscription", "customer": other, "success_url": "http://x/?a=1"}
    price = till.account.all("price")[0]["id"]
    session = till.client().v1.checkout.sessions.create({**asked, "line_items": [{"price": price, "quantity": 1}]})
    till.post(session.url, card="pm_card_visa")
    hear(clock(till))
    assert Subscription.objects.count() == SubscriptionInvoice.objects.count() == 1
    assert not StripeEvent.objects.exclude(error="").exists()
    assert ledger.balance_nanos(buyer) == 0
    assert not WebhookDelivery.objects.exists()
