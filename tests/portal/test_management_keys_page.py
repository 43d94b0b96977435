"""Management keys on their pages: made by who may, shown once, never among the keys that call models."""

from __future__ import annotations

import re

import pytest

from keys import issuing
from keys.models import ApiKey, AuditEvent, Role
from tests import cast as casting

pytestmark = pytest.mark.django_db


def new_key(browser, organization, **fields):
    path = f"/{organization.public_id}/keys/management/new/"
    (token,) = re.findall(r'name="form_token" value="([^"]+)"', browser.get(path).content.decode())
    form = {"form_token": token, "name": "terraform", "role": "admin", "expires_in": "", **fields}
    return form, browser.post(path, form)


def test_an_owner_makes_one_sees_its_secret_once_and_revokes_it(cast):
    owner = casting.browser_of(cast.owner)
    form, page = new_key(owner, cast.organization, cidrs="192.0.2.0/24")
    (secret,) = re.findall(r'id="secret"[^>]*>([^<]+)<', page.content.decode())
    key = ApiKey.objects.get()
    assert page.status_code == 201
    assert issuing.existing(secret) == key
    assert (key.manages_as, key.scopes, key.cidrs, key.created_by) == (Role.ADMIN, [], ["192.0.2.0/24"], cast.owner)
    listed = owner.get(f"/{cast.organization.public_id}/keys/management/").content.decode()
    assert "terraform" in listed
    assert secret not in listed + str(list(AuditEvent.objects.values()))
    assert owner.post(f"/{cast.organization.public_id}/keys/management/new/", form).status_code == 302
    owner.post(f"/{cast.organization.public_id}/keys/management/{key.public_id}/revoke/")
    key.refresh_from_db()
    assert key.revoked_at is not None
    assert ApiKey.objects.count() == 1


def test_pages_of_api_keys_know_nothing_of_it(cast):
    """Or a developer could rotate an owner's management key, and hold it."""
    key = issuing.issue_for_management(
        organization=cast.organization, name="terraform", role=Role.OWNER, actor=cast.owner
    ).key
    for person in (cast.owner, cast.member):
        browser = casting.browser_of(person)
        assert "terraform" not in browser.get(f"/{cast.organization.public_id}/keys/").content.decode()
        for act in ("rotate", "revoke"):
            path = f"/{cast.organization.public_id}/keys/{key.public_id}/{act}/"
            assert [browser.get(path).status_code, browser.post(path).status_code] == [404, 404]


def test_an_admin_gives_away_no_more_than_an_admin_has(cast):
    admin = casting.person("admin")
    casting.join(admin, cast.organization, Role.ADMIN)
    browser = casting.browser_of(admin)
    _form, page = new_key(browser, cast.organization, role="owner")
    assert page.status_code == 200
    assert not ApiKey.objects.exists()
    owners = issuing.issue_for_management(
        organization=cast.organization, name="owners", role=Role.OWNER, actor=cast.owner
    ).key
    path = f"/{cast.organization.public_id}/keys/management/{owners.public_id}/revoke/"
    assert browser.post(path).status_code == 403


def test_an_api_key_is_not_revoked_on_the_page_of_a_management_key(cast):
    key = issuing.issue(organization=cast.organization, name="server", actor=cast.owner).key
    path = f"/{cast.organization.public_id}/keys/management/{key.public_id}/revoke/"
    assert casting.browser_of(cast.owner).post(path).status_code == 404
