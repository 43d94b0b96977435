"""How fast the journal is here; printed, because a busy machine is no reason to fail."""

from __future__ import annotations

import time

import pytest

from billing.journal import Journal
from tests.billing import books
from tests.billing.draining import drain
from tests.billing.settled import customer, settle

EVENTS = 20_000
CUSTOMERS = 40


@pytest.mark.django_db(transaction=True)
def test_twenty_thousand_events(redis_connection, capsys):
    house = customer().brand
    customers = [customer(house) for _ in range(CUSTOMERS)]
    for _ in range(EVENTS // CUSTOMERS // 50):
        settle(redis_connection, *(who.event() for _ in range(50) for who in customers))
    journal = Journal(redis_connection, name="first", notify=lambda _line: None)
    began, cpu = time.perf_counter(), time.process_time()
    drain(journal)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    with capsys.disabled():
        print(f"\n{EVENTS} events in {seconds:.1f} s: {EVENTS / seconds:,.0f}/s, {cpu / EVENTS * 1e6:.0f} µs CPU each")
    assert books.events() == EVENTS
    books.assert_consistent()
