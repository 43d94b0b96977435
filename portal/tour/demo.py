"""The running demo as the tour sees it: what demo.json says, calls over HTTP, rows through the house's own readers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

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
    body: dict[str, Any]
    started_at: float
    """time.monotonic() when the request was sent."""

    @property
    def call_id(self) -> str:
        return self.headers.get("x-request-id", "")

    @property
    def code(self) -> str:
        error = self.body.get("error")
        return str(error.get("code")) if isinstance(error, dict) else ""


@dataclass
class Demo:
    """One brand of the demo."""

    brand: dict[str, Any]
    pool: Pool = field(default_factory=lambda: Pool(lambda sealed: sealed))

    @classmethod
    def read(cls, path: Path, slug: str) -> Demo:
        return cls(json.loads(path.read_text())["brands"][slug])

    @property
    def model(self) -> str:
        return str(self.brand["model"])

    async def post(self, key: str, body: Mapping[str, Any]) -> Answer:
        """One whole chat completion. Raises UpstreamFailure where no answer came."""
        started_at = time.monotonic()
        response = await self.send(key, body)
        try:
            text = await response.read(ANSWER_BYTES_MAX)
        finally:
            response.close()
        found = {name.decode().lower(): value.decode("latin-1") for name, value in response.headers.items()}
        return Answer(response.status, found, orjson.loads(text), started_at)

    async def send(self, key: str, body: Mapping[str, Any]) -> Response:
        """A chat completion's answer, its body unread; close it. Raises UpstreamFailure where no answer came."""
        base_url = self.brand["base_url"].replace("localhost", "127.0.0.1")
        door = EngineRecord(id=0, name="demo", kind="openai", base_url=base_url)
        headers = [(b"authorization", b"Bearer " + key.encode()), (b"content-type", b"application/json")]
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


async def eventually(read: Callable[[], T | None], within_seconds: float = JOURNAL_SECONDS_MAX) -> T | None:
    """What `read` (blocking, of the database) gives once it gives something; None when it does not in time."""
    deadline = time.monotonic() + within_seconds
    while True:
        found = await sync_to_async(read)()
        if found is not None or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.1)
