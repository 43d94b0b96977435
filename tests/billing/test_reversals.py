"""What went back is taken back once, in proportion, whatever Stripe says first."""

from datetime import UTC, datetime

import pytest

from billing import reversals, stripe_gateway, top_ups
from billing.models import Posting
from billing.payment_models import Reversal
from tests import cast as casting
from tests.stripes import begin, connected, control, credited

pytestmark = pytest.mark.django_db


@pytest.fixture
def paid(till):
    organization = casting.organization(casting.brand())
    connected(till, organization.brand, automatic_tax=True)
    row = begin(organization)
    till.post(row.checkout_url, card="pm_card_visa")
    return top_ups.look(row, datetime.now(UTC))


def refund(paid, **options):
    return reversals.refund(top_up=paid, actor="operator", reason="Asked for", **options)


def test_a_refund_is_a_new_entry_and_gives_the_tax_back_too(till, paid):
    row = refund(paid)
    reversals.look(paid)
    assert (credited(paid.organization), till.money(), row.units) == (0, 0, 3000)
    kinds = list(Posting.objects.filter(organization=paid.organization).order_by("pk").values_list("kind", flat=True))
    assert kinds == ["top_up", "refund"]


def test_parts_add_up_to_the_whole_to_the_nano(till, paid):
    client = till.client()
    for amount in (1, 999, 7, 1993):
        client.v1.refunds.create({"payment_intent": paid.payment_intent, "amount": amount})
    reversals.look(paid)
    assert credited(paid.organization) == 0
    assert Reversal.objects.count() == 4


def test_part_of_the_credit_goes_back_with_its_tax(till, paid):
    row = refund(paid, credit_nanos=10 * 10**9)
    assert (row.units, credited(paid.organization), till.money()) == (1200, 1500, 1800)
    with pytest.raises(reversals.NotRefundable, match="more than is left"):
        refund(paid, credit_nanos=16 * 10**9)
    refund(paid)
    assert (credited(paid.organization), till.money()) == (0, 0)
    with pytest.raises(reversals.NotRefundable, match="given back"):
        refund(paid)


def test_a_refund_that_fails_gives_the_credit_again_once(till, paid):
    till.knobs.update({"refunds_wait": True})
    row = refund(paid)
    assert credited(paid.organization) == 0
    control(till, "/control/refund", refund=row.stripe_id, status="failed")
    for _ in range(2):
        reversals.look(paid)
    assert (credited(paid.organization), till.money()) == (2500, 3000)
    refund(paid)
    assert credited(paid.organization) == 0


@pytest.mark.parametrize(("end", "cents"), [("won", 2500), ("lost", 0)])
def test_a_dispute_takes_the_credit_until_it_is_won(till, paid, end, cents):
    dispute = control(till, "/control/dispute", payment_intent=paid.payment_intent)
    reversals.look(paid)
    assert credited(paid.organization) == 0
    control(till, "/control/close_dispute", dispute=dispute["id"], status=end)
    for _ in range(2):
        reversals.look(paid)
    assert credited(paid.organization) == cents
    assert till.money() == cents * 3000 // 2500


def test_an_inquiry_takes_nothing(till, paid):
    control(till, "/control/dispute", payment_intent=paid.payment_intent, inquiry=True)
    reversals.look(paid)
    assert credited(paid.organization) == 2500


def test_what_was_spent_already_is_owed(till, paid):
    from billing import ledger

    ledger.adjust(organization=paid.organization, amount_nanos=-20 * 10**9, reason="x", reference="x", actor="t")
    refund(paid)
    assert credited(paid.organization) == -2000


@pytest.mark.parametrize("do", ["lose", "status=500", "status=429", "fail"])
def test_a_refund_without_an_answer_is_made_once(till, paid, do):
    till.knobs.update({"rules": [{"do": do, "path": "/v1/refunds"}]})
    with pytest.raises(stripe_gateway.Unknown):
        refund(paid)
    till.fake.answers.clear()  # a day later Stripe knows the key no more
    for row in reversals.unanswered(10):
        reversals.find_or_resume(row)
    reversals.look(paid)
    assert (credited(paid.organization), till.money()) == (0, 0)
    assert [row.kind for row in Reversal.objects.exclude(posting=None)] == ["refund"]
    assert not reversals.unanswered(10)


def test_what_stripe_refuses_is_said_and_leaves_the_credit(till, paid):
    till.client().v1.refunds.create({"payment_intent": paid.payment_intent})
    with pytest.raises(reversals.NotRefundable, match="already been refunded"):
        refund(paid)
    assert credited(paid.organization) == 2500
    reversals.look(paid)
    assert credited(paid.organization) == 0
