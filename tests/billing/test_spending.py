"""From which credit spending is paid, against a plain model that spends nano by nano."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from billing.spending import Credit, Left, Move, in_order, left_of, takeable

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def paid(id, nanos, **fields):
    return Credit(id=id, amount_nanos=nanos, is_paid=True, **fields)


def gift(id, nanos, days=None, **fields):
    until = None if days is None else NOON + timedelta(days=days)
    return Credit(id=id, amount_nanos=nanos, is_paid=False, expires_at=until, **fields)


def test_what_expires_soonest_is_spent_first_then_gifts_then_what_was_paid():
    credits = [paid(1, 10), gift(2, 10), gift(3, 10, days=30), gift(4, 10, days=2), paid(5, 10, priority=-1)]
    assert [credit.id for credit in in_order(credits)] == [5, 4, 3, 2, 1]
    assert left_of([*credits, Move(-25)]).nanos == {1: 10, 2: 10, 3: 5}


def test_spending_is_paid_by_what_was_there_and_not_by_what_came_later():
    left = left_of([paid(1, 10), Move(-8), gift(2, 5, days=1)])
    assert left.nanos == {1: 2, 2: 5}


def test_a_refund_comes_out_of_what_was_paid_last_and_an_expiry_out_of_its_grant():
    credits = [paid(1, 10), paid(2, 10), gift(3, 10, days=1), gift(4, 10)]
    assert left_of([*credits, Move(-12, is_refund=True)]).nanos == {1: 8, 3: 10, 4: 10}
    assert left_of([*credits, Move(-7, grant_id=4)]).nanos == {1: 10, 2: 10, 3: 10, 4: 3}


def test_what_is_spent_beyond_all_credit_is_paid_by_the_next():
    left = left_of([gift(1, 5), Move(-9)])
    assert (left.nanos, left.debt_nanos, left.balance_nanos) == ({}, 4, -4)
    assert left_of([gift(2, 10)], left, [gift(1, 5)]).nanos == {2: 6}


def test_money_without_a_grant_is_spent_last():
    left = left_of([Move(5), paid(1, 10), Move(-12)])
    assert (left.nanos, left.loose_nanos) == ({}, 3)


def test_what_running_calls_hold_is_not_taken_from_what_expired():
    expired = [gift(1, 10, days=1), gift(2, 10, days=2)]
    left = left_of([*expired, paid(3, 50), Move(-4)]).nanos
    assert takeable(left, expired, 0) == {1: 6, 2: 10}
    assert takeable(left, expired, 5) == {1: 1, 2: 10}
    assert takeable(left, expired, 9) == {2: 7}
    assert takeable(left, expired, 100) == {}


credits = st.builds(
    lambda nanos, is_paid, days, priority: (nanos, is_paid, days, priority),
    *(st.integers(1, 40), st.booleans(), st.none() | st.integers(1, 3), st.integers(0, 1)),
)
histories = st.lists(credits | st.integers(-30, 15).map(lambda nanos: nanos or 1), max_size=25)


def told(history):
    """Drawn things as moves; every credit gets an id."""
    for id, thing in enumerate(history, start=1):
        if isinstance(thing, int):
            yield Move(thing)
            continue
        nanos, is_paid, days, priority = thing
        until = None if days is None else NOON + timedelta(days=days)
        yield Credit(id=id, amount_nanos=nanos, is_paid=is_paid, expires_at=until, priority=priority)


LOOSE: tuple[object, ...] = (1,)


def one_by_one(moves):
    """The same, a nano at a time, from a list of single nanos sorted anew each time."""
    purse: list[tuple[object, ...]] = []
    debt, came = 0, LOOSE
    for move in moves:
        if isinstance(move, Credit):
            came, nanos = (0, *move.order), move.amount_nanos
        else:
            came, nanos = LOOSE, move.amount_nanos
        for _ in range(max(nanos, 0)):
            debt, purse = (debt - 1, purse) if debt else (0, [*purse, came])
        for _ in range(max(-nanos, 0)):
            purse.sort()
            debt, purse = (debt, purse[1:]) if purse else (debt + 1, [])
    return sorted(purse), debt


@given(histories)
def test_spending_is_as_if_paid_nano_by_nano(history):
    moves = list(told(history))
    left = left_of(moves)
    purse, debt = one_by_one(moves)
    known = {move.id: move for move in moves if isinstance(move, Credit)}
    expected = [(0, *known[id].order) for id, nanos in left.nanos.items() for _ in range(nanos)]
    assert sorted([*expected, *([LOOSE] * left.loose_nanos)]) == purse
    assert left.debt_nanos == debt
    assert left.balance_nanos == sum(m.amount_nanos for m in moves)


@given(histories, st.integers(0, 25))
def test_reading_on_from_a_mark_is_the_same_as_reading_it_all(history, cut):
    moves = list(told(history))
    known = [move for move in moves[:cut] if isinstance(move, Credit)]
    assert left_of(moves[cut:], left_of(moves[:cut]), known) == left_of(moves)


@given(histories, st.integers(0, 200))
def test_never_more_is_taken_than_is_left(history, running):
    moves = list(told(history))
    left = left_of(moves).nanos
    known = [move for move in moves if isinstance(move, Credit)]
    taken = takeable(left, known, running)
    assert sum(taken.values()) == max(0, sum(left.values()) - running)
    assert all(0 < nanos <= left[id] for id, nanos in taken.items())


def test_nothing_is_left_of_nothing():
    assert left_of([]) == Left()
    assert left_of([]).balance_nanos == 0
