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


def test_a_person_opens_a_second_account_that_pays_for_itself(client, generous, monkeypatch):
    join_up(client)
    (first,) = Organization.objects.all()
    assert 'href="/open/another/"' in client.get(f"/{first.public_id}/").content.decode()

    def sent() -> dict[str, str]:
        token = re.search(r'name="form_token" value="([^"]+)"', client.get("/open/another/").content.decode())
        assert token is not None
        return {"name": "Lovelace Ltd", "form_token": token[1]}

    form = sent()
    answer = client.post("/open/another/", form)
    client.post("/open/another/", form)
    second = Organization.objects.exclude(pk=first.pk).get()
    assert answer["Location"] == f"/{second.public_id}/"
    assert (second.name, second.is_further, second.memberships.get().role) == ("Lovelace Ltd", True, Role.OWNER)
    assert TierAssignment.objects.get(organization=second).tier.slug == "free"
    assert Grant.objects.get().organization == first
    page = client.get(f"/{second.public_id}/").content.decode()
    assert "Lovelace Ltd" in page
    assert first.name in page

    monkeypatch.setattr(accounts, "OWNED_MAX", 2)
    assert "No more accounts" in client.post("/open/another/", sent()).content.decode()
    form = sent()
    Brand.objects.filter(pk=generous.pk).update(sign_up=Brand.SignUp.INVITE)
    client.post("/open/another/", form)
    assert "by invitation" in client.get("/open/another/").content.decode()
    assert "/open/another/" not in client.get(f"/{second.public_id}/").content.decode()
    assert Organization.objects.count() == 2


def test_the_credit_is_given_once_to_a_person(client, generous):
    join_up(client)
    Membership.objects.all().delete()
    client.post("/open/")
    assert Organization.objects.count() == 2
    assert Grant.objects.count() == 1


def test_an_alias_signs_up_like_anybody_and_gets_no_second_credit(client, generous):
    free = Tier.objects.get()
    free.payer = Payer.INCLUDED
    free.save()
    first = client.post("/accounts/signup/", {**NEW, "email": "ada.l@gmail.com"})
    (path,) = re.findall(r"http://testserver(/\S+)", str(mail.outbox[-1].body))
    client.post(path)
    client.logout()
    second = client.post("/accounts/signup/", {**NEW, "email": "adal+2@googlemail.com"})
    assert (first.status_code, first["Location"]) == (second.status_code, second["Location"])
    (path,) = re.findall(r"http://testserver(/\S+)", str(mail.outbox[-1].body))
    client.post(path)
    assert Organization.objects.count() == 2
    assert Grant.objects.count() == 1
    further = Organization.objects.get(is_further=True)
    assert further.memberships.get().user.email == "adal+2@googlemail.com"
    assert TierAssignment.objects.filter(organization=further, tier=free).exists()
    overview = client.get(f"/{further.public_id}/").content.decode()
    assert "what plans include belongs to your first account" in overview
    for page in ("balance", "limits"):
        assert "first account here" in client.get(f"/{further.public_id}/{page}/").content.decode()


def test_a_throw_away_mailbox_is_refused_in_words(client, generous):
    answer = client.post("/accounts/signup/", {**NEW, "email": "ada@mailinator.com"})
    page = answer.content.decode()
    assert answer.status_code == 200
    assert "mailinator.com gives mailboxes to be thrown away" in page
    assert not User.objects.exists()
    assert not mail.outbox


@pytest.mark.parametrize("email", ["ada@ｍailinator.com", "ada@mail\u00adinator.com", '"ada,x"@mailinator.com'])
def test_no_spelling_hides_a_throw_away_mailbox(client, generous, email):
    answer = client.post("/accounts/signup/", {**NEW, "email": email})
    assert "thrown away" in answer.content.decode()
    assert not User.objects.exists()


@pytest.mark.parametrize("email", ['"ada"@gmail.com', '"a\\da"@gmail.com'])
def test_quotation_marks_that_say_nothing_are_refused_in_words(client, generous, email):
    answer = client.post("/accounts/signup/", {**NEW, "email": email})
    assert "write the address without quotation marks" in answer.content.decode()
    assert not User.objects.exists()


@pytest.mark.parametrize("email", ["ada@xn--bcher-kva.de", '"ada+x,y"@bücher.de'])
def test_a_second_account_by_another_spelling_has_no_credit(client, generous, email):
    join_up(client, email="ada@bücher.de")
    client.logout()
    join_up(client, email=email)
    assert User.objects.count() == 2
    assert Grant.objects.count() == 1


def test_a_brand_may_take_throw_away_mailboxes_without_credit(client, generous):
    generous.disposable_mail = Brand.DisposableMail.WITHOUT_CREDIT
    generous.save()
    join_up(client, email="ada@mailinator.com")
    assert Organization.objects.get().is_further
    assert not Grant.objects.exists()


def test_an_address_cannot_be_changed_to_a_throw_away_one(client, generous):
    join_up(client)
    answer = client.post("/accounts/email/", {"email": "new@mailinator.com", "action_add": ""})
    assert "thrown away" in answer.content.decode()


def sign_up(client, email, address, **more):
    return client.post("/accounts/signup/", {**NEW, "email": email, **more}, REMOTE_ADDR=address)


def test_sign_ups_of_a_day_are_bounded_by_network(client, generous):
    generous.sign_ups_per_address = 3
    generous.save()
    casting.person(email="known@example.com")
    assert sign_up(client, "typo@example.com", "2001:db8::9", password1="x").status_code == 200
    addresses = ["ada@example.com", "known@example.com", "bob@example.com"]
    answers = [sign_up(client, email, f"2001:db8::{number}") for number, email in enumerate(addresses)]
    assert [answer.status_code for answer in answers] == [302] * 3
    for email in ("eve@example.com", "known@example.com"):  # the same, whether the address is known or not
        refused = sign_up(client, email, "2001:db8::77")
        assert refused.status_code == 429
        assert 1 <= int(refused["Retry-After"]) <= 86_400
        page = refused.content.decode()
        assert "Too many sign-ups from your network" in page
        assert re.search(r"Please wait \d+ (hour|minute)s?, then try again", page)
    assert not User.objects.filter(email="eve@example.com").exists()
    assert sign_up(client, "eve@example.com", "2001:db8:0:1::1").status_code == 302
    assert sign_up(client, "fay@example.com", "192.0.2.1").status_code == 302


def test_a_brand_may_leave_sign_ups_unbounded(client, generous):
    generous.sign_ups_per_address = 0
    generous.save()
    assert {sign_up(client, f"p{n}@example.com", "192.0.2.1").status_code for n in range(25)} == {302}


def test_a_brand_by_invitation_opens_no_account(client, generous):
    closed = casting.brand(sign_up=Brand.SignUp.INVITE)
    join_up(client)
    assert "by invitation" in client.get(f"/{closed.slug}/").content.decode()
    client.post(f"/{closed.slug}/open/")
    assert not Organization.objects.filter(brand=closed).exists()


def test_changing_the_address_later_opens_no_second_account(client, generous):
    join_up(client)
    client.post("/accounts/reauthenticate/", {"password": NEW["password1"]})
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
