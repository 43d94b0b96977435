"""Somebody owns an engine, here llama.cpp's own server: registers it with `manage.py`, calls it through the proxy with
the openai SDK, whole and streamed, a fifth of the calls cut by the client. What was metered is what the engine's own
counters say it did.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from portal.stores.place import PROJECT_DIR, Place
from tests.llamacpp import ALIAS, LlamaCpp, ends_and_halves, llamacpp
from tests.portal.installations import expect, finish, installation, own_environment, program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CALLS = 400
CUT_EVERY = 5
AT_ONCE = 8
CUT_TOLERANCE_TOKENS = 2
SETTLED_WITHIN_SECONDS = 30


@dataclass(frozen=True)
class House:
    place: Place
    base_url: str
    api_key: str

    def manage(self, *words: str) -> str:
        return manage(self.place, *words)

    def events(self) -> list[dict[str, Any]]:
        lines = self.manage("usage", "--brand", "acme", "--format", "jsonl").splitlines()
        return [json.loads(line) for line in lines]

    def settled(self, count: int) -> list[dict[str, Any]]:
        """All events, once there are `count` of them."""
        deadline = time.monotonic() + SETTLED_WITHIN_SECONDS
        while len(events := self.events()) < count and time.monotonic() < deadline:
            time.sleep(0.3)
        return events


def manage(place: Place, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "manage.py", *words],
        env=own_environment(place),
        cwd=PROJECT_DIR,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCpp]:
    with llamacpp(Path(tmp_path_factory.mktemp("llamacpp"))) as running:
        yield running


@pytest.fixture(scope="module")
def house(engine: LlamaCpp, migrated_data: Path) -> Iterator[House]:
    """An installation of its own, with the engine registered and priced by three commands."""
    port = free_port()
    with installation(migrated_data) as place, program(place, "manage.py", "up", "--no-demo", PORT=str(port)) as up:
        expect(up, "Ready: ")
        manage(place, "brand", "new", "acme")
        prices = ("--input-price", "0.20", "--output-price", "0.40")
        said = manage(place, "engine", "add", engine.base_url, "--brand", "acme", *prices)
        assert f"Model {ALIAS} drafted: context 4,096" in said
        key = manage(place, "issue_key", "--brand", "acme", "--organization", "acme").strip()
        yield House(place, f"http://127.0.0.1:{port}/acme/v1", key)
        up.send_signal(signal.SIGINT)
        assert finish(up)[0] == 0


async def counters_at_rest(engine: LlamaCpp) -> dict[str, int]:
    before: dict[str, int] = {}
    while True:
        now = await asyncio.to_thread(engine.counters)
        if now == before and not now["requests_processing"]:
            return now
        before = now
        await asyncio.sleep(0.1)


def words_of(number: int) -> list[Any]:
    return [{"role": "user", "content": f"Call {number}: tell me about the quick brown fox. " * (number % 4 + 1)}]


async def whole(client: openai.AsyncOpenAI, number: int) -> None:
    answer = await client.chat.completions.create(model=ALIAS, messages=words_of(number), max_tokens=8 + number % 20)
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


async def completion(client: openai.AsyncOpenAI, number: int) -> None:
    await client.completions.create(model=ALIAS, prompt=f"The quick {number}", max_tokens=4 + number % 20)


async def streamed(client: openai.AsyncOpenAI, number: int) -> None:
    stream = await client.chat.completions.create(
        model=ALIAS, messages=words_of(number), max_tokens=30, n=1 + number % 3, stream=True
    )
    async for _ in stream:
        pass


async def response(client: openai.AsyncOpenAI, number: int) -> None:
    words = words_of(number)
    answer = await client.responses.create(model=ALIAS, input=words, max_output_tokens=8 + number % 20)
    assert answer.usage is not None
    assert answer.usage.output_tokens > 0


async def response_streamed(client: openai.AsyncOpenAI, number: int) -> None:
    async with client.responses.stream(model=ALIAS, input=words_of(number), max_output_tokens=30) as stream:
        kinds = [event.type async for event in stream]
    assert kinds[0] == "response.created"
    assert kinds[-1] in ("response.completed", "response.incomplete")


async def cut(client: openai.AsyncOpenAI, number: int) -> None:
    """The client leaves after some chunks of an answer that would be long."""
    stream = await client.chat.completions.create(
        model=ALIAS,
        messages=words_of(number),
        max_tokens=3000,
        stream=True,
        logit_bias=ends_and_halves(),
    )
    left = 2 + number % 25
    async for _ in stream:
        left -= 1
        if left == 0:
            break
    await stream.close()


KINDS = (whole, completion, streamed, streamed, response, response_streamed)


async def test_metered_is_what_the_engine_did(house: House, engine: LlamaCpp) -> None:
    before = await counters_at_rest(engine)
    chance = random.Random(3)
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(client: openai.AsyncOpenAI, number: int) -> None:
        call = (
            cut
            if number % CUT_EVERY == 0
            else chance.choice((whole, completion, streamed, streamed, response, response_streamed))
        )
        async with slots:
            await call(client, number)

    async with openai.AsyncOpenAI(base_url=house.base_url, api_key=house.api_key, max_retries=0) as client:
        await asyncio.gather(*(one(client, number) for number in range(CALLS)))
    after = await counters_at_rest(engine)
    theirs = {name: after[name] - before[name] for name in after if name.endswith("_total")}
    events = await asyncio.to_thread(house.settled, CALLS)

    assert len(events) == CALLS
    read = sum(event["uncached_input_tokens"] + (event["cache_read_tokens"] or 0) for event in events)
    made = sum(event["output_tokens"] for event in events)
    cuts = [event for event in events if event["end_reason"] == "client_gone"]
    assert read == theirs["prompt_tokens_total"] + theirs["prompt_tokens_cached_total"]
    assert 0 <= theirs["tokens_predicted_total"] - made <= CUT_TOLERANCE_TOKENS * CALLS // CUT_EVERY
    assert len(cuts) == CALLS // CUT_EVERY
    assert all(event["usage_source"] == "final" for event in events if event not in cuts)
    for event in events:
        picos = (event["uncached_input_tokens"] + (event["cache_read_tokens"] or 0)) * 200_000
        assert event["cost_nanos"] == -(-(picos + event["output_tokens"] * 400_000) // 1000)
    house.manage("reconcile")
