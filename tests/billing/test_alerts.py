"""Shares of limits that are reached are told once, by whichever counter knows, however many beats look."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection
from redis import Redis

from billing import alerts, ladder, overrides, tasks
from billing.models import LimitAlert, Notice, Tier, TierLimit, UsageDay
from billing.windows import window_at
from keys.caller import shard_of
from keys.models import AuditEvent, Organization
from tests import cast
from tests.billing.climbing import used

pytestmark = pytest.mark.django_db(transaction=True)
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
DAY = "organization.requests.day"


@pytest.fixture
def brand():
    """One tier in Zurich: 1,000 requests a day, 10,000 tokens a month, three trials and a pace."""
    found = cast.brand(timezone="Europe/Zurich")
    tier = ladder.save_tier(
        Tier(brand=found, rank=1, slug="free", name="Free", payer="included", is_default=True), actor="test"
    )
    for fields in (
        {"unit": "requests", "window": "day", "amount": 1_000},
        {"unit": "tokens", "window": "month", "amount": 10_000},
        {"unit": "credits", "window": "month", "amount": 1, "is_shadow": True},
        {"unit": "requests", "window": "minute", "amount": 1},
    ):
        ladder.save_limit(TierLimit(tier=tier, **fields), actor="test")
    return found


@pytest.fixture
def organization(brand) -> Organization:
    return cast.organization(brand)


def told(organization):
    notices = Notice.objects.filter(organization=organization, kind="limit_alert").order_by("pk")
    return [(notice.payload["unit"], notice.payload["window"], notice.payload["percent"]) for notice in notices]


def ask_for(organization, *percents, limits=(DAY,)):
    alerts.choose(organization=organization, percents=percents, limits=limits, actor="test")


def test_each_share_is_told_once_in_each_window(organization):
    ask_for(organization, 50, 80, 100)
    used(organization, NOW.date(), requests=499)
    alerts.judge_all(NOW)
    assert told(organization) == []
    for requests, so_far in ((500, [50]), (799, [50]), (800, [50, 80]), (1_000, [50, 80, 100]), (1_001, [50, 80, 100])):
        UsageDay.objects.filter(organization_id=organization.pk).update(requests=requests)
        alerts.judge_all(NOW)
        alerts.judge_all(NOW + timedelta(minutes=1))
        assert told(organization) == [("requests", "day", percent) for percent in so_far]
    tomorrow = NOW + timedelta(days=1)
    alerts.judge_all(tomorrow)
    assert len(told(organization)) == 3
    used(organization, tomorrow.date(), requests=510)
    alerts.judge_all(tomorrow)
    assert told(organization)[3:] == [("requests", "day", 50)]


def test_shares_reached_together_are_one_mail_about_the_highest(organization):
    ask_for(organization, 50, 80, 100)
    used(organization, NOW.date(), requests=850)
    alerts.judge_all(NOW)
    assert told(organization) == [("requests", "day", 80)]
    assert sorted(LimitAlert.objects.values_list("percent", flat=True)) == [50, 80]


def test_two_beats_at_once_tell_once(brand):
    crowd = [cast.organization(brand) for _ in range(12)]
    for organization in crowd:
        ask_for(organization, 50, 80)
        used(organization, NOW.date(), requests=900)

    def beat(_):
        try:
            return len(alerts.judge_all(NOW))
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(beat, range(4)))
    assert sum(found) == 24
    assert all(told(organization) == [("requests", "day", 80)] for organization in crowd)


def test_the_database_refuses_a_second_row_for_the_same_share(organization):
    ask_for(organization, 80)
    used(organization, NOW.date(), requests=800)
    (alert,) = alerts.judge_all(NOW)
    alert.pk = None
    with pytest.raises(IntegrityError, match="limit_alert_once"):
        alert.save(force_insert=True)


def test_without_a_choice_months_are_told_and_days_are_not(organization):
    used(organization, NOW.date(), requests=1_000, tokens=8_000)
    alerts.judge_all(NOW)
    assert told(organization) == [("tokens", "month", 80)]


def test_who_wants_none_is_told_none(organization):
    ask_for(organization)
    used(organization, NOW.date(), requests=1_000, tokens=10_000)
    assert alerts.judge_all(NOW) == []


def test_a_raised_limit_is_another_limit(organization):
    ask_for(organization, 80)
    used(organization, NOW.date(), requests=900)
    alerts.judge_all(NOW)
    overrides.put(organization=organization, unit="requests", window="day", amount=2_000, reason="launch", actor="test")
    alerts.judge_all(NOW)
    assert len(told(organization)) == 1
    UsageDay.objects.filter(organization_id=organization.pk).update(requests=1_600)
    alerts.judge_all(NOW)
    assert len(told(organization)) == 2


def test_what_redis_knows_counts_before_the_books_do(organization, redis_connection):
    ask_for(organization, 80)
    used(organization, NOW.date(), requests=10)
    shard = shard_of(organization.pk)
    window = window_at(int(NOW.timestamp() * 1000), "day", "Europe/Zurich").id
    redis_connection.set(f"{{s{shard}}}:epoch", "1:run")
    redis_connection.hset(f"{{s{shard}}}:w:{organization.pk}:{window}", mapping={"o.req.p": 800, "o.req.h": 100})
    (alert,) = alerts.judge_all(NOW)
    assert (alert.used, alert.amount, alert.window_id) == (800, 1_000, "d20261121")


def test_a_limit_of_each_key_is_told_by_the_keys_name(organization):
    from keys import issuing

    tier = Tier.objects.get(brand=organization.brand)
    ladder.save_limit(TierLimit(tier=tier, unit="requests", window="day", amount=100, scope="key"), actor="test")
    busy, _calm = (issuing.issue(organization=organization, name=name, actor="test").key for name in ("busy", "calm"))
    ask_for(organization, 80, limits=["key.requests.day"])
    used(organization, NOW.date(), requests=90)
    UsageDay.objects.filter(organization_id=organization.pk).update(key_id=busy.pk)
    alerts.judge_all(NOW)
    (notice,) = Notice.objects.filter(organization=organization)
    assert notice.payload["whose"].startswith("busy (")


def test_a_month_reached_just_before_midnight_is_told_just_after(organization):
    used(organization, NOW.date(), requests=1, tokens=9_000)
    alerts.judge_all(datetime(2026, 11, 21, 23, 30, tzinfo=UTC))  # the 22nd in Zurich
    assert told(organization) == [("tokens", "month", 80)]


@pytest.mark.parametrize("percents", [[0], [101], list(range(1, 12))])
def test_a_choice_that_makes_no_sense_is_refused(organization, percents):
    with pytest.raises(ValidationError):
        ask_for(organization, *percents)


def test_a_choice_is_in_the_trail(organization):
    ask_for(organization, 90, 50, 90)
    event = AuditEvent.objects.get(action="organization.alerts_chosen")
    assert event.after == {"percents": [50, 90], "limits": [DAY]}


def test_many_organizations_cost_as_many_questions_as_one(brand, django_assert_num_queries):
    from django.test.utils import CaptureQueriesContext

    counts = []
    for _ in range(2):
        for _ in range(5):
            used(cast.organization(brand), NOW.date(), requests=1)
        with CaptureQueriesContext(connection) as queries:
            alerts.judge_all(NOW)
        counts.append(len(queries))
    assert counts[0] == counts[1]


def test_the_tasks_look_and_forget(organization, monkeypatch):
    ask_for(organization, 80)
    monkeypatch.setattr("django.utils.timezone.now", lambda: NOW)
    used(organization, NOW.date(), requests=800)
    tasks.tell_of_limits(unknown="argument")
    assert len(told(organization)) == 1
    LimitAlert.objects.update(at=NOW - timedelta(days=71))
    LimitAlert.objects.create(
        organization=organization, limit=DAY, scope="o", window_id="life", amount=1, percent=80, used=1
    )
    LimitAlert.objects.filter(window_id="life").update(at=NOW - timedelta(days=71))
    tasks.forget_old_alerts(unknown="argument")
    assert list(LimitAlert.objects.values_list("window_id", flat=True)) == ["life"]


def test_without_redis_the_books_are_enough(organization, monkeypatch):
    from redis.exceptions import ConnectionError as RedisGone

    def gone(*_args, **_kwargs):
        raise RedisGone("no Redis")

    ask_for(organization, 80)
    used(organization, NOW.date(), requests=800)
    monkeypatch.setattr(Redis, "execute_command", gone)
    monkeypatch.setattr("redis.client.Pipeline.execute", gone)
    alerts.judge_all(NOW)
    assert told(organization) == [("requests", "day", 80)]
