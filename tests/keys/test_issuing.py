"""Every writer of a key: what it stores, what it refuses, what it leaves in the trail."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.utils import timezone

from keys import issuing, tokens
from keys.models import ApiKey, AuditEvent, Scope
from tests import cast

pytestmark = pytest.mark.django_db


@pytest.fixture
def organization():
    return cast.organization(cast.brand(key_prefix="ak-"))


def issue(organization, **values):
    return issuing.issue(**{"organization": organization, "name": "one", "actor": "test", **values})


def test_secret_is_kept_nowhere(organization, django_db_blocker):
    issued = issue(organization)
    row = ApiKey.objects.values().get(id=issued.key.id)
    trail = AuditEvent.objects.values().get()
    for text in (*map(str, row.values()), *map(str, trail.values()), repr(issued)):
        assert issued.secret not in text
        assert issued.secret[3:-6] not in text
    assert row["hint"] == f"ak-…{issued.secret[-4:]}"
    assert bytes(row["digest"]) != tokens.legacy_digest(issued.secret)


def test_new_key_may_all_and_belongs_to_its_maker(organization):
    maker = cast.person("maker")
    key = issue(organization, actor=maker).key
    key.refresh_from_db()
    assert key.scopes == list(Scope.values)
    assert (key.model_slugs, key.cidrs, key.limits, key.created_by) == (None, [], [], maker)


def test_keys_may_do_no_more_than_their_brand_says():
    brand = cast.brand(key_scopes=["chat", "models"])
    organization = cast.organization(brand)
    key = issue(organization).key
    assert key.scopes == ["chat", "models"]
    assert issue(organization, scopes=["chat"]).key.scopes == ["chat"]
    with pytest.raises(ValidationError, match="Choose from: chat, models"):
        issue(organization, scopes=["chat", "embeddings"])
    with pytest.raises(ValidationError, match="Choose from: chat, models"):
        issuing.change(key=key, actor="test", scopes=["usage"])
    brand.key_scopes = ["chat"]
    brand.save()
    key = ApiKey.objects.select_related("organization__brand").get(id=key.id)
    assert issuing.rotate(key=key, overlap=timedelta(0), actor="test").key.scopes == ["chat"]


def test_given_secret_is_found_again_under_every_pepper(organization, settings):
    secret = tokens.mint("ak-", b"d" * 20)
    issued = issue(organization, secret=secret)
    settings.KEY_PEPPERS = {**settings.KEY_PEPPERS, 2: b"\x02" * 32}
    assert issuing.existing(secret) == issued.key
    assert issuing.existing(tokens.mint("ak-", b"e" * 20)) is None
    with pytest.raises(ValidationError):
        issue(organization, secret=tokens.mint("sk-", b"d" * 20))


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"name": " "}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "nul\x00"}, "name"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["chat", "root"]}, "scopes"),
        ({"model_slugs": ["a\x00"]}, "model_slugs"),
        ({"cidrs": ["10.0.0.0/33"]}, "cidrs"),
        ({"cidrs": ["10.0.0.0/8"] * 101}, "cidrs"),
        ({"expires_at": datetime(2030, 1, 1)}, "expires_at"),  # noqa: DTZ001
        ({"secret": "ak-short"}, "secret"),
    ],
)
def test_wrong_value_is_refused_by_field_and_nothing_is_written(organization, values, field):
    with pytest.raises(ValidationError) as caught:
        issue(organization, **values)
    assert list(caught.value.message_dict) == [field]
    assert not ApiKey.objects.exists()
    assert not AuditEvent.objects.exists()


def test_networks_are_kept_in_one_form(organization):
    assert issue(organization, cidrs=[" 10.1.2.3/8 ", "::1", "192.0.2.7"]).key.cidrs == [
        *("10.0.0.0/8", "::1/128", "192.0.2.7/32")
    ]


def test_change_writes_only_what_differs_and_says_what_it_was(organization):
    key = issue(organization, scopes=["chat"]).key
    version = issuing.change(key=key, actor="ops", scopes=["chat", "usage"], name="one", address="192.0.2.1")
    assert version
    assert version > key.version
    event = AuditEvent.objects.get(action="key.changed")
    assert (event.before, event.after) == ({"scopes": ["chat"]}, {"scopes": ["chat", "usage"]})
    assert (event.actor_name, event.address, event.subject) == ("ops", "192.0.2.1", key.public_id)
    assert (event.organization, event.brand) == (organization, organization.brand)
    assert issuing.change(key=key, actor="ops", scopes=["chat", "usage"]) is None


@pytest.mark.parametrize("name", ["organization", "organization_id", "digest", "revoked_at", "version", "is_staff"])
def test_nothing_else_of_a_key_can_be_changed(organization, name):
    key = issue(organization).key
    values: dict[str, Any] = {name: 1}
    with pytest.raises(TypeError):
        issuing.change(key=key, actor="ops", **values)


def test_revoking_twice_keeps_the_first_time_and_one_event(organization):
    key = issue(organization).key
    issuing.revoke(key=key, actor="test")
    first = key.revoked_at
    issuing.revoke(key=ApiKey.objects.get(id=key.id), actor="test")
    key.refresh_from_db()
    assert key.revoked_at == first
    assert AuditEvent.objects.filter(action="key.revoked").count() == 1


def test_rotation_shares_everything_and_ends_the_old_key_after_the_overlap(organization):
    expires_at = timezone.now() + timedelta(days=30)
    old = issue(
        organization,
        scopes=["chat"],
        model_slugs=["aion"],
        cidrs=["10.0.0.0/8"],
        limits=[{"unit": "requests", "window": "day", "amount": 3}],
        expires_at=expires_at,
    ).key
    new = issuing.rotate(key=old, overlap=timedelta(hours=2), actor="test").key
    for name in issuing.CHANGEABLE:
        if name != "expires_at":
            assert getattr(new, name) == getattr(old, name)
    assert (new.expires_at, new.rotated_from, new.organization) == (expires_at, old, organization)
    assert old.expires_at
    assert timedelta(hours=1, minutes=59) < old.expires_at - timezone.now() <= timedelta(hours=2)
    assert old.revoked_at is None
    assert set(AuditEvent.objects.values_list("action", flat=True)) == {"key.issued", "key.rotated", "key.changed"}


def test_rotation_never_lengthens_a_key_and_without_overlap_revokes_it(organization):
    soon = timezone.now() + timedelta(minutes=1)
    old = issue(organization, expires_at=soon).key
    issuing.rotate(key=old, overlap=timedelta(days=1), actor="test")
    assert old.expires_at == soon
    bare = issue(organization).key
    issuing.rotate(key=bare, overlap=timedelta(0), actor="test")
    assert bare.revoked_at is not None
    with pytest.raises(issuing.KeyNotLive):
        issuing.rotate(key=bare, overlap=timedelta(0), actor="test")
    with pytest.raises(ValidationError):
        issuing.rotate(key=old, overlap=timedelta(seconds=-1), actor="test")


def test_a_key_of_the_playground_is_neither_prolonged_nor_followed_by_another(organization):
    """Lists leave such keys out, so that one would go on unseen."""
    ends = timezone.now() + timedelta(minutes=15)
    key = issue(organization, expires_at=ends, purpose=ApiKey.Purpose.PLAYGROUND).key
    with pytest.raises(ValidationError, match="playground"):
        issuing.change(key=key, actor="test", expires_at=None)
    with pytest.raises(ValidationError, match="playground"):
        issuing.rotate(key=key, overlap=timedelta(0), actor="test")
    assert list(ApiKey.objects.values_list("expires_at", "revoked_at")) == [(ends, None)]


def test_imported_key_keeps_its_digest_and_hint(organization):
    digest = tokens.legacy_digest("old_secret")
    key = issuing.import_legacy(organization=organization, name="old", sha256=digest, hint="old_…cret", actor="import")
    key.refresh_from_db()
    assert (bytes(key.digest), key.pepper_version, key.hint) == (digest, 0, "old_…cret")
    assert issuing.existing("old_secret") == key
    with pytest.raises(ValidationError):
        issuing.import_legacy(organization=organization, name="again", sha256=digest, hint="", actor="import")
    with pytest.raises(ValidationError):
        issuing.import_legacy(organization=organization, name="short", sha256=b"x", hint="x", actor="import")
