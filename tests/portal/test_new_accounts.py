import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.core import mail
from django.db import connections

from billing.models import Grant, LedgerAccount, Payer, Tier, TierAssignment
from keys.models import Brand, Membership, Organization, Role, User
from portal import accounts
from tests import cast as casting

NEW = {"email": "ada@example.com", "password1": "a long enough sentence"}


def join_up(client, prefix="", **fields):
    client.post(f"{prefix}/accounts/signup/", {**NEW, **fields})
    (path,) = re.findall(r"http://testserver(/\S+)", str(mail.outbox[-1].body))
    return client.post(path)


@pytest.fixture
def generous(house: Brand) -> Brand:
    Tier.objects.create(brand=house, rank=1, slug="free", name="Free", payer=Payer.PREPAID, is_default=True)
    house.sign_up_grant_nanos = 5 * 10**9
    house.save()
    return house


def test_a_confirmed_person_owns_a_new_account_on_the_default_tier_with_the_credit(client, generous):
    answer = join_up(client)
    organization = Organization.objects.get()
    assert answer["Location"] == "/"
    assert client.get("/")["Location"] == f"/{organization.public_id}/"
    member = Membership.objects.get()
    assert (member.user.email, member.role, organization.brand) == ("ada@example.com", Role.OWNER, generous)
    assert TierAssignment.objects.get().tier.slug == "free"
    assert Grant.objects.get().amount_nanos == 5 * 10**9
    assert LedgerAccount.objects.get(organization=organization, kind="wallet").balance_nanos == 5 * 10**9


def test_nothing_is_given_before_the_address_is_confirmed(client, generous):
    client.post("/accounts/signup/", NEW)
    assert not Organization.objects.exists()
    assert not Grant.objects.exists()


def test_the_account_is_of_the_brand_whose_page_was_used(client, generous):
    other = casting.brand(name="Axione")
    join_up(client, f"/{other.slug}")
    assert Organization.objects.get().brand == other
    assert not Grant.objects.exists()


def test_a_person_of_another_brand_opens_an_account_with_one_button(client, generous):
    other = casting.brand(name="Axione")
    join_up(client, f"/{other.slug}")
    page = client.get("/").content.decode()
    assert "have no account here yet" in page
    client.post("/open/")
    assert Organization.objects.filter(brand=generous).count() == 1
    client.post("/open/")
    assert Organization.objects.filter(brand=generous).count() == 1


def test_the_credit_is_given_once_to_a_person(client, generous):
    join_up(client)
    Membership.objects.all().delete()
    client.post("/open/")
    assert Organization.objects.count() == 2
    assert Grant.objects.count() == 1


def test_a_brand_by_invitation_opens_no_account(client, generous):
    closed = casting.brand(sign_up=Brand.SignUp.INVITE)
    join_up(client)
    assert "by invitation" in client.get(f"/{closed.slug}/").content.decode()
    client.post(f"/{closed.slug}/open/")
    assert not Organization.objects.filter(brand=closed).exists()


def test_changing_the_address_later_opens_no_second_account(client, generous):
    join_up(client)
    client.post("/accounts/email/", {"email": "new@example.com", "action_add": ""})
    (path,) = re.findall(r"http://testserver(/\S+)", str(mail.outbox[-1].body))
    client.post(path)
    assert User.objects.get().email == "new@example.com"
    assert Organization.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_opened_twice_at_once_is_one_account(generous):
    person = casting.person()

    def open_it(_number):
        try:
            return accounts.open_account(person, generous)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(open_it, range(4)))
    assert len({organization.pk for organization in opened if organization}) == 1
    assert Grant.objects.count() == 1
