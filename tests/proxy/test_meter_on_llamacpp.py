"""The engine client and the meter on a real engine: what we count is what llama.cpp's own counters say it did."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import orjson
import pytest

from billing.snapshot import Capabilities, EngineRecord
from proxy.meter import Bounds, Ending, Kind, Measured, Meter, Source
from proxy.reporting import reporting_fields
from proxy.upstream import Pool
from tests.llamacpp import LlamaCpp, ends_and_halves, llamacpp

CAPABILITIES = Capabilities(
    reports_cached=True, running_usage="timings_per_token", tokenize="llamacpp", counts_every_choice=False
)
CUT_TOLERANCE_TOKENS = 2


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with llamacpp(tmp_path_factory.mktemp("llamacpp")) as running:
        yield running


class Calls:
    """Calls an engine and adds up what the meter says."""

    def __init__(self, engine: LlamaCpp, pool: Pool) -> None:
        self.pool = pool
        self.record = EngineRecord(
            id=1, name="llama", kind="llamacpp", base_url=engine.base_url, capabilities=CAPABILITIES
        )
        self.measured: list[Measured] = []

    async def call(self, path: str, fields: dict[str, Any], *, cut_after: int = 0) -> Measured:
        choices = fields.get("n", 1)
        stream = fields.get("stream", False)
        if stream:
            fields = fields | reporting_fields(CAPABILITIES, choices=choices)
        meter = Meter(CAPABILITIES, Bounds(100_000, 100_000, 100_000, choices=choices))
        response = await self.pool.send(self.record, path, orjson.dumps(fields))
        assert response.status == 200
        ending = Ending.COMPLETE
        if stream:
            ending = await self._stream(response, meter, cut_after)
        else:
            meter.whole(await response.read(1 << 24))
        measured = meter.result(ending)
        self.measured.append(measured)
        return measured

    async def _stream(self, response, meter: Meter, cut_after: int) -> Ending:
        seen = 0
        async for chunk in response:
            seen += sum(event.kind is Kind.CONTENT for event in meter.feed(chunk))
            if cut_after and seen >= cut_after:
                meter.absorb(response.close())
                return Ending.CLIENT_GONE
        meter.finish()
        response.close()
        return Ending.COMPLETE

    def sums(self) -> dict[str, int]:
        usages = [measured.usage for measured in self.measured]
        return {
            "prompt_tokens_total": sum(usage.input for usage in usages),
            "prompt_tokens_cached_total": sum(usage.cache_read or 0 for usage in usages),
            "tokens_predicted_total": sum(usage.output for usage in usages),
        }


async def counters_at_rest(engine: LlamaCpp) -> dict[str, int]:
    """The engine's totals once nothing runs there any more."""
    before: dict[str, int] = {}
    while True:
        now = await asyncio.to_thread(engine.counters)
        if now == before and not now["requests_processing"]:
            return now
        before = now
        await asyncio.sleep(0.05)


def chat(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "model": "any", "max_tokens": 40} | fields


WHOLE = [
    ("/chat/completions", chat("Hello there")),
    ("/chat/completions", chat("Hello there")),
    ("/chat/completions", chat("The quick brown fox " * 40, max_tokens=1)),
    ("/completions", {"prompt": "The quick", "max_tokens": 12}),
    ("/chat/completions", chat("a stop word", stop=["e"], max_tokens=200)),
]
STREAMED = [
    *[(path, fields | {"stream": True}) for path, fields in WHOLE],
    ("/chat/completions", chat("several choices", n=2, stream=True, max_tokens=60)),
    ("/chat/completions", chat("several choices", n=3, stream=True, max_tokens=120)),
]


@pytest.mark.parametrize(("path", "fields"), [*WHOLE, *STREAMED])
async def test_call_read_to_its_end_is_counted_exactly(engine, path, fields):
    before = await counters_at_rest(engine)
    pool = Pool(str)
    calls = Calls(engine, pool)
    measured = await calls.call(path, fields)
    await pool.close()
    after = await counters_at_rest(engine)
    assert {name: after[name] - before[name] for name in calls.sums()} == calls.sums()
    assert (measured.source, measured.flags) == (Source.FINAL, ())
    assert measured.succeeded


async def test_mixed_calls_a_fifth_of_them_cut(engine):
    """100 calls, 8 at a time: prompts exactly, tokens made within two per cut stream."""
    before = await counters_at_rest(engine)
    chance = random.Random(11)
    pool = Pool(str)
    calls = Calls(engine, pool)
    slots = asyncio.Semaphore(8)
    bias = ends_and_halves()
    cuts = 0

    async def one(number: int) -> None:
        nonlocal cuts
        async with slots:
            if number % 5 == 0:
                fields = chat(f"cut me {number}", stream=True, max_tokens=3000, logit_bias=bias)
                await calls.call("/chat/completions", fields, cut_after=chance.randint(1, 30))
                cuts += 1
            else:
                path, fields = chance.choice(WHOLE + STREAMED)
                await calls.call(path, fields)

    await asyncio.gather(*(one(number) for number in range(100)))
    await pool.close()
    after = await counters_at_rest(engine)
    ours = calls.sums()
    theirs = {name: after[name] - before[name] for name in ours}
    assert cuts == 20
    assert ours["prompt_tokens_total"] + ours["prompt_tokens_cached_total"] == (
        theirs["prompt_tokens_total"] + theirs["prompt_tokens_cached_total"]
    )
    missed = theirs["tokens_predicted_total"] - ours["tokens_predicted_total"]
    assert 0 <= missed <= CUT_TOLERANCE_TOKENS * cuts


async def test_whole_call_that_is_dropped_runs_on_in_this_engine(engine):
    """Why the engine's row says `stops_on_close`: llama.cpp generates a whole answer to its end for nobody."""
    before = await counters_at_rest(engine)
    pool = Pool(str)
    record = EngineRecord(id=1, name="llama", kind="llamacpp", base_url=engine.base_url)
    fields = chat("to the end", max_tokens=400, ignore_eos=True)
    sending = asyncio.create_task(pool.send(record, "/chat/completions", orjson.dumps(fields)))
    await asyncio.sleep(0.05)
    sending.cancel()
    await pool.close()
    await asyncio.sleep(0.05)
    after = await counters_at_rest(engine)
    assert after["tokens_predicted_total"] - before["tokens_predicted_total"] == 400
