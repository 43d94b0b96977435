import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing import limits
from billing.events import COUNTED_SQL
from billing.limits import Estimate, LimitInvalid, Need
from billing.pricing import HoldTooLarge, PriceMissing
from billing.snapshot import LimitRecord, ModelRecord, RateRecord, TierRecord

RATE = RateRecord(id=1, from_ms=0, input_picos=200_000, output_picos=400_000, credits_per_request=3)
MODEL = ModelRecord(id=7, slug="m", context_length=8192, max_completion_tokens=4096, rates=(RATE,))
ESTIMATE = Estimate(prompt_tokens_max=100, output_tokens_wanted=1000, choices=2)


def limit(unit, window, amount, scope="organization", **fields):
    return LimitRecord(unit=unit, window=window, scope=scope, amount=amount, **fields)


def tier(payer, *found):
    return TierRecord(id=1, rank=1, slug="t", name="T", payer=payer, limits=found)


def plans(standing, *, key=(), rate=RATE, estimate=ESTIMATE):
    return limits.plans(tier=standing, key_id=5, key_limits=key, model=MODEL, rate=rate, estimate=estimate)


def judged(plan):
    return {entry.name: entry.limit for entry in plan.limits if entry.limit is not None}


def test_each_unit_needs_what_a_call_could_use():
    (plan,) = plans(tier("prepaid")).plans
    needs = {entry.unit: Need(entry.fixed, entry.per, entry.scale).at(16) for entry in plan.limits}
    assert needs == {"req": 1, "in": 100, "out": 32, "tok": 132, "cred": 3, "nano": 100 * 200 + 32 * 400}
    assert plan.money.at(16) == needs["nano"]


def test_the_organizations_day_is_always_counted():
    for payer in ("included", "prepaid", "included_then_prepaid"):
        for plan in plans(tier(payer)).plans:
            assert {(e.window, e.scope, e.unit, e.limit) for e in plan.limits} == {
                ("day", "o", unit, None) for unit in limits.UNIT_FIELDS.values()
            }


def test_included_asks_no_money_and_counts_no_spend():
    (plan,) = plans(tier("included", limit("tokens", "day", 500), limit("nanos", "month", 0))).plans
    assert (plan.payer, plan.money) == ("included", None)
    assert judged(plan) == {"organization.tokens.day": 500}
    assert all(not entry.fixed and not entry.per for entry in plan.limits if entry.unit == "nano")


def test_prepaid_asks_the_balance():
    (plan,) = plans(tier("prepaid", limit("nanos", "month", 10**9))).plans
    assert plan.money == Need(100 * 200_000, 2 * 400_000, 1000)
    assert judged(plan) == {"organization.nanos.month": 10**9}


def test_past_an_allotment_the_balance_pays_and_hard_limits_stay():
    standing = tier(
        "included_then_prepaid", limit("tokens", "month", 500, is_allotment=True), limit("requests", "minute", 60)
    )
    included, prepaid = plans(standing).plans
    assert (included.payer, included.money) == ("included", None)
    assert judged(included) == {"organization.tokens.month": 500, "organization.requests.minute": 60}
    assert prepaid.payer == "prepaid"
    assert prepaid.money is not None
    assert judged(prepaid) == {"organization.requests.minute": 60}
    assert "organization.tokens.month" in {entry.name for entry in prepaid.limits}, "or the allotment would undercount"


def test_a_free_call_asks_no_balance():
    free = RateRecord(id=2, from_ms=0, input_picos=0, output_picos=0, is_free=True)
    assert plans(tier("prepaid"), rate=free).plans[0].money is None


def test_of_several_limits_on_a_counter_the_tightest_judges():
    standing = tier("prepaid", limit("tokens", "day", 900, scope="key"), limit("tokens", "day", 800))
    key = (limit("tokens", "day", 300, scope="key"),)
    (plan,) = plans(standing, key=key).plans
    assert judged(plan) == {"key.tokens.day": 300, "organization.tokens.day": 800}
    counters = [(entry.window, entry.scope, entry.unit) for entry in plan.limits]
    assert len(set(counters)) == len(counters)


def test_scopes_bind_to_the_call():
    standing = tier(
        "prepaid",
        limit("requests", "day", 1, scope="model"),
        limit("requests", "month", 2, scope="model", model_id=7),
        limit("requests", "lifetime", 3, scope="model", model_id=8),
        limit("requests", "minute", 4, scope="key"),
    )
    (plan,) = plans(standing).plans
    assert {(e.name, e.scope, e.limit) for e in plan.limits if e.limit is not None} == {
        ("model.requests.day", "m7", 1),
        ("model.requests.month", "m7", 2),
        ("key.requests.minute", "k5", 4),
    }


def test_concurrency_is_apart_and_tightest_per_scope():
    standing = tier("included", limit("concurrent", "day", 8), limit("concurrent", "minute", 4, scope="key"))
    found = plans(standing, key=limits.key_limits([{"unit": "concurrent", "amount": 2}]))
    assert set(found.concurrency) == {("organization.concurrent", "o", 8), ("key.concurrent", "k5", 2)}
    assert judged(found.plans[0]) == {}


def test_quota_windows_may_use_a_likelier_prompt_but_money_never():
    estimate = Estimate(prompt_tokens_max=100, output_tokens_wanted=10, quota_prompt_tokens=40)
    (plan,) = plans(tier("prepaid"), estimate=estimate).plans
    fixed = {entry.unit: entry.fixed for entry in plan.limits}
    assert (fixed["in"], fixed["tok"]) == (40, 40)
    assert plan.money.fixed == 100 * 200_000


def test_a_missing_price_refuses_whoever_pays():
    for payer in ("included", "prepaid"):
        with pytest.raises(PriceMissing):
            plans(tier(payer), rate=RateRecord(id=1, from_ms=0, input_picos=1))


def test_a_hold_beyond_what_scripts_count_is_refused():
    dear = RateRecord(id=1, from_ms=0, input_picos=2**50, output_picos=1)
    with pytest.raises(HoldTooLarge):
        plans(tier("prepaid"), rate=dear)


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(1, 10**4), st.integers(0, 10**6))
def test_need_is_the_exact_ceiling(fixed, per, scale, granted):
    need = Need(fixed, per, scale).at(granted)
    assert (need - 1) * scale < fixed + granted * per <= need * scale


def test_the_units_of_limits_are_those_a_call_counts_for():
    assert set(limits.UNIT_FIELDS.values()) == set(COUNTED_SQL)


def test_key_limits_are_read_as_stored():
    stored = limits.normalised_key_limits(
        [{"unit": "tokens", "window": "day", "amount": 10}, {"unit": "concurrent", "amount": 2}]
    )
    assert [(r.unit, r.window, r.scope, r.amount) for r in limits.key_limits(stored)] == [
        ("tokens", "day", "key", 10),
        ("concurrent", "minute", "key", 2),
    ]
    assert limits.normalised_key_limits(stored) == stored


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("tokens", "a list"),
        ({"unit": "tokens"}, "a list"),
        (["tokens"], "limit 1 is an object"),
        ([{"unit": "words", "window": "day", "amount": 1}], "unit is one of"),
        ([{"unit": ["tokens"], "window": "day", "amount": 1}], "unit is one of"),
        ([{"unit": "tokens", "window": "year", "amount": 1}], "window is one of"),
        ([{"unit": "tokens", "amount": 1}], "window is one of"),
        ([{"unit": "tokens", "window": "day"}], "amount is a whole number"),
        ([{"unit": "tokens", "window": "day", "amount": 1.0}], "amount is a whole number"),
        ([{"unit": "tokens", "window": "day", "amount": True}], "amount is a whole number"),
        ([{"unit": "tokens", "window": "day", "amount": -1}], "amount is a whole number"),
        ([{"unit": "tokens", "window": "day", "amount": 2**53}], "amount is a whole number"),
        ([{"unit": "tokens", "window": "day", "amount": 1, "scope": "key"}], "scope"),
        ([{"unit": "tokens", "window": "day", "amount": 1}] * 2, "once"),
        ([{"unit": "tokens", "window": "day", "amount": 1}] * 33, "at most"),
    ],
)
def test_limits_that_cannot_be_read_say_what_to_write(raw, message):
    with pytest.raises(LimitInvalid, match=message):
        limits.normalised_key_limits(raw)
