"""One request from its head to its last byte: what is known of it so far. A plain record; the pipeline fills it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Hashable
from typing import Any

from billing import call_ids
from billing.hold import Hold
from billing.snapshot import BrandRecord, EngineRecord, ModelRecord, Route, Snapshot
from keys.caller import Caller
from proxy.answers import EventStream
from proxy.bodies import Receive
from proxy.buckets import Buckets
from proxy.conversation_rows import Part
from proxy.dialects.protocol import Dialect, Stamp
from proxy.dispatch import Place
from proxy.endpoints import Endpoint
from proxy.engine_slots import Slot
from proxy.large_answers import Turn
from proxy.requests import Asked
from proxy.responses.request import Echo
from proxy.rewriting import StreamRewriter

AGENT_CHARS_MAX = 200


_NOISE_BYTES = 10 * 256
_unused_noise: list[bytes] = []
os.register_at_fork(after_in_child=_unused_noise.clear)


def _noise() -> bytes:
    """Ten bytes of the operating system's randomness, of which many are asked for at a time. Used once."""
    if not _unused_noise:
        noise = os.urandom(_NOISE_BYTES)
        _unused_noise.extend(noise[start : start + 10] for start in range(0, _NOISE_BYTES, 10))
    return _unused_noise.pop()


class Call:
    """`fields`: the head as a dict, of repeated names the last. Attributes without a value here are set on the way, in
    the order in which they stand; who needs one before it is surely set asks `known`."""

    __slots__ = (
        *("address", "agent", "asked", "began", "body_bytes", "brand", "caller", "dialect", "echo", "endpoint"),
        *("engine", "fields", "first_token_at", "gone", "headers", "hold", "id", "idempotency", "method", "model"),
        *("model_name", "out", "part", "path", "place", "prompt_tokens", "query", "receive", "rewriter", "route"),
        *("schemes", "scope", "sent_at", "session_id", "slot", "snapshot", "started_ms", "task", "turn", "unread"),
        "upstream_status",
        "counted_at",
    )
    place: Place
    endpoint: Endpoint
    caller: Caller
    snapshot: Snapshot
    model: ModelRecord
    asked: Asked
    hold: Hold
    engine: EngineRecord
    route: Route

    def __init__(self, scope: dict[str, Any], receive: Receive, fields: dict[bytes, bytes], dialect: Dialect) -> None:
        self.began = time.perf_counter()
        self.task = asyncio.current_task()
        self.started_ms = time.time_ns() // 1_000_000
        self.id = call_ids.mint(self.started_ms, _noise())
        self.scope = scope
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: bytes = scope["query_string"]
        self.headers: list[tuple[bytes, bytes]] = scope["headers"]
        self.fields = fields
        self.receive = receive
        self.dialect = dialect
        self.address = ""
        self.agent = fields.get(b"user-agent", b"")[:AGENT_CHARS_MAX].decode("latin-1")
        self.body_bytes = 0  # that came, as worker.room counts them
        self.brand: BrandRecord | None = None
        self.schemes: tuple[str, ...] | None = None  # the last rule that takes the key the way it came
        self.model_name = ""
        self.prompt_tokens: int | None = None  # as the engine's tokenizer counted, where it was asked
        self.idempotency: str | None = None  # the record's name, while this call runs under it
        self.session_id = ""
        self.part: Part | None = None  # in a conversation
        self.slot: Slot | None = None
        self.turn: Turn | None = None  # to read a large answer
        self.out: EventStream | None = None
        self.echo: Echo | None = None  # what a response repeats of its request; None: it is a chat call
        self.rewriter: StreamRewriter | None = None  # as rendering.rewriter_of made it
        self.sent_at = 0.0
        self.first_token_at = 0.0
        self.upstream_status = 0
        self.gone = False
        self.counted_at: tuple[Buckets, Hashable] | None = None  # what guard.py took for it, until it is known why
        self.unread = b""  # what the engine had sent when its client left

    def known(self, name: str) -> Any:
        """The attribute, None before it is set."""
        return getattr(self, name, None)

    @property
    def stamp(self) -> Stamp:
        """Answers say the name that the brand sells, whatever alias was asked for."""
        brand = self.snapshot.brand
        prefix = brand.id_prefix if self.echo is None else brand.response_id_prefix
        return Stamp(prefix + self.id, self.started_ms // 1000, self.model.slug)

    def elapsed_ms(self) -> int:
        return int((time.perf_counter() - self.began) * 1000)

    def first_token_ms(self) -> int | None:
        return int((self.first_token_at - self.began) * 1000) if self.first_token_at else None
