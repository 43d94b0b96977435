"""Service accounts: their keys end with them, at once, and with nobody else."""

from datetime import timedelta
from threading import Thread

import pytest
from django.core.exceptions import ValidationError
from django.db import connection
from django.utils import timezone

from keys import issuing, management, organizations, service_accounts
from keys.models import AuditEvent, Role
from tests import cast as casting

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def cast(transactional_db, brand_renderer) -> casting.Cast:
    return casting.assemble()


def made(cast, name="import", role=Role.DEVELOPER):
    return service_accounts.create(organization=cast.organization, name=name, role=role, actor=cast.owner)


def test_its_keys_outlive_who_made_them_and_end_with_it(cast, redis_connection):
    account = made(cast)
    admin = cast.organization.memberships.get(user=cast.member)
    organizations.set_role(membership=admin, role=Role.ADMIN, actor=cast.owner)
    calls = issuing.issue(organization=cast.organization, name="nightly", actor=cast.member, service_account=account)
    manages = issuing.issue_for_management(
        organization=cast.organization, name="tf", role=Role.DEVELOPER, actor=cast.member, service_account=account
    )
    other = issuing.issue(organization=cast.organization, name="other", actor=cast.owner)
    organizations.remove_member(membership=admin, actor=cast.owner)
    cast.member.delete()
    calls.key.refresh_from_db()
    assert (calls.key.revoked_at, calls.key.created_by) == (None, None)
    rotated = issuing.rotate(key=calls.key, overlap=timedelta(hours=1), actor=cast.owner)
    assert rotated.key.service_account == account

    assert service_accounts.disable(account=account, actor=cast.owner)
    for issued, ended in ((calls, True), (manages, True), (rotated, True), (other, False)):
        issued.key.refresh_from_db()
        assert (issued.key.revoked_at is not None) == ended
    assert service_accounts.disable(account=account, actor=cast.owner), "twice changes nothing"
    trail = AuditEvent.objects.filter(action__startswith="service_account.")
    assert [event.action for event in trail.order_by("pk")] == ["service_account.created", "service_account.disabled"]
    assert AuditEvent.objects.filter(action="key.revoked").count() == 3
    with pytest.raises(ValidationError, match="disabled"):
        issuing.issue(organization=cast.organization, name="late", actor=cast.owner, service_account=account)
    assert made(cast).pk != account.pk, "its name is free again"


def test_a_key_of_it_may_no_more_than_it_may(cast, redis_connection):
    viewer, developer = made(cast, "reader", Role.VIEWER), made(cast, "writer")
    with pytest.raises(ValidationError, match="viewer"):
        issuing.issue(organization=cast.organization, name="x", actor=cast.owner, service_account=viewer)
    for account, role in ((viewer, Role.BILLING), (developer, Role.ADMIN)):
        with pytest.raises(ValidationError, match="manages more"):
            issuing.issue_for_management(
                organization=cast.organization, name="x", role=role, actor=cast.owner, service_account=account
            )
    with pytest.raises(ValidationError, match="no such"):
        issuing.issue(organization=cast.elsewhere, name="x", actor=cast.owner, service_account=developer)
    with pytest.raises(ValidationError, match="of that name"):
        made(cast, " reader ")


def test_its_role_is_lowered_once_no_key_does_more(cast, redis_connection):
    account = made(cast)
    calls = issuing.issue(organization=cast.organization, name="ci", actor=cast.owner, service_account=account).key
    manages = issuing.issue_for_management(
        organization=cast.organization, name="tf", role=Role.VIEWER, actor=cast.owner, service_account=account
    ).key
    with pytest.raises(ValidationError, match=f"Its key ci \\({calls.hint}\\) does more; revoke it first."):
        service_accounts.set_role(account=account, role=Role.VIEWER, actor=cast.owner)
    account.refresh_from_db()
    assert account.role == Role.DEVELOPER
    issuing.revoke(key=calls, actor=cast.owner)
    service_accounts.set_role(account=account, role=Role.VIEWER, actor=cast.owner)
    service_accounts.set_role(account=account, role=Role.VIEWER, actor=cast.owner)
    account.refresh_from_db()
    manages.refresh_from_db()
    assert (account.role, manages.revoked_at) == (Role.VIEWER, None)
    with pytest.raises(ValidationError, match="viewer"):
        issuing.issue(organization=cast.organization, name="x", actor=cast.owner, service_account=account)
    noted = AuditEvent.objects.get(action="service_account.role_changed")
    assert (noted.before["role"], noted.after["role"]) == ("developer", "viewer")
    service_accounts.disable(account=account, actor=cast.owner)
    with pytest.raises(ValidationError, match="disabled"):
        service_accounts.set_role(account=account, role=Role.ADMIN, actor=cast.owner)


def test_what_it_does_stands_under_its_name(cast, redis_connection):
    issued = issuing.issue_for_management(
        organization=cast.organization, name="tf", role=Role.VIEWER, actor=cast.owner, service_account=made(cast)
    )
    key = management.find(issued.secret, cast.brand, now=timezone.now(), address="192.0.2.1")
    issuing.issue(organization=cast.organization, name="x", actor=key)
    assert AuditEvent.objects.filter(action="key.issued").latest("pk").actor_name == f"import, tf ({key.hint})"


def test_no_key_is_made_while_it_is_disabled(cast, redis_connection):
    account = made(cast)

    def make() -> None:
        try:
            issuing.issue(organization=cast.organization, name="x", actor="tests", service_account=account)
        except ValidationError:
            return
        finally:
            connection.close()

    def disable() -> None:
        service_accounts.disable(account=account, actor="tests")
        connection.close()

    threads = [Thread(target=work) for work in (make, make, disable, make)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not account.keys.filter(revoked_at=None).exists()
