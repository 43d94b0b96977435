"""Top-ups by Checkout: what is paid is credited, once, whatever is lost on the way."""

from datetime import UTC, datetime, timedelta

import pytest

from billing import stripe_accounts, stripe_gateway, top_ups
from billing.models import Grant, Notice, Posting
from billing.payment_models import StripeCustomer, TopUp
from keys.models import AuditEvent, Brand
from tests import cast as casting
from tests.stripes import KEY, begin, connected, credited

pytestmark = pytest.mark.django_db


def now():
    return datetime.now(UTC)


def test_a_paid_checkout_is_credited_once_and_told(till, customer):
    row = begin(customer)
    assert (row.state, credited(customer)) == ("open", 0)
    till.post(row.checkout_url, card="pm_card_visa")
    for _ in range(3):
        top_ups.look(row, now())
    assert (row.state, credited(customer), till.money()) == ("paid", 2500, 2500)
    assert row.posting is not None
    assert row.posting.reference == f"stripe:{row.payment_intent}"
    assert (row.posting.kind, row.posting.grant.kind) == (Posting.Kind.TOP_UP, Grant.Kind.PAID)
    assert list(Notice.objects.values_list("kind", flat=True)) == ["top_up_paid"]
    assert row.next_look_at is None


def test_coming_back_without_paying_credits_nothing(till, customer):
    row = begin(customer)
    till.post(row.checkout_url, card="pm_card_chargeDeclined")
    assert (top_ups.look(row, now()).state, credited(customer)) == ("open", 0)


def test_a_checkout_that_expires_ends(till, customer):
    row = begin(customer)
    till.client().v1.checkout.sessions.expire(row.session_id)
    assert top_ups.look(row, now()).state == "expired"
    assert credited(customer) == 0


def test_with_tax_the_net_is_credited(till, customer):
    connected(till, customer.brand, automatic_tax=True)
    row = begin(customer)
    till.post(row.checkout_url, card="pm_card_visa")
    top_ups.look(row, now())
    assert (row.paid_units, credited(customer), till.money()) == (3000, 2500, 3000)


def test_yen_have_no_decimals(till):
    organization = casting.organization(casting.brand(currency="JPY"))
    connected(till, organization.brand)
    row = begin(organization, units=1200)
    assert till.account.get("checkout.session", row.session_id)["amount_total"] == 1200
    till.post(row.checkout_url, card="pm_card_visa")
    assert top_ups.look(row, now()).credited_nanos == 1200 * 10**9


def test_too_little_is_refused_in_words(till, customer):
    with pytest.raises(top_ups.NotAccepted, match=r"least that can be paid is 0\.50 USD"):
        begin(customer, units=0)
    assert not TopUp.objects.exists()


def test_an_amount_that_stripe_says_otherwise_is_nobodys(till, customer):
    row = begin(customer)
    till.post(row.checkout_url, card="pm_card_visa")
    TopUp.objects.filter(pk=row.pk).update(amount_nanos=99 * 10**9)
    row.refresh_from_db()
    top_ups.look(row, now())
    assert (row.state, credited(customer)) == ("open", 0)
    assert "otherwise than asked for" in row.failure


def test_a_session_of_another_organization_pays_nothing_here(till, customer):
    other = casting.organization(customer.brand)
    theirs, ours = begin(other), begin(customer)
    till.post(theirs.checkout_url, card="pm_card_visa")
    TopUp.objects.filter(pk=theirs.pk).delete()
    TopUp.objects.filter(pk=ours.pk).update(session_id=theirs.session_id)
    ours.refresh_from_db()
    top_ups.look(ours, now())
    assert credited(customer) == 0


@pytest.mark.parametrize("do", ["lose", "status=500", "status=429", "fail"])
@pytest.mark.parametrize("path", ["/v1/customers", "/v1/checkout/sessions"])
def test_what_stripe_does_not_answer_is_found_out_or_given_up(till, customer, do, path):
    till.knobs.update({"rules": [{"do": do, "path": path}]})
    with pytest.raises(stripe_gateway.Unknown):
        begin(customer)
    row = TopUp.objects.get()
    assert row.state == "created"
    if do == "fail" and path == "/v1/checkout/sessions":  # the key gives that answer again for a day
        with pytest.raises(stripe_gateway.Unknown):
            top_ups.look(row, now())
        assert top_ups.look(row, now() + timedelta(hours=2)).state == "failed"
    else:
        assert top_ups.look(row, now()).state == "open"
        till.post(row.checkout_url, card="pm_card_visa")
        top_ups.look(row, now())
        assert credited(customer) == 2500
    made = till.account.all("customer")
    assert len(made) == (2 if (do, path) == ("fail", "/v1/customers") else 1), "one that nobody has heard of, if any"
    assert {session["customer"] for session in till.account.all("checkout.session")} == {made[0]["id"]}
    assert len(till.account.all("checkout.session")) == 1
    assert StripeCustomer.objects.get().customer_id == made[0]["id"]


def test_a_failure_that_stripe_keeps_does_not_hold_up_the_first_payment(till, customer, monkeypatch):
    """The SDK asks again by itself, with the same key, and hears it from record: the key is changed at once."""
    monkeypatch.setattr(stripe_gateway, "RETRIES", 1)
    till.knobs.update({"rules": [{"do": "fail", "path": "/v1/customers"}]})
    row = begin(customer)
    till.post(row.checkout_url, card="pm_card_visa")
    assert top_ups.look(row, now()).state == "paid"
    assert credited(customer) == till.money() == 2500


def test_a_payment_after_we_gave_up_is_credited_all_the_same(till, customer):
    row = begin(customer)
    top_ups.fail(row, "for a test")
    till.post(till.account.all("checkout.session")[0]["url"], card="pm_card_visa")
    assert top_ups.look(row, now()).state == "paid"
    assert credited(customer) == 2500


def test_the_card_is_kept_where_its_holder_said_so(till, customer):
    row = begin(customer, keeps_card=True)
    till.post(row.checkout_url, card="pm_card_visa")
    top_ups.look(row, now())
    top_ups.look(row, now())
    kept = StripeCustomer.objects.get()
    assert (kept.card_brand, kept.card_last4, kept.card_expires) == ("visa", "4242", "12/2034")
    assert row.state == "paid"
    assert not list(top_ups.due(now() + timedelta(days=1), 10))


def test_a_card_is_not_kept_otherwise(till, customer):
    row = begin(customer)
    till.post(row.checkout_url, card="pm_card_visa")
    top_ups.look(row, now())
    assert StripeCustomer.objects.get().payment_method == ""


def test_payments_begun_and_not_finished_are_few(till, customer):
    for _ in range(top_ups.UNPAID_PER_HOUR_MAX):
        begin(customer)
    with pytest.raises(top_ups.NotAccepted, match="in an hour"):
        begin(customer)
    begin(casting.organization(customer.brand))


def test_without_an_account_nothing_is_begun(till):
    with pytest.raises(stripe_accounts.NotConnected):
        begin(casting.organization(casting.brand()))


def test_secrets_are_sealed_and_in_no_trail(till, customer):
    account = stripe_accounts.active(customer.brand)
    assert KEY not in account.secret_key_sealed
    assert "whsec" not in account.webhook_secrets_sealed
    assert KEY not in str(list(AuditEvent.objects.values()))


def test_another_account_takes_the_place_of_the_one_before(till, customer):
    first = stripe_accounts.active(customer.brand)
    row = begin(customer)
    second = stripe_accounts.connect(
        brand=customer.brand, secret_key="sk_test_brand_0002", actor="operator", api_base=till.base_url
    )
    assert stripe_accounts.active(customer.brand) == second
    assert second != first
    till.post(row.checkout_url, card="pm_card_visa")
    top_ups.look(TopUp.objects.get(pk=row.pk), now())
    assert credited(customer) == 2500
    again = connected(till, customer.brand)
    assert (again.pk, again.is_active) == (first.pk, True)


def test_webhook_secrets_rotate(till, customer):
    account = stripe_accounts.active(customer.brand)
    for number in range(3):
        stripe_accounts.add_webhook_secret(account=account, secret=f"whsec_{number}", actor="operator")
    account.refresh_from_db()
    assert stripe_accounts.webhook_secrets(account) == ("whsec_2", "whsec_1", "whsec_0")


def test_what_was_begun_in_another_currency_is_nobodys_credit(till, customer):
    """No posting froze the brand's currency while the page was open."""
    row = begin(customer)
    Brand.objects.filter(pk=customer.brand_id).update(currency="EUR")
    till.post(row.checkout_url, card="pm_card_visa")
    top_ups.look(TopUp.objects.get(pk=row.pk), datetime.now(UTC))
    assert credited(customer) == 0
    assert TopUp.objects.get(pk=row.pk).failure.startswith(top_ups.ODD)
