"""Load and what came of it: wrk for whole answers, a client of our own for paced streams."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httptools
import orjson
import uvloop

from tests.speed.programs import Pace

WRK = "wrk"
WHOLE, STREAMED = "speed-whole", "speed-streamed"
"""The models that are asked for."""
GRACE_SECONDS = 20.0
MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant. Answer briefly."},
    {"role": "user", "content": "What does the quick brown fox do, and why does it do that?"},
]
_SCRIPT = """
wrk.method = "POST"
wrk.body = {body}
{headers}
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\\n{{"answers":%d,"microseconds":%d,"errors":%d,"p50_us":%d,"p99_us":%d}}\\n', summary.requests, summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


class Target(NamedTuple):
    """Where whole answers and streams are asked for, and with which headers."""

    port: int
    whole_path: str
    streamed_path: str
    headers: Mapping[str, str]


class Burst(NamedTuple):
    """What wrk saw. `errors`: no connection, broken, timed out, or another status than 2xx and 3xx."""

    answers: int
    seconds: float
    errors: int
    p50_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        return self.answers / self.seconds


def whole(target: Target, folder: Path, *, connections: int, seconds: int) -> Burst:
    body = {"model": WHOLE, "messages": MESSAGES, "max_tokens": 256, "temperature": 0.7}
    headers = {"content-type": "application/json", **target.headers}
    lines = [f"wrk.headers[{_lua(name)}] = {_lua(value)}" for name, value in headers.items()]
    script = folder / "wrk.lua"
    script.write_text(_SCRIPT.format(body=_lua(json.dumps(body)), headers="\n".join(lines)))
    url = f"http://127.0.0.1:{target.port}{target.whole_path}"
    command = [WRK, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(script), url]
    run = subprocess.run(command, capture_output=True, text=True, timeout=seconds + GRACE_SECONDS, check=False)
    told = [line for line in run.stdout.splitlines() if line.startswith("{")]
    if run.returncode or not told:
        raise RuntimeError(f"wrk failed: {run.stderr or run.stdout}")
    said = json.loads(told[0])
    microseconds = said["microseconds"]
    return Burst(said["answers"], microseconds / 1e6, said["errors"], said["p50_us"] / 1e3, said["p99_us"] / 1e3)


def _lua(text: str) -> str:
    """A string in Lua: of ASCII, JSON's spelling is the same."""
    return json.dumps(text)


class Streams(NamedTuple):
    """What became of the streams: how many were whole, and for each the time to its first chunk."""

    begun: int
    whole: int
    first_chunk_ms: tuple[float, ...]


def streams(target: Target, pace: Pace) -> Streams:
    return uvloop.run(_streams(target, pace))


async def _streams(target: Target, pace: Pace) -> Streams:
    request = _request(target)
    loop = asyncio.get_running_loop()
    began = loop.time()
    limit_s = pace.spread_s + pace.chunks * pace.interval_ms / 1000 + GRACE_SECONDS
    runs = []
    async with asyncio.timeout(limit_s):
        for number in range(pace.streams):
            await asyncio.sleep(max(0.0, began + number * pace.spread_s / pace.streams - loop.time()))
            runs.append(loop.create_task(_stream(target.port, request)))
        readers = [await run for run in runs]
    intact = [reader for reader in readers if reader.is_whole(pace.chunks)]
    return Streams(len(readers), len(intact), tuple((reader.first_at - reader.sent_at) * 1000 for reader in intact))


def _request(target: Target) -> bytes:
    body = orjson.dumps({"model": STREAMED, "messages": MESSAGES, "max_tokens": 256, "stream": True})
    headers = {
        "host": "127.0.0.1",
        "content-type": "application/json",
        "content-length": str(len(body)),
        **target.headers,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {target.streamed_path} HTTP/1.1\r\n{lines}\r\n".encode() + body


async def _stream(port: int, request: bytes) -> Reader:
    loop = asyncio.get_running_loop()
    transport, reader = await loop.create_connection(Reader, "127.0.0.1", port)
    try:
        reader.sent_at = loop.time()
        transport.write(request)
        await reader.ended
    finally:
        transport.close()
    return reader


class Reader(asyncio.Protocol):
    """One answer: when its first event came, and all of it."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.parser = httptools.HttpResponseParser(self)
        self.ended: asyncio.Future[None] = self.loop.create_future()
        self.sent_at = self.first_at = 0.0
        self.body: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        if not self.body:
            self.first_at = self.loop.time()
        self.body.append(data)

    def on_message_complete(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def is_whole(self, chunks: int) -> bool:
        """Status 200, every chunk in its order, the finish and [DONE]."""
        frames = b"".join(self.body).split(b"\n\n")
        data = [frame.removeprefix(b"data: ") for frame in frames if frame.startswith(b"data: ")]
        if self.parser.get_status_code() != 200 or data[-1:] != [b"[DONE]"]:
            return False
        events: list[dict[str, Any]] = [orjson.loads(text) for text in data[:-1]]
        choices = [event["choices"][0] for event in events if event.get("choices")]
        finishes = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
        return sum(1 for choice in choices if choice["delta"].get("content")) == chunks and finishes == ["stop"]
