"""The running demo as the tour sees it: what demo.json says, calls over HTTP, rows through the house's own readers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from zlib import crc32

import orjson
from asgiref.sync import sync_to_async

from billing import calls
from billing.calls import Call
from billing.snapshot import EngineRecord
from proxy.upstream import Deadlines, Pool, Response, UpstreamFailure

ANSWER_BYTES_MAX = 4 * 1024 * 1024
JOURNAL_SECONDS_MAX = 15.0
DEADLINES = Deadlines(connect_ms=10_000, first_byte_ms=60_000, idle_ms=60_000, total_ms=120_000)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str
    started_at: float
    """time.monotonic() when the request was sent."""

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object that it is; empty where it is something else."""
        try:
            found = orjson.loads(self.text)
        except orjson.JSONDecodeError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def call_id(self) -> str:
        return self.headers.get("x-request-id", "")

    @property
    def code(self) -> str:
        error = self.body.get("error")
        return str(error.get("code")) if isinstance(error, dict) else ""


@dataclass
class Demo:
    """One brand of the demo, beside all of them."""

    brand: dict[str, Any]
    pool: Pool = field(default_factory=lambda: Pool(lambda sealed: sealed))
    brands: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, slug: str) -> Demo:
        brands = json.loads(path.read_text())["brands"]
        return cls(brands[slug], brands=brands)

    @property
    def model(self) -> str:
        return str(self.brand["model"])

    async def post(self, key: str, body: Mapping[str, Any]) -> Answer:
        """One whole chat completion. Raises UpstreamFailure where no answer came."""
        started_at = time.monotonic()
        return await _read(await self.send(key, body), started_at)

    async def request(
        self, base_url: str, method: str, path: str, headers: Sequence[tuple[bytes, bytes]], body: bytes = b""
    ) -> Answer:
        """Any question to any brand. Raises UpstreamFailure where no answer came."""
        started_at = time.monotonic()
        return await _read(
            await self.pool.send(_door(base_url), path, body, headers, DEADLINES, method=method), started_at
        )

    async def send(self, key: str, body: Mapping[str, Any]) -> Response:
        """A chat completion's answer, its body unread; close it. Raises UpstreamFailure where no answer came."""
        headers = [(b"authorization", b"Bearer " + key.encode()), (b"content-type", b"application/json")]
        door = _door(self.brand["base_url"])
        return await self.pool.send(door, "/chat/completions", orjson.dumps(body), headers, DEADLINES)

    async def ask(self, text: str, *, key: str | None = None, **fields: Any) -> Answer:
        body = {"model": self.model, "messages": [{"role": "user", "content": text}], **fields}
        return await self.post(key or self.brand["api_key"], body)

    async def settled(self, call_id: str) -> Call:
        """The call as PostgreSQL has it, once the journal brought it there."""
        found = await eventually(lambda: calls.call_of(call_id))
        if found is None:
            raise UpstreamFailure(f"call {call_id} did not reach PostgreSQL within {JOURNAL_SECONDS_MAX:g} s")
        return found


def _door(base_url: str) -> EngineRecord:
    address = base_url.replace("localhost", "127.0.0.1")
    return EngineRecord(id=crc32(address.encode()), name="demo", kind="openai", base_url=address)


async def _read(response: Response, started_at: float) -> Answer:
    try:
        text = await response.read(ANSWER_BYTES_MAX)
    finally:
        response.close()
    found = {name.decode().lower(): value.decode("latin-1") for name, value in response.headers.items()}
    return Answer(response.status, found, text.decode(), started_at)


async def eventually(read: Callable[[], T | None], within_seconds: float = JOURNAL_SECONDS_MAX) -> T | None:
    """What `read` (blocking, of the database) gives once it gives something; None when it does not in time."""
    deadline = time.monotonic() + within_seconds
    while True:
        found = await sync_to_async(read)()
        if found is not None or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.1)
