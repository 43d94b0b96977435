"""Webhooks in the portal: a secret shown once, a log, sending again; admins and owners only."""

from __future__ import annotations

import ipaddress
import re
from datetime import UTC, datetime, timedelta

import pytest
from django.urls import reverse

from billing import webhook_deliveries, webhook_endpoints
from billing.models import Notice
from billing.webhook_models import WebhookDelivery, WebhookEndpoint
from keys import issuing
from keys.models import AuditEvent, Role
from portal import notify
from tests import cast as casting
from tests.billing.receiving import receiver

URL = "https://hooks.example/in"
FORM = {"url": URL, "events": ["balance.low", "key.revoked"], "low_balance": "2.50"}
pytestmark = pytest.mark.django_db


@pytest.fixture
def browser(cast):
    return casting.browser_of(cast.owner)


def path(name, cast, endpoint=None):
    return reverse(name, args=[cast.organization.public_id, *([endpoint.public_id] if endpoint else [])])


def secret_in(answer) -> str:
    (found,) = re.findall(r'<code id="secret"[^>]*>(whsec_[^<]+)</code>', answer.content.decode())
    return str(found)


@pytest.fixture
def endpoint(cast) -> WebhookEndpoint:
    return webhook_endpoints.add(
        organization=cast.organization, url=URL, events=["key.revoked"], low_balance_nanos=5, actor=cast.owner
    )[0]


def test_an_endpoint_is_added_and_its_secret_shown_once(cast, browser):
    assert browser.get(path("webhook_new", cast)).status_code == 200
    answer = browser.post(path("webhook_new", cast), FORM)
    assert answer.status_code == 201
    secret = secret_in(answer)
    row = WebhookEndpoint.objects.get()
    assert webhook_endpoints.secrets_of(row, datetime.now(UTC)) == [secret]
    assert (row.url, row.events, row.low_balance_nanos) == (URL, FORM["events"], 2_500_000_000)
    for name, one in (("webhooks", None), ("webhook", row), ("webhook_rotate", row), ("activity", None)):
        page = browser.get(path(name, cast, one)).content.decode()
        assert secret not in page
        assert secret.removeprefix("whsec_") not in page
    assert AuditEvent.objects.get(action="webhook.added").actor == cast.owner


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("url", "http://hooks.example/", "begins with https://"),
        ("url", "https://10.0.0.1/", "private network"),
        ("url", "https://[::1]/", "private network"),
        ("events", [], "required"),
        ("low_balance", "much", "plain decimal"),
    ],
)
def test_what_no_endpoint_may_be_is_said_at_its_field(cast, browser, field, value, words):
    answer = browser.post(path("webhook_new", cast), {**FORM, field: value})
    assert words in answer.content.decode()
    assert not WebhookEndpoint.objects.exists()


def test_it_is_changed_turned_off_and_on_and_removed(cast, browser, endpoint):
    page = path("webhook", cast, endpoint)
    browser.post(page, {**FORM, "url": URL + "/two"})
    endpoint.refresh_from_db()
    assert (endpoint.url, endpoint.events) == (URL + "/two", FORM["events"])
    for act, on in (("off", False), ("on", True)):
        browser.post(page, {"act": act})
        endpoint.refresh_from_db()
        assert endpoint.is_enabled is on
    assert browser.post(page, {"act": "remove"})["Location"] == path("webhooks", cast)
    assert not WebhookEndpoint.objects.exists()
    assert browser.get(page).status_code == 404


def test_a_second_secret_signs_beside_the_first(cast, browser, endpoint):
    (old,) = webhook_endpoints.secrets_of(endpoint, datetime.now(UTC))
    answer = browser.post(path("webhook_rotate", cast, endpoint), {"overlap_hours": "24"})
    assert "goes on signing until" in answer.content.decode()
    endpoint.refresh_from_db()
    assert webhook_endpoints.secrets_of(endpoint, datetime.now(UTC)) == [secret_in(answer), old]
    assert webhook_endpoints.secrets_of(endpoint, datetime.now(UTC) + timedelta(days=1)) == [secret_in(answer)]


def test_the_log_shows_answers_harmlessly_and_sends_again(cast, browser, settings):
    settings.WEBHOOK_NETWORKS, settings.WEBHOOK_HTTP = [ipaddress.ip_network("127.0.0.0/8")], True
    with receiver() as there:
        there.answers.append((500, {}, b"<script>alert(1)</script>"))
        endpoint, _ = webhook_endpoints.add(
            organization=cast.organization, url=there.url, events=["key.revoked"], actor=cast.owner
        )
        page = path("webhook", cast, endpoint)
        issued = issuing.issue(organization=cast.organization, name="server", actor=cast.owner)
        issuing.revoke(key=issued.key, actor=cast.owner)
        webhook_deliveries.send_due()
        shown = browser.get(page).content.decode()
        row = WebhookDelivery.objects.get()
        assert row.event_id in shown
        assert "&lt;script&gt;" in shown
        assert "<script>alert" not in shown
        assert "Failing" in shown
        browser.post(page, {"act": "again", "delivery": row.pk})
        webhook_deliveries.send_due()
        assert [headers["webhook-id"] for _, headers, _ in there.requests] == [row.event_id] * 2
        assert "Delivered" in browser.get(page).content.decode()
        browser.post(page, {"act": "test"})
        webhook_deliveries.send_due()
        assert b'"webhook.test"' in there.requests[-1][2]


def test_a_delivery_of_another_endpoint_is_not_sent_again(cast, browser, endpoint):
    other, _ = webhook_endpoints.add(organization=cast.elsewhere, url=URL, events=["key.revoked"], actor="tests")
    row = webhook_deliveries.send_test(other, actor="tests")
    WebhookDelivery.objects.update(state="failed")
    for number in (row.pk, "", "x", "9" * 30):
        answer = browser.post(path("webhook", cast, endpoint), {"act": "again", "delivery": number})
        assert answer.status_code == 404
    row.refresh_from_db()
    assert row.state == "failed"


def test_only_admins_find_them(cast, browser):
    casting.join(admin := casting.person("admin"), cast.organization, Role.ADMIN)
    billing = casting.person("billing")
    casting.join(billing, cast.organization, Role.BILLING)
    link = f'href="{path("webhooks", cast)}"'
    for person, sees in ((cast.owner, True), (admin, True), (cast.member, False), (billing, False)):
        one = casting.browser_of(person)
        assert (link in one.get(path("keys", cast)).content.decode()) is sees
        assert one.get(path("webhooks", cast)).status_code == (200 if sees else 403)
        if not sees:
            assert one.post(path("webhook_new", cast), FORM).status_code == 403


def test_who_looks_after_the_account_hears_that_an_endpoint_is_off(cast, endpoint, mailoutbox):
    webhook_endpoints.failed(endpoint, "HTTP 500", datetime.now(UTC) - timedelta(days=6))
    webhook_endpoints.failed(endpoint, "HTTP 500", datetime.now(UTC))
    assert Notice.objects.get().kind == "webhook_disabled"
    notify.deliver(now=datetime.now(UTC))
    (mail,) = mailoutbox
    assert mail.subject == f"Webhooks of Acme to {URL} are turned off"
    assert "The last try: HTTP 500" in mail.body
