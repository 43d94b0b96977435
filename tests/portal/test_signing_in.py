import re

import pytest
from django.core import mail
from django.urls import reverse

from keys.models import Brand, User
from portal import accounts
from tests import cast as casting

NEW = {"email": "ada@example.com", "password1": "a long enough sentence"}


def link_in(message) -> str:
    (path,) = re.findall(r"http://testserver(/\S+)", message.body)
    return str(path)


def sign_in(client, email, password=casting.PASSWORD, **more):
    return client.post("/accounts/login/", {"login": email, "password": password, **more})


def test_a_new_person_confirms_the_address_before_coming_in(client, house):
    answer = client.post("/accounts/signup/", NEW)
    assert answer.status_code == 302
    assert answer["Location"] == "/accounts/confirm-email/"
    assert "_auth_user_id" not in client.session
    (message,) = mail.outbox
    assert message.to == ["ada@example.com"]
    assert message.from_email.startswith("Dialogix <")
    assert message.subject == "Confirm your e-mail address · Dialogix"
    page = client.get(link_in(message))
    assert "ada@example.com" in page.content.decode()
    client.post(link_in(message))
    assert client.session["_auth_user_id"] == str(User.objects.get(email="ada@example.com").pk)


def test_opening_the_link_alone_confirms_nothing(client, house):
    """Mail scanners open links."""
    client.post("/accounts/signup/", NEW)
    client.get(link_in(mail.outbox[0]))
    client.get("/accounts/logout/")
    assert sign_in(client, NEW["email"], NEW["password1"])["Location"] == "/accounts/confirm-email/"


def test_the_link_opened_elsewhere_confirms_but_signs_nobody_in(client, house):
    client.post("/accounts/signup/", NEW)
    elsewhere = casting.browser_of()
    assert elsewhere.post(link_in(mail.outbox[0]))["Location"] == "/accounts/login/"
    assert "_auth_user_id" not in elsewhere.session
    assert sign_in(elsewhere, NEW["email"], NEW["password1"])["Location"] == "/"


def test_while_no_mail_goes_out_pages_say_so_alike_of_all_addresses(client, house, settings):
    """The mail server is really not there. What was done stays done: the person signs in later, and gets the mail."""
    sends = settings.EMAIL_BACKEND
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 9
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    known = casting.person("known")
    fresh = client.post("/accounts/signup/", NEW, follow=True)
    again = casting.browser_of().post("/accounts/signup/", {**NEW, "email": known.email}, follow=True)
    assert (fresh.status_code, fresh.content.decode().count(accounts.UNSENT)) == (200, 1)
    assert "sent to" not in casting.text_of(fresh)
    assert casting.text_of(fresh) == casting.text_of(again)
    resets = [
        casting.browser_of().post("/accounts/password/reset/", {"email": email}, follow=True)
        for email in (known.email, "nobody@example.com")
    ]
    assert [page.content.decode().count(accounts.UNSENT) for page in resets] == [1, 1]
    changed = casting.browser_of(known).post(
        "/accounts/password/change/",
        {"oldpassword": casting.PASSWORD, "password1": "another long sentence", "password2": "another long sentence"},
    )
    assert changed.status_code == 302, "its notice is lost, the change is not"
    settings.EMAIL_BACKEND = sends
    assert sign_in(client, NEW["email"], NEW["password1"])["Location"] == "/accounts/confirm-email/"
    assert [message.to for message in mail.outbox] == [[NEW["email"]]]


def test_a_known_address_gets_the_same_page_and_a_different_mail(client, house):
    known = casting.person("known")
    fresh = client.post("/accounts/signup/", NEW, follow=True)
    again = casting.browser_of().post("/accounts/signup/", {**NEW, "email": known.email}, follow=True)
    assert casting.text_of(fresh) == casting.text_of(again)
    assert fresh.redirect_chain == again.redirect_chain
    assert [message.subject.split(" ·")[0] for message in mail.outbox] == [
        "Confirm your e-mail address",
        "You already have an account",
    ]
    assert not known.has_usable_password() or known.check_password(casting.PASSWORD)


def test_wrong_password_and_unknown_address_look_the_same(client, house):
    known = casting.person("known")
    texts = [sign_in(client, email, "wrong").content.decode() for email in (known.email, "nobody@example.com")]
    cleaned = [re.sub(r'value="[^"]*"', "", text) for text in texts]
    assert cleaned[0] == cleaned[1]
    assert "not correct" in texts[0]


def test_a_reset_answers_the_same_for_any_address_and_works_for_a_known_one(client, house):
    known = casting.person("known")
    answers = [client.post("/accounts/password/reset/", {"email": e}) for e in (known.email, "nobody@example.com")]
    assert answers[0]["Location"] == answers[1]["Location"]
    to_known, to_nobody = mail.outbox
    assert "no account" in to_nobody.body
    form = client.get(link_in(to_known), follow=True)
    client.post(
        form.redirect_chain[-1][0], {"password1": "another long sentence", "password2": "another long sentence"}
    )
    assert sign_in(client, known.email, "another long sentence")["Location"] == "/"
    assert "no longer works" in casting.browser_of().get(link_in(to_known), follow=True).content.decode()


def test_signing_in_changes_the_session_key(client, house):
    known = casting.person("known")
    client.get("/accounts/login/")
    session = client.session
    session["planted"] = "by an attacker"
    session.save()
    before = session.session_key
    sign_in(client, known.email)
    assert client.session.session_key != before


@pytest.mark.parametrize(
    "next_page", ["https://evil.example/", "//evil.example/", "https:///evil.example", "javascript:x"]
)
def test_signing_in_leads_to_no_other_site(client, house, next_page):
    known = casting.person("known")
    assert sign_in(client, known.email, next=next_page)["Location"] == "/"


def test_signing_in_leads_back_to_the_page_that_asked(client, house):
    known = casting.person("known")
    assert sign_in(client, known.email, next="/usage/")["Location"] == "/usage/"


def test_under_a_brands_path_people_stay_there(client, house):
    other = casting.brand(name="Axione")
    known = casting.person("known")
    answer = client.post(f"/{other.slug}/accounts/login/", {"login": known.email, "password": casting.PASSWORD})
    assert answer["Location"] == f"/{other.slug}/"


def test_a_brand_by_invitation_takes_no_sign_up(client, house):
    Brand.objects.filter(pk=house.pk).update(sign_up=Brand.SignUp.INVITE)
    assert "invitation" in client.get("/accounts/signup/").content.decode()
    client.post("/accounts/signup/", NEW)
    assert not User.objects.filter(email=NEW["email"]).exists()


def test_a_common_password_is_refused_with_the_reason(client, house):
    page = client.post("/accounts/signup/", {**NEW, "password1": "password"}).content.decode()
    assert "too common" in page
    assert 'aria-invalid="true"' in page


def test_a_changed_password_is_told_by_mail(client, house):
    known = casting.person("known")
    client.force_login(known)
    new = "another long sentence"
    client.post(
        reverse("account_change_password"), {"oldpassword": casting.PASSWORD, "password1": new, "password2": new}
    )
    known.refresh_from_db()
    assert known.check_password(new)
    (message,) = mail.outbox
    assert "Your password was changed." in message.body
    assert "127.0.0.1" in message.body


def test_signing_out_takes_a_form(client, house):
    client.force_login(casting.person("known"))
    client.get("/accounts/logout/")
    assert "_auth_user_id" in client.session
    client.post("/accounts/logout/")
    assert "_auth_user_id" not in client.session
