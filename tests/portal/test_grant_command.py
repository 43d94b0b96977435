"""`manage.py grant`: credit by an operator, in the books and in Redis, once per reference."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.core.management import CommandError, call_command

from billing import ledger, rebuild
from billing.models import Grant, Posting
from keys.models import AuditEvent
from tests import cast

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def company(redis_connection):
    rebuild.ensure_epochs(redis_connection)
    return cast.organization(cast.brand(slug="acme"), slug="works")


def run(capsys, *words):
    call_command("grant", "--brand", "acme", *words)
    return capsys.readouterr()


def test_a_grant_is_posted_and_said(company, capsys):
    said = run(capsys, "--organization", company.public_id, "--amount", "10.00", "--reason", "Welcome")
    assert "works: given $10.00" in said.out
    assert "$10.00 now" in said.out
    assert said.err == ""
    grant = Grant.objects.get()
    assert (grant.amount_nanos, grant.kind, grant.reason) == (10 * 10**9, "promotional", "Welcome")
    assert AuditEvent.objects.get(action="grant.given").actor_name == "manage.py grant"


def test_the_same_reference_gives_once(company, capsys):
    words = ("--organization", "works", "--amount", "5", "--reason", "Invoice 7", "--kind", "paid", "--reference", "i7")
    run(capsys, *words)
    run(capsys, *words)
    assert ledger.balance_nanos(company) == 5 * 10**9
    assert Posting.objects.get().kind == Posting.Kind.TOP_UP
    with pytest.raises(CommandError, match="posted already"):
        run(capsys, "--organization", "works", "--amount", "6", "--reason", "x", "--kind", "paid", "--reference", "i7")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--organization", "nobody", "--amount", "1", "--reason", "x"), "no organization 'nobody'"),
        (("--organization", "works", "--amount", "1e3", "--reason", "x"), "plain decimal"),
        (("--organization", "works", "--amount", "0", "--reason", "x"), "positive"),
        (("--organization", "works", "--amount", "0.0000000001", "--reason", "x"), "at most 9 decimals"),
        (("--organization", "works", "--amount", "1", "--reason", " "), "say why"),
        (("--organization", "works", "--amount", "1", "--reason", "x", "--expires", "2020-01-01"), "expired already"),
        (("--organization", "works", "--amount", "1", "--reason", "x", "--expires", "soon"), "no ISO 8601"),
    ],
)
def test_mistakes_give_nothing(company, words, message):
    with pytest.raises(CommandError, match=message):
        call_command("grant", "--brand", "acme", *words)
    assert not Posting.objects.exists()


def test_a_bank_transfer_is_paid_credit_and_counts_once(company, capsys):
    words = ("--organization", "works", "--amount", "5", "--reason", "Transfer", "--bank-transfer", "INV 7")
    run(capsys, *words, "--expires", "2099-01-01")
    run(capsys, *words)
    grant = Grant.objects.get()
    assert (grant.kind, grant.expires_at) == ("paid", datetime(2099, 1, 1, tzinfo=UTC))
    other = cast.organization(company.brand, slug="other")
    with pytest.raises(CommandError, match="posted already"):
        run(capsys, "--organization", "other", *words[2:])
    assert ledger.balance_nanos(other) == 0


def test_a_balance_is_adjusted_once_per_reference(company, capsys):
    whose = ("--brand", "acme", "--organization", "works")
    run(capsys, "--organization", "works", "--amount", "5", "--reason", "Welcome")
    for done in ("done.", "was done before."):
        call_command("adjust", *whose, "--take", "2", "--kind", "refund", "--reason", "Asked for", "--reference", "r1")
        assert f"refund:r1 {done}" in capsys.readouterr().out
    assert ledger.balance_nanos(company) == 3 * 10**9
    for wrong in (["--give", "1", "--kind", "refund", "--reason", "x"], ["--take", "0", "--reason", "x"]):
        with pytest.raises(CommandError):
            call_command("adjust", *whose, *wrong)
