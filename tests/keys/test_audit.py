"""The trail outlives people and cannot be rewritten."""

import pytest
from django.db import IntegrityError, connection, transaction

from keys import audit
from keys.models import AuditEvent
from tests import cast

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("statement", ["UPDATE keys_auditevent SET action = 'x'", "DELETE FROM keys_auditevent"])
def test_trail_refuses_to_be_rewritten(statement):
    audit.note("test.done", "subject", actor="test")
    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
    assert AuditEvent.objects.get().action == "test.done"


def test_person_can_be_deleted_and_the_trail_still_says_who():
    person = cast.person("leaver")
    number, email = person.pk, person.email
    event = audit.note("test.done", "subject", actor=person)
    assert AuditEvent.objects.get().actor == person
    person.delete()
    event = AuditEvent.objects.get()
    assert (event.actor_id, event.actor_name) == (number, email)


def test_brand_comes_with_the_organization():
    organization = cast.organization(cast.brand())
    event = audit.note("test.done", "subject", actor="test", organization=organization)
    assert event.brand == organization.brand
