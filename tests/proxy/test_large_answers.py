"""How many large whole answers one worker reads at once: the rest wait, unread, and small ones pass them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import orjson
import pytest

from billing.snapshot import Capabilities
from proxy.large_answers import ANSWER_BYTES_MAX, SMALL_BYTES, LargeAnswers, Turn
from tests.inference import served
from tests.proxy.shop import Gateway
from tests.proxy.test_failures import assert_says

LARGE = 2 * 1024 * 1024
DATABASE = pytest.mark.django_db(transaction=True)


def given(*turns: Turn) -> list[bool]:
    return [turn.given.done() for turn in turns]


def test_turns_are_given_in_order_and_no_organization_has_more_than_half() -> None:
    async def run() -> None:
        answers = LargeAnswers(4 * ANSWER_BYTES_MAX)
        first, second, third = [answers.ask(1) for _ in range(3)]
        others = [answers.ask(number) for number in (2, 3, 4)]
        assert given(first, second, third) == [True, True, False]
        assert given(*others) == [True, True, False]
        answers.leave(others[0])
        assert given(third, others[2]) == [False, True], "the third of organization 1 is past its half"
        answers.leave(third)  # gave up
        again = answers.ask(1)
        answers.leave(first)
        assert given(again) == [True]
        for turn in (second, again, *others[1:]):
            answers.leave(turn)
        assert not answers._taken
        assert not answers._waiting

    asyncio.run(run())


class Engine:
    """Answers whose size the prompt says; one that says `hold` sends its last byte after `release()`."""

    def __init__(self) -> None:
        self._released = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def release(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._released.set)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        wish = orjson.loads(orjson.loads(body)["messages"][-1]["content"])
        answer = {
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": "x" * wish["bytes"]}, "finish_reason": "stop"}
            ],
            "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12},
        }
        told = orjson.dumps(answer)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(told))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": told[:-1], "more_body": True})
        self._loop = asyncio.get_running_loop()
        if wish["hold"]:
            await self._released.wait()
        await send({"type": "http.response.body", "body": told[-1:]})


@pytest.fixture
def engine() -> Iterator[tuple[Engine, str]]:
    made = Engine()
    with served(made) as port:
        yield made, f"http://127.0.0.1:{port}/v1"
        made.release()


class Lab:
    def __init__(self, gateway: Gateway, url: str) -> None:
        self.gateway, shop = gateway, gateway.shop
        there = shop.new_engine("large", url, capabilities=Capabilities(stops_on_close=True))
        shop.new_model("large", "there", engine=there)
        shop.new_model("hurried", "there", engine=there, total_ms=1_500)

    def ask(self, size: int, *, hold: bool = False, **fields: Any) -> httpx.Response:
        wish = orjson.dumps({"bytes": size, "hold": hold}).decode()
        return self.gateway.chat(wish, **({"model": "large", "max_tokens": 16} | fields))


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@DATABASE
def test_a_large_answer_waits_for_its_turn_and_small_ones_pass(
    gateway: Gateway, engine: tuple[Engine, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = LargeAnswers(ANSWER_BYTES_MAX)
    monkeypatch.setattr(gateway.worker, "large_answers", answers)
    lab = Lab(gateway, engine[1])
    got: list[httpx.Response] = []
    callers = [
        threading.Thread(target=lambda hold=hold: got.append(lab.ask(LARGE, hold=hold))) for hold in (True, False)
    ]
    callers[0].start()
    wait_for(lambda: bool(answers._taken))
    callers[1].start()
    wait_for(lambda: bool(answers._waiting))
    small = lab.ask(SMALL_BYTES // 2)
    assert small.status_code == 200
    assert_says(lab.ask(LARGE, model="hurried"), 504, "engine_timeout", retry=True)
    assert len(answers._waiting) == 1, "who ran out of time gave its place up"
    assert not got
    engine[0].release()
    for caller in callers:
        caller.join(timeout=20)
    assert [len(answer.json()["choices"][0]["message"]["content"]) for answer in got] == [LARGE, LARGE]
    events = [gateway.event_of(answer) for answer in got]
    assert [(event.output_tokens, event.end_reason) for event in events] == [(7, "stop")] * 2
    wait_for(lambda: not answers._taken)
    assert not answers._waiting
