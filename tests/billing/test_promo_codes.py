"""Codes are claimed atomically: no more often than they may be, and once per customer."""

from __future__ import annotations

import importlib
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from billing import ledger, promo_codes
from billing.models import Grant, PromoClaim, PromoCode
from billing.wallet_models import PromoClaimant
from keys.models import AuditEvent, Role
from tests import cast
from tests.billing.test_ledger import assert_books_balance

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def house():
    return cast.brand()


def code(house, **fields):
    values = {"brand": house, "code": "LAUNCH-26", "amount_nanos": 5 * 10**9, "claims_max": 1}
    made = PromoCode(**(values | fields))
    promo_codes.save(made, actor="test")
    return made


def claim(organization, text="launch-26"):
    return promo_codes.claim(organization=organization, code=text, actor="test")


def test_a_code_gives_its_credit_once_to_each_customer(house):
    code(house, claims_max=2, credit_days=30)
    first, second, third = (cast.organization(house) for _ in range(3))
    grant = claim(first, " Launch-26 ")
    assert (grant.kind, grant.amount_nanos, grant.reason) == ("promotional", 5 * 10**9, "Code LAUNCH-26")
    assert timedelta(days=29) < grant.expires_at - timezone.now() < timedelta(days=31)
    with pytest.raises(promo_codes.NotClaimed, match="has used this code"):
        claim(first)
    claim(second)
    with pytest.raises(promo_codes.NotClaimed, match="not valid"):
        claim(third)
    assert [ledger.balance_nanos(one) for one in (first, second, third)] == [5 * 10**9, 5 * 10**9, 0]
    assert PromoCode.objects.get().claimed == PromoClaim.objects.count() == 2


def test_fifty_claims_at_once_of_a_code_for_one_give_to_one(house):
    code(house)
    customers = [cast.organization(house) for _ in range(50)]
    start = threading.Barrier(10)

    def ask(some):
        start.wait()
        try:
            return [_outcome(customer) for customer in some]
        finally:
            connection.close()

    def _outcome(customer):
        try:
            return claim(customer).organization_id
        except promo_codes.NotClaimed:
            return None

    with ThreadPoolExecutor(10) as pool:
        answers = [one for some in pool.map(ask, [customers[n::10] for n in range(10)]) for one in some]
    assert len(answers) == 50
    assert len([one for one in answers if one]) == 1
    assert Grant.objects.count() == PromoClaim.objects.count() == 1
    assert_books_balance()


def test_fifty_claims_at_once_by_one_customer_give_once(house):
    code(house, claims_max=100)
    customer = cast.organization(house)
    start = threading.Barrier(10)

    def ask(_):
        start.wait()
        given = 0
        try:
            for _try in range(5):
                try:
                    claim(customer)
                    given += 1
                except promo_codes.NotClaimed:
                    pass
        finally:
            connection.close()
        return given

    with ThreadPoolExecutor(10) as pool:
        assert sum(pool.map(ask, range(10))) == 1
    assert ledger.balance_nanos(customer) == 5 * 10**9


def test_a_code_of_another_brand_or_past_its_end_is_not_valid(house):
    code(house, expires_at=timezone.now() + timedelta(hours=1))
    with pytest.raises(promo_codes.NotClaimed, match="not valid"):
        claim(cast.organization(cast.brand()))
    PromoCode.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    for text in ("LAUNCH-26", "NOBODYS", "", "x" * 500):
        with pytest.raises(promo_codes.NotClaimed, match="not valid"):
            claim(cast.organization(house), text)


def test_wrong_codes_are_refused_where_they_are_made(house):
    for wrong in ({"code": "ab"}, {"code": "naïve"}, {"amount_nanos": 0}, {"claims_max": -1}):
        with pytest.raises(ValidationError):
            code(house, **wrong)
    made = code(house, claims_max=3)
    with pytest.raises(ValidationError):
        code(house)
    claim(cast.organization(house))
    made.claims_max = 0
    with pytest.raises(ValidationError):
        promo_codes.save(made, actor="test")
    made.claims_max = 1
    promo_codes.save(made, actor="test")
    assert AuditEvent.objects.filter(action="promo_code.changed").count() == 1
    with pytest.raises(IntegrityError), transaction.atomic():
        PromoCode.objects.update(claimed=2)


def owned(house, person):
    organization = cast.organization(house)
    cast.join(person, organization, Role.OWNER)
    return organization


def test_a_person_claims_a_code_once_by_whatever_alias_or_later_address(house):
    code(house, claims_max=100)
    ada = cast.person(email="ada@gmail.com")
    claim(owned(house, ada))
    ada.email = "ada@new.example"
    ada.save()
    for email in ("a.da@gmail.com", '"ada"@gmail.com', "ada+2@new.example"):
        with pytest.raises(promo_codes.NotClaimed, match="for another account"):
            claim(owned(house, cast.person(email=email)))
    with pytest.raises(promo_codes.NotClaimed, match="for another account"):
        claim(owned(house, ada))
    claim(owned(house, cast.person(email="bob@gmail.com")))
    assert Grant.objects.count() == 2
    PromoCode.objects.update(claimed=0)
    with pytest.raises(promo_codes.NotClaimed, match="address that they keep"):
        claim(owned(house, cast.person(email="x@mailinator.com")))


def test_aliases_that_claim_at_the_same_moment_have_it_once(house):
    code(house, claims_max=100)
    customers = [owned(house, cast.person(email=f"ada+{number}@example.com")) for number in range(6)]

    def ask(customer):
        try:
            return bool(claim(customer))
        except promo_codes.NotClaimed:
            return False
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(ask, customers)) == 1
    assert Grant.objects.count() == 1


def test_the_database_holds_one_claim_for_each_mailbox_and_person(house):
    code(house, claims_max=9)
    ada = cast.person(email="ada@example.com")
    claim(owned(house, ada))
    known = PromoClaimant.objects.get()
    for mailbox, user in ((known.mailbox, None), ("other@example.com", ada)):
        with pytest.raises(IntegrityError), transaction.atomic():
            PromoClaimant.objects.create(code=known.code, claim=known.claim, mailbox=mailbox, user=user)


def test_claims_of_before_are_their_owners(house):
    code(house, claims_max=9)
    ada = cast.person(email="ada@example.com")
    claim(owned(house, ada))
    PromoClaimant.objects.all().delete()
    with connection.cursor() as cursor:
        cursor.execute(importlib.import_module("billing.migrations.0027_once_per_person").CLAIMANTS)
    assert list(PromoClaimant.objects.values_list("mailbox", "user")) == [("ada@example.com", ada.pk)]
