"""Limits and tier: the figures, the ladder, the way up and the way here, as members see them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from django.core import mail
from redis import Redis
from redis.exceptions import ConnectionError as RedisGone

from billing import alerts, ladder, overrides, upgrade_facts, upgrades
from billing.models import AlertPreference, Notice, Payer, Tier, TierLimit, UsageDay
from billing.windows import window_at
from keys import issuing, organizations
from keys.caller import shard_of
from keys.models import Organization
from portal import notify
from tests import cast as casting
from tests.billing.climbing import rules_since

RULE = {
    "all": [
        {"fact": "utilisation", "percent": 60, "days": 3, "within": 7},
        {"fact": "good_standing"},
        {"fact": "verified"},
    ]
}


@pytest.fixture(autouse=True)
def nobody_is_verified(monkeypatch):
    monkeypatch.setattr(upgrade_facts, "_verified_of", [lambda _ids: set()])


@pytest.fixture
def climb(cast):
    """Three tiers: the second is earned, the third is given; the account stands on the first."""
    for rank, (slug, label, rule) in enumerate(
        (("tier-1", "Free", None), ("tier-2", "Auto-upgrade", RULE), ("tier-3", "Premium", None)), start=1
    ):
        tier = Tier(
            brand=cast.brand,
            rank=rank,
            slug=slug,
            name=f"Tier {rank}",
            label=label,
            payer=Payer.INCLUDED,
            is_default=rank == 1,
            upgrade_rule=rule,
        )
        ladder.save_tier(tier, actor="test")
        for unit, amount in (("requests", 1_000), ("tokens", 250_000)):
            ladder.save_limit(TierLimit(tier=tier, unit=unit, window="day", amount=amount * rank), actor="test")
    stand(cast, "tier-1", "sign-up")
    return cast


def stand(cast, slug, reason="test"):
    tier = Tier.objects.get(brand=cast.brand, slug=slug)
    ladder.assign(organization=cast.organization, tier=tier, reason=reason, actor="operator")


def limit(cast, **fields):
    tier, _ = ladder.standing_of(cast.organization)
    return ladder.save_limit(TierLimit(tier=tier, **fields), actor="test")


def limits_page(cast, *, path="limits/", who=None) -> str:
    answer = casting.browser_of(who or cast.viewer).get(f"/{cast.organization.public_id}/{path}")
    assert answer.status_code == 200
    return " ".join(answer.content.decode().split())


def count(redis_connection, organization, window, **fields):
    """As the scripts write counters, in an open shard."""
    shard = shard_of(organization.pk)
    redis_connection.set(f"{{s{shard}}}:epoch", "1:run")
    bounds = window_at(int(datetime.now(UTC).timestamp() * 1000), window, "UTC")
    names = {name.replace("_", "."): value for name, value in fields.items()}
    redis_connection.hset(f"{{s{shard}}}:w:{organization.pk}:{bounds.id}", mapping=names)
    return bounds


def used(organization, *, days_ago=0, **sums):
    used_on(organization, datetime.now(UTC).date() - timedelta(days=days_ago), **sums)


def used_on(organization, day, **sums):
    UsageDay.objects.create(
        brand_id=organization.brand_id,
        organization_id=organization.pk,
        day=day,
        **{"key_id": 1, "model_id": 1, "end_reason": "stop", **sums},
    )


def test_what_is_used_comes_from_the_gateways_own_counters(climb, redis_connection):
    bounds = count(redis_connection, climb.organization, "day", o_req_p=420, o_req_h=30, o_tok_p=1_000)
    page = limits_page(climb)
    assert "<strong>420</strong> of 1,000" in page
    assert "42 % used, 550 left, 30 set aside for running calls" in page
    assert f'datetime="{datetime.fromtimestamp(bounds.end_ms / 1000, UTC).isoformat()}"' in page
    assert "<strong>1,000</strong> of 250,000" in page
    assert "As the gateway counts" in page


def test_the_part_that_is_fetched_again_says_the_same(climb, redis_connection):
    count(redis_connection, climb.organization, "day", o_req_p=1_000)
    part = limits_page(climb, path="limits/live/")
    assert "<strong>1,000</strong> of 1,000" in part
    assert "gauge-full" in part
    assert "<html" not in part
    assert part.partition(", at <time")[0] in limits_page(climb)


def test_without_redis_the_books_tell_and_the_page_says_so(climb, monkeypatch):
    def gone(*_args, **_kwargs):
        raise RedisGone("no Redis")

    used(climb.organization, requests=12, failures=2, output_tokens=99)
    monkeypatch.setattr(Redis, "execute_command", gone)
    monkeypatch.setattr("redis.client.Pipeline.execute", gone)
    page = limits_page(climb)
    assert "<strong>10</strong> of 1,000" in page
    assert "<strong>99</strong> of 250,000" in page
    assert "live count is unreachable" in page


def test_each_window_has_its_own_sum(climb):
    for unit, window, amount in (("requests", "month", 500), ("tokens", "lifetime", 10_000), ("requests", "minute", 5)):
        limit(climb, unit=unit, window=window, amount=amount)
    limit(climb, unit="concurrent", window="minute", amount=7)
    used(climb.organization, requests=2, uncached_input_tokens=60, output_tokens=40)
    used(climb.organization, days_ago=400, requests=40, uncached_input_tokens=60, output_tokens=40)
    page = limits_page(climb)
    for title, figures in (
        ("Requests today", "<strong>2</strong> of 1,000"),
        ("Requests this month", "<strong>2</strong> of 500"),
        ("Tokens in all", "<strong>200</strong> of 10,000"),
        ("Requests in the last minute", "at most 5"),
        ("Calls at once", "at most 7"),
    ):
        assert figures in page.partition(f"<span>{title}</span>")[2].partition("</p>")[0], title


def test_the_last_minute_fades_as_the_gateway_lets_it(climb, redis_connection):
    limit(climb, unit="requests", window="minute", amount=5)
    limit(climb, unit="concurrent", window="minute", amount=7)
    count(redis_connection, climb.organization, "minute", o_req_p=3)
    shard, far = shard_of(climb.organization.pk), 4 * 10**12
    redis_connection.zadd(f"{{s{shard}}}:z:{climb.organization.pk}:o", {"running": far, "lapsed": 1})
    page = limits_page(climb)
    assert "of 5</span>" in page
    assert "<strong>1</strong> of 7" in page


def test_a_limit_on_trial_is_shown_to_nobody(climb):
    limit(climb, unit="credits", window="day", amount=77_777, is_shadow=True)
    assert "77,777" not in limits_page(climb)
    docs = casting.browser_of(climb.viewer).get("/docs/tiers-and-limits/").content.decode()
    assert "77,777" not in docs


def test_an_exception_is_shown_with_its_end_and_reason(climb):
    overrides.put(
        organization=climb.organization,
        unit="requests",
        window="day",
        amount=5_000,
        reason="For your launch",
        actor="test",
        expires_at=datetime(2031, 1, 2, 3, 4, tzinfo=UTC),
    )
    page = limits_page(climb)
    assert "of 5,000" in page
    assert "2 Jan 2031, 03:04 UTC" in page
    assert "in place of your tier's 1,000" in page
    assert "For your launch" in page


def test_limits_of_keys_and_models_are_shown_apart_the_fullest_first(climb, redis_connection):
    calm, busy, gone = (
        issuing.issue(
            organization=climb.organization,
            name=name,
            actor=climb.owner,
            limits=[{"unit": "requests", "window": "day", "amount": 100}],
        ).key
        for name in ("calm", "busy", "gone")
    )
    issuing.revoke(key=gone, actor=climb.owner)
    model = casting.model(climb.brand, "aion-v3")
    limit(climb, unit="tokens", window="month", amount=9_000, scope="model")
    count(redis_connection, climb.organization, "day", **{f"k{busy.pk}_req_p": 90, f"k{calm.pk}_req_p": 1})
    count(redis_connection, climb.organization, "month", **{f"m{model.pk}_tok_p": 4_500})
    page = limits_page(climb)
    assert page.index("busy") < page.index("aion-v3") < page.index("calm")
    assert "<strong>90</strong> of 100" in page
    assert "<strong>4,500</strong> of 9,000" in page
    assert "gone" not in page.partition("Single keys and models")[2].partition("The ladder")[0]


def test_the_ladder_marks_where_the_account_stands(climb):
    page = limits_page(climb)
    assert page.count("You are here") == 1
    here = page.partition("You are here")[2].partition("</li> </ul>")[0]
    assert "1,000 requests per day" in here
    assert "Auto-upgrade" in page
    assert "Every account starts here" in page


def test_a_tier_that_is_not_listed_is_named_and_offered_to_nobody(climb):
    ladder.save_tier(Tier(brand=climb.brand, rank=9, slug="partner", name="Partner", is_listed=False), actor="test")
    assert "Partner" not in limits_page(climb)
    stand(climb, "partner")
    page = limits_page(climb)
    assert "Partner is a tier of its own" in page
    assert "What unlocks" not in page


def test_the_way_up_says_what_is_missing(climb, redis_connection):
    used(climb.organization, days_ago=1, requests=700)
    used(climb.organization, days_ago=2, requests=599)
    count(redis_connection, climb.organization, "day", o_req_p=420)
    way = limits_page(climb).partition("What unlocks Tier 2")[2].partition("The ladder")[0]
    assert "1 of 3 days" in way
    assert "2 more days like that; today stands at 42 %." in way
    assert '<progress max="100" value="33"' in way
    assert "An owner of this account has to confirm the e-mail address." in way
    assert "done" in way.partition("In good standing")[2]


def test_an_exception_does_not_move_the_next_tier_away(climb, redis_connection):
    """The rule compares with the tier's own limits, and so does what the page says of today."""
    overrides.put(
        organization=climb.organization, unit="requests", window="day", amount=10_000, reason="launch", actor="test"
    )
    count(redis_connection, climb.organization, "day", o_req_p=500)
    page = limits_page(climb)
    assert "5 % used" in page
    assert "today stands at 50 %." in page


def test_when_all_is_there_the_page_says_when(climb, monkeypatch):
    monkeypatch.setattr(upgrade_facts, "_verified_of", [set])
    for days_ago in range(3):
        used(climb.organization, days_ago=days_ago, requests=800)
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    way = limits_page(climb).partition("What unlocks Tier 2")[2]
    assert f'you move up just after <time datetime="{tomorrow}T00:00:00+00:00"' in way


def test_a_tier_without_a_rule_is_given_by_the_brand(climb):
    climb.brand.support_email = "help@dialogix.example"
    climb.brand.save()
    stand(climb, "tier-2")
    way = limits_page(climb).partition("What unlocks Tier 3")[2]
    assert "is given by Dialogix" in way
    assert "mailto:help@dialogix.example" in way
    stand(climb, "tier-3")
    assert "What unlocks" not in limits_page(climb)


def test_how_an_account_came_here_has_reasons_and_facts(climb, monkeypatch):
    monkeypatch.setattr(upgrade_facts, "_verified_of", [set])
    opened_at = datetime.now(UTC) - timedelta(days=4)
    Organization.objects.filter(pk=climb.organization.pk).update(created_at=opened_at)
    for days_ago in range(1, 4):
        used(climb.organization, days_ago=days_ago, requests=800)
    rules_since(climb.brand, opened_at)
    (change,) = upgrades.judge_night(climb.brand, datetime.now(UTC).date() - timedelta(days=1))
    past = limits_page(climb).partition("How you came here")[2]
    assert past.index("Moved up from Tier 1 to Tier 2") < past.index("Started on Tier 1")
    assert change.reason in past
    assert "version 1" in past
    assert "on 3 of the last 7 days: it was 3" in past
    assert "The account was opened" in past


def test_an_account_without_a_tier_lives_on_its_balance(cast):
    page = limits_page(cast)
    assert "No limits but the balance." in page
    assert "No changes yet" in page
    assert "Spend today" in page


def test_what_is_left_of_the_plan_is_on_the_overview(climb, redis_connection):
    count(redis_connection, climb.organization, "day", o_req_p=420, o_tok_p=50_000)
    page = limits_page(climb, path="")
    assert "580 requests left today" in page
    assert "200,000 tokens left today" in page


def test_the_page_asks_as_much_of_the_database_for_many_keys_as_for_one(climb, django_assert_num_queries):
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    client, path = casting.browser_of(climb.viewer), f"/{climb.organization.public_id}/limits/"
    counts: list[int] = []
    for _ in range(2):
        for number in range(4):
            issuing.issue(organization=climb.organization, name=f"k{number}", actor=climb.owner)
        limit(climb, unit="tokens" if counts else "requests", window="day", amount=5, scope="key")
        with CaptureQueriesContext(
            connection,
        ) as queries:
            client.get(path)
        counts.append(len(queries))
    assert counts[0] == counts[1]


# what the account is told --------------------------------------------------------------------------------------------


def save_alerts(cast, who, **fields):
    return casting.browser_of(who).post(f"/{cast.organization.public_id}/limits/", fields)


def test_an_owner_chooses_when_to_be_written_to(climb):
    limit(climb, unit="tokens", window="month", amount=9_000_000)
    form = limits_page(climb, who=climb.owner).partition("Mails when a limit")[2]
    assert 'value="80, 100"' in form
    assert re.search(r'value="organization.tokens.month"[^>]*checked', form)
    assert not re.search(r'value="organization.requests.day"[^>]*checked', form)
    answer = save_alerts(climb, climb.owner, percents="50 %, 90", limits=["organization.requests.day"])
    assert answer.status_code == 302
    form = limits_page(climb, who=climb.owner).partition("Mails when a limit")[2]
    assert 'value="50, 90"' in form
    assert re.search(r'value="organization.requests.day"[^>]*checked', form)
    seen = limits_page(climb).partition("Mails when a limit")[2].partition("How you came here")[0]
    assert "at 50, 90 % of: requests per day;" in seen
    assert "<form" not in seen


@pytest.mark.parametrize("percents", ["0", "101", "eighty", "1 2 3 4 5 6 7 8 9 10 11"])
def test_a_percentage_that_makes_no_sense_is_refused_beside_its_field(climb, percents):
    answer = save_alerts(climb, climb.owner, percents=percents, limits=["organization.requests.day"])
    assert answer.status_code == 400
    assert 'id="id_percents_error"' in answer.content.decode()


@pytest.mark.parametrize("who", ["member", "viewer"])
def test_others_see_and_do_not_choose(climb, who):
    answer = save_alerts(climb, getattr(climb, who), percents="50", limits=["organization.requests.day"])
    assert answer.status_code == 403
    assert not AlertPreference.objects.exists()


def test_the_mail_says_it_in_the_brands_unit_with_a_link(climb):
    climb.brand.hosts = ["acme.example"]
    climb.brand.timezone = "Europe/Zurich"
    climb.brand.save()
    now = datetime(2026, 11, 21, 12, tzinfo=UTC)
    alerts.choose(
        organization=climb.organization, percents=[80, 100], limits=["organization.requests.day"], actor="test"
    )
    for requests in (850, 1_000):
        UsageDay.objects.all().delete()
        used_on(climb.organization, now.date(), requests=requests)
        alerts.judge_all(now)
        notify.deliver(now=now)
    nearly, up = [message for message in mail.outbox if "1,000 requests per day" in message.subject]
    assert nearly.subject == "80 % used: 1,000 requests per day"
    assert "has used 850 requests of 1,000 requests per day (Tier 1)." in nearly.body
    assert "starts anew 22 Nov 2026, 00:00 Europe/Zurich" in nearly.body
    assert f"https://acme.example/{climb.organization.public_id}/limits/" in nearly.body
    assert up.subject == "Used up: 1,000 requests per day"
    assert "refused until 22 Nov 2026, 00:00 Europe/Zurich" in up.body
    assert up.to == [climb.owner.email]


def test_a_change_of_tier_stands_on_every_page_until_it_is_put_away(climb):
    stand(climb, "tier-2", "Earned by use")
    for path in ("", "usage/", "limits/"):
        page = limits_page(climb, path=path)
        assert "You moved up to Tier 2." in page
        assert "Earned by use" in page
    notice = Notice.objects.get(kind="tier_changed")
    answer = casting.browser_of(climb.viewer).post(
        f"/{climb.organization.public_id}/limits/", {"put_away": notice.pk, "section": "usage"}
    )
    assert answer["Location"] == f"/{climb.organization.public_id}/usage/"
    assert "You moved up" not in limits_page(climb)
    assert "You moved up" in limits_page(climb, who=climb.owner), "others put it away themselves"
    stand(climb, "tier-1", "By contract")
    assert "Your tier is now Tier 1." in limits_page(climb)


@pytest.mark.parametrize("asked", ["", "x", "9" * 30, "-1", "999999"])
def test_putting_away_what_is_not_there_does_nothing(climb, asked):
    stand(climb, "tier-2")
    answer = casting.browser_of(climb.viewer).post(
        f"/{climb.organization.public_id}/limits/", {"put_away": asked, "section": "admin:index"}
    )
    assert answer["Location"] == f"/{climb.organization.public_id}/limits/"
    assert "You moved up" in limits_page(climb)


@pytest.mark.parametrize("pays", ["further", "prepaid"])
def test_what_today_comes_to_counts_as_the_rule_does_whoever_pays(climb, redis_connection, pays):
    if pays == "further":
        organizations.change(organization=climb.organization, actor="operator", is_further=True)
    else:
        Tier.objects.filter(brand=climb.brand).update(payer=Payer.PREPAID)
    count(redis_connection, climb.organization, "day", o_req_p=500)
    assert "today stands at 50 %" in limits_page(climb)
