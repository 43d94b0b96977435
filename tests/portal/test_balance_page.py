from datetime import UTC, datetime, timedelta

from billing import ladder, ledger
from billing.models import Payer, Tier, TierLimit
from keys.caller import shard_of
from tests import cast as casting


def balance_page(cast) -> str:
    return casting.browser_of(cast.owner).get(f"/{cast.organization.public_id}/balance/").content.decode()


def credit(cast, amount_nanos=5 * 10**9, organization=None):
    ledger.grant(
        organization=organization or cast.organization,
        amount_nanos=amount_nanos,
        kind="promotional",
        reason="Launch gift",
        reference=f"gift-{amount_nanos}",
        actor="operator",
    )


def test_an_empty_balance_says_how_to_get_credit(cast):
    page = balance_page(cast)
    assert "$0.00" in page
    assert "No postings yet" in page


def test_credit_and_charges_are_listed_to_the_nano(cast):
    credit(cast)
    ledger.post(
        ledger.Entry(
            brand_id=cast.brand.pk,
            organization_id=cast.organization.pk,
            kind="usage",
            reference="batch-1",
            lines=ledger.charge_lines(cast.organization.pk, 1_234_567_891),
        )
    )
    page = balance_page(cast)
    assert "Launch gift" in page
    assert "-$1.234567891" in page
    assert 'title="$3.765432109">$3.76<' in page


def test_credit_is_listed_as_it_will_be_spent_with_what_is_left(cast):
    soon = datetime.now(UTC) + timedelta(days=3)
    for kind, reason, dollars, until in (
        ("paid", "Top-up", 10, None),
        ("promotional", "Gift", 3, None),
        ("sign_up", "Welcome", 2, soon),
        ("promotional", "Used up", 1, soon - timedelta(days=1)),
    ):
        ledger.grant(
            organization=cast.organization,
            amount_nanos=dollars * 10**9,
            kind=kind,
            reason=reason,
            reference=reason,
            actor="operator",
            expires_at=until,
        )
    ledger.post(
        ledger.Entry(
            brand_id=cast.brand.pk,
            organization_id=cast.organization.pk,
            kind="usage",
            reference="batch-1",
            lines=ledger.charge_lines(cast.organization.pk, 1_500_000_000),
        )
    )
    page = balance_page(cast)
    credit_left = page[page.index("<h2>Credit</h2>") : page.index("<h2>Postings</h2>")]
    places = [credit_left.index(text) for text in ("Welcome", "$1.50", "Gift", "$3.00", "Top-up", "$10.00", "Used up")]
    assert places == sorted(places)
    assert "Never" in credit_left


def test_what_running_calls_hold_is_not_available(cast, redis_connection):
    credit(cast)
    account = f"{{s{shard_of(cast.organization.pk)}}}:a:{cast.organization.pk}"
    redis_connection.hset(account, mapping={"bal": 4_000_000_000, "held": 1_500_000_000})
    page = balance_page(cast)
    assert page.index(">$2.50<") < page.index(">$1.50<") < page.index(">$5.00<")


def test_without_redis_the_page_shows_what_is_booked(cast, monkeypatch):
    from redis import Redis
    from redis.exceptions import ConnectionError as RedisGone

    def gone(*_args, **_kwargs):
        raise RedisGone("no Redis")

    credit(cast)
    monkeypatch.setattr(Redis, "hmget", gone)
    page = balance_page(cast)
    assert "unreachable just now" in page
    assert "$5.00" in page


def test_the_plan_is_told_in_words(cast):
    tier = Tier.objects.create(brand=cast.brand, rank=1, slug="free", name="Free", payer=Payer.INCLUDED_THEN_PREPAID)
    TierLimit.objects.create(tier=tier, unit="tokens", window="lifetime", amount=10_000, is_allotment=True)
    TierLimit.objects.create(tier=tier, unit="nanos", window="month", amount=20 * 10**9)
    TierLimit.objects.create(tier=tier, unit="concurrent", window="minute", amount=5, scope="key")
    ladder.assign(organization=cast.organization, tier=tier, reason="test", actor="operator")
    page = balance_page(cast)
    assert "10,000 tokens in all, included" in page
    assert "$20.00 per month" in page
    assert "5 calls at once per key" in page


def test_another_accounts_money_is_not_shown(cast):
    credit(cast, 7 * 10**9, organization=cast.elsewhere)
    page = balance_page(cast)
    assert "$7.00" not in page
    assert "Launch gift" not in page
