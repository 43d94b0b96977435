"""One kind of limit, called by many at once until it has refused them: what was admitted is what is allowed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import uvloop

from tests.exactness.house import Buyer, House, Place
from tests.exactness.kinds import CONCURRENT, MAX_TOKENS, Kind, Used
from tests.stories.workers import Answer, Caller

CONNECTIONS = 64
PATH = "/dialogix/v1/chat/completions"
SLOTS = 7
AT_WORK_MS = 25
PROBE_MS = 600
TAIL_MAX = 400
EXHAUSTED, IN_FLIGHT, TOO_MANY = "insufficient_quota", "quota_in_flight", "concurrency_limit_exceeded"


@dataclass
class Row:
    """`allowed`: what the limit lets through, of calls (of running ones at any moment, where those are limited);
    `admitted`: what came of that, as clients saw it; `wrong`: whatever is not as it must be."""

    kind: Kind
    allowed: int = 0
    admitted: int = 0
    answers: int = 0
    calls: int = 0
    limit: int = 0
    counted: int = 0
    booked: int = 0
    seconds: float = 0.0
    refused: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def must(self, what: str, found: Any, expected: Any) -> None:
        if found != expected:
            self.wrong.append(f"{what}: {found}, not {expected}")


def run(house: House, kind: Kind, requests: int) -> Row:
    return _concurrency(house, kind, requests) if kind.unit == CONCURRENT else _amounts(house, kind, requests)


def _amounts(house: House, kind: Kind, requests: int) -> Row:
    """Three fifths of the requests fit. A call fits while what it could take does, so the last one leaves as much as it
    did not use, and here one unit less than another would have needed."""
    house.takes()
    if kind.message not in house.used:
        house.used[kind.message] = _used(house, kind)
    used = house.used[kind.message]
    each, takes, holds = requests * 3 // 5 // kind.places, used.of(kind.unit), used.most.of(kind.unit)
    limit = (each - 1) * takes + holds + takes - 1
    buyer = house.buyer(kind, limit)
    began = time.time()
    row = Row(kind, allowed=each * kind.places, limit=limit * kind.places)
    answers = uvloop.run(_crowd(house, row, buyer.places, requests))
    _note(row, answers)
    row.admitted = row.calls
    _look_into_the_books(house, row, buyer)
    made = house.made_since(began)
    row.must("what one call took", {Used(entry["prompt_tokens"], entry["output_tokens"]) for entry in made}, {used})
    row.must("calls in the engine's log", len(made), row.admitted)
    row.must("refused for", set(row.refused) - {EXHAUSTED, IN_FLIGHT}, set())
    for place, admitted in zip(buyer.places, _by_place(answers), strict=True):
        row.must(f"admitted at {place.scope}", admitted, each)
        posted = house.posted(kind, buyer, place)
        gone = posted if kind.window else limit - posted
        row.must(f"counted at {place.scope}", gone, admitted * takes)
        row.must(f"booked at {place.scope}", house.booked(buyer, place, kind.unit), admitted * takes)
        row.counted += gone
        row.booked += house.booked(buyer, place, kind.unit)
    return row


def _concurrency(house: House, kind: Kind, requests: int) -> Row:
    """What runs at any moment, by the engine's own log; and at the end all slots are free again."""
    buyer = house.buyer(kind, SLOTS)
    house.takes(delay_ms=AT_WORK_MS)
    began = time.time()
    row = Row(kind, allowed=SLOTS * kind.places, limit=SLOTS * kind.places)
    answers = uvloop.run(_crowd(house, row, buyer.places, requests))
    _note(row, answers)
    _look_into_the_books(house, row, buyer)
    made = house.made_since(began)
    place_of = {answer.call_id: number for number, answer in answers if answer.status == 200}
    row.must("calls in the engine's log", {entry["request_id"] for entry in made}, set(place_of))
    row.must("refused for", set(row.refused), {TOO_MANY})
    for number, place in enumerate(buyer.places):
        mine = [entry for entry in made if place_of.get(entry["request_id"]) == number]
        most = _most_at_once((entry["started_at"], entry["ended_at"]) for entry in mine)
        row.must(f"most that ran at {place.scope}", most, SLOTS)
        row.must(f"booked at {place.scope}", house.booked(buyer, place, "requests"), len(mine))
        row.admitted += most
        row.counted += len(mine)
        row.booked += house.booked(buyer, place, "requests")
        again = uvloop.run(_at_once(house, kind, place, SLOTS + 5))
        row.must(f"admitted at {place.scope} at once, afterwards", sum(a.status == 200 for a in again), SLOTS)
    _at_rest(house, row, buyer)
    return row


def _used(house: House, kind: Kind) -> Used:
    """What a call of the kind takes, by the log of an engine that answered one."""
    place = house.buyer(Kind("", "requests", "day"), 10).places[0]

    async def once() -> Answer:
        caller = await Caller(house.port, PATH, place.issued.secret, _body(place, kind)).connect()
        answer = await caller.call()
        await caller.close()
        return answer

    entry = house.shop.inference.entry(uvloop.run(once()).call_id)
    return Used(entry["prompt_tokens"] - entry["cached_tokens"], entry["output_tokens"])


def _body(place: Place, kind: Kind) -> dict[str, object]:
    message = {"role": "user", "content": kind.message}
    return {"model": place.model.slug, "messages": [message], "max_tokens": MAX_TOKENS}


async def _crowd(house: House, row: Row, places: list[Place], requests: int) -> list[tuple[int, Answer]]:
    """CONNECTIONS callers, shared out among the places, until `requests` are sent; then each place alone until it is
    used up: while others ran, they may have held what was the last call's."""
    left = [iter(range(requests // len(places))) for _ in places]
    answers: list[tuple[int, Answer]] = []
    bodies = [(place.issued.secret, _body(place, row.kind)) for place in places]

    async def go_on(number: int) -> None:
        caller = await Caller(house.port, PATH, *bodies[number]).connect()
        for _ in left[number]:
            answers.append((number, await caller.call()))
        await caller.close()

    began = time.monotonic()
    await asyncio.gather(*[go_on(number % len(places)) for number in range(CONNECTIONS)])
    row.seconds = time.monotonic() - began
    if row.kind.unit != CONCURRENT:
        for number, body in enumerate(bodies):
            caller = await Caller(house.port, PATH, *body).connect()
            for _ in range(TAIL_MAX):
                answers.append((number, await caller.call()))
                if answers[-1][1].code == EXHAUSTED:
                    break
            await caller.close()
    return answers


async def _at_once(house: House, kind: Kind, place: Place, callers: int) -> list[Answer]:
    house.takes(delay_ms=PROBE_MS)
    body = _body(place, kind)
    them = [await Caller(house.port, PATH, place.issued.secret, body).connect() for _ in range(callers)]
    answers = await asyncio.gather(*[caller.call() for caller in them])
    for caller in them:
        await caller.close()
    return answers


def _note(row: Row, answers: list[tuple[int, Answer]]) -> None:
    row.answers = len(answers)
    row.calls = sum(answer.status == 200 for _, answer in answers)
    row.refused.update(answer.code for _, answer in answers if answer.status != 200)
    row.must("statuses", {answer.status for _, answer in answers}, {200, 429})


def _by_place(answers: list[tuple[int, Answer]]) -> list[int]:
    admitted = Counter(number for number, answer in answers if answer.status == 200)
    return [admitted[number] for number in sorted({number for number, _ in answers})]


def _look_into_the_books(house: House, row: Row, buyer: Buyer) -> None:
    if not house.wait_until_booked(buyer, row.calls):
        row.wrong.append("not all calls were booked in time")
    _at_rest(house, row, buyer)


def _at_rest(house: House, row: Row, buyer: Buyer) -> None:
    """The last settles follow their answers by a moment."""
    deadline = time.monotonic() + 10
    while (held := house.held(buyer)) and time.monotonic() < deadline:
        time.sleep(0.05)
    row.must("held afterwards", held, {})


def _most_at_once(spans: Iterable[tuple[float, float]]) -> int:
    """The engine notes both ends in one thread, an end before whatever it begins next: of equal times ends go first."""
    edges = sorted((at, step) for began, ended in spans for at, step in ((began, 1), (ended, -1)))
    most = running = 0
    for _, step in edges:
        running += step
        most = max(most, running)
    return most


_HEAD = ("limit", "asked", "allowed", "admitted", "its amount", "counted", "booked", "refused", "s", "")


def table(rows: Iterable[Row]) -> str:
    lines: list[tuple[str, ...]] = [_HEAD]
    for row in rows:
        refused = ", ".join(f"{code} {number:,}" for code, number in sorted(row.refused.items()))
        numbers = (row.answers, row.allowed, row.admitted, row.limit, row.counted, row.booked)
        end = "" if not row.wrong else "WRONG"
        lines.append((row.kind.name, *(f"{number:,}" for number in numbers), refused, f"{row.seconds:.1f}", end))
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    text = ["  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*text, *(f"! {row.kind.name}: {wrong}" for row in rows for wrong in row.wrong)])
