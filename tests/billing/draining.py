"""Driving a journal by hand in tests."""

from __future__ import annotations

from billing.journal import Delivery, Journal


def drain(journal: Journal) -> None:
    """Until two turns in a row find nothing: the first may have found only that nothing was pending."""
    idle = 0
    while idle < 2:
        idle = 0 if journal.turn() else idle + 1


def read(journal: Journal) -> list[Delivery]:
    """One page, neither booked nor acknowledged."""
    journal._renew()
    while not (found := journal._read()):
        pass
    return found
