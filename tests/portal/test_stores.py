import contextlib
import os
import shutil
import signal
import stat
import subprocess
import threading
import time
from pathlib import Path

import psycopg
import pytest
import redis

from portal.stores import StoresError, children, postgresql
from portal.stores.place import Place
from portal.stores.running import Stores
from portal.stores.secrets_file import installation_secrets
from tests.portal.installations import expect, finish, installation, program, servers, tell

START_AND_STAY = """
import sys
from portal.stores.place import Place
from portal.stores.running import Stores
stores = Stores(Place.from_environment())
stores.start()
print("ready", flush=True)
sys.stdin.readline()
stores.stop()
print("stopped", flush=True)
"""
USE_AND_STAY = """
import sys
from portal.stores.place import Place
from portal.stores import running
import psycopg
with running.stores(Place.from_environment()):
    psycopg.connect(Place.from_environment().database_url()).close()
    print("using", flush=True)
    sys.stdin.readline()
    psycopg.connect(Place.from_environment().database_url()).close()
    print("used", flush=True)
"""


@pytest.fixture
def place():
    with installation() as made:
        yield made


def quick(place: Place) -> Stores:
    """For what does not depend on the disk."""
    return Stores(place, durable=False)


def remember(place: Place, word: str) -> None:
    with psycopg.connect(place.database_url(), autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS words (word text)")
        connection.execute("INSERT INTO words VALUES (%s)", [word])
    with redis.Redis.from_url(place.redis_url()) as client:
        client.sadd("words", word)


def remembered(place: Place) -> tuple[set[str], set[str]]:
    with psycopg.connect(place.database_url()) as connection:
        rows = {word for (word,) in connection.execute("SELECT word FROM words")}
    with redis.Redis.from_url(place.redis_url()) as client:
        return rows, {word.decode() for word in client.smembers("words")}


def test_what_was_written_is_there_after_a_restart_and_no_server_outlives_its_stop(place):
    first = Stores(place)
    first.start()
    remember(place, "kept")
    first.stop()
    assert servers(place) == []
    second = Stores(place)
    second.start()
    try:
        assert remembered(place) == ({"kept"}, {"kept"})
    finally:
        second.stop()


def test_sockets_and_data_are_closed_to_other_users(place):
    stores = quick(place)
    stores.start()
    try:
        for path in (place.postgresql_sockets, place.var / "postgresql-18", place.redis_data, place.redis_socket):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
        with psycopg.connect(place.database_url()) as connection:
            assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        with redis.Redis.from_url(place.redis_url()) as client:
            assert client.config_get("port") == {"port": "0"}
    finally:
        stores.stop()


def test_servers_die_with_their_killed_owner_and_know_everything_acknowledged_at_the_next_start(place):
    with program(place, "-c", START_AND_STAY) as owner:
        expect(owner, "ready")
        remember(place, "acknowledged")
        owner.kill()
        owner.wait()
    assert children.wait_until(lambda: not servers(place), within_seconds=30)
    again = Stores(place)
    again.start()
    try:
        assert remembered(place) == ({"acknowledged"}, {"acknowledged"})
    finally:
        again.stop()
    assert servers(place) == []


def test_servers_that_an_owner_left_running_are_ended_by_the_next_start_and_no_shell_is(place):
    left = Stores(place)
    left.start()
    remember(place, "kept")
    before = servers(place)
    with subprocess.Popen(["sleep", "600"], cwd=place.redis_data) as shell:
        again = Stores(place)
        again.start()
        try:
            assert remembered(place) == ({"kept"}, {"kept"})
            assert not set(before) & set(servers(place))
            assert shell.poll() is None
        finally:
            shell.kill()
            again.stop()
            left.stop()


def test_killed_servers_recover(place):
    stores = Stores(place)
    stores.start()
    remember(place, "committed")
    for pid in servers(place):
        with contextlib.suppress(ProcessLookupError):  # PostgreSQL's children follow their postmaster
            os.kill(pid, signal.SIGKILL)
    stores.stop()
    again = Stores(place)
    again.start()
    try:
        assert remembered(place) == ({"committed"}, {"committed"})
    finally:
        again.stop()


def test_a_pid_file_that_names_a_living_stranger_does_not_stop_the_start(place):
    stores = quick(place)
    stores.start()
    stores.stop()
    (place.var / "postgresql-18" / "postmaster.pid").write_text(f"{os.getppid()}\n{place.var}/postgresql-18\n")
    stores.start()
    stores.stop()


def test_a_first_start_that_broke_off_is_begun_again(place):
    half_made = place.made().var / "postgresql-18.new"
    half_made.mkdir()
    (half_made / "PG_VERSION").write_text("18\n")
    stores = quick(place)
    stores.start()
    stores.stop()
    assert not half_made.exists()


def test_two_installations_run_side_by_side(place):
    with installation() as other:
        pair = quick(place), quick(other)
        for stores in pair:
            stores.start()
        try:
            remember(place, "here")
            remember(other, "there")
            assert remembered(place) == ({"here"}, {"here"})
            assert remembered(other) == ({"there"}, {"there"})
        finally:
            for stores in pair:
                stores.stop()


@pytest.mark.parametrize("folder", ["postgresql-17", "postgresql-18"])
def test_data_of_another_major_version_is_refused_with_the_command_to_run(place, folder):
    data = place.made().var / folder
    data.mkdir()
    (data / "PG_VERSION").write_text("17\n")
    with pytest.raises(StoresError, match=r"PostgreSQL 17; this release runs 18(.|\n)*pg_upgrade"):
        quick(place).start()
    assert (data / "PG_VERSION").read_text() == "17\n"


def test_a_server_that_cannot_start_says_why(place):
    stores = quick(place)
    stores.start()
    stores.stop()
    (place.var / "postgresql-18" / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(StoresError, match="no_such_setting"):
        stores.start()
    assert servers(place) == []


def test_a_long_folder_gets_short_sockets_that_are_remembered(tmp_path):
    place = Place(tmp_path / ("long" * 30) / "var")
    assert len(os.fsencode(place.postgresql_sockets)) < 90
    assert Place(place.var).run == place.run
    place.run.rmdir()
    elsewhere = Place(place.var).run
    assert elsewhere.is_dir()
    elsewhere.rmdir()


def test_a_remembered_folder_that_others_could_write_is_not_trusted(tmp_path):
    place = Place(tmp_path / ("long" * 30) / "var")
    place.run.chmod(0o777)
    other = Place(place.var).run
    assert other != place.run
    for folder in (place.run, other):
        folder.rmdir()


def test_secrets_are_made_once_even_by_many_and_only_their_owner_reads_them(place):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(installation_secrets(place.secrets_file))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(secrets == found[0] for secrets in found)
    assert stat.S_IMODE(place.secrets_file.stat().st_mode) == 0o600


def test_a_command_beside_an_owner_attaches_and_the_owner_ends_last(place):
    with program(place, "-c", USE_AND_STAY) as owner:
        expect(owner, "using")
        with program(place, "-c", USE_AND_STAY) as guest:
            expect(guest, "using")
            tell(owner, "")
            expect(owner, "used")
            time.sleep(0.5)
            assert owner.poll() is None, "the owner must wait for its guest"
            assert finish(guest, "\n") == (0, "used\n")
        assert finish(owner)[0] == 0
    assert servers(place) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user runs the whole suite as one")
def test_an_ordinary_user_runs_the_stores_too(place):
    place.made()
    os.chown(place.var, 65534, 65534)
    # Lent so that this user may read a Python and a checkout that lie in root's closed folders.
    reading = ["--securebits=+no_setuid_fixup", "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    prefix = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *reading)
    for _ in range(2):
        with program(place, "-c", START_AND_STAY, prefix=prefix) as process:
            expect(process, "ready")
            assert {Path(f"/proc/{pid}").stat().st_uid for pid in servers(place)} == {65534}
            assert finish(process, "\n") == (0, "stopped\n")
    assert servers(place) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to step down")
def test_root_lends_postgresql_only_the_right_to_pass_closed_folders(place):
    place.made()
    place.var.chmod(0o700)
    stores = quick(place)
    stores.start()
    try:
        postmaster = stores.postgresql.child
        assert postmaster is not None
        facts = Path(f"/proc/{postmaster.pid}/status").read_text()
        status = dict(line.split(":\t", 1) for line in facts.splitlines() if ":\t" in line)
        assert status["Uid"].split()[0] == "65534"
        assert int(status["CapEff"], 16) in (1 << 2, 1 << 1)
        assert stat.S_IMODE(place.var.stat().st_mode) == 0o700
    finally:
        stores.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to step down")
def test_where_no_right_can_be_lent_the_programs_are_copied(place, monkeypatch):
    monkeypatch.setattr(postgresql, "_may_lend", lambda capability: False)
    closed = place.made().var.parent / "closed"
    closed.mkdir(mode=0o700)
    package = postgresql.installation().parent
    shutil.copytree(package / "pginstall18", closed / package.name / "pginstall18", symlinks=True)
    shutil.copytree(package.with_name(f"{package.name}.libs"), closed / f"{package.name}.libs", symlinks=True)
    monkeypatch.setattr(postgresql, "installation", lambda: closed / package.name / "pginstall18")
    stores = quick(place)
    stores.start()
    stores.stop()
    assert (place.var / "postgresql-18-programs").is_dir()
    place.var.chmod(0o700)
    with pytest.raises(StoresError, match="VAR_DIR"):
        quick(place).start()
