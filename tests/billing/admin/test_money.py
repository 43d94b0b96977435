"""Grants, transfers, adjustments and codes, through the ledger."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import pytest

from billing import ledger
from billing.models import (
    CounterChange,
    Grant,
    Posting,
    PromoCode,
)
from tests.billing.admin.forms import fields_of, noted, refused, said_on, saved

pytestmark = pytest.mark.django_db


def test_a_grant_is_posted_by_the_ledger_and_a_form_sent_twice_gives_once(browser, who):
    url = "/admin/billing/grant/add/"
    sent = fields_of(browser.get(url))
    sent |= {"organization": who.organization.pk, "amount": "2.50", "kind": "compensation", "reason": "Outage"}
    balance = ledger.balance_nanos(who.organization)
    for _ in range(2):
        assert browser.post(url, sent).status_code == 302
    assert ledger.balance_nanos(who.organization) == balance + 2_500_000_000
    assert CounterChange.objects.filter(balance_nanos=2_500_000_000).count() == 1
    grant = Grant.objects.latest("id")
    assert grant.posting.kind == Posting.Kind.GRANT
    assert noted("grant.given").address == "127.0.0.1"
    page = browser.post(url, {**sent, "amount": "3"}, follow=True)
    assert "posted already" in said_on(page)[-1]
    assert "Compensation credit of 2.50 to" in said_on(browser.post(url, sent, follow=True))[-1], "no nanos"
    page = browser.post(url, {**sent, "amount": "9223372036", "reference": uuid4()}, follow=True)
    assert "larger than the books can hold" in said_on(page)[-1]
    assert ledger.balance_nanos(who.organization) == balance + 2_500_000_000
    for amount in ("0", "-1", "ten"):
        assert "amount" in refused(browser, url, **{**sent, "amount": amount})


def test_a_bank_transfer_is_paid_credit_under_its_own_reference(browser, who):
    url = "/admin/billing/grant/add/"
    sent = {"organization": who.organization.pk, "amount": "100", "reason": "Transfer", "payment": "INV  7"}
    assert "payment" in refused(browser, url, **sent, kind="promotional")
    given = {**sent, "kind": "paid", "priority": "2", "expires_at_0": "2099-01-01", "expires_at_1": "00:00:00"}
    saved(browser, url, **given)
    twice = refused(browser, url, **given)["payment"]
    assert "Recorded already: Paid credit of 100.00 to" in twice[0], "two forms, one transfer"
    grant = Grant.objects.latest("id")
    assert grant.posting.reference == f"bank:{who.brand.pk}:INV 7"
    assert (grant.posting.kind, grant.priority) == (Posting.Kind.TOP_UP, 2)
    assert grant.expires_at == datetime(2099, 1, 1, tzinfo=UTC)
    assert Posting.objects.filter(reference__startswith="bank:").count() == 1
    assert "expires_at" in refused(
        browser, url, **sent, kind="paid", expires_at_0="2020-01-01", expires_at_1="00:00:00"
    )


def test_a_balance_is_adjusted_and_refunded_by_new_entries(browser, who):
    url = "/admin/billing/posting/add/"
    balance = ledger.balance_nanos(who.organization)
    sent = {"organization": who.organization.pk, "memo": "Paid back"}
    saved(browser, url, **sent, kind="refund", takes="1", amount="1.5")
    saved(browser, url, **sent, kind="adjustment", takes="", amount="0.25")
    assert ledger.balance_nanos(who.organization) == balance - 1_250_000_000
    kinds = Posting.objects.order_by("-id").values_list("kind", "memo")[:2]
    assert list(kinds) == [("adjustment", "Paid back"), ("refund", "Paid back")]
    assert noted("balance.moved").address == "127.0.0.1"
    assert "takes" in refused(browser, url, **sent, kind="refund", takes="", amount="1")
    assert "amount" in refused(browser, url, **sent, kind="refund", takes="1", amount="0")
    assert "organization" in refused(browser, url, kind="refund", takes="1", amount="1", memo="x")


def test_codes_are_made_and_changed_through_their_writer(browser, who):
    url = "/admin/billing/promocode/add/"
    given = {"brand": who.brand.pk, "code": "spring-26", "amount_nanos": "2.50", "claims_max": "10"}
    assert "code" in refused(browser, url, **{**given, "code": "no spaces!"})
    saved(browser, url, **given)
    made = PromoCode.objects.get(code="SPRING-26")
    assert made.amount_nanos == 2_500_000_000
    saved(browser, f"/admin/billing/promocode/{made.pk}/change/", claims_max="20")
    assert noted("promo_code.changed").after["claims_max"] == 20
