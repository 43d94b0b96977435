from __future__ import annotations

from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing import call_ids, events

times = st.integers(0, call_ids.TIMESTAMP_MS_MAX)
randomness = st.binary(min_size=10, max_size=10)


@given(times, randomness)
def test_an_id_says_when_its_call_began(now_ms, noise):
    call_id = call_ids.mint(now_ms, noise)
    assert UUID(call_id).version == 7
    assert UUID(call_id).int >> 80 == now_ms
    assert str(UUID(call_id)) == call_id
    assert msgspec.convert(call_id, events.CallId) == call_id


@given(times, times, randomness, randomness)
def test_ids_sort_by_time(earlier, later, one, other):
    if earlier < later:
        assert call_ids.mint(earlier, one) < call_ids.mint(later, other)


@given(times, randomness)
def test_a_bound_parts_the_ids_of_its_time_from_those_before(now_ms, noise):
    call_id = UUID(call_ids.mint(now_ms, noise))
    assert call_ids.lowest_of(now_ms) <= call_id
    assert now_ms == call_ids.TIMESTAMP_MS_MAX or call_id < call_ids.lowest_of(now_ms + 1)


def test_what_makes_no_call_id_is_refused():
    with pytest.raises(ValueError, match="no time"):
        call_ids.mint(-1, bytes(10))
    with pytest.raises(ValueError, match="ten random bytes"):
        call_ids.mint(1, b"")
