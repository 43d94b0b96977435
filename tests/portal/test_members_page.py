import re

import pytest
from django.core import mail
from django.urls import reverse

from keys import invitations
from keys.models import AuditEvent, Brand, Invitation, Membership, Role
from tests import cast as casting
from tests.portal.managing import program

PASSWORD = "a long enough sentence"


@pytest.fixture
def owner(cast):
    return casting.browser_of(cast.owner)


def post(browser, cast, name, **data):
    return browser.post(reverse(name, args=[cast.organization.public_id]), data)


def link_of(message) -> str:
    (path,) = re.findall(r"http://testserver(/invitations/\S+)", message.body)
    return str(path)


def role_of(cast, person) -> str | None:
    row = Membership.objects.filter(organization=cast.organization, user=person).first()
    return row.role if row else None


def invite(browser, cast, email="guest@example.com", role="viewer"):
    return post(browser, cast, "member_invite", email=email, role=role)


def test_a_guest_without_an_account_joins_with_the_role_offered(cast, owner):
    assert invite(owner, cast, role="developer").status_code == 302
    (message,) = mail.outbox
    assert message.to == ["guest@example.com"]
    assert cast.owner.email in message.body
    guest = casting.browser_of()
    page = guest.get(link_of(message)).content.decode()
    assert "guest@example.com" in page
    guest.post("/accounts/signup/", {"email": "guest@example.com", "password1": PASSWORD})
    (confirm,) = re.findall(r"http://testserver(/accounts/confirm-email/\S+)", str(mail.outbox[1].body))
    guest.post(confirm)
    waiting = guest.get("/").content.decode()
    assert "Acme" in waiting, "asked first: no account of their own is opened for somebody who was invited"
    answer = guest.post("/invitations/accept/", {"organization": cast.organization.public_id})
    assert answer["Location"] == reverse("overview", args=[cast.organization.public_id])
    (membership,) = Membership.objects.filter(user__email="guest@example.com")
    assert (membership.organization, membership.role) == (cast.organization, Role.DEVELOPER)


def test_a_brand_by_invitation_only_lets_the_invited_sign_up(cast, owner):
    cast.brand.sign_up = Brand.SignUp.INVITE
    cast.brand.save()
    invite(owner, cast)
    guest = casting.browser_of()
    assert "by invitation" in guest.get("/accounts/signup/").content.decode()
    guest.get(link_of(mail.outbox[0]))
    assert 'name="password1"' in guest.get("/accounts/signup/").content.decode()


def test_a_forwarded_link_opens_nothing_for_somebody_else(cast, owner):
    invite(owner, cast)
    stranger = casting.browser_of(cast.stranger)
    assert "Sign in with that address" in stranger.get(link_of(mail.outbox[0])).content.decode()
    assert stranger.post("/invitations/accept/", {"organization": cast.organization.public_id}).status_code == 404
    assert stranger.post("/invitations/decline/", {"organization": cast.organization.public_id}).status_code == 404
    assert role_of(cast, cast.stranger) is None


def test_an_invitation_that_is_over_says_so(cast, owner):
    invite(owner, cast)
    first = link_of(mail.outbox[0])
    post(owner, cast, "invitation_resend", email="guest@example.com")
    second = link_of(mail.outbox[1])
    browser = casting.browser_of()
    assert browser.get(first).status_code == 404, "the newer link replaced it"
    assert browser.get(second).status_code == 200
    post(owner, cast, "invitation_revoke", email="guest@example.com")
    over = browser.get(second)
    assert over.status_code == 404
    assert casting.text_of(over) == casting.text_of(browser.get("/invitations/nonsense/"))


def test_a_link_belongs_to_its_brand(cast, owner, settings):
    invite(owner, cast)
    settings.DEFAULT_BRAND = casting.brand().slug
    assert casting.browser_of().get(link_of(mail.outbox[0])).status_code == 404


def test_the_invited_may_decline(cast, owner):
    guest = casting.person("guest")
    invite(owner, cast, email=guest.email)
    casting.browser_of(guest).post("/invitations/decline/", {"organization": cast.organization.public_id})
    assert not invitations.open_ones(cast.organization).exists()
    assert role_of(cast, guest) is None


@pytest.mark.parametrize(
    "given", [{"email": "no address", "role": "viewer"}, {"email": "a@example.com", "role": "king"}]
)
def test_a_form_that_makes_no_sense_is_shown_again(cast, owner, given):
    answer = post(owner, cast, "member_invite", **given)
    assert answer.status_code == 400
    assert 'class="error' in answer.content.decode()
    assert not Invitation.objects.exists()


def test_while_no_mail_goes_out_the_invitation_stands_and_is_sent_again(cast, owner, settings):
    """The mail server is really not there. By the page and by the management API."""
    sends = settings.EMAIL_BACKEND
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 9
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    told = "could not be sent just now. Send it again"
    given = {"email": "guest@example.com", "role": "viewer"}
    path = reverse("member_invite", args=[cast.organization.public_id])
    assert told in owner.post(path, given, follow=True).content.decode()
    again = reverse("invitation_resend", args=[cast.organization.public_id])
    assert told in owner.post(again, given, follow=True).content.decode()
    program_asks = program(cast.organization)
    answer = program_asks.post("/invitations/guest@example.com/resend", Idempotency_Key="once")
    assert (answer.status_code, answer.json()["code"]) == (503, "mail_unavailable")
    settings.EMAIL_BACKEND = sends
    assert program_asks.post("/invitations/guest@example.com/resend", Idempotency_Key="once").status_code == 200
    assert [message.to for message in mail.outbox] == [["guest@example.com"]]


def test_a_member_is_not_invited_again(cast, owner):
    answer = invite(owner, cast, email=cast.viewer.email)
    assert "is a member already" in answer.content.decode()
    assert not mail.outbox


@pytest.mark.parametrize(
    "name", ["member_invite", "member_role", "member_remove", "invitation_resend", "member_hand_over"]
)
@pytest.mark.parametrize("role", [Role.DEVELOPER, Role.BILLING, Role.VIEWER])
def test_only_owners_and_admins_manage(cast, owner, name, role):
    invite(owner, cast)
    person = casting.person("other")
    casting.join(person, cast.organization, role)
    given = {"email": "guest@example.com", "role": "viewer", "member": cast.viewer.email, "sure": "1"}
    assert post(casting.browser_of(person), cast, name, **given).status_code == 403
    assert role_of(cast, cast.viewer) == Role.VIEWER
    page = casting.browser_of(person).get(reverse("members", args=[cast.organization.public_id])).content.decode()
    assert "guest@example.com" not in page
    assert "Invite somebody" not in page


def test_an_admin_manages_everybody_but_owners(cast):
    admin = casting.person("admin")
    casting.join(admin, cast.organization, Role.ADMIN)
    browser = casting.browser_of(admin)
    assert post(browser, cast, "member_role", member=cast.viewer.email, role="billing").status_code == 302
    assert role_of(cast, cast.viewer) == Role.BILLING
    for data in (
        {"member": cast.viewer.email, "role": "owner"},
        {"member": admin.email, "role": "owner"},
        {"member": cast.owner.email, "role": "viewer"},
    ):
        assert post(browser, cast, "member_role", **data).status_code == 403
    assert post(browser, cast, "member_remove", member=cast.owner.email, sure="1").status_code == 403
    assert invite(browser, cast, role="owner").status_code == 403
    assert post(browser, cast, "member_hand_over", member=admin.email, sure="1").status_code == 403
    assert role_of(cast, cast.owner) == Role.OWNER


def test_an_admin_does_not_renew_an_offer_of_ownership(cast, owner):
    invite(owner, cast, role="owner")
    admin = casting.person("admin")
    casting.join(admin, cast.organization, Role.ADMIN)
    assert post(casting.browser_of(admin), cast, "invitation_resend", email="guest@example.com").status_code == 403


def test_removing_asks_once_more_and_holds_on_the_next_click(cast, owner):
    member = casting.browser_of(cast.member)
    overview = reverse("overview", args=[cast.organization.public_id])
    assert "Remove" in post(owner, cast, "member_remove", member=cast.member.email).content.decode()
    assert member.get(overview).status_code == 200
    post(owner, cast, "member_remove", member=cast.member.email, sure="1")
    assert member.get(overview).status_code == 404


def test_everybody_may_leave_but_the_last_owner(cast, owner):
    answer = post(casting.browser_of(cast.viewer), cast, "member_remove", member=cast.viewer.email, sure="1")
    assert answer["Location"] == "/"
    assert role_of(cast, cast.viewer) is None
    post(owner, cast, "member_remove", member=cast.owner.email, sure="1")
    assert role_of(cast, cast.owner) == Role.OWNER
    post(owner, cast, "member_role", member=cast.owner.email, role="viewer")
    assert role_of(cast, cast.owner) == Role.OWNER


def test_an_owner_hands_over(cast, owner):
    assert "Hand over" in post(owner, cast, "member_hand_over", member=cast.member.email).content.decode()
    assert role_of(cast, cast.owner) == Role.OWNER
    post(owner, cast, "member_hand_over", member=cast.member.email, sure="1")
    assert (role_of(cast, cast.owner), role_of(cast, cast.member)) == (Role.ADMIN, Role.OWNER)
    assert AuditEvent.objects.filter(action="member.role_changed", organization=cast.organization).count() == 2


def test_nobody_outside_is_made_owner(cast, owner):
    assert post(owner, cast, "member_hand_over", member=cast.stranger.email, sure="1").status_code == 404
    assert role_of(cast, cast.owner) == Role.OWNER
