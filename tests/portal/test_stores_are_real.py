import os

import psycopg
import pytest
from django.db import connection

from keys.models import Brand


@pytest.mark.django_db
def test_the_suite_runs_on_postgresql_18():
    with connection.cursor() as cursor:
        cursor.execute("SHOW server_version_num")
        assert cursor.fetchone()[0].startswith("18")
    Brand.objects.create(slug="a", name="A")
    assert Brand.objects.count() == 1


@pytest.mark.django_db
def test_each_test_finds_the_database_empty():
    assert Brand.objects.count() == 0


@pytest.mark.django_db(transaction=True)
def test_committed_rows_are_seen_by_raw_connections(database_url):
    Brand.objects.create(slug="b", name="B")
    with psycopg.connect(database_url) as raw:
        assert raw.execute("SELECT slug FROM keys_brand").fetchall() == [("b",)]
    assert os.environ["DATABASE_URL"] == database_url


def test_redis_refuses_rather_than_evicts(redis_connection):
    assert redis_connection.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    assert redis_connection.config_get("appendonly") == {"appendonly": "yes"}
    assert redis_connection.dbsize() == 0
    redis_connection.set("left", "behind")


def test_each_test_finds_redis_empty(redis_connection):
    assert redis_connection.dbsize() == 0
