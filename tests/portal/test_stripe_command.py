"""`manage.py stripe_account`: a brand's account, its webhooks, refunds. Secrets are never words of the command."""

import io
import sys
from datetime import UTC, datetime

import pytest
from django.core.management import CommandError, call_command

from billing import stripe_accounts, stripe_gateway, top_ups
from tests import cast
from tests.stripes import KEY, begin, connected, credited, fake_stripe

pytestmark = pytest.mark.django_db


@pytest.fixture
def till(monkeypatch):
    with fake_stripe() as running:
        made = stripe_gateway.Gateway
        monkeypatch.setattr(stripe_gateway, "RETRIES", 0)
        monkeypatch.setattr(
            stripe_gateway, "Gateway", lambda key, api_base="": made(key, api_base=api_base or running.base_url)
        )
        yield running


@pytest.fixture
def brand():
    return cast.brand(slug="acme")


def run(capsys, monkeypatch, *words, typed=""):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{typed}\n"))
    call_command("stripe_account", "--brand", "acme", *words)
    return capsys.readouterr().out


def test_an_account_is_connected_and_heard(till, brand, capsys, monkeypatch):
    said = run(capsys, monkeypatch, "connect", "--tax", typed=KEY)
    account = stripe_accounts.active(brand)
    assert "acme is paid through acct_" in said
    assert f"/webhooks/stripe/{account.public_id}/" in said
    assert "the poller alone" in said
    assert account.automatic_tax
    said += run(capsys, monkeypatch, "webhook", typed="whsec_1")
    assert "Signing secrets kept: 1" in said
    account.refresh_from_db()
    assert stripe_accounts.webhook_secrets(account) == ("whsec_1",)
    assert "test mode" in run(capsys, monkeypatch, "show")
    assert KEY not in said
    run(capsys, monkeypatch, "disconnect")
    with pytest.raises(CommandError, match="takes no payments by card"):
        run(capsys, monkeypatch, "show")


@pytest.mark.parametrize(("typed", "said"), [("pk_test_1", "begins with sk_live_"), ("", "begins with sk_live_")])
def test_a_wrong_key_is_refused_in_words(till, brand, capsys, monkeypatch, typed, said):
    with pytest.raises(CommandError, match=said):
        run(capsys, monkeypatch, "connect", typed=typed)


def test_a_key_that_stripe_does_not_know(till, brand, capsys, monkeypatch):
    with pytest.raises(CommandError, match="does not know this secret key"):
        run(capsys, monkeypatch, "connect", typed="sk_live_x")


def test_a_payment_is_given_back(till, brand, capsys, monkeypatch):
    connected(till, brand)
    row = begin(cast.organization(brand, slug="works"))
    till.post(row.checkout_url, card="pm_card_visa")
    top_ups.look(row, datetime.now(UTC))
    said = run(capsys, monkeypatch, "refund", row.public_id, "--credit", "10.00", "--reason", "asked for")
    assert "works: $10.00 of credit taken back" in said
    assert (credited(row.organization), till.money()) == (1500, 1500)
    with pytest.raises(CommandError, match="more than is left"):
        run(capsys, monkeypatch, "refund", row.public_id, "--credit", "20", "--reason", "x")
    with pytest.raises(CommandError, match="has no top-up"):
        run(capsys, monkeypatch, "refund", "top_x", "--reason", "x")
