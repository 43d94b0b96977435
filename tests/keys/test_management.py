"""Management keys in the room of keys: what they are, who finds them, what is written of their use."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError

from keys import issuing, management
from keys.management import ManagementReason, ManagementRefused
from keys.models import ApiKey, AuditEvent, KeyUse, Role
from tests import cast as casting

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def organization():
    return casting.organization(casting.brand())


def issued(organization, **fields):
    values: dict[str, Any] = {"name": "terraform", "role": Role.ADMIN, "actor": "tests", **fields}
    return issuing.issue_for_management(organization=organization, **values)


def refused(secret, brand, *, now=NOW, address="192.0.2.7") -> ManagementReason:
    with pytest.raises(ManagementRefused) as caught:
        management.find(secret, brand, now=now, address=address)
    return caught.value.reason


def test_a_management_key_is_found_by_its_secret_and_each_refusal_says_why(organization):
    one = issued(organization, cidrs=["192.0.2.0/24"], expires_at=NOW + timedelta(days=1))
    brand = organization.brand
    assert management.find(one.secret, brand, now=NOW, address="192.0.2.7") == one.key
    assert management.find(one.secret, brand, now=NOW, address="::ffff:192.0.2.7") == one.key
    assert refused(one.secret, brand, address="198.51.100.1") == "address_not_allowed"
    assert refused(one.secret, brand, address="") == "address_not_allowed"
    assert refused(one.secret, brand, now=NOW + timedelta(days=1)) == "key_expired"
    assert refused(one.secret, casting.brand()) == "invalid_key"
    assert refused(one.secret[:-1] + "x", brand) == "invalid_key"
    caller = issuing.issue(organization=organization, name="server", actor="tests")
    assert refused(caller.secret, brand) == "not_a_management_key"
    issuing.revoke(key=one.key, actor="tests")
    assert refused(one.secret, brand) == "key_revoked"


def test_neither_a_change_nor_a_rotation_nor_the_database_makes_it_call(organization):
    key = issued(organization).key
    changes: list[dict[str, Any]] = [{"scopes": ["chat"]}, {"model_slugs": ["m"]}, {"limits": []}]
    for values in changes:
        with pytest.raises(ValidationError, match="calls no model"):
            issuing.change(key=key, actor="tests", **values)
    successor = issuing.rotate(key=key, overlap=timedelta(hours=1), actor="tests").key
    assert (successor.manages_as, successor.scopes) == (Role.ADMIN, [])
    with pytest.raises(IntegrityError):
        ApiKey.objects.filter(pk=key.pk).update(scopes=["chat"])


def test_use_is_written_once_a_minute(organization):
    key = issued(organization).key
    for second, address in ((0, "192.0.2.1"), (30, "192.0.2.2"), (60, "192.0.2.3")):
        management.used(key, now=NOW + timedelta(seconds=second), address=address, agent="curl/8\0" * 100)
        seen = KeyUse.objects.get(key=key)
        assert seen.address == ("192.0.2.3" if second == 60 else "192.0.2.1")
    assert len(seen.agent) == 200
    management.used(key, now=NOW + timedelta(hours=1), address="unknown", agent="")
    assert KeyUse.objects.get(key=key).address is None


def test_what_a_management_key_did_is_in_the_trail_under_its_name(organization):
    key = issued(organization).key
    made = issuing.issue(organization=organization, name="server", actor=key).key
    event = AuditEvent.objects.get(action="key.issued", subject=made.public_id)
    assert (event.actor_key, event.actor, event.actor_name) == (key, None, str(key))
    assert made.created_by is None


def test_revoking_several_is_all_or_nothing(organization):
    keys = [issuing.issue(organization=organization, name=name, actor="tests").key for name in "abc"]
    versions = issuing.revoke_all(keys=keys, actor="tests")
    assert len(versions) == 3
    assert not organization.keys.filter(revoked_at=None).exists()
    assert AuditEvent.objects.filter(action="key.revoked").count() == 3
