import os
import subprocess
import sys

import pytest
from django.core.exceptions import ImproperlyConfigured
from redis import Redis

from portal import environment as env
from portal.stores.place import PROJECT_DIR
from tests.portal.installations import installation, own_environment

FERNET = "dGVzdHRlc3R0ZXN0dGVzdHRlc3R0ZXN0dGVzdHRlc3Q="
PRODUCTION = {
    "DATABASE_URL": "postgresql://app:s%40fe@db.example:6432/gateway?sslmode=require",
    "REDIS_URL": "rediss://:pw@redis.example:6380/0",
    "SECRET_KEY": "x" * 50,
    "KEY_PEPPER": "1:" + "ab" * 32,
    "SEALING_KEYS": FERNET,
}


@pytest.mark.parametrize(
    ("reader", "given", "options"),
    [
        (env.flag, "maybe", {"default": False}),
        (env.integer, "eight", {"default": 1, "at_least": 1, "at_most": 9}),
        (env.integer, "10", {"default": 1, "at_least": 1, "at_most": 9}),
        (env.choice, "all", {"default": "both", "choices": ("both", "proxy")}),
        (env.networks, "10.0.0.0/8 and more", {}),
        (env.networks, "10.0.0.1/8", {}),
        (env.addresses, "localhost", {}),
        (env.url, "mysql://x/y", {"default": "", "schemes": ("postgresql",)}),
        (env.web_url, "http://", {}),
        (env.database, "postgresql://host", {"default": ""}),
        (env.database, "postgresql://host/db?no_such=1", {"default": ""}),
    ],
)
def test_wrong_values_are_refused_by_name(monkeypatch, reader, given, options):
    monkeypatch.setenv("SOME_SETTING", given)
    with pytest.raises(ImproperlyConfigured, match="SOME_SETTING"):
        reader("SOME_SETTING", **options)


@pytest.mark.parametrize(
    "given", ["", "hex", "1:zz", "1:abcd", "0:" + "ab" * 32, "1:" + "ab" * 32 + ",1:" + "cd" * 32, "x:" + "ab" * 32]
)
def test_wrong_peppers_are_refused(given):
    with pytest.raises(ImproperlyConfigured, match="KEY_PEPPER must be"):
        env.peppers("KEY_PEPPER", given)


def test_peppers_have_versions():
    assert env.peppers("KEY_PEPPER", f"1:{'ab' * 32}, 2:{'cd' * 32}") == {1: b"\xab" * 32, 2: b"\xcd" * 32}


def test_sealing_keys_are_fernet_keys():
    assert env.sealing_keys("SEALING_KEYS", f"{FERNET},{FERNET}") == [FERNET, FERNET]
    with pytest.raises(ImproperlyConfigured, match="Fernet"):
        env.sealing_keys("SEALING_KEYS", "secret")


def test_a_database_url_is_read_as_libpq_reads_it(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", PRODUCTION["DATABASE_URL"])
    facts = env.database("DATABASE_URL", "")
    assert (facts["NAME"], facts["USER"], facts["PASSWORD"]) == ("gateway", "app", "s@fe")
    assert (facts["HOST"], facts["PORT"], facts["OPTIONS"]) == ("db.example", "6432", {"sslmode": "require"})


@pytest.mark.parametrize(
    ("given", "second"),
    [
        ("unix:///var/run/redis.sock?db=0", "unix:///var/run/redis.sock?db=2"),
        ("redis://:secret@redis.example:6380/0", "redis://:secret@redis.example:6380/2"),
        ("rediss://redis.example", "rediss://redis.example/2"),
    ],
)
def test_another_database_of_the_same_redis(given, second):
    assert env.another_redis_database(given, 2) == second
    assert Redis.from_url(second).connection_pool.connection_kwargs["db"] == 2


def test_celery_has_its_own_spelling_of_a_redis_socket():
    assert env.celery_transport("unix:///run/r.sock?db=1") == "redis+socket:///run/r.sock?virtual_host=1"
    assert env.celery_transport("redis://h:1/1") == "redis://h:1/1"


def test_mail_servers_are_named_by_one_url():
    facts = env.smtp("smtp+tls://me%40x:p%3Aw@mail.example:2525")
    assert facts["EMAIL_HOST_USER"] == "me@x"
    assert facts["EMAIL_HOST_PASSWORD"] == "p:w"
    assert (facts["EMAIL_PORT"], facts["EMAIL_USE_TLS"], facts["EMAIL_USE_SSL"]) == (2525, True, False)


def settings_of(more: dict[str, str], expression: str) -> tuple[int, str]:
    """What a fresh process reads from this environment."""
    with installation() as place:
        done = subprocess.run(
            [sys.executable, "-c", f"from portal import settings as s; print(({expression}))"],
            env=own_environment(place) | more,
            cwd=PROJECT_DIR,
            capture_output=True,
            text=True,
            check=False,
        )
        kept = os.path.exists(place.secrets_file)
    return done.returncode, f"{done.stdout.strip()} {kept}" if done.returncode == 0 else done.stderr


@pytest.mark.parametrize("missing", ["SECRET_KEY", "KEY_PEPPER", "SEALING_KEYS", "REDIS_URL"])
def test_with_a_database_given_the_rest_is_required_and_none_is_made(missing):
    code, said = settings_of({name: value for name, value in PRODUCTION.items() if name != missing}, "s.SECRET_KEY")
    assert code != 0
    assert f"{missing} is required when DATABASE_URL is given" in said


def test_production_settings_suit_pgbouncer_and_show_no_demo():
    read = (
        "s.DATABASES['default']['OPTIONS']['prepare_threshold'], s.DATABASES['default']['DISABLE_SERVER_SIDE_CURSORS'],"
    )
    read += " s.DATABASES['default']['CONN_MAX_AGE'], s.DEMO, s.DEBUG, s.BROKER_URL, s.CACHE_URL"
    assert settings_of(PRODUCTION, read) == (
        0,
        "(None, True, 0, False, False, 'rediss://:pw@redis.example:6380/1', 'rediss://:pw@redis.example:6380/2') False",
    )


def test_without_a_database_secrets_are_made_and_the_demo_is_on():
    assert settings_of({}, "len(s.SECRET_KEY) > 40, s.DEMO, s.DEFAULT_BRAND") == (0, "(True, True, 'dialogix') True")


def test_a_redis_cluster_needs_a_broker_and_a_cache_elsewhere():
    cluster = PRODUCTION | {"REDIS_URL": "redis+cluster://redis.example:6379"}
    assert "give BROKER_URL and CACHE_URL" in settings_of(cluster, "1")[1]
    single = {"BROKER_URL": "redis://jobs.example/0", "CACHE_URL": "redis://jobs.example/1"}
    read = settings_of(cluster | single, "s.REDIS_CLUSTER, s.REDIS_URL")
    assert read == (0, "(True, 'redis://redis.example:6379') False")
