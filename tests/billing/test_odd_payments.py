"""A payment that is not what was asked for: a person decides, once, and the books and Stripe agree again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.test import Client

from billing import odd_payments, reconcile_stripe, stripe_events, stripe_gateway, top_ups
from billing.models import Posting
from billing.payment_models import TopUp
from keys.models import AuditEvent
from tests import cast as casting
from tests.stripes import begin, control, credited

pytestmark = pytest.mark.django_db
CENT = 10**7


@pytest.fixture
def odd(till, customer) -> TopUp:
    """$25.00 came where the row asks for $99."""
    row = begin(customer)
    till.post(row.checkout_url, card="pm_card_visa")
    TopUp.objects.filter(pk=row.pk).update(amount_nanos=99 * 10**9)
    row.refresh_from_db()
    return top_ups.look(row, datetime.now(UTC))


def differences():
    return [found.check for found in reconcile_stripe.differences(datetime.now(UTC) + timedelta(minutes=10))]


def test_what_came_is_credited_once(till, odd):
    assert odd_payments.is_odd(odd)
    assert differences() == ["stripe payment"]
    decided = odd_payments.credit(top_up=odd, amount_nanos=2500 * CENT, reason="Asked the customer", actor="operator")
    assert (decided.state, decided.decision, decided.paid_units) == ("paid", "credited", 2500)
    assert (credited(odd.organization), till.money(), differences()) == (2500, 2500, [])
    assert Posting.objects.get().memo == "Asked the customer"
    event = AuditEvent.objects.get(action="payment.decided")
    assert (event.after["decision"], event.after["came"]) == ("credited", "2500 USD")
    with pytest.raises(odd_payments.NotDecided, match="nothing to decide"):
        odd_payments.credit(top_up=odd, amount_nanos=2500 * CENT, reason="Again", actor="operator")
    assert top_ups.look(odd, datetime.now(UTC)).state == "paid"
    assert credited(odd.organization) == 2500


def test_of_two_who_decide_at_once_the_first_does(odd):
    mine, theirs = (TopUp.objects.get(pk=odd.pk) for _ in range(2))
    odd_payments.credit(top_up=mine, amount_nanos=2000 * CENT, reason="Mine", actor="operator")
    with pytest.raises(odd_payments.NotDecided, match="meanwhile"):
        odd_payments.credit(top_up=theirs, amount_nanos=2500 * CENT, reason="Theirs", actor="operator")
    assert credited(odd.organization) == 2000
    assert AuditEvent.objects.filter(action="payment.decided").count() == 1


@pytest.mark.parametrize("how", ["refunds", "disputes"])
def test_what_went_back_before_somebody_decides_is_nobodys_credit(till, odd, how):
    """It went back at Stripe while the payment was nobody's: its event came, and found nothing to take from."""
    intent = till.account.all("payment_intent")[0]["id"]
    if how == "refunds":
        till.client().v1.refunds.create({"payment_intent": intent})
    else:
        control(till, "/control/dispute", payment_intent=intent)
    stripe_events.poll(datetime.now(UTC))
    stripe_events.work(datetime.now(UTC))
    odd.refresh_from_db()
    with pytest.raises(odd_payments.NotDecided, match="2500 minor units of it went back"):
        odd_payments.credit(top_up=odd, amount_nanos=2500 * CENT, reason="Asked the customer", actor="operator")
    odd_payments.give_back(top_up=odd, reason="It went back already", actor="operator")
    assert (credited(odd.organization), till.money(), differences()) == (0, 0, [])


def test_credit_that_comes_after_the_money_went_back_is_not_given(till, odd):
    mine, theirs = (TopUp.objects.get(pk=odd.pk) for _ in range(2))
    intent = odd_payments._came(theirs, "Asked before")
    odd_payments.give_back(top_up=mine, reason="Mine", actor="operator")
    with pytest.raises(odd_payments.NotDecided, match="went back already"):
        odd_payments.credit(top_up=theirs, amount_nanos=2500 * CENT, reason="Theirs", actor="operator")
    top_ups.credit_by_hand(theirs, intent, 2500 * CENT, reason="It was there when asked", actor="operator")
    late = TopUp.objects.get(pk=odd.pk)
    late.decision = ""  # whoever looked before the decision, and writes after it
    top_ups.look(late, datetime.now(UTC))
    assert not odd_payments.is_odd(TopUp.objects.get(pk=odd.pk))
    assert (credited(odd.organization), till.money()) == (0, 0)


@pytest.mark.parametrize(("nanos", "reason"), [(2501 * CENT, "More"), (0, "Nothing"), (-1, "Less"), (2500 * CENT, " ")])
def test_never_more_than_came_and_never_without_a_reason(odd, nanos, reason):
    with pytest.raises(odd_payments.NotDecided):
        odd_payments.credit(top_up=odd, amount_nanos=nanos, reason=reason, actor="operator")
    assert credited(odd.organization) == 0


def test_another_currency_is_given_back_only(till, odd):
    till.account.all("payment_intent")[0]["currency"] = "eur"
    with pytest.raises(odd_payments.NotDecided, match="EUR"):
        odd_payments.credit(top_up=odd, amount_nanos=CENT, reason="A cent", actor="operator")


@pytest.mark.parametrize("do", ["", "lose", "fail"])
def test_what_came_goes_back_whole_and_once(till, odd, do):
    if do:
        till.knobs.update({"rules": [{"do": do, "path": "/v1/refunds"}]})
        with pytest.raises(stripe_gateway.Unknown):
            odd_payments.give_back(top_up=odd, reason="Not theirs", actor="operator")
        assert odd_payments.is_odd(TopUp.objects.get())
    odd_payments.give_back(top_up=odd, reason="Not theirs", actor="operator")
    assert (odd.state, odd.decision, odd.failure) == ("failed", "returned", "Given back: Not theirs")
    assert (credited(odd.organization), till.money(), differences()) == (0, 0, [])
    assert len(till.account.all("refund")) == 1
    assert top_ups.look(odd, datetime.now(UTC)).failure == "Given back: Not theirs"


def test_what_did_not_arrive_when_it_was_given_back_is_to_be_decided_again(till, odd):
    odd_payments.give_back(top_up=odd, reason="Not theirs", actor="operator")
    (refund,) = till.account.all("refund")
    odd_payments.look(odd)
    assert odd.decision == "returned", "it is on its way"
    control(till, "/control/refund", refund=refund["id"], status="failed")
    stripe_events.poll(datetime.now(UTC))
    stripe_events.work(datetime.now(UTC))
    odd.refresh_from_db()
    assert (odd.decision, odd_payments.is_odd(odd), till.money()) == ("", True, 2500)
    odd_payments.give_back(top_up=odd, reason="Another try", actor="operator")
    assert (odd.decision, till.money(), differences()) == ("returned", 0, [])


def test_whoever_may_add_postings_decides_on_its_page(till, odd, settings):
    settings.DEFAULT_BRAND = odd.organization.brand.slug
    url = f"/admin/billing/topup/{odd.pk}/change/"
    staff = casting.person("staff", is_staff=True)
    assert casting.browser_of(staff).get(url).status_code == 403
    browser: Client = casting.browser_of(casting.person("root", is_staff=True, is_superuser=True))
    assert "to decide" in browser.get("/admin/billing/topup/?odd=1").content.decode()
    assert 'name="decision"' in browser.get(url).content.decode()
    wrong = browser.post(url, {"decision": "credited", "credit": "25.01", "reason": "Too much"}, follow=True)
    assert "at most what came" in wrong.content.decode()
    browser.post(url, {"decision": "credited", "credit": "", "reason": "How much?"})
    assert credited(odd.organization) == 0
    browser.post(url, {"decision": "credited", "credit": "25.00", "reason": "Asked the customer"})
    assert credited(odd.organization) == till.money() == 2500
    page = browser.get(url).content.decode()
    assert 'name="decision"' not in page
    browser.post(url, {"decision": "returned", "reason": "Changed my mind"})
    assert (credited(odd.organization), till.money()) == (2500, 2500)
