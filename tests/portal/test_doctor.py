import os
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
import redis
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from billing import rebuild, remains, replay
from billing.models import DeadLetter, Model, Rate, WorkerLease
from keys.models import Publication
from portal import checks, doctor
from portal.doctor import Level
from tests import cast

pytestmark = pytest.mark.django_db


def says(examination, level: Level | None = None) -> str:
    return "\n".join(f"{found.says} {found.mend}" for found in examination() if level in (None, found.level))


def test_a_sound_set_up_has_no_problem_and_exits_0(settings):
    settings.DEBUG = False
    # The suite's PostgreSQL is deliberately careless with its disk; that is the one thing to find.
    found = [finding for finding in doctor.examine() if finding.level is Level.PROBLEM]
    assert {finding.says.partition(":")[0] for finding in found} == {
        f"PostgreSQL runs with {name} = off" for name in ("fsync", "full_page_writes", "synchronous_commit")
    }


def test_the_command_prints_each_finding_with_how_to_mend_it_and_exits_1():
    said = StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("doctor", stdout=said)
    assert ended.value.code == 1
    assert "problem: PostgreSQL runs with fsync = off" in said.getvalue()
    assert "    ALTER SYSTEM SET fsync = on" in said.getvalue()
    assert "production needs a maintained redis" in said.getvalue().lower()


@pytest.mark.parametrize(
    ("name", "wrong", "right"), [("maxmemory-policy", "allkeys-lru", "noeviction"), ("appendonly", "no", "yes")]
)
def test_a_redis_that_forgets_is_a_problem(redis_connection, name, wrong, right):
    redis_connection.config_set(name, wrong)
    try:
        assert f"{name} {wrong}" in says(doctor.redis_is_fit_for_money, Level.PROBLEM)
    finally:
        redis_connection.config_set(name, right)
    assert says(doctor.redis_is_fit_for_money, Level.PROBLEM) == ""


def test_a_redis_that_is_nearly_full_is_a_problem(redis_connection):
    redis_connection.config_set("maxmemory", int(redis_connection.info("memory")["used_memory"] * 1.02))
    try:
        assert "of its maxmemory" in says(doctor.redis_is_fit_for_money, Level.PROBLEM)
    finally:
        redis_connection.config_set("maxmemory", 0)


def test_a_store_that_is_away_is_said_and_the_rest_is_still_examined(monkeypatch):
    gone = redis.Redis(unix_socket_path="/nowhere.sock")
    monkeypatch.setattr(doctor, "redis_client", lambda: gone)
    told = [finding.says for finding in doctor.examine()]
    assert any(line.startswith("Could not see whether redis is fit for money") for line in told)
    assert any("fsync" in line for line in told)


def test_rows_in_a_default_partition_are_named():
    assert says(doctor.events_lie_in_their_partitions) == ""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE measure (day date) PARTITION BY RANGE (day)")
        cursor.execute("CREATE TABLE measure_default PARTITION OF measure DEFAULT")
        cursor.execute("INSERT INTO measure VALUES ('2026-01-01'), ('2026-01-02')")
    assert "measure_default holds 2 rows" in says(doctor.events_lie_in_their_partitions)


def test_changes_that_did_not_reach_redis_are_counted():
    row = Publication.objects.create(version=10**9, subject="key", subject_id=1)
    assert says(doctor.nothing_waits_too_long) == ""
    Publication.objects.filter(pk=row.pk).update(created_at=timezone.now() - timedelta(minutes=5))
    DeadLetter.objects.create(shard=1, stream_id="1-1", payload=b"", error="x", tries=3)
    assert "1 changes" in says(doctor.nothing_waits_too_long, Level.PROBLEM)
    assert "1 settled calls" in says(doctor.nothing_waits_too_long, Level.PROBLEM)


def test_calls_that_wait_for_the_books_are_counted(redis_connection):
    redis_connection.xadd("{s5}:journal", {"e": b"x"})
    assert says(doctor.calls_reach_the_books) == ""
    redis_connection.xadd("{s6}:journal", {"e": b"x"}, id="1000-1")
    assert "2 settled calls wait" in says(doctor.calls_reach_the_books, Level.PROBLEM)


def test_whom_a_rebuild_waits_for_is_named(redis_connection):
    rebuild.ensure_epochs(redis_connection)
    assert says(doctor.no_rebuild_waits) == ""
    until = timezone.now() + timedelta(seconds=30)
    WorkerLease.objects.create(name="w-1", host="host-7", folder="/logs/wal", expires_at=until)
    redis_connection.flushall()
    rebuild.ensure_epochs(redis_connection)
    assert "waits for worker w-1 on host host-7" in says(doctor.no_rebuild_waits, Level.PROBLEM)
    assert "that /logs/wal on host-7 can be read" in says(doctor.no_rebuild_waits)


def test_a_process_that_keeps_the_shards_closed_is_named(redis_connection, wal_dir, monkeypatch):
    """It was stopped while it brought in what dead workers left."""
    monkeypatch.setattr(replay, "BRING_IN_SECONDS_MAX", 0.1)
    monkeypatch.setattr(rebuild, "HINDERED_SECONDS", 0.1)
    with remains.alone(wal_dir):
        assert rebuild.ensure_epochs(redis_connection) == []
        assert f"process {os.getpid()} is at the files" in says(doctor.no_rebuild_waits, Level.PROBLEM)
    assert says(doctor.no_rebuild_waits) == ""
    assert len(rebuild.ensure_epochs(redis_connection)) == 64


def test_a_live_model_without_a_price_is_named():
    brand = cast.brand(slug="acme")
    model = Model.objects.create(brand=brand, slug="m", name="M", context_length=8192, max_completion_tokens=8192)
    assert "Model m of acme has no price" in says(doctor.models_have_prices, Level.WARNING)
    rate = Rate.objects.create(model=model, effective_from=timezone.now(), input_picos=1, output_picos=1)
    assert says(doctor.models_have_prices) == ""
    Rate.objects.filter(pk=rate.pk).update(effective_until=timezone.now())
    assert "Model m" in says(doctor.models_have_prices)


def test_secrets_that_others_can_read_are_a_problem(settings, tmp_path):
    settings.VAR_DIR = tmp_path
    demo = tmp_path / "demo.json"
    demo.write_text("{}")
    demo.chmod(0o644)
    assert f"chmod 600 {demo}" in says(doctor.secrets_are_closed, Level.PROBLEM)
    demo.chmod(0o600)
    assert says(doctor.secrets_are_closed) == ""


def test_the_file_system_of_a_folder_is_that_of_the_longest_mount_point():
    mounts = "overlay / overlay rw 0 0\n/dev/sda /srv ext4 rw 0 0\ntmpfs /srv/fast tmpfs rw 0 0\n"
    assert doctor.filesystem_of(Path("/srv/wal"), mounts) == "ext4"
    assert doctor.filesystem_of(Path("/srv/fast/wal"), mounts) == "tmpfs"
    assert doctor.filesystem_of(Path("/srv/faster"), mounts) == "ext4"
    assert doctor.filesystem_of(Path("/var/wal"), mounts) == "overlay"


def test_a_log_folder_that_cannot_be_made_is_a_problem(settings, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_bytes(b"")
    blocker.chmod(0o755)
    settings.WAL_DIR = blocker / "wal"
    assert f"{blocker} cannot be written" in says(doctor.logs_have_room, Level.PROBLEM)
    blocker.unlink()
    assert "cannot be written" not in says(doctor.logs_have_room)


def test_a_log_folder_on_memory_is_warned_of_in_production(settings, monkeypatch):
    settings.PRIVATE_STORES = False
    monkeypatch.setattr(doctor, "filesystem_of", lambda folder, mounts: "tmpfs")
    assert "Put WAL_DIR on a local disk" in says(doctor.logs_have_room, Level.WARNING)


@pytest.mark.parametrize("name", ["BROKER_URL", "CACHE_URL"])
def test_money_and_what_may_be_forgotten_never_share_a_database(settings, name):
    settings.REDIS_URL = "redis://one.example:6379/0"
    settings.BROKER_URL, settings.CACHE_URL = "redis://one.example/1", "redis://one.example/2"
    assert checks.what_may_be_forgotten_lies_apart() == []
    setattr(settings, name, "redis://other-user@one.example")
    assert [message.id for message in checks.what_may_be_forgotten_lies_apart()] == ["portal.E002"]


def test_debugging_in_production_is_an_error(settings):
    settings.DEBUG, settings.PRIVATE_STORES = True, False
    assert [message.id for message in checks.no_debugging_in_production()] == ["portal.E001"]
    settings.PRIVATE_STORES = True
    assert checks.no_debugging_in_production() == []


def test_an_open_production_is_warned_of(settings):
    settings.HTTPS, settings.ALLOWED_HOSTS, settings.EMAIL_URL = False, ["*"], ""
    assert {message.id for message in checks.production_is_closed()} == {f"portal.W00{n}" for n in (1, 2, 3)}
