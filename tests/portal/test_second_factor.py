import re

import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from django.core import mail
from django.core.cache import caches
from django.test import Client
from redis.exceptions import ConnectionError as RedisGone

from portal.throttle import SteadyCache
from tests import cast as casting
from tests.portal.authenticator import code_of


def sign_in(user, client: Client | None = None):
    client = client or casting.browser_of()
    return client, client.post("/accounts/login/", {"login": user.email, "password": casting.PASSWORD})


def confirm(client):
    """Says who it is once more, as every change of the second factor wants it."""
    assert client.post("/accounts/reauthenticate/", {"password": casting.PASSWORD}).status_code == 302


@pytest.fixture
def enrolled(cast):
    """(person, secret, recovery codes), enrolled through the pages."""
    client, _answer = sign_in(cast.owner)
    assert "/reauthenticate/" in client.get("/accounts/2fa/totp/activate/")["Location"]
    confirm(client)
    page = client.get("/accounts/2fa/totp/activate/").content.decode()
    (secret,) = re.findall(r"<code>([A-Z2-7]{32})</code>", page)
    answer = client.post("/accounts/2fa/totp/activate/", {"code": code_of(secret)})
    assert answer["Location"] == "/accounts/2fa/recovery-codes/"
    shown = client.get(answer["Location"]).content.decode()
    codes = re.findall(r"^(\d{8})$", shown.replace('<pre tabindex="0">', "\n"), flags=re.MULTILINE)
    assert len(codes) == 10
    return cast.owner, secret, codes


def test_the_password_alone_opens_nothing_any_more(enrolled):
    person, secret, _codes = enrolled
    client, answer = sign_in(person)
    assert answer["Location"] == "/accounts/2fa/authenticate/"
    assert "_auth_user_id" not in client.session
    wrong = client.post("/accounts/2fa/authenticate/", {"code": "000000"})
    assert "Incorrect code." in wrong.content.decode()
    assert "_auth_user_id" not in client.session
    # The code of the enrolment is spent; a telephone half a minute behind shows the one before it.
    client.post("/accounts/2fa/authenticate/", {"code": code_of(secret, periods_ago=1)})
    assert client.session["_auth_user_id"] == str(person.pk)


def test_a_code_works_once(enrolled):
    person, secret, _codes = enrolled
    client, _answer = sign_in(person)
    code = code_of(secret, periods_ago=1)
    client.post("/accounts/2fa/authenticate/", {"code": code})
    assert "_auth_user_id" in client.session
    second, _answer = sign_in(person)
    second.post("/accounts/2fa/authenticate/", {"code": code})
    assert "_auth_user_id" not in second.session


def test_without_redis_a_code_still_opens_and_once_in_a_worker(enrolled, monkeypatch):
    def gone(*_args, **_kwargs):
        raise RedisGone("no Redis")

    cache = caches["default"]
    assert isinstance(cache, SteadyCache)
    monkeypatch.setattr(type(cache._cache), "get_client", gone)
    person, secret, _codes = enrolled
    code = code_of(secret, periods_ago=1)
    for expected in (True, False):
        client, _answer = sign_in(person)
        client.post("/accounts/2fa/authenticate/", {"code": code})
        assert ("_auth_user_id" in client.session) is expected


def test_a_recovery_code_works_once(enrolled):
    person, _secret, codes = enrolled
    for expected in (True, False):
        client, _answer = sign_in(person)
        client.post("/accounts/2fa/authenticate/", {"code": codes[0]})
        assert ("_auth_user_id" in client.session) is expected


def test_secrets_are_sealed_in_their_rows(enrolled):
    _person, secret, codes = enrolled
    kept = str(list(Authenticator.objects.values_list("data", flat=True)))
    assert secret not in kept
    assert not any(code in kept for code in codes)


def test_guessing_is_slow_from_any_number_of_addresses(enrolled):
    person, _secret, _codes = enrolled
    client, _answer = sign_in(person)
    answers = [
        client.post("/accounts/2fa/authenticate/", {"code": "111111"}, REMOTE_ADDR=f"203.0.113.{number}").status_code
        for number in range(12)
    ]
    assert answers == [200] * 10 + [429] * 2


def test_turning_it_off_takes_a_fresh_confirmation(enrolled):
    person, secret, _codes = enrolled
    client, _answer = sign_in(person)
    client.post("/accounts/2fa/authenticate/", {"code": code_of(secret, periods_ago=1)})
    assert "/reauthenticate/" in client.post("/accounts/2fa/totp/deactivate/")["Location"]
    assert Authenticator.objects.filter(user=person).exists()
    confirm(client)
    assert client.post("/accounts/2fa/totp/deactivate/")["Location"] == "/accounts/2fa/"
    assert not Authenticator.objects.filter(user=person).exists()
    assert sign_in(person)[1]["Location"] == "/"


@pytest.mark.parametrize("prefix", ["", "/{brand}"])
def test_a_session_alone_changes_no_address(cast, prefix):
    prefix = prefix.format(brand=cast.brand.slug)
    client = casting.browser_of(cast.owner)
    wanted = {"email": "thief@example.com", "action_add": ""}
    asked = client.post(f"{prefix}/accounts/email/", wanted)
    assert asked["Location"].startswith(f"{prefix}/accounts/reauthenticate/?next=")
    assert not mail.outbox
    assert "Confirm it is you" in client.get(asked["Location"]).content.decode()
    wrong = client.post(asked["Location"], {"password": "not mine"})
    assert "Incorrect password" in wrong.content.decode()
    assert not EmailAddress.objects.filter(email="thief@example.com").exists()
    assert client.post(asked["Location"], {"password": casting.PASSWORD})["Location"] == f"{prefix}/accounts/email/"
    assert [message.to for message in mail.outbox] == [["thief@example.com"]], "carried on with what was asked"
    later = client.session
    later["account_authentication_methods"] = [
        {**method, "at": method["at"] - 301} for method in later["account_authentication_methods"]
    ]
    later.save()
    again = client.post(f"{prefix}/accounts/email/", {"email": "thief@example.com", "action_remove": ""})
    assert again["Location"].startswith(f"{prefix}/accounts/reauthenticate/"), "a confirmation wears off"


@pytest.mark.parametrize("prefix", ["", "/{brand}"])
def test_a_code_of_the_second_factor_confirms_too(enrolled, cast, prefix):
    prefix = prefix.format(brand=cast.brand.slug)
    person, secret, _codes = enrolled
    client = casting.browser_of(person)
    asked = client.post(f"{prefix}/accounts/2fa/totp/deactivate/")
    assert f"{prefix}/accounts/2fa/reauthenticate/?next=" in client.get(asked["Location"]).content.decode()
    by_code = asked["Location"].replace("/accounts/", "/accounts/2fa/", 1)
    assert "Incorrect code" in client.post(by_code, {"code": "000000"}).content.decode()
    assert Authenticator.objects.filter(user=person).exists()
    assert client.post(by_code, {"code": code_of(secret, periods_ago=1)})["Location"] == f"{prefix}/accounts/2fa/"
    assert not Authenticator.objects.filter(user=person).exists()


def test_a_person_sees_their_sessions_and_ends_one(cast):
    here, _answer = sign_in(cast.owner)
    there, _answer = sign_in(cast.owner, Client(REMOTE_ADDR="198.51.100.9", HTTP_USER_AGENT="A browser"))
    page = here.get("/accounts/sessions/").content.decode()
    assert "198.51.100.9" in page
    assert "A browser" in page
    (other,) = re.findall(r'name="session" value="(\d+)"', page)
    here.post("/accounts/sessions/", {"session": other})
    assert there.get("/accounts/sessions/").status_code == 302, "signed out"
    assert here.get("/accounts/sessions/").status_code == 200


def test_nobody_ends_the_session_of_another_person(cast):
    here, _answer = sign_in(cast.owner)
    sign_in(cast.owner)
    (other,) = re.findall(r'name="session" value="(\d+)"', here.get("/accounts/sessions/").content.decode())
    stranger, _answer = sign_in(cast.stranger)
    assert stranger.post("/accounts/sessions/", {"session": other}).status_code == 404


def test_all_other_sessions_end_at_once(cast):
    here, _answer = sign_in(cast.owner)
    others = [sign_in(cast.owner)[0] for _ in range(3)]
    here.post("/accounts/sessions/")
    assert [other.get("/accounts/sessions/").status_code for other in others] == [302] * 3
    assert here.get("/accounts/sessions/").status_code == 200
