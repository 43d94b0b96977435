import pytest

from portal import tasks
from portal.celery import SCHEDULE, app


def test_every_scheduled_task_exists():
    app.loader.import_default_modules()
    assert {task for task, _ in SCHEDULE} <= set(app.tasks)


def test_no_task_can_run_twice_at_once_because_it_is_slow():
    limits = app.conf
    assert limits.task_soft_time_limit < limits.task_time_limit
    options = limits.broker_transport_options
    assert options["visibility_timeout"] == limits.visibility_timeout >= 2 * limits.task_time_limit


def test_a_task_that_is_lost_with_its_worker_comes_back():
    assert app.conf.task_acks_late
    assert app.conf.task_reject_on_worker_lost
    assert app.conf.worker_prefetch_multiplier == 1


def test_only_json_is_read_from_the_broker():
    assert app.conf.accept_content == ["json"]


@pytest.mark.django_db
def test_tasks_accept_what_a_later_release_may_send():
    tasks.forget_old_sessions(unknown="argument")
