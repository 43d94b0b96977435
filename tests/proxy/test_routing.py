"""Which engine gets a call: fewest calls for its weight, a conversation's own, none that is down or draining."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest

from billing.snapshot import BrandRecord, EngineRecord, ModelRecord, Route, Snapshot
from proxy import affinity, breaker, routing
from proxy.endpoints import CHAT, EMBEDDINGS
from proxy.engine_slots import EngineSlots
from proxy.refusals import Declined, Reason
from proxy.requests import Asked
from proxy.routing import Routing

NAME = "there"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(routing, "time", found)
    return found


class Pool:
    """A model on engines 1…n."""

    def __init__(self, *engines: dict[str, Any]) -> None:
        self.slots = EngineSlots()
        self.routing = Routing(self.slots)
        self.engines = [
            EngineRecord(id=number, name=f"e{number}", kind="vllm", base_url=f"http://e{number}/v1", **fields)
            for number, fields in enumerate(engines, 1)
        ]
        self.model = ModelRecord(
            id=1,
            slug="m",
            context_length=1000,
            max_completion_tokens=100,
            routes=tuple(Route(engine_id=engine.id, name_there=NAME) for engine in self.engines),
        )
        brand = BrandRecord(id=1, slug="b", name="B")
        self.snapshot = Snapshot(version=1, brand=brand, models=(self.model,), engines=tuple(self.engines))

    def order(self, conversation: bytes = b"") -> list[int]:
        return [engine.id for engine, _ in self.routing.order(self.model, self.snapshot, conversation)]

    def reason(self) -> Reason:
        with pytest.raises(Declined) as caught:
            self.order()
        return caught.value.problem.reason

    async def run(self, engine_id: int, calls: int = 1) -> None:
        for organization in range(calls):
            await self.slots.acquire(engine_id, 256, organization, 0)

    def unreached(self, engine_id: int) -> None:
        for _ in range(breaker.FAILURES_MAX):
            self.routing.unreached(engine_id)

    def failed(self, engine_id: int, times: int = breaker.FAILURES_MAX) -> None:
        for _ in range(times):
            self.routing.failed(self.engines[engine_id - 1], self.model.routes[engine_id - 1])


async def test_the_engine_with_the_fewest_calls_for_its_weight_is_first() -> None:
    pool = Pool({}, {"weight": 3})
    placed: Counter[int] = Counter()
    for _ in range(80):
        first = pool.order()[0]
        placed[first] += 1
        await pool.run(first)
    assert placed == {1: 20, 2: 60}


async def test_a_conversation_stays_and_others_spread() -> None:
    pool = Pool({}, {}, {})
    owners: Counter[int] = Counter()
    for _ in range(300):
        conversation = os.urandom(8)
        first = pool.order(conversation)[0]
        assert {pool.order(conversation)[0] for _ in range(5)} == {first}
        owners[first] += 1
    assert min(owners.values()) > 50


async def test_an_overloaded_engine_lets_its_conversations_go_for_now() -> None:
    pool = Pool({}, {})
    conversation = b"c"
    own, other = pool.order(conversation)
    await pool.run(own, 3)
    assert pool.order(conversation)[0] == own
    await pool.run(own, 7)
    assert pool.order(conversation)[0] == other
    await pool.run(other, 10)
    assert pool.order(conversation)[0] == own


def test_only_the_conversations_of_the_engine_that_goes_move(clock: Clock) -> None:
    pool = Pool({}, {}, {})
    conversations = [b"%d" % number for number in range(200)]
    before = {conversation: pool.order(conversation)[0] for conversation in conversations}
    pool.unreached(2)
    for conversation, own in before.items():
        now = pool.order(conversation)[0]
        assert now == own if own != 2 else now != 2
    pool.routing.reached(2)
    assert {conversation: pool.order(conversation)[0] for conversation in conversations} == before


def test_draining_and_down_engines_get_nothing_new() -> None:
    pool = Pool({"state": "draining"}, {"state": "down"}, {})
    assert pool.order(b"x") == [3]
    assert Pool({"state": "draining"}).reason() is Reason.ENGINE_UNAVAILABLE


def test_an_engine_that_was_not_reached_once_is_asked_last(clock: Clock) -> None:
    pool = Pool({}, {})
    pool.routing.unreached(1)
    assert pool.order() == [2, 1]
    clock.now += breaker.SUSPECT_SECONDS
    assert {pool.order()[0] for _ in range(50)} == {1, 2}


def test_an_engine_that_cannot_be_reached_is_left_out_and_comes_back_by_a_probe(clock: Clock) -> None:
    pool = Pool({}, {})
    pool.unreached(1)
    assert pool.order() == [2]
    clock.now += 60
    assert pool.order() == [2, 1]
    pool.routing.reached(1)
    assert {pool.order()[0] for _ in range(50)} == {1, 2}


def test_an_only_engine_that_cannot_be_reached_is_refused_at_once_but_for_one_trial(clock: Clock) -> None:
    pool = Pool({})
    pool.unreached(1)
    assert pool.reason() is Reason.ENGINE_UNREACHABLE
    clock.now += breaker.WAIT_SECONDS_MIN
    assert pool.order() == [1]
    pool.routing.began(pool.engines[0], pool.model.routes[0])
    assert pool.reason() is Reason.ENGINE_UNREACHABLE
    pool.routing.reached(1)
    assert pool.order() == [1]


def test_an_engine_whose_answers_fail_is_asked_last_until_one_call_finds_it_well(clock: Clock) -> None:
    pool = Pool({}, {})
    pool.failed(1)
    assert pool.order() == [2, 1]
    clock.now += breaker.WAIT_SECONDS_MIN
    assert pool.order() == [1, 2]
    pool.routing.began(pool.engines[0], pool.model.routes[0])
    assert pool.order() == [2, 1]
    pool.routing.answered(pool.engines[0], pool.model.routes[0])
    assert {pool.order()[0] for _ in range(50)} == {1, 2}


def test_an_only_engine_whose_answers_fail_keeps_being_asked(clock: Clock) -> None:
    pool = Pool({})
    pool.failed(1, 20)
    assert pool.order() == [1]


def test_an_engine_that_is_not_ready_is_asked_last() -> None:
    pool = Pool({}, {})
    pool.order()
    pool.routing.set_ready(1, ready=False)
    assert pool.order() == [2, 1]
    assert {engine: health.healthy for engine, health in pool.routing.healths().items()} == {1: False, 2: True}
    pool.routing.set_ready(1, ready=True)
    assert pool.routing.healths()[1].healthy


def asked(*contents: str, user: str = "") -> Asked:
    roles = ["system", "user", "assistant", "user", "assistant", "user"]
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    return Asked(CHAT, {"messages": messages}, 1, 1, user=user)


def test_all_turns_of_a_conversation_are_one_and_organizations_are_apart() -> None:
    first = affinity.conversation_of(asked("Be kind.", "Hello"), 1)
    assert affinity.conversation_of(asked("Be kind.", "Hello", "Hi!", "And now?"), 1) == first
    assert affinity.conversation_of(asked("Be kind.", "Good day"), 1) != first
    assert affinity.conversation_of(asked("Be kind.", "Hello"), 2) != first


def test_a_user_is_a_conversation() -> None:
    one = affinity.conversation_of(asked("a", "b", user="u1"), 1)
    assert affinity.conversation_of(asked("c", "d", user="u1"), 1) == one
    assert affinity.conversation_of(asked("c", "d", user="u2"), 1) != one
    talk = affinity.conversation_of(asked("a", "b", user="u1"), 1, "s1")
    assert affinity.conversation_of(asked("c", "d"), 1, "s1") == talk
    others = [(1, "s2"), (2, "s1"), (1, "u1")]
    assert talk not in [affinity.conversation_of(asked("c", "d"), *other) for other in others]
    assert affinity.conversation_of(asked("a", "b"), 1, "u1") != one
    assert affinity.conversation_of(Asked(EMBEDDINGS, {"input": "x"}, 1, 0), 1) == b""
