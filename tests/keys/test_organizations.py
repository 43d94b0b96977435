"""Writers of organizations, members, invitations and brands."""

import json
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.core.exceptions import ValidationError
from django.utils import timezone

from keys import access, brands, invitations, issuing, organizations, records
from keys.models import ApiKey, AuditEvent, Brand, Invitation, Membership, Organization, Publication, Role
from tests import cast

pytestmark = pytest.mark.django_db


@pytest.fixture
def company():
    return cast.assemble()


def actions():
    return list(AuditEvent.objects.order_by("id").values_list("action", flat=True))


def test_organization_is_made_with_its_owner_a_free_slug_and_a_publication(company):
    first = organizations.create(brand=company.brand, name="Big Co.", owner=company.owner, actor=company.owner)
    second = organizations.create(brand=company.brand, name="Big Co.", actor="manage.py demo")
    assert first.slug == "big-co"
    assert second.slug.startswith("big-co-")
    assert Membership.objects.get(organization=first).role == Role.OWNER
    assert not second.memberships.exists()
    assert Publication.objects.filter(subject="org", subject_id=first.id, version=first.version).exists()
    assert actions() == ["organization.created", "member.added", "organization.created"]
    with pytest.raises(ValidationError):
        organizations.create(brand=company.brand, name=" ", actor="test")
    with pytest.raises(ValidationError):
        organizations.create(brand=company.brand, name="nul\x00", actor="test")
    with pytest.raises(ValidationError):
        organizations.create(brand=company.brand, name="Big", slug="big-co", actor="test")


def test_suspending_and_resuming_publish_and_are_noted_once(company):
    organization = company.organization
    assert organizations.suspend(organization=organization, reason="unpaid", actor="ops")
    assert organizations.suspend(organization=organization, reason="unpaid", actor="ops") is None
    assert Organization.objects.get(id=organization.id).state == Organization.State.SUSPENDED
    assert organizations.resume(organization=organization, actor="ops")
    assert Organization.objects.get(id=organization.id).suspended_reason == ""
    assert actions() == ["organization.suspended", "organization.resumed"]
    assert Publication.objects.filter(subject="org", subject_id=organization.id).count() == 2


def test_only_name_and_slug_of_an_organization_change(company):
    organizations.change(organization=company.organization, actor="ops", name="New name")
    assert Organization.objects.get(id=company.organization.id).name == "New name"
    for name in ("brand", "state", "public_id", "version"):
        with pytest.raises(TypeError):
            organizations.change(organization=company.organization, actor="ops", **{name: "x"})


def test_last_owner_can_neither_step_down_nor_leave(company):
    owner = Membership.objects.get(user=company.owner)
    with pytest.raises(organizations.LastOwner):
        organizations.set_role(membership=owner, role=Role.VIEWER, actor=company.owner)
    with pytest.raises(organizations.LastOwner):
        organizations.remove_member(membership=owner, actor=company.owner)
    owner.refresh_from_db()
    assert owner.role == Role.OWNER
    organizations.set_role(membership=Membership.objects.get(user=company.member), role=Role.OWNER, actor=company.owner)
    organizations.remove_member(membership=owner, actor=company.owner)
    assert actions() == ["member.role_changed", "member.removed"]


@pytest.mark.parametrize("leaves", [True, False])
def test_who_may_no_longer_call_models_holds_no_key_of_the_playground(company, leaves):
    """Removed, or left with a role that has no playground. Only the visits of that person end."""
    minutes: dict[str, Any] = {
        "purpose": ApiKey.Purpose.PLAYGROUND,
        "expires_at": timezone.now() + timedelta(minutes=15),
    }
    for name, actor, more in (
        ("visit", company.member, minutes),
        ("program", company.member, {}),
        ("another's visit", company.owner, minutes),
    ):
        issuing.issue(organization=company.organization, name=name, actor=actor, **more)
    row = Membership.objects.get(user=company.member)
    organizations.set_role(membership=row, role=Role.ADMIN, actor=company.owner)
    assert not ApiKey.objects.exclude(revoked_at=None).exists()
    if leaves:
        organizations.remove_member(membership=row, actor=company.owner)
    else:
        organizations.set_role(membership=row, role=Role.BILLING, actor=company.owner)
    assert list(ApiKey.objects.exclude(revoked_at=None).values_list("name", flat=True)) == ["visit"]


def test_adding_a_member_again_changes_no_role(company):
    again = organizations.add_member(
        organization=company.organization, user=company.viewer, role=Role.OWNER, actor=company.owner
    )
    assert again.role == Role.VIEWER
    assert actions() == []


def invite(company, email="New@Example.com"):
    return invitations.invite(organization=company.organization, email=email, role=Role.DEVELOPER, actor=company.owner)


def test_invitation_is_accepted_once_by_the_person_it_is_for(company):
    invitation, token = invite(company)
    assert token not in str(Invitation.objects.values().get())
    guest = cast.person(email="new@example.com")
    with pytest.raises(invitations.NotOpen):
        invitations.accept(invitation=invitation, user=company.stranger)
    assert invitations.find(token) == invitation
    assert invitations.accept(invitation=invitation, user=guest).role == Role.DEVELOPER
    with pytest.raises(invitations.NotOpen):
        invitations.accept(invitation=invitation, user=guest)
    assert actions() == ["invitation.sent", "invitation.accepted", "member.added"]


def test_closed_invitations_open_nothing(company):
    _, replaced = invite(company)
    revoked, token = invite(company)
    invitations.revoke(invitation=revoked, actor=company.owner)
    invitations.revoke(invitation=revoked, actor=company.owner)
    _, late = invite(company, "late@example.com")
    Invitation.objects.filter(email="late@example.com").update(expires_at=timezone.now() - timedelta(seconds=1))
    for closed in (replaced, token, late, "", "\x00", "\ud800"):
        with pytest.raises(invitations.NotOpen):
            invitations.find(closed)
    assert actions().count("invitation.revoked") == 1


def test_members_and_nonsense_are_not_invited(company):
    for email in (company.member.email, "nobody", "a@b\x00.c"):
        with pytest.raises(ValidationError):
            invite(company, email)


def test_brand_writers_publish_and_note(company):
    made = brands.create(slug="new", name="New", key_prefix="nw_", schemes=["bearer"], actor="test")
    assert made.version > 0
    assert brands.change(brand=made, actor="test", hosts=["new.example.com"])
    assert brands.change(brand=made, actor="test", hosts=["new.example.com"]) is None
    assert brands.pause(brand=made, actor="test")
    assert Brand.objects.get(slug="new").state == Brand.State.PAUSED
    assert brands.resume(brand=made, actor="test")
    assert actions() == ["brand.created", "brand.changed", "brand.paused", "brand.resumed"]
    assert Publication.objects.filter(subject="brand", subject_id=made.id).count() == 4


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("slug", "admin"),
        ("key_prefix", "a b"),
        ("key_prefix", ""),
        ("schemes", []),
        ("schemes", ["basic"]),
        ("timezone", "Mars/Olympus"),
        ("legacy_key_patterns", ["(a+)+"]),
        ("hosts", ["Upper.example.com"]),
        ("hosts", ["taken.example.com"]),
        ("base_paths", ["v1"]),
        ("base_paths", ["/v1/"]),
        ("money_refusal_status", 418),
    ],
)
def test_wrong_brand_is_refused_by_field(field, value):
    cast.brand(hosts=["taken.example.com"])
    fields = {"slug": "new", "name": "New", "key_prefix": "nw_", "schemes": ["bearer"], field: value}
    with pytest.raises(ValidationError) as caught:
        brands.create(actor="test", **fields)
    assert list(caught.value.message_dict) == [field]
    assert not Brand.objects.filter(name="New").exists()


def test_slug_and_currency_of_a_brand_stay():
    for name in brands.UNCHANGEABLE:
        with pytest.raises(TypeError):
            brands.change(brand=cast.brand(), actor="test", **{name: "x"})


def test_handing_over_is_one_step_and_leaves_one_owner(company):
    heir = company.member
    organizations.hand_over(organization=company.organization, owner=company.owner, to=heir)
    roles = dict(company.organization.memberships.values_list("user__email", "role"))
    assert (roles[heir.email], roles[company.owner.email]) == (Role.OWNER, Role.ADMIN)
    with pytest.raises(Membership.DoesNotExist):
        organizations.hand_over(organization=company.organization, owner=company.owner, to=heir)
    assert roles == dict(company.organization.memberships.values_list("user__email", "role"))


@pytest.mark.parametrize("before", [None, *Role])
@pytest.mark.parametrize("after", [None, *Role])
def test_only_owners_decide_about_owners(before, after):
    assert access.may_assign(Role.OWNER, before, after)
    assert access.may_assign(Role.ADMIN, before, after) is (Role.OWNER not in (before, after))
    for role in (Role.DEVELOPER, Role.BILLING, Role.VIEWER, None):
        assert not access.may_assign(role, before, after)


@pytest.mark.parametrize(("anchor", "expected"), [(1, 1), (15, 15), (31, 31), (0, None)])
@pytest.mark.django_db(transaction=True)
def test_an_account_keeps_the_day_on_which_its_months_begin(redis_connection, anchor, expected):
    brand = cast.brand(month_anchor=anchor, timezone="Pacific/Kiritimati")
    opened = datetime.now(ZoneInfo(brand.timezone))
    organization = organizations.create(brand=brand, name="Anchored", actor="test")
    organization.refresh_from_db()
    assert organization.month_anchor == (expected or opened.day)
    published = json.loads(redis_connection.hget(records.organization_name(organization.id), "data"))
    assert published["month_anchor"] == organization.month_anchor
    brands.change(brand=brand, month_anchor=3, actor="test")
    organizations.suspend(organization=organization, reason="test", actor="test")
    organization.refresh_from_db()
    assert organization.month_anchor == (expected or opened.day)
    assert organizations.create(brand=brand, name="Later", actor="test").month_anchor == 3


def test_a_brand_without_such_a_day_is_refused(company):
    with pytest.raises(ValidationError, match="A day of the month"):
        brands.change(brand=company.brand, month_anchor=32, actor="test")
