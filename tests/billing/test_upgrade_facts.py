"""What an upgrade rule is told was paid: what came, less what went back."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from billing import ledger, reversals, top_ups, upgrade_facts, upgrades
from billing.models import Grant, Posting
from billing.upgrade_facts import Back, History, Payment
from keys.models import Organization
from tests import cast
from tests.billing.climbing import climbing_brand, customer, rank
from tests.billing.test_missed_nights import give_rules
from tests.stripes import begin, connected, control

pytestmark = pytest.mark.django_db
UNIT = 10**9


def paid(organization: Organization) -> tuple[int, bool]:
    """In units of the currency, and whether there is a first payment."""
    today = datetime.now(UTC).date()
    history = upgrade_facts.histories(organization.brand, [organization], first=today, last=today)[organization.pk]
    facts = history.facts(today + timedelta(days=1), {}, None)
    return facts.paid_nanos // UNIT, facts.paid_on is not None


def topped_up(till, organization):
    row = begin(organization)
    till.post(row.checkout_url, card="pm_card_visa")
    return top_ups.look(row, datetime.now(UTC))


def test_a_refund_lowers_what_was_paid_and_a_whole_one_was_no_payment(till):
    organization = cast.organization(cast.brand())
    connected(till, organization.brand)
    first = topped_up(till, organization)
    assert paid(organization) == (25, True)
    reversals.refund(top_up=first, actor="operator", reason="asked for", credit_nanos=10 * UNIT)
    assert paid(organization) == (15, True)
    reversals.refund(top_up=first, actor="operator", reason="asked for")
    assert paid(organization) == (0, False)


def test_the_first_payment_is_the_first_of_which_something_was_kept():
    organization, night = cast.organization(cast.brand()), date(2026, 3, 20)

    def facts(*backs):
        payments = [Payment(night - timedelta(days=30), 25, 1), Payment(night - timedelta(days=3), 25, 2)]
        return History(organization, ZoneInfo("UTC"), payments=payments, backs=list(backs)).facts(night, {}, None)

    assert facts().paid_on == night - timedelta(days=30)
    assert facts(Back(night, 24, 1)).paid_on == night - timedelta(days=30)
    assert (facts(Back(night, 25, 1)).paid_on, facts(Back(night, 25, 1)).paid_nanos) == (night - timedelta(days=3), 25)
    assert facts(Back(night, 25, 1), Back(night, -25, 1)).paid_on == night - timedelta(days=30)
    assert facts(Back(night, 50, None)).paid_on is None
    assert facts(Back(night + timedelta(days=1), 25, 1)).paid_nanos == 50, "it went back later"


@pytest.mark.parametrize(("end", "units"), [("won", 25), ("lost", 0)])
def test_a_disputed_payment_counts_again_when_it_is_won(till, end, units):
    organization = cast.organization(cast.brand())
    connected(till, organization.brand)
    row = topped_up(till, organization)
    dispute = control(till, "/control/dispute", payment_intent=row.payment_intent)
    reversals.look(row)
    assert paid(organization) == (0, False)
    control(till, "/control/close_dispute", dispute=dispute["id"], status=end)
    reversals.look(row)
    assert paid(organization) == (units, units > 0)


def test_nobody_climbs_by_money_that_went_back(monkeypatch):
    monkeypatch.setattr(upgrade_facts, "_verified_of", [set])
    brand = climbing_brand()
    give_rules(brand, {"tier-2": {"all": [{"fact": "paid", "nanos": 100 * UNIT}, {"fact": "good_standing"}]}})
    keeper, other = customer(brand), customer(brand)
    for organization in (keeper, other):
        ledger.grant(
            organization=organization,
            amount_nanos=100 * UNIT,
            kind=Grant.Kind.PAID,
            reason="bank transfer",
            reference=f"p:{organization.pk}",
            actor="operator",
        )
    ledger.adjust(
        organization=other,
        amount_nanos=-100 * UNIT,
        kind=Posting.Kind.DISPUTE,
        reason="disputed",
        reference="d:1",
        actor="operator",
    )
    upgrades.run(datetime.now(UTC) + timedelta(days=1))
    assert (rank(keeper), rank(other)) == (2, 1)
