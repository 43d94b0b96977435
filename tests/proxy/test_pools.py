"""Several engines behind one model, real ones on loopback: who gets a call, and what a call survives."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from billing import engines
from billing.models import Engine
from proxy.breaker import FAILURES_MAX, WAIT_SECONDS_MIN, Breaker
from tests.inference import Inference, demo_engine
from tests.proxy.shop import Gateway
from tests.proxy.test_failures import assert_says

pytestmark = pytest.mark.django_db(transaction=True)
_names = iter(range(1000))


@contextmanager
def pool(gateway: Gateway, *options: dict[str, Any]) -> Iterator[tuple[str, list[Inference], list[Engine]]]:
    """A model with an engine of its own for each of `options` (`fields`: the row's)."""
    shop, slug = gateway.shop, f"pool-{next(_names)}"
    with ExitStack() as stack:
        running, rows = [], []
        for number, option in enumerate(options):
            fields = option.pop("fields", {})
            engine = stack.enter_context(demo_engine(**option))
            running.append(engine)
            rows.append(shop.new_engine(f"{slug}-{number}", engine.base_url, **fields))
        model = shop.new_model(slug, "demo-chat", engine=rows[0])
        for row in rows[1:]:
            engines.set_route(model=model, engine=row, name_there="demo-chat", actor="tests")
        yield slug, running, rows


def until(condition: Callable[[], bool], within_seconds: float = 5.0) -> None:
    """An engine's log, say, has its line a moment after the answer."""
    deadline = time.monotonic() + within_seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


def test_turns_of_a_conversation_meet_their_cache(gateway: Gateway) -> None:
    opening = "Here is a rather long text that every turn of this conversation repeats word by word. " * 8
    with pool(gateway, {}, {}, {}) as (slug, running, _):
        for talk in range(6):
            messages = [{"role": "user", "content": f"Talk {talk}. {opening}"}]
            for turn in range(4):
                answer = gateway.chat(model=slug, messages=messages)
                assert answer.status_code == 200, answer.text
                event = gateway.event_of(answer)
                assert ((event.cache_read_tokens or 0) > 0) == (turn > 0)
                messages += [answer.json()["choices"][0]["message"], {"role": "user", "content": "Go on."}]
        until(lambda: sum(len(engine.engine.log) for engine in running) == 24)
        assert sum(1 for engine in running if engine.engine.log) > 1


def test_a_loading_or_full_engine_hands_its_call_on(gateway: Gateway) -> None:
    with pool(gateway, {}, {"fields": {"weight": 1}}) as (slug, (first, second), rows):
        first.engine.control.update({"loading": True})
        answers = [gateway.chat(f"Question {number}", model=slug) for number in range(8)]
        assert [answer.status_code for answer in answers] == [200] * 8
        assert {gateway.event_of(answer).engine_id for answer in answers} == {rows[1].id}
        assert Counter(answer.headers["x-request-id"] for answer in answers).most_common(1)[0][1] == 1
        second.engine.control.update({"loading": True})
        refused = gateway.chat(model=slug)
        assert_says(refused, 503, "engine_not_ready", retry=True)
        assert gateway.event_of(refused).cost_nanos == 0
        first.engine.control.update({"loading": False})
        second.engine.control.update({"loading": False})
    assert gateway.shop.holds() == 0


def test_an_answer_that_may_have_begun_is_never_asked_for_twice(gateway: Gateway) -> None:
    with pool(gateway, {}, {}) as (slug, running, _):
        for fault in ("status=500", "die=3"):
            answer = gateway.chat(f"demo:{fault}", model=slug)
            assert answer.status_code == 502
            gateway.event_of(answer)
            told = [entry for engine in running for entry in list(engine.engine.log)]
            assert sum(entry["request_id"] == answer.headers["x-request-id"] for entry in told) <= 1
        until(lambda: sum(len(engine.engine.log) for engine in running) == 2)


def test_a_draining_engine_gets_nothing_new_and_a_full_pool_waits(gateway: Gateway) -> None:
    with pool(gateway, {}, {}) as (slug, (first, second), rows):
        engines.change(engine=rows[0], actor="tests", state="draining")
        assert {gateway.chat(f"{number}", model=slug).status_code for number in range(6)} == {200}
        until(lambda: len(second.engine.log) == 6)
        assert not first.engine.log
        engines.change(engine=rows[1], actor="tests", state="draining")
        assert_says(gateway.chat(model=slug), 503, "engine_unavailable", retry=True)


def test_a_failing_engine_is_tried_by_one_call_of_many_at_once(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls that are let in by one answer of Redis choose their engines before the first is on its way."""
    dispatched = gateway.worker.admission.dispatched

    async def slowly(*given: Any) -> None:
        await asyncio.sleep(0.3)
        await dispatched(*given)

    monkeypatch.setattr(gateway.worker.admission, "dispatched", slowly)
    with pool(gateway, {}, {}) as (slug, (first, second), rows):
        failing = gateway.worker.routing._answers[rows[0].id, "demo-chat"] = Breaker()
        for _ in range(FAILURES_MAX):
            failing.failed(time.monotonic() - 2 * WAIT_SECONDS_MIN)
        with ThreadPoolExecutor(6) as clients:
            answers = list(clients.map(lambda number: gateway.chat(f"{number}", model=slug), range(6)))
        assert {answer.status_code for answer in answers} == {200}
        until(lambda: len(first.engine.log) + len(second.engine.log) == 6)
        assert len(first.engine.log) == 1


def test_an_engine_that_stays_away_costs_nobody_a_call(gateway: Gateway) -> None:
    shop = gateway.shop
    with pool(gateway, {}) as (slug, (engine,), rows):
        model = rows[0].routes.get().model
        dead = shop.new_engine(f"{slug}-dead", closed_port(), weight=100)
        engines.set_route(model=model, engine=dead, name_there="demo-chat", actor="tests")
        answers = [gateway.chat(f"Question {number}", model=slug) for number in range(12)]
        assert [answer.status_code for answer in answers] == [200] * 12
        until(lambda: len(engine.engine.log) == 12)
        assert dead.id in gateway.worker.routing.unreachable()
