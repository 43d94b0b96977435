"""Events reach a customer's server: signed, once by any number of workers, again after failures, by a clock."""

from __future__ import annotations

import ipaddress
import json
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction

from billing import ladder, ledger, webhook_balances, webhook_deliveries, webhook_endpoints
from billing.models import Grant, Notice, Tier
from billing.webhook_deliveries import PAUSES
from billing.webhook_models import WebhookDelivery, WebhookEndpoint, WebhookEvent
from billing.webhook_sending import Answer
from keys import issuing
from keys.models import AuditEvent
from tests import cast
from tests.billing.receiving import receiver

pytestmark = pytest.mark.django_db(transaction=True)
UNIT = 10**9
PAGE = Path(__file__).resolve().parents[2] / "templates" / "docs" / "webhooks.md"


@pytest.fixture(autouse=True)
def allowed(settings):
    settings.WEBHOOK_NETWORKS, settings.WEBHOOK_HTTP = [ipaddress.ip_network("127.0.0.0/8")], True


@pytest.fixture
def there():
    with receiver() as found:
        yield found


@pytest.fixture
def organization():
    return cast.organization(cast.brand())


@pytest.fixture
def endpoint(organization, there) -> WebhookEndpoint:
    return added(organization, there.url)[0]


def added(organization, url, events=WebhookEvent.values, **fields: Any) -> tuple[WebhookEndpoint, str]:
    return webhook_endpoints.add(organization=organization, url=url, events=events, actor="test", **fields)


def revoke(organization):
    issued = issuing.issue(organization=organization, name="server", actor="test")
    issuing.revoke(key=issued.key, actor="test")
    return issued.key


def verify_of_the_docs():
    """The lines that customers paste."""
    (code,) = re.findall(r"```python Python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    return names["verify"]


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC) + timedelta(seconds=1)

    def __call__(self) -> datetime:
        return self.now


# What is recorded


def test_a_revoked_key_is_told_with_a_signature_that_the_docs_lines_verify(organization, there):
    _endpoint, secret = added(organization, there.url)
    key = revoke(organization)
    assert webhook_deliveries.send_due() == 1
    ((_path, headers, body),) = there.requests
    told = json.loads(body)
    assert told["type"] == "key.revoked"
    assert told["data"] == {
        "organization": organization.public_id,
        "key": key.public_id,
        "name": "server",
        "hint": key.hint,
        "revoked_at": key.revoked_at.isoformat(),
    }
    verify = verify_of_the_docs()
    assert verify(secret, headers, body)
    assert not verify(secret, headers, body + b" ")
    assert not verify("whsec_" + "A" * 43 + "=", headers, body)
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=6)):
        assert not verify(secret, headers, body)


def test_a_key_revoked_twice_or_in_vain_is_told_as_it_happened(organization, endpoint):
    key = revoke(organization)
    issuing.revoke(key=key, actor="test")
    assert WebhookDelivery.objects.count() == 1
    issued = issuing.issue(organization=organization, name="other", actor="test")
    with transaction.atomic():
        issuing.revoke(key=issued.key, actor="test")
        transaction.set_rollback(True)
    assert WebhookDelivery.objects.count() == 1


def test_a_change_of_tier_is_told(organization, endpoint):
    tiers = [Tier(brand=organization.brand, rank=rank, slug=f"t{rank}", name=f"T{rank}") for rank in (1, 2)]
    for tier in tiers:
        ladder.save_tier(tier, actor="test")
        ladder.assign(organization=organization, tier=tier, reason="test", actor="test")
    row = WebhookDelivery.objects.get()
    assert json.loads(row.body)["data"] == {
        "organization": organization.public_id,
        "from": "t1",
        "to": "t2",
        "is_up": True,
    }


def test_only_chosen_events_of_the_own_account_are_recorded(organization, there):
    added(organization, there.url, events=["tier.changed"])
    elsewhere, _ = added(cast.organization(organization.brand), there.url)
    off, _ = added(organization, there.url + "/off")
    webhook_endpoints.turn(endpoint=off, on=False, actor="test")
    revoke(organization)
    assert not WebhookDelivery.objects.exists()
    revoke(elsewhere.organization)
    assert WebhookDelivery.objects.get().endpoint == elsewhere


def test_an_event_is_recorded_once_per_endpoint_and_only_in_a_transaction(organization, endpoint, there):
    added(organization, there.url + "/second")
    revoke(organization)
    first, second = WebhookDelivery.objects.order_by("pk")
    assert first.event_id == second.event_id
    with pytest.raises(IntegrityError, match="webhook_delivery_once"):
        WebhookDelivery.objects.create(endpoint=endpoint, event_id=first.event_id, event="x", body="{}")
    with pytest.raises(transaction.TransactionManagementError):
        webhook_deliveries.record(organization, "key.revoked", {})


# Balances


def pay(organization, units, reference):
    ledger.grant(
        organization=organization,
        amount_nanos=units * UNIT,
        kind=Grant.Kind.PAID,
        reason="x",
        reference=reference,
        actor="test",
    )


def spend(organization, units, reference):
    ledger.adjust(organization=organization, amount_nanos=-units * UNIT, reason="x", reference=reference, actor="test")


def told_of():
    found = []
    for row in WebhookDelivery.objects.order_by("pk"):
        data = json.loads(row.body)["data"]
        found.append((row.event, data["balance"], data["threshold"]))
    return found


def test_each_fall_of_the_balance_is_told_once(organization, there):
    pay(organization, 10, "a")
    added(organization, there.url, low_balance_nanos=5 * UNIT)
    assert webhook_balances.look() == 0
    spend(organization, 5, "b")
    assert webhook_balances.look() == 0  # five is not below five
    spend(organization, 1, "c")
    assert [webhook_balances.look() for _ in range(2)] == [1, 0]
    spend(organization, 4, "d")
    assert [webhook_balances.look() for _ in range(2)] == [1, 0]
    assert told_of() == [("balance.low", "4", "5"), ("balance.exhausted", "0", "0")]
    pay(organization, 3, "e")  # no longer used up, and still low
    assert webhook_balances.look() == 0
    spend(organization, 3, "f")
    assert webhook_balances.look() == 1
    pay(organization, 20, "g")
    webhook_balances.look()
    spend(organization, 20, "h")  # both at once
    assert webhook_balances.look() == 2
    assert [event for event, *_ in told_of()] == [
        *("balance.low", "balance.exhausted", "balance.exhausted", "balance.low", "balance.exhausted")
    ]


def test_an_endpoint_hears_of_no_fall_before_it(organization, there):
    added(organization, there.url, low_balance_nanos=5 * UNIT)
    assert webhook_balances.look() == 0
    pay(organization, 4, "a")
    endpoint = WebhookEndpoint.objects.get()
    webhook_balances.look()
    webhook_endpoints.change(
        endpoint=endpoint, url=there.url, events=["balance.low"], low_balance_nanos=3 * UNIT, actor="test"
    )
    assert webhook_balances.look() == 0
    spend(organization, 2, "b")
    assert webhook_balances.look() == 1


def test_jobs_at_once_tell_of_a_fall_once(organization, there):
    pay(organization, 10, "a")
    for number in range(5):
        added(organization, f"{there.url}/{number}", low_balance_nanos=5 * UNIT)
    spend(organization, 7, "b")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: closed(webhook_balances.look), range(4)))
    assert sum(found) == WebhookDelivery.objects.count() == 5


def closed(work):
    try:
        return work()
    finally:
        connection.close()


# Sending


def test_two_workers_deliver_each_event_once(organization, there):
    for number in range(5):
        added(organization, f"{there.url}/{number}")
    for _ in range(4):
        revoke(organization)
    with ThreadPoolExecutor(4) as pool:
        tried = list(pool.map(lambda _: closed(webhook_deliveries.send_due), range(4)))
    assert sum(tried) == len(there.requests) == 20
    assert len({(path, headers["webhook-id"]) for path, headers, _ in there.requests}) == 20
    assert set(WebhookDelivery.objects.values_list("state", "attempts")) == {("delivered", 1)}


def test_nothing_is_locked_while_an_event_is_sent(organization, endpoint, there):
    """The receiver itself turns the endpoint off, in the middle."""
    revoke(organization)
    there.before_answering = lambda: closed(lambda: webhook_endpoints.turn(endpoint=endpoint, on=False, actor="test"))
    webhook_deliveries.send_due()
    assert WebhookDelivery.objects.get().state == "delivered"
    assert not WebhookEndpoint.objects.get().is_enabled


def test_it_is_sent_again_after_each_pause_and_given_up_after_the_last(organization, endpoint, there):
    webhook_endpoints.FAILING_FOR, kept = timedelta(days=30), webhook_endpoints.FAILING_FOR
    try:
        revoke(organization)
        clock = Clock()
        for number, pause in enumerate(PAUSES, start=1):
            there.answers.append((500, {}, b"not now"))
            assert webhook_deliveries.send_due(clock=clock) == 1
            row = WebhookDelivery.objects.get()
            assert (row.state, row.attempts, row.next_at) == ("waiting", number, clock.now + pause)
            assert (row.answer_status, row.answer) == (500, "not now")
            clock.now = row.next_at - timedelta(milliseconds=1)
            assert webhook_deliveries.send_due(clock=clock) == 0
            clock.now = row.next_at
        there.answers.append((500, {}, b""))
        webhook_deliveries.send_due(clock=clock)
        row.refresh_from_db()
        assert (row.state, row.attempts, row.ended_at) == ("failed", 10, clock.now)
        clock.now += timedelta(days=10)
        assert webhook_deliveries.send_due(clock=clock) == 0
    finally:
        webhook_endpoints.FAILING_FOR = kept
    assert len({headers["webhook-id"] for _, headers, _ in there.requests}) == 1
    assert len({headers["webhook-timestamp"] for _, headers, _ in there.requests}) == 10
    assert sum(PAUSES, timedelta()) > timedelta(days=3)


def test_what_was_given_up_or_taken_is_sent_again_by_hand_as_it_was(organization, endpoint, there):
    revoke(organization)
    webhook_deliveries.send_due()
    row = WebhookDelivery.objects.get()
    assert webhook_deliveries.send_again(row, actor="test")
    there.answers.append((503, {}, b""))
    clock = Clock()
    assert webhook_deliveries.send_due(clock=clock) == 1
    row.refresh_from_db()
    assert (row.state, row.attempts, row.next_at) == ("waiting", 2, clock.now + PAUSES[0])  # all its tries anew
    assert webhook_deliveries.send_again(row, actor="test")
    assert webhook_deliveries.send_due(clock=clock) == 1
    row.refresh_from_db()
    assert (row.state, row.attempts) == ("delivered", 3)
    assert len({(headers["webhook-id"], body) for _, headers, body in there.requests}) == 1
    assert AuditEvent.objects.filter(action="webhook.sent_again").count() == 2


def test_a_sender_that_dies_is_replaced_and_its_late_word_counts_no_more(organization, endpoint, there):
    revoke(organization)
    clock = Clock()
    (dead,) = webhook_deliveries.claim(clock.now)
    assert webhook_deliveries.send_due(clock=clock) == 0
    assert not webhook_deliveries.send_again(dead.delivery, actor="test")
    clock.now += webhook_deliveries.CLAIM
    assert webhook_deliveries.send_due(clock=clock) == 1
    assert not webhook_deliveries.finish(dead, Answer(500, "late"), clock.now)
    row = WebhookDelivery.objects.get()
    assert (row.state, row.attempts, row.answer_status) == ("delivered", 2, 204)


def test_a_broken_endpoint_delays_nobody_elses_and_a_post_that_raises_is_a_failure(organization, endpoint, there):
    other, _ = added(organization, there.url + "/other")
    revoke(organization)
    revoke(organization)

    def post(url, headers, body):
        if url == other.url:
            raise RuntimeError("a bug")
        return Answer(204, "")

    assert webhook_deliveries.send_due(post=post) == 4
    assert set(endpoint.deliveries.values_list("state", flat=True)) == {"delivered"}
    assert set(other.deliveries.values_list("state", "answer")) == {("waiting", "It could not be sent.")}


# Endpoints


def test_both_secrets_sign_until_the_overlap_is_over(organization, there):
    endpoint, old = added(organization, there.url)
    new = webhook_endpoints.rotate(endpoint=endpoint, overlap=timedelta(hours=24), actor="test")
    verify, clock = verify_of_the_docs(), Clock()
    assert old != new
    revoke(organization)
    webhook_deliveries.send_due(clock=clock)
    _, headers, body = there.requests[-1]
    assert verify(old, headers, body)
    assert verify(new, headers, body)
    clock.now += timedelta(hours=25)
    revoke(organization)
    webhook_deliveries.send_due(clock=clock)
    _, headers, body = there.requests[-1]
    with time_machine.travel(clock.now):
        assert verify(new, headers, body)
        assert not verify(old, headers, body)


def test_rotating_without_an_overlap_ends_the_old_secret_at_once(organization, there):
    endpoint, old = added(organization, there.url)
    webhook_endpoints.rotate(endpoint=endpoint, overlap=timedelta(0), actor="test")
    endpoint.refresh_from_db()
    assert old not in webhook_endpoints.secrets_of(endpoint, datetime.now(UTC))


def test_no_secret_stands_in_the_database_or_the_trail(organization, there):
    endpoint, secret = added(organization, there.url)
    endpoint.refresh_from_db()
    assert secret not in endpoint.secret_sealed
    assert secret not in "".join(str(event.after) for event in AuditEvent.objects.all())


def test_an_endpoint_that_fails_for_days_is_turned_off_with_a_mail(organization, endpoint, there):
    clock = Clock()
    revoke(organization)
    there.answers += [(500, {}, b"")] * 2
    webhook_deliveries.send_due(clock=clock)
    clock.now += webhook_endpoints.FAILING_FOR
    webhook_deliveries.send_due(clock=clock)
    endpoint.refresh_from_db()
    assert (endpoint.is_enabled, endpoint.disabled_because) == (False, "HTTP 500")
    notice = Notice.objects.get(kind="webhook_disabled")
    assert notice.payload["url"] == endpoint.url
    clock.now += timedelta(days=1)
    assert webhook_deliveries.send_due(clock=clock) == 0
    webhook_endpoints.turn(endpoint=endpoint, on=True, actor="test")
    assert webhook_deliveries.send_due(clock=clock) == 1
    endpoint.refresh_from_db()
    assert (endpoint.is_enabled, endpoint.failing_since, endpoint.disabled_because) == (True, None, "")


def test_one_success_ends_the_failing(organization, endpoint, there):
    clock = Clock()
    revoke(organization)
    there.answers.append((500, {}, b""))
    webhook_deliveries.send_due(clock=clock)
    endpoint.refresh_from_db()
    assert endpoint.failing_since == clock.now
    clock.now += PAUSES[0]
    webhook_deliveries.send_due(clock=clock)
    endpoint.refresh_from_db()
    assert endpoint.failing_since is None


def test_an_endpoint_that_is_gone_is_turned_off_at_once(organization, endpoint, there):
    there.answers.append((410, {}, b""))
    revoke(organization)
    webhook_deliveries.send_due()
    endpoint.refresh_from_db()
    assert not endpoint.is_enabled


def test_a_failed_test_is_not_tried_again_and_harms_nothing(organization, endpoint, there):
    webhook_deliveries.send_test(endpoint, actor="test")
    there.answers.append((410, {}, b""))
    webhook_deliveries.send_due()
    row = WebhookDelivery.objects.get()
    assert (row.event, row.state) == ("webhook.test", "failed")
    endpoint.refresh_from_db()
    assert endpoint.is_enabled


def test_an_endpoint_removed_while_an_event_is_sent_is_gone(organization, endpoint, there):
    revoke(organization)
    there.before_answering = lambda: closed(lambda: webhook_endpoints.remove(endpoint=endpoint, actor="test"))
    assert webhook_deliveries.send_due() == 1
    assert not WebhookDelivery.objects.exists()


def test_what_no_endpoint_may_be(organization, there, settings):
    wrong: tuple[dict[str, Any], ...] = (
        {"events": []},
        {"events": ["no.such"]},
        {"low_balance_nanos": -1},
        {"url": "ftp://x.example"},
    )
    for fields in wrong:
        with pytest.raises(ValidationError):
            added(organization, **{"url": there.url, **fields})
    added(organization, there.url)
    with pytest.raises(ValidationError, match="already"):
        added(organization, there.url)
    for number in range(webhook_endpoints.ENDPOINTS_MAX - 1):
        added(organization, f"{there.url}/{number}")
    with pytest.raises(ValidationError, match="at most 10"):
        added(organization, there.url + "/more")
    settings.WEBHOOK_NETWORKS = []
    with pytest.raises(ValidationError, match="private network"):
        added(cast.organization(organization.brand), there.url)


def test_the_log_is_forgotten_after_a_month_but_what_still_waits(organization, endpoint, there):
    revoke(organization)
    webhook_deliveries.send_due()
    revoke(organization)
    assert webhook_deliveries.forget(datetime.now(UTC)) == 0
    assert webhook_deliveries.forget(datetime.now(UTC) + timedelta(days=31)) == 1
    assert WebhookDelivery.objects.get().state == "waiting"
    webhook_endpoints.turn(endpoint=endpoint, on=False, actor="test")
    assert webhook_deliveries.forget(datetime.now(UTC) + timedelta(days=31)) == 1
