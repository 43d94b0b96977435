import logging
from datetime import timedelta

import pytest
from django.utils import timezone

from billing import ledger, rebuild, reconcile, tasks
from billing.models import LedgerAccount
from keys.models import Publication
from portal.celery import SCHEDULE
from tests import cast

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_difference_in_the_books_is_logged_as_an_error(redis_connection, caplog):
    rebuild.ensure_epochs(redis_connection)
    organization = cast.organization(cast.brand())
    ledger.grant(organization=organization, amount_nanos=5, kind="paid", reason="test", reference="test", actor="test")
    tasks.compare_the_books(later_argument=True)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    LedgerAccount.objects.filter(kind="wallet").update(balance_nanos=6)
    tasks.compare_the_books()
    assert "the books differ" in caplog.text
    last = reconcile.last(redis_connection)
    assert last is not None
    assert last.differences > 0


def test_old_publications_are_forgotten_and_pending_ones_kept():
    cast.organization(cast.brand())
    now = timezone.now()
    rows = [
        Publication(version=-1, subject="org", subject_id=1, applied_at=now - timedelta(days=2)),
        Publication(version=-2, subject="org", subject_id=1, applied_at=now),
        Publication(version=-3, subject="org", subject_id=1),
    ]
    Publication.objects.bulk_create(rows)
    tasks.forget_old_publications()
    assert set(Publication.objects.filter(version__lt=0).values_list("version", flat=True)) == {-2, -3}


def test_every_task_of_the_room_is_on_the_schedule():
    scheduled = {name for name, _ in SCHEDULE}
    assert {f"billing.tasks.{name}" for name in ("compare_the_books", "forget_old_publications")} <= scheduled
