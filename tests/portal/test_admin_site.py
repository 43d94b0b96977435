import re

import pytest
from django.contrib import admin

from portal import admin_site, checks
from tests import cast as casting


@pytest.fixture
def staff(house):
    return casting.browser_of(casting.person("staff", is_staff=True, is_superuser=True))


def test_the_admin_asks_to_sign_in_where_everybody_does(client, house):
    page = client.get("/admin/", follow=True)
    assert page.redirect_chain[-1][0].startswith("/accounts/login/?next=")
    assert client.get("/admin/login/")["Location"].startswith("/accounts/login/")


def test_no_password_is_taken_but_where_tries_are_counted(house):
    """Staff who are signed in could otherwise try those of others, and pass by their second factor."""
    chief = casting.person("chief", is_staff=True, is_superuser=True)
    helper = casting.person("helper", is_staff=True)
    browser = casting.browser_of(helper)
    sent = {"username": chief.email, "password": casting.PASSWORD}
    assert browser.post("/admin/login/", sent)["Location"] == "/admin/"
    assert int(browser.session["_auth_user_id"]) == helper.pk
    for answer in (browser.get("/admin/password_change/"), browser.post("/admin/password_change/", {})):
        assert answer["Location"] == "/accounts/password/change/"


def test_a_person_without_staff_rights_is_kept_out(client, house):
    person = casting.browser_of(casting.person())
    assert person.get("/admin/", follow=True).status_code == 403


def test_the_index_is_ordered_by_what_people_come_for(staff):
    page = staff.get("/admin/").content.decode()
    titles = re.findall(r"<caption>\s*<a [^>]*>\s*([^<]*?)\s*</a>", page)
    assert titles == [title for title in [*admin_site.GROUPS, admin_site.REST] if title in titles]
    assert titles[0] == "Customers"
    assert admin_site.REST not in titles
    for name in ("API keys", "Webhook deliveries", "Notices seen", "Top-ups", "Stripe events"):
        assert re.search(rf">\s*{name}\s*<", page), name
    assert "What happened to a request?" in page


def test_every_registered_model_has_pages_that_open(staff):
    for model in admin.site._registry:
        path = f"/admin/{model._meta.app_label}/{model._meta.model_name}/"
        answer = staff.get(path)
        assert answer.status_code == 200, path


def test_second_factors_are_nobodys_business(staff):
    assert staff.get("/admin/mfa/authenticator/").status_code == 404


def test_the_support_page_says_how_to_ask(staff):
    assert "x-request-id" in staff.get("/admin/support/").content.decode()
    page = staff.get("/admin/support/?id=nonsense")
    assert page.status_code == 404
    assert "not a request id" in page.content.decode()


def test_the_admin_has_a_policy_of_its_own_without_inline_scripts(staff):
    policy = staff.get("/admin/")["Content-Security-Policy"]
    assert "script-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy


def test_the_demos_mailbox_is_refused_outside_a_demo(settings):
    settings.EMAIL_BACKEND, settings.DEMO = "portal.mailbox.EmailBackend", False
    (problem,) = checks.mailbox_only_in_a_demo()
    assert problem.id == "portal.E003"
    settings.DEMO = True
    assert not checks.mailbox_only_in_a_demo()
