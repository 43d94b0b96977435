"""Every address of an account, taken from the URL conf, so that a new page is covered by itself."""

import pytest
from django.urls import URLPattern, reverse

from billing import webhook_endpoints
from billing.webhook_models import WebhookEndpoint
from keys import issuing
from keys.models import Role
from portal.pages import SECTIONS
from portal.urls import account, urlpatterns
from tests import cast as casting

NAMES = [str(pattern.name) for pattern in account]
TAKES_AN_ENDPOINT = {str(pattern.name) for pattern in account if "endpoint" in pattern.pattern.converters}
TAKES_A_KEY = {str(pattern.name) for pattern in account if "key" in pattern.pattern.converters}
EVENTS = ["key.revoked"]
ABOUT_MONEY = {"promo", "top_up", "auto_top_up", "card", "billing_portal", "plan", "statements"}
"""Pages of those who look after money, which a developer does not."""
MISSING_ORGANIZATION, MISSING_KEY = "org_22222222222222222222", "key_22222222222222222222"
MISSING_ENDPOINT = "hook_22222222222222222222"


def address(name, organization, key):
    """An endpoint's page: of the one there is."""
    if name in TAKES_AN_ENDPOINT:
        return reverse(name, args=[organization, WebhookEndpoint.objects.get().public_id])
    return reverse(name, args=[organization, key] if name in TAKES_A_KEY else [organization])


@pytest.fixture
def key(cast) -> str:
    """And an endpoint, for the pages that take one."""
    webhook_endpoints.add(organization=cast.organization, url="https://x.example/", events=EVENTS, actor="tests")
    return str(issuing.issue(organization=cast.organization, name="server", actor=cast.owner).key.public_id)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["get", "post"])
def test_a_stranger_gets_what_a_missing_account_gives(cast, key, name, method):
    stranger = casting.browser_of(cast.stranger)
    answer = getattr(stranger, method)(address(name, cast.organization.public_id, key))
    missing = getattr(stranger, method)(address(name, MISSING_ORGANIZATION, key))
    assert answer.status_code == missing.status_code
    assert answer.status_code in ({404} if method == "get" else {404, 405})
    assert casting.text_of(answer) == casting.text_of(missing)


@pytest.mark.parametrize("name", sorted(TAKES_A_KEY))
def test_a_strangers_own_account_opens_no_other_key(cast, key, name):
    stranger = casting.browser_of(cast.stranger)
    answer = stranger.get(address(name, cast.elsewhere.public_id, key))
    missing = stranger.get(address(name, cast.elsewhere.public_id, MISSING_KEY))
    assert (answer.status_code, missing.status_code) == (404, 404)
    assert casting.text_of(answer) == casting.text_of(missing)


@pytest.mark.parametrize("name", sorted(TAKES_A_KEY))
def test_a_key_of_one_account_is_not_under_the_other(cast, key, name):
    casting.join(cast.owner, cast.elsewhere, Role.OWNER)
    assert casting.browser_of(cast.owner).get(address(name, cast.elsewhere.public_id, key)).status_code == 404


@pytest.mark.parametrize("name", sorted(TAKES_AN_ENDPOINT))
@pytest.mark.parametrize("method", ["get", "post"])
def test_an_endpoint_is_under_its_own_account_only(cast, key, name, method):
    """Neither for a stranger under an account of theirs, nor for who belongs to both."""
    endpoint = WebhookEndpoint.objects.get()
    casting.join(cast.owner, cast.elsewhere, Role.OWNER)
    for person in (cast.stranger, cast.owner):
        ask = getattr(casting.browser_of(person), method)
        answer, missing = (
            ask(reverse(name, args=[cast.elsewhere.public_id, public_id]), {"act": "remove"})
            for public_id in (endpoint.public_id, MISSING_ENDPOINT)
        )
        assert (answer.status_code, missing.status_code) == (404, 404)
        assert casting.text_of(answer) == casting.text_of(missing)
    assert WebhookEndpoint.objects.get() == endpoint


@pytest.mark.parametrize("name", NAMES)
def test_nobody_signed_in_is_asked_to(client, cast, key, name):
    path = address(name, cast.organization.public_id, key)
    answer = client.get(path)
    assert (answer.status_code, answer["Location"]) == (302, f"/accounts/login/?next={path}")


@pytest.mark.parametrize("name", NAMES)
def test_a_former_member_is_a_stranger(cast, key, name):
    cast.organization.memberships.filter(user=cast.member).delete()
    assert casting.browser_of(cast.member).get(address(name, cast.organization.public_id, key)).status_code == 404


DEVELOPERS_ONLY = {
    *("key_new", "key_edit", "key_rotate", "key_revoke", "keys_revoke"),
    *("playground", "playground_key", "playground_close", "playground_call"),
}
ADMINS_ONLY = {
    *("activity", "member_invite", "member_role", "invitation_resend", "invitation_revoke"),
    *("service_account_new", "service_account_role", "service_account_disable"),
    *("webhooks", "webhook_new", "webhook", "webhook_rotate"),
    *("management_keys", "management_key_new", "management_key_revoke"),
}
OWNERS_ONLY = {"member_hand_over"}


@pytest.mark.parametrize("name", NAMES)
def test_members_see_what_their_role_allows(cast, key, name):
    path = address(name, cast.organization.public_id, key)
    shown = {200, 405}  # 405: a page that only takes forms
    developer, viewer = (casting.browser_of(person).get(path).status_code for person in (cast.member, cast.viewer))
    assert developer == 403 if name in ADMINS_ONLY | OWNERS_ONLY | ABOUT_MONEY else developer in shown
    assert viewer == 403 if name in DEVELOPERS_ONLY | ADMINS_ONLY | OWNERS_ONLY | ABOUT_MONEY else viewer in shown


@pytest.mark.parametrize("section", SECTIONS)
def test_short_addresses_lead_to_the_only_account(cast, section):
    answer = casting.browser_of(cast.owner).get(f"/{section}/")
    assert answer["Location"] == reverse(section, args=[cast.organization.public_id])
    casting.join(cast.owner, cast.elsewhere, Role.VIEWER)
    assert casting.browser_of(cast.owner).get(f"/{section}/")["Location"] == "/"


def test_the_front_page_leads_to_the_only_account_or_asks_which(cast):
    owner = casting.browser_of(cast.owner)
    assert owner.get("/")["Location"] == f"/{cast.organization.public_id}/"
    casting.join(cast.owner, cast.elsewhere, Role.VIEWER)
    page = owner.get("/").content.decode()
    assert "Acme" in page
    assert "Elsewhere" in page


def test_the_front_page_shows_only_this_brands_accounts(cast):
    other = casting.brand()
    casting.join(cast.owner, casting.organization(other, name="At the other brand"), Role.OWNER)
    assert casting.browser_of(cast.owner).get("/")["Location"] == f"/{cast.organization.public_id}/"


def test_every_page_of_the_portal_is_known_here():
    """A page outside an account that shows an account's rows would escape these tests."""
    outside = {pattern.name for pattern in urlpatterns if isinstance(pattern, URLPattern)}
    known = {
        "home",
        "account_open",
        "account_new",
        "colours",
        "stripe_webhook",
        "mailbox",
        "sessions",
        "terms",
        "invitation",
        "invitation_accept",
        "invitation_decline",
        "docs",
        "docs_page",
        *(f"my_{section}" for section in SECTIONS),
    }
    assert outside == known
