"""Customers who go on calling whatever breaks, and what they saw."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import orjson

from tests.speed.load import Reader

CLIENTS: Final = 24
PAUSE_SECONDS: Final = (0.02, 0.5)
CALL_SECONDS_MAX: Final = 30.0
PATH: Final = "/v1/chat/completions"
MODEL: Final = "aion-v3"
PACES: Final = (20, 40, 80)
TROUBLES: Final = ("die", "nodone", "error")
TROUBLE_SHARE: Final = 0.02
WORDS: Final = ("quick", "brown", "fox", "lazy", "dog", "river", "looking", "over", "nobody", "at", "all", "jumps")

WHOLE, STREAM, CANCELLED_WHOLE, CANCELLED_STREAM = "whole", "stream", "whole, cancelled", "stream, cancelled"
KINDS: Final = {WHOLE: 0.42, STREAM: 0.36, CANCELLED_WHOLE: 0.08, CANCELLED_STREAM: 0.14}

COMPLETE, REFUSED, CANCELLED, CUT, ERROR, NO_ANSWER = (
    "complete",
    "refused",
    "cancelled",
    "cut",
    "error event",
    "no answer",
)
ENDS: Final = (COMPLETE, CANCELLED, CUT, ERROR, REFUSED, NO_ANSWER)


@dataclass(slots=True)
class Seen:
    """One call as its client saw it: on which port, and between which seconds of time.time(). `tokens_at`: when each
    token of a stream came (seconds of a monotonic clock), kept only for those that were not complete; `said`: how it
    was refused."""

    kind: str
    sent_at: float
    port: int = 0
    ended_at: float = 0.0
    call_id: str = ""
    status: int = 0
    end: str = NO_ANSWER
    tokens: int = 0
    tokens_at: tuple[float, ...] = ()
    said: str = ""


@dataclass(slots=True)
class Customer:
    """`secret`: the key its calls are made with from now on."""

    name: str
    organization_id: int
    secret: str


class Answer(Reader):
    """Head, and the frames of a body as they come."""

    def __init__(self) -> None:
        super().__init__()
        self.call_id = ""
        self.tokens_at: list[float] = []
        self.is_done = self.has_error = self.is_whole_body = False
        self._rest = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-request-id":
            self.call_id = value.decode()

    @property
    def text(self) -> str:
        """Of an answer that is no stream."""
        return self._rest.decode(errors="replace")

    @property
    def status(self) -> int:
        return int(self.parser.get_status_code()) if self.call_id else 0

    def on_body(self, data: bytes) -> None:
        *frames, self._rest = (self._rest + data).split(b"\n\n")
        now = self.loop.time()
        for frame in frames:
            if frame == b"data: [DONE]":
                self.is_done = True
            elif b'"content":"' in frame and b'"content":""' not in frame:
                self.tokens_at.append(now)
            elif frame.startswith(b'data: {"error"'):
                self.has_error = True

    def on_message_complete(self) -> None:
        self.is_whole_body = True
        super().on_message_complete()


@dataclass
class Load:
    """Runs in an event loop until `stop`; `seen` grows. What is asked for is drawn from the seed, client by client."""

    customers: list[Customer]
    ports: list[int]
    seed: int
    seen: list[Seen] = field(default_factory=list)
    running: int = 0
    refused_wrongly: list[str] = field(default_factory=list)
    """What calls were told whose key was not known (401), though it was their customer's before and after."""
    is_over: bool = False
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        self.tasks = [asyncio.create_task(self._client(number)) for number in range(CLIENTS)]

    async def stop(self) -> None:
        """Calls that run go on to their ends."""
        self.is_over = True
        await asyncio.gather(*self.tasks)

    def by_kind_and_end(self) -> Counter[tuple[str, str]]:
        return Counter((seen.kind, seen.end) for seen in self.seen)

    async def _client(self, number: int) -> None:
        luck = random.Random(self.seed * 1_000 + number)
        port = self.ports[number % len(self.ports)]  # its own, so that a proxy which is stopped holds up half of them
        while not self.is_over:
            await asyncio.sleep(luck.uniform(*PAUSE_SECONDS))
            (kind,) = luck.choices(list(KINDS), list(KINDS.values()))
            customer = luck.choice(self.customers)
            self.running += 1
            secret = customer.secret
            try:
                seen = await _call(luck, kind, secret, port)
            finally:
                self.running -= 1
            self.seen.append(seen)
            if seen.status == 401 and customer.secret == secret:
                self.refused_wrongly.append(f"401 of call {seen.call_id} on port {port}: {seen.said}")


async def _call(luck: random.Random, kind: str, secret: str, port: int) -> Seen:
    is_stream, is_cancelled = kind in (STREAM, CANCELLED_STREAM), kind in (CANCELLED_WHOLE, CANCELLED_STREAM)
    pace = luck.choice(PACES) if is_stream or is_cancelled else luck.choice((0, 0, 0, *PACES))
    tokens = luck.randint(5, 60) if pace else luck.randint(5, 200)
    trouble = luck.random() < TROUBLE_SHARE and f" demo:{luck.choice(TROUBLES)}={luck.randint(1, tokens)}"
    words = " ".join(luck.choices(WORDS, k=luck.randint(3, 40)))
    text = f"{words} demo:tokens={tokens} demo:rate={pace}{trouble or ''}"
    patience = luck.uniform(0, tokens / pace) if is_cancelled else CALL_SECONDS_MAX
    seen = Seen(kind, time.time(), port)
    loop = asyncio.get_running_loop()
    try:
        transport, answer = await loop.create_connection(Answer, "127.0.0.1", port)
    except OSError:
        return seen
    try:
        transport.write(_request(secret, text, is_stream, luck.choice((tokens, 64, 256))))
        async with asyncio.timeout(patience):
            await answer.ended
    except TimeoutError:
        seen.end = CANCELLED
    finally:
        transport.abort()
        seen.ended_at = time.time()
    return _said(seen, answer, is_stream)


def _said(seen: Seen, answer: Answer, is_stream: bool) -> Seen:
    seen.call_id, seen.status, seen.tokens = answer.call_id, answer.status, len(answer.tokens_at)
    if answer.status and answer.status != 200:
        seen.end, seen.said = REFUSED, answer.text
    elif answer.is_done or (answer.is_whole_body and not is_stream):
        seen.end = COMPLETE
    elif answer.has_error:
        seen.end = ERROR
    elif seen.end != CANCELLED and answer.status:
        seen.end = CUT
    if seen.end != COMPLETE:
        seen.tokens_at = tuple(answer.tokens_at)
    return seen


def _request(secret: str, text: str, is_stream: bool, max_tokens: int) -> bytes:
    fields = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": max_tokens}
    body = orjson.dumps(fields | ({"stream": True} if is_stream else {}))
    head = (
        f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {secret}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
