"""lua/arithmetic.lua against Python's integers, many cases per script call."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import script
from tests.billing.oracle import EXACT_MAX, INT64_MAX

WIDE = st.one_of(
    st.integers(-1000, 1000),
    st.integers(-INT64_MAX, INT64_MAX),
    st.integers(INT64_MAX - 100, INT64_MAX),
    st.integers(-INT64_MAX, -INT64_MAX + 100),
    *[st.integers(sign * 10**15 * k - 3, sign * 10**15 * k + 3) for sign in (1, -1) for k in (1, 8, 9, 10, 12, 13)],
    *[st.integers(sign * 2**53 - 3, sign * 2**53 + 3) for sign in (1, -1)],
)
EXACT = st.one_of(
    st.integers(0, 1000),
    st.integers(0, EXACT_MAX),
    st.integers(EXACT_MAX - 9, EXACT_MAX),
    st.integers(10**15 - 3, 10**15),
)


@pytest.fixture(scope="module")
def lua(redis_connection):
    """lua(expression over the case `c`, cases) → one answer per case."""
    folder = Path(script.__file__).parent / "lua"
    head = (folder / "prelude.lua").read_text() + (folder / "arithmetic.lua").read_text()

    def ask(expression, cases):
        body = f"""
            local answers = {{}}
            for n, c in ipairs(cmsgpack.unpack(ARGV[1])) do answers[n] = {expression} end
            return cmsgpack.pack(answers)"""
        reply = redis_connection.eval(head + body, 0, msgspec.msgpack.encode(cases))
        return msgspec.msgpack.decode(reply)

    return ask


def cases(*parts):
    return st.lists(st.tuples(*parts), min_size=20, max_size=60)


def checked(function):
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=60, deadline=None, suppress_health_check=quiet)(function)


@checked
@given(found=cases(WIDE, WIDE, WIDE))
def test_room_is_exact_within_what_is_judged(lua, found):
    answers = lua("text(room(c[1], c[2], c[3]))", [[str(value) for value in case] for case in found])
    expected = [max(-EXACT_MAX, min(EXACT_MAX, limit - posted - held)) for limit, posted, held in found]
    assert [int(answer) for answer in answers] == expected


@checked
@given(found=cases(WIDE, EXACT, st.sampled_from([1, -1])))
def test_sums_are_exact_and_end_at_the_ends_of_int64(lua, found):
    answers = lua("plus(c[1], c[2])", [[str(value), sign * amount] for value, amount, sign in found])
    expected = [max(-INT64_MAX, min(INT64_MAX, value + sign * amount)) for value, amount, sign in found]
    assert [int(answer) for answer in answers] == expected


@checked
@given(found=cases(WIDE, WIDE))
def test_a_sum_beyond_int64_is_seen_before_it_is_written(lua, found):
    answers = lua("sum_fits(c[1], c[2])", [[str(one), str(other)] for one, other in found])
    assert answers == [abs(one + other) <= INT64_MAX for one, other in found]


@checked
@given(found=cases(EXACT, EXACT, st.sampled_from([1, 1000]), st.integers(0, 10**6), st.integers(0, 20), EXACT))
def test_the_largest_grant_that_fits_is_found_exactly(lua, found):
    asked, expected = [], []
    for fixed, per_wished, scale, wanted, least_wished, have in found:
        least = min(least_wished, wanted)
        per = min(per_wished, (EXACT_MAX - fixed) // max(wanted, 1))
        asked.append([[fixed, per, scale], least, wanted, have])
        expected.append(_largest(fixed, per, scale, least, wanted, have))
    answers = lua("text(largest(c[1], 1, c[2], c[3], c[4]) or -1)", asked)
    assert [int(answer) for answer in answers] == expected


def _largest(fixed, per, scale, least, wanted, have):
    def need(g):
        return -(-(fixed + g * per) // scale)

    if need(wanted) == 0 or need(wanted) <= have:
        return wanted
    if need(least) > have:
        return -1
    g = (have * scale - fixed) // per
    assert need(g) <= have < need(g + 1)
    return g
