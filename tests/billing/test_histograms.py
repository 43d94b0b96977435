from __future__ import annotations

import pytest
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st

from billing import histograms

BOUNDS = histograms.MILLISECONDS


def of(*values: int | None) -> list[int]:
    histogram: list[int] = []
    for value in values:
        histograms.count(histogram, value, BOUNDS)
    return histogram


def test_bounds_rise():
    for bounds in (histograms.MILLISECONDS, histograms.TOKENS_PER_SECOND):
        assert list(bounds) == sorted(set(bounds))


@pytest.mark.parametrize(
    ("value", "bucket"), [(0, 0), (5, 0), (6, 1), (900_000, len(BOUNDS) - 1), (900_001, len(BOUNDS))]
)
def test_a_bound_belongs_to_its_own_bucket(value, bucket):
    assert histograms.bucket_of(value, BOUNDS) == bucket


def test_what_was_not_measured_is_not_counted():
    assert of(None, 5, None) == [1]


def test_speed_counts_the_tokens_after_the_first():
    assert histograms.speed(11, 100, 1_100) == 10
    assert histograms.speed(11, None, 1_100) is None
    assert histograms.speed(1, 100, 1_100) is None
    assert histograms.speed(11, 100, 100) is None


def test_a_percentile_of_nothing_is_unknown():
    assert histograms.percentile([], BOUNDS, 500) is None
    assert histograms.percentile([0, 0], BOUNDS, 500) is None


def test_a_value_past_the_last_bound_is_shown_as_that_bound():
    assert histograms.percentile(of(10**9), BOUNDS, 500) == BOUNDS[-1]


@given(st.lists(st.integers(0, 900_000), min_size=1, max_size=200), st.integers(1, 1000))
def test_a_percentile_lies_in_the_bucket_of_the_exact_one(values, per_mille):
    exact = sorted(values)[max(0, -(-len(values) * per_mille // 1000) - 1)]
    found = histograms.percentile(of(*values), BOUNDS, per_mille)
    bucket = histograms.bucket_of(exact, BOUNDS)
    assert found is not None
    assert (BOUNDS[bucket - 1] if bucket else 0) <= found <= BOUNDS[bucket]


@pytest.mark.django_db
def test_postgresql_adds_histograms_of_different_lengths():
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT add_histograms('{1,2}', '{10,20,30}'), add_histograms('{}', '{1}'), add_histograms('{}', '{}')"
        )
        assert cursor.fetchone() == ([11, 22, 30], [1], [])
        cursor.execute("SELECT sum_histograms(h) FROM (VALUES ('{1}'::bigint[]), ('{}'), ('{1,0,5}')) AS v (h)")
        assert cursor.fetchone() == ([2, 0, 5],)
