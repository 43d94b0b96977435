"""Chores are done in order, again and again, whatever one of them does."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from portal.chores import Chore, Chores

pytestmark = pytest.mark.django_db


def run(*chores: Chore, rounds: int = 3) -> list[str]:
    """The lines told until the last chore was done `rounds` times."""
    stopping = threading.Event()
    lines: list[str] = []
    done: list[int] = []

    def last() -> str:
        done.append(1)
        if len(done) == rounds:
            stopping.set()
        return ""

    thread = Chores([*chores, Chore("last", 0.01, last)], stopping=stopping, notify=lines.append)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    return lines


def test_a_failure_is_told_once_and_stops_nobody():
    def fail() -> str:
        raise ValueError("no\nway")

    assert run(Chore("bad", 0.01, fail)) == ["bad: ValueError: no way"]


def test_a_recovery_is_told():
    answers: Iterator[ValueError | str] = iter([ValueError("x"), "", ""])

    def sometimes() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert run(Chore("shaky", 0.01, sometimes)) == ["shaky: ValueError: x", "shaky: works again"]


def test_a_chore_waits_for_its_time():
    done: list[int] = []

    def count() -> str:
        done.append(1)
        return "counted"

    assert run(Chore("seldom", 3600, count)) == ["seldom: counted"]
    assert done == [1]
