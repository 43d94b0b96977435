"""Revenue, cost and margin by known numbers, and equal to the postings."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from fractions import Fraction

import msgspec
import pytest
from django.core.exceptions import ValidationError

from billing import deferred, engine_costs, engines, revenue
from billing.engine_costs import Step
from billing.models import Engine, EngineCost, Grant
from billing.revenue import Line
from tests import cast
from tests.billing import books
from tests.billing.earning import HOUR_NANOS, book, call, costs, engine, given
from tests.billing.settled import customer, late

pytestmark = pytest.mark.django_db
DAY, NEXT = date(2026, 11, 2), date(2026, 11, 3)
MIDNIGHT = datetime(2026, 11, 2, tzinfo=UTC)
NOW = datetime(2026, 11, 21, 9, tzinfo=UTC)
FULL_DAY = 24 * HOUR_NANOS


def grouped(brand, by, first=DAY, last=NEXT, now=NOW):
    return revenue.grouped(brand, by=by, first=first, last=last, now=now)


# What engines cost


@pytest.mark.parametrize(
    ("steps", "nanos"),
    [
        ([], 0),
        ([(-5, 3_600)], 24 * 3_600),
        ([(6, 3_600)], 18 * 3_600),
        ([(-5, 3_600), (6, 7_200), (12, 0)], 6 * 3_600 + 6 * 7_200),
        ([(-9, 1), (-5, 3_600), (24, 7_200), (30, 1)], 24 * 3_600),
        ([(24, 3_600)], 0),
    ],
)
def test_a_span_costs_what_held_in_each_of_its_parts(steps, nanos):
    history = [Step(MIDNIGHT + timedelta(hours=hours), cost) for hours, cost in steps]
    found = engine_costs.nanos_between(history, MIDNIGHT, MIDNIGHT + timedelta(days=1))
    assert found == ({"": nanos} if nanos else {})


def test_a_cost_of_less_than_a_nano_is_not_lost():
    history = [Step(MIDNIGHT, 1)]
    assert engine_costs.nanos_between(history, MIDNIGHT, MIDNIGHT + timedelta(seconds=1)) == {"": Fraction(1, 3_600)}


def test_each_change_of_a_cost_begins_when_it_was_made():
    made = engines.register(name="gpu", kind="vllm", base_url="http://gpu.test/v1", actor="test", cost_per_hour_nanos=5)
    engines.change(engine=made, actor="test", weight=2)
    engines.change(engine=made, actor="test", cost_per_hour_nanos=7)
    steps = engine_costs.histories()[made.pk]
    assert [step.per_hour_nanos for step in steps] == [5, 7]
    assert steps[0].since < steps[1].since


def test_a_cost_told_late_holds_until_the_next_that_is_known():
    made = engine("gpu")
    costs(made, 9, MIDNIGHT + timedelta(hours=5))
    assert Engine.objects.get(pk=made.pk).cost_per_hour_nanos == 9
    costs(made, 4, MIDNIGHT)
    assert Engine.objects.get(pk=made.pk).cost_per_hour_nanos == 9
    costs(made, 3, MIDNIGHT)
    assert [step.per_hour_nanos for step in engine_costs.histories()[made.pk]] == [3, 9]


@pytest.mark.parametrize(("amount", "offset"), [(1, 1), (-1, 0)])
def test_a_cost_that_cannot_be_is_refused(amount, offset):
    with pytest.raises(ValidationError):
        costs(engine("gpu"), amount, MIDNIGHT + timedelta(seconds=offset), now=MIDNIGHT)
    assert not EngineCost.objects.exists()


# Revenue and margin


def test_days_earn_what_was_charged_and_cost_what_their_engine_did(redis_connection):
    who = customer()
    gpu = engine("gpu", brand=who.brand)
    costs(gpu, HOUR_NANOS, MIDNIGHT)
    costs(gpu, 2 * HOUR_NANOS, MIDNIGHT + timedelta(days=1, hours=12))
    book(
        redis_connection,
        call(who, DAY, 100_000_000, engine_id=gpu.pk, list_cost_nanos=120_000_000),
        call(who, DAY, 20_000_000, engine_id=gpu.pk),
        call(who, NEXT, 50_000_000, engine_id=gpu.pk),
    )
    first, second = grouped(who.brand, "day")
    assert first == Line(
        day=DAY,
        requests=2,
        input_tokens=20,
        output_tokens=10,
        list_nanos=140_000_000,
        revenue_nanos=120_000_000,
        cost_nanos=Fraction(86_400_000),
    )
    assert first.margin == Fraction(33_600_000, 120_000_000)
    assert second.cost_nanos == 12 * HOUR_NANOS + 12 * 2 * HOUR_NANOS
    assert second.margin_nanos == 50_000_000 - 129_600_000


def test_an_engines_day_is_divided_by_tokens_and_the_parts_add_up(redis_connection):
    one, other = customer(), customer()
    sibling = customer(one.brand)
    gpu = engine("gpu")
    costs(gpu, HOUR_NANOS, MIDNIGHT)
    book(
        redis_connection,
        call(one, DAY, 7, engine_id=gpu.pk),
        call(sibling, DAY, 7, engine_id=gpu.pk, output_tokens=25),
        call(other, DAY, 7, engine_id=gpu.pk, output_tokens=10),
    )
    by_organization = grouped(one.brand, "organization", last=DAY)
    shares = {line.organization_id: line.cost_nanos for line in by_organization}
    assert shares == {
        one.organization.pk: Fraction(FULL_DAY * 15, 70),
        sibling.organization.pk: Fraction(FULL_DAY * 35, 70),
    }
    assert {line.model_id: line.cost_nanos for line in grouped(one.brand, "model", last=DAY)} == {
        one.model.pk: shares[one.organization.pk],
        sibling.model.pk: shares[sibling.organization.pk],
    }
    (theirs,) = grouped(other.brand, "engine", last=DAY)
    assert theirs.engine_id == gpu.pk
    assert theirs.cost_nanos + sum(shares.values()) == FULL_DAY


def test_a_cost_in_another_currency_is_never_taken_for_the_brands(redis_connection):
    """What it belongs to has no margin, and neither has the sum; the rest has."""
    who = customer()
    here, abroad = engine("here", brand=who.brand), engine("abroad", brand=who.brand)
    costs(here, HOUR_NANOS, MIDNIGHT)
    costs(abroad, HOUR_NANOS, MIDNIGHT, currency="CHF")
    assert [cost.currency for cost in EngineCost.objects.order_by("engine_id")] == [who.brand.currency, "CHF"]
    calls = [call(who, DAY, 100_000_000, engine_id=gpu.pk) for gpu in (here, abroad)]
    book(redis_connection, *calls)
    by_engine = {line.engine_id: line for line in grouped(who.brand, "engine", last=DAY)}
    assert (by_engine[here.pk].cost_nanos, by_engine[here.pk].margin_nanos) == (FULL_DAY, 100_000_000 - FULL_DAY)
    theirs = by_engine[abroad.pk]
    assert (theirs.cost_nanos, theirs.margin_nanos, theirs.margin) == (0, None, None)
    (day,) = grouped(who.brand, "day", last=DAY)
    assert (day.cost_nanos, day.margin_nanos, day.is_comparable) == (FULL_DAY, None, False)
    assert any(not line.is_comparable for line in grouped(who.brand, "engine", last=NEXT, first=NEXT)), "idle"


def test_a_shared_engine_costs_in_the_one_currency_there_is_or_in_one_that_is_said():
    gpu = engine("gpu")
    cast.brand(currency="EUR")
    costs(gpu, 5, MIDNIGHT)
    cast.brand(currency="USD")
    costs(gpu, 5, MIDNIGHT + timedelta(hours=1))
    costs(gpu, 5, MIDNIGHT + timedelta(hours=2), currency="GBP")
    costs(gpu, 5, MIDNIGHT + timedelta(hours=3))
    assert [step.currency for step in engine_costs.histories()[gpu.pk]] == ["EUR", "", "GBP", "GBP"]
    with pytest.raises(ValidationError, match="Three letters"):
        costs(gpu, 5, MIDNIGHT, currency="eur")


def test_calls_without_tokens_share_by_number(redis_connection):
    who, other = customer(), customer()
    gpu = engine("gpu")
    costs(gpu, HOUR_NANOS, MIDNIGHT)
    without = {"engine_id": gpu.pk, "uncached_input_tokens": 0, "output_tokens": 0, "images": 1}
    book(redis_connection, call(who, DAY, 5, **without), call(who, DAY, 5, **without), call(other, DAY, 5, **without))
    (line,) = grouped(who.brand, "day", last=DAY)
    assert line.cost_nanos == Fraction(FULL_DAY * 2, 3)


def test_an_own_engine_without_calls_is_idle_and_one_of_everybody_is_not_ours(redis_connection):
    who = customer()
    own, shared, used = engine("own", brand=who.brand), engine("shared"), engine("used", brand=who.brand)
    for each in (own, shared, used):
        costs(each, HOUR_NANOS, MIDNIGHT)
    book(redis_connection, call(who, DAY, 7, engine_id=used.pk), call(who, DAY, 3))
    by_model = grouped(who.brand, "model", last=DAY)
    assert [(line.model_id, line.is_idle, line.cost_nanos) for line in by_model] == [
        (who.model.pk, False, FULL_DAY),
        (None, True, FULL_DAY),
    ]
    by_engine = {
        line.engine_id: (line.revenue_nanos, line.cost_nanos) for line in grouped(who.brand, "engine", last=DAY)
    }
    assert by_engine == {used.pk: (7, FULL_DAY), own.pk: (0, FULL_DAY), 0: (3, 0)}
    assert revenue.total(by_model).cost_nanos == 2 * FULL_DAY


def test_today_costs_until_now_and_tomorrow_nothing(redis_connection):
    brand = cast.brand(timezone="Europe/Zurich")
    costs(engine("gpu", brand=brand), HOUR_NANOS, MIDNIGHT - timedelta(days=2))
    now = datetime(2026, 11, 2, 5, tzinfo=UTC)  # six hours into the brand's day
    lines = grouped(brand, "day", now=now)
    assert [(line.day, line.cost_nanos) for line in lines] == [(DAY, 6 * HOUR_NANOS)]


def test_a_day_on_which_clocks_change_costs_its_hours():
    brand = cast.brand(timezone="Europe/Zurich")
    costs(engine("gpu", brand=brand), HOUR_NANOS, datetime(2026, 1, 1, tzinfo=UTC))
    long_day = date(2026, 10, 25)
    (line,) = grouped(brand, "day", first=long_day, last=long_day)
    assert line.cost_nanos == 25 * HOUR_NANOS


def test_revenue_of_all_days_is_what_usage_posted_corrections_included(redis_connection):
    who, other = customer(), customer()
    sibling = customer(who.brand)
    events = [call(who, DAY + timedelta(days=number % 5), 11 + number) for number in range(17)]
    book(redis_connection, *events, call(sibling, DAY, 1_000), call(other, DAY, 5_000_000))
    late(redis_connection, msgspec.structs.replace(events[3], cost_nanos=2, list_cost_nanos=2))
    late(redis_connection, msgspec.structs.replace(events[4], cost_nanos=99, list_cost_nanos=99))
    book(redis_connection)
    posted = books.one(
        "SELECT sum(line.amount_nanos)::bigint FROM billing_postingline line"
        " JOIN billing_posting posting ON posting.id = line.posting_id"
        " JOIN billing_ledgeraccount account ON account.id = line.account_id"
        " WHERE account.kind = 'revenue' AND posting.kind IN ('usage', 'correction') AND posting.brand_id = %s",
        who.brand.pk,
    )
    assert posted == sum(range(11, 28)) - 14 + 2 - 15 + 99 + 1_000
    last = DAY + timedelta(days=10)
    for by in ("day", "model", "engine", "organization"):
        assert revenue.total(grouped(who.brand, by, last=last)).revenue_nanos == posted
    assert sum(line.revenue_nanos for line in revenue.lines(who.brand, first=DAY, last=last, now=NOW)) == posted
    assert grouped(who.brand, "day", first=last, last=last) == []


# Beside usage


def test_moves_are_what_was_posted_beside_usage(redis_connection):
    who, other = customer(), customer()
    for organization, kind, amount in (
        (who.organization, Grant.Kind.PAID, 1_000),
        (who.organization, Grant.Kind.PROMOTIONAL, 300),
        (other.organization, Grant.Kind.PAID, 77_000),
    ):
        given(organization, kind, amount)
    today = datetime.now(UTC).date()
    book(redis_connection, call(who, today, 40))
    found = revenue.moves(who.brand, first=today, last=today)
    assert (found.received_nanos, found.given_nanos, found.other_revenue_nanos) == (1_000, 300, 0)
    past = revenue.moves(who.brand, first=DAY, last=today - timedelta(days=1))
    assert (past.received_nanos, past.given_nanos) == (0, 0)


def test_what_was_paid_and_not_spent_is_owed(redis_connection):
    who = customer()
    spent, gifted = customer(who.brand), customer(who.brand)
    given(who.organization, Grant.Kind.PAID, 1_000)
    given(who.organization, Grant.Kind.PROMOTIONAL, 300)
    given(spent.organization, Grant.Kind.PAID, 50)
    given(gifted.organization, Grant.Kind.PROMOTIONAL, 500)
    given(customer().organization, Grant.Kind.PAID, 9)
    book(redis_connection, call(who, DAY, 450), call(spent, DAY, 50))
    (owed,) = deferred.owed(who.brand)
    assert (owed.organization, owed.balance_nanos, owed.paid_nanos, owed.other_nanos) == (
        who.organization,
        850,
        850,
        0,
    )
    given(gifted.organization, Grant.Kind.PAID, 20)
    assert [(each.paid_nanos, each.other_nanos) for each in deferred.owed(who.brand)] == [(850, 0), (20, 500)]
    assert len(list(deferred.owed(who.brand, at_most=1))) == 1
