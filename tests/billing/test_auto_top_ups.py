"""Charging by itself: once, however many ask; rarely, when a card is declined; never past the cap."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from django.core.exceptions import ValidationError
from django.db import connections

from billing import auto_top_ups, cards, stripe_events, top_ups
from billing.models import Notice
from billing.payment_models import AutoTopUp, TopUp
from keys.models import Organization
from portal.demo.stripe import taxes
from tests import cast as casting
from tests.stripes import begin, connected, credited, keep_card

NOW = datetime.now(UTC)
UNIT = 10**9


def wish(till, *, card="pm_card_visa", cap=100, **account) -> Organization:
    organization = casting.organization(casting.brand())
    connected(till, organization.brand, **account)
    keep_card(till, organization, card)
    auto_top_ups.put(
        organization=organization,
        threshold_nanos=5 * UNIT,
        amount_nanos=20 * UNIT,
        monthly_cap_nanos=cap * UNIT,
        actor="owner",
    )
    return organization


def notices():
    return list(Notice.objects.order_by("pk").values_list("kind", flat=True))


@pytest.mark.django_db
def test_below_the_threshold_the_card_is_charged_once(till):
    organization = wish(till)
    assert auto_top_ups.run(NOW) == 1
    assert auto_top_ups.run(NOW) == 0
    assert (credited(organization), till.money(), notices()) == (2000, 2000, ["top_up_paid"])


@pytest.mark.django_db(transaction=True)
def test_fifty_triggers_at_once_make_one_charge(till):
    organization = wish(till)

    def trigger(_number):
        try:
            return auto_top_ups.trigger(Organization.objects.get(pk=organization.pk), NOW)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(10) as pool:
        begun = [row for row in pool.map(trigger, range(50)) if row is not None]
    assert (len(begun), TopUp.objects.count(), till.money()) == (1, 1, 2000)
    assert credited(organization) == 2000


@pytest.mark.django_db
def test_the_cap_of_the_month_is_not_passed_and_said_once(till):
    organization = wish(till, cap=30)
    auto_top_ups.run(NOW)
    AutoTopUp.objects.update(threshold_nanos=50 * UNIT)
    for _ in range(2):
        assert auto_top_ups.run(NOW) == 0
    assert (till.money(), notices()) == (2000, ["top_up_paid", "auto_top_up_capped"])
    assert auto_top_ups.spent_this_month(organization, NOW + timedelta(days=40)) == 0


@pytest.mark.django_db
def test_a_declined_card_is_tried_ever_more_rarely_and_then_not(till):
    organization = wish(till, card="pm_card_chargeCustomerFail")
    now, tries = NOW, []
    for _ in range(24 * 8):
        if auto_top_ups.run(now):
            tries.append(now)
        now += timedelta(hours=1)
    gaps = [later - earlier for earlier, later in pairwise(tries)]
    assert gaps == list(auto_top_ups.PAUSES)
    stopped = AutoTopUp.objects.get(organization=organization)
    assert (stopped.is_on, stopped.stopped_because) == (False, "card_declined")
    assert notices() == ["auto_top_up_failed"] * 5
    assert [notice.payload["stops"] for notice in Notice.objects.order_by("pk")] == [False] * 4 + [True]
    assert {row["status"] for row in till.account.all("payment_intent")} == {"canceled"}
    assert till.money() == 0


@pytest.mark.django_db
def test_a_bank_that_asks_for_its_holder_ends_it_at_once(till):
    organization = wish(till, card="pm_card_authenticationRequired")
    auto_top_ups.run(NOW)
    found = AutoTopUp.objects.get(organization=organization)
    assert (found.is_on, found.stopped_because) == (False, "authentication_required")
    assert Notice.objects.get().payload["asks_holder"] is True
    auto_top_ups.put(
        organization=organization,
        threshold_nanos=UNIT,
        amount_nanos=20 * UNIT,
        monthly_cap_nanos=20 * UNIT,
        actor="owner",
    )
    assert AutoTopUp.objects.get().is_on


@pytest.mark.django_db
@pytest.mark.parametrize("do", ["lose", "status=500", "status=429", "fail"])
def test_a_charge_without_an_answer_is_found_out_and_made_once(till, do):
    organization = wish(till)
    till.knobs.update({"rules": [{"do": do, "path": "/v1/payment_intents"}]})
    assert auto_top_ups.run(NOW) == 0
    assert TopUp.objects.get().state == "created"
    assert auto_top_ups.run(NOW) == 0  # the open attempt is in the way
    stripe_events.look_around(datetime.now(UTC) + timedelta(minutes=2))
    assert (TopUp.objects.get().state, credited(organization), till.money()) == ("paid", 2000, 2000)


@pytest.mark.django_db
def test_an_attempt_that_stripe_never_heard_of_is_given_up(till):
    organization = wish(till)
    till.knobs.update({"rules": [{"do": "status=500", "path": "/v1/payment_intents", "times": 9}]})
    auto_top_ups.run(NOW)
    stripe_events.look_around(datetime.now(UTC) + timedelta(hours=2))
    assert TopUp.objects.get().state == "failed"
    till.knobs.update({"rules": []})
    assert auto_top_ups.run(NOW + timedelta(days=1)) == 1
    assert credited(organization) == 2000


@pytest.mark.django_db
def test_without_a_card_there_is_nothing_to_turn_on(till):
    organization = casting.organization(casting.brand())
    connected(till, organization.brand)
    with pytest.raises(ValidationError, match="Keep a card first"):
        auto_top_ups.put(
            organization=organization, threshold_nanos=0, amount_nanos=UNIT, monthly_cap_nanos=UNIT, actor="owner"
        )


@pytest.mark.django_db
def test_a_forgotten_card_is_charged_no_more(till):
    organization = wish(till)
    assert cards.forget(organization, actor="owner")
    auto_top_ups.run(NOW)
    assert (till.money(), AutoTopUp.objects.get().stopped_because) == (0, "no_card")
    assert till.account.all("payment_method")[0]["customer"] is None


@pytest.mark.django_db
def test_turned_off_is_off(till):
    organization = wish(till)
    auto_top_ups.turn_off(organization=organization, actor="owner")
    assert auto_top_ups.run(NOW) == 0
    assert not list(top_ups.due(NOW + timedelta(days=400), 10))


# With Stripe Tax


@pytest.mark.django_db
def test_tax_is_charged_on_top_and_the_net_is_credited(till):
    organization = wish(till, automatic_tax=True)
    assert auto_top_ups.run(NOW) == 1
    row = TopUp.objects.get()
    assert (row.paid_units, row.tax_units, credited(organization), till.money()) == (2400, 400, 2000, 2400)
    (reported,) = till.account.all("tax.transaction")
    assert (reported["tax"], reported["reference"]) == (400, row.payment_intent)
    assert auto_top_ups.spent_this_month(organization, NOW) == 20 * UNIT  # the cap is on credit


@pytest.mark.django_db
def test_the_tax_stays_as_it_was_reckoned_though_it_changes_before_the_charge_is_answered(till):
    organization = wish(till, automatic_tax=True)
    till.knobs.update({"rules": [{"do": "lose", "path": "/v1/payment_intents"}]})
    auto_top_ups.run(NOW)
    till.knobs.update({"tax_percent": 50})
    row = TopUp.objects.get()
    assert (row.state, row.tax_units) == ("created", 400)
    stripe_events.look(row, datetime.now(UTC))
    assert (row.state, credited(organization), till.money()) == ("paid", 2000, 2400)


@pytest.mark.django_db
@pytest.mark.parametrize("do", ["lose", "status=500"])
def test_a_tax_that_is_not_answered_is_asked_for_again(till, do):
    organization = wish(till, automatic_tax=True)
    till.knobs.update({"rules": [{"do": do, "path": "/v1/tax"}]})
    auto_top_ups.run(NOW)
    assert till.money() == 0
    stripe_events.look(TopUp.objects.get(), datetime.now(UTC))
    assert (credited(organization), till.money()) == (2000, 2400)


@pytest.mark.django_db
def test_who_is_nowhere_is_not_charged_and_told_why(till):
    organization = wish(till, automatic_tax=True)
    till.knobs.update({"nowhere": True})
    auto_top_ups.run(NOW)
    assert (credited(organization), till.money(), notices()) == (0, 0, ["auto_top_up_failed"])
    assert "valid customer address" in Notice.objects.get().payload["why"]
    assert AutoTopUp.objects.get().not_before is not None


@pytest.mark.django_db
def test_a_tax_that_lies_within_the_amount_is_charged_to_nobody(till, monkeypatch):
    """Credit would be more than was paid for it, or less: the sums are as asked for, or nothing is charged."""
    organization = wish(till, automatic_tax=True)
    calculate = taxes.calculate

    def within(account, knobs, customer, params):
        lines = [line | {"tax_behavior": "inclusive"} for line in params["line_items"]]
        return calculate(account, knobs, customer, params | {"line_items": lines})

    monkeypatch.setattr(taxes, "calculate", within)
    auto_top_ups.run(NOW)
    assert (credited(organization), till.money(), TopUp.objects.get().state) == (0, 0, "failed")


@pytest.mark.django_db
def test_however_many_have_enough_those_below_are_charged(till, monkeypatch):
    """The first of all that wished for it stands above its threshold, and no others are looked at before it."""
    monkeypatch.setattr(auto_top_ups, "BATCH", 1, raising=False)
    enough = wish(till)
    assert auto_top_ups.run(NOW, limit=1) == 1
    others = [casting.organization(enough.brand) for _ in range(2)]
    for organization in others:
        keep_card(till, organization)
        auto_top_ups.put(
            organization=organization,
            threshold_nanos=5 * UNIT,
            amount_nanos=20 * UNIT,
            monthly_cap_nanos=20 * UNIT,
            actor="owner",
        )
    assert [auto_top_ups.run(NOW, limit=1) for _ in range(3)] == [1, 1, 0]
    assert [credited(organization) for organization in others] == [2000, 2000]


@pytest.mark.django_db
def test_a_page_that_somebody_left_open_keeps_no_card_from_being_charged(till):
    organization = wish(till)
    assert auto_top_ups.run(NOW) == 1
    begin(organization)
    AutoTopUp.objects.update(threshold_nanos=50 * UNIT)
    assert auto_top_ups.run(NOW) == 1


@pytest.mark.django_db
def test_an_old_payment_that_is_heard_of_again_makes_no_declined_card_due(till):
    organization = wish(till)
    auto_top_ups.run(NOW)
    paid = TopUp.objects.get()
    AutoTopUp.objects.update(threshold_nanos=50 * UNIT)
    keep_card(till, organization, "pm_card_chargeCustomerFail")
    auto_top_ups.run(NOW)
    assert AutoTopUp.objects.get().failures == 1
    stripe_events.look(TopUp.objects.get(pk=paid.pk), NOW)
    assert AutoTopUp.objects.get().failures == 1
    assert auto_top_ups.run(NOW) == 0
