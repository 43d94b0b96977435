"""The demo engine: a small, honest stand-in for vLLM, with a log of what it really did. Raw ASGI, no Django.

It speaks /v1/models, /v1/chat/completions, /v1/completions, /v1/embeddings, /tokenize, /health, /version and /metrics
as vLLM does, and has two doors of its own: GET /log (what happened to each request, by x-request-id) and /control (see
faults.py).
Deterministic: the same request gets the same words.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import orjson

from portal.demo import speech
from portal.demo.faults import NAMES, Control
from portal.demo.generation import Generation, Job, Refused

BLOCK_TOKENS = 16
CACHED_BLOCKS_MAX = 200_000
BODY_BYTES_MAX = 64 * 1024 * 1024
LOG_LENGTH = 200_000
EMBEDDING_DIMENSIONS = 64
COUNTED = {
    "prompt_tokens": "vllm:prompt_tokens_total",
    "output_tokens": "vllm:generation_tokens_total",
    "cached_tokens": "vllm:prefix_cache_hits_total",
}
"""Fields of the log that are added up → vLLM's names for them."""

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class DemoModel:
    max_model_len: int
    thinks: bool = False
    embeds: bool = False
    images: int = 0
    """How many it draws into an answer."""
    always: int = 0
    """The status it answers whatever is asked."""


MODELS = {
    "demo-chat": DemoModel(32_768),
    "demo-large": DemoModel(131_072),
    "demo-vast": DemoModel(1_048_576),
    "demo-reasoning": DemoModel(32_768, thinks=True),
    "demo-embed": DemoModel(8_192, embeds=True),
    "demo-image": DemoModel(32_768, images=1),
    "demo-loading": DemoModel(32_768, always=503),
    "demo-broken": DemoModel(32_768, always=500),
}


class PrefixCache:
    """As vLLM's: whole blocks of a prompt, found again when the same `salt` sends the same beginning."""

    def __init__(self, blocks_max: int = CACHED_BLOCKS_MAX) -> None:
        self._blocks: OrderedDict[bytes, None] = OrderedDict()
        self._blocks_max = blocks_max

    def take(self, salt: str, tokens: list[str]) -> int:
        """Tokens of the prompt that were there already (never all: the last one must be read); all are kept."""
        digest = hashlib.blake2b(salt.encode(), digest_size=16).digest()
        known = 0
        leading = True
        for start in range(0, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
            block = "\0".join(tokens[start : start + BLOCK_TOKENS]).encode(errors="replace")
            digest = hashlib.blake2b(digest + block, digest_size=16).digest()
            leading = leading and digest in self._blocks
            known += BLOCK_TOKENS if leading else 0
            self._blocks[digest] = None
            self._blocks.move_to_end(digest)
        while len(self._blocks) > self._blocks_max:
            self._blocks.popitem(last=False)
        return min(known, len(tokens) - 1) if tokens else 0


class DemoEngine:
    """An ASGI application. `log` has one dict per request for a model, oldest first; its numbers are what was really
    read and made, whatever the answer said. `log_length`, `cached_blocks`: how much it remembers; `obeys`: what prompts
    may ask of it."""

    def __init__(
        self,
        *,
        slots: int = 256,
        tokens_per_second: int = 0,
        api_key: str = "",
        log_file: Path | None = None,
        log_length: int = LOG_LENGTH,
        cached_blocks: int = CACHED_BLOCKS_MAX,
        obeys: frozenset[str] = NAMES,
    ) -> None:
        self.control = Control(tokens_per_second=tokens_per_second, obeys=obeys)
        self.log: deque[dict[str, Any]] = deque(maxlen=log_length)
        self.cache = PrefixCache(cached_blocks)
        self.slots = asyncio.Semaphore(slots)
        self.running = 0
        self.totals = {name: dict.fromkeys(COUNTED, 0) for name in MODELS}
        self._api_key = api_key
        self._log_file = log_file
        self._routes: dict[tuple[str, str], Callable[[Request], Awaitable[None]]] = {
            ("GET", "/v1/models"): self._models,
            ("POST", "/v1/chat/completions"): self._generate,
            ("POST", "/v1/completions"): self._generate,
            ("POST", "/v1/embeddings"): self._embed,
            ("POST", "/tokenize"): self._tokenize,
            ("GET", "/health"): self._health,
            ("GET", "/version"): self._version,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/log"): self._read_log,
            ("GET", "/control"): self._read_control,
            ("POST", "/control"): self._set_control,
        }

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive, send)
        route = self._routes.get((scope["method"], scope["path"]))
        try:
            if route is None:
                raise Refused(404, "NotFoundError", "Not Found")
            if self.control.loading and scope["path"] not in ("/control", "/log"):
                raise Refused(503, "unavailable_error", "Loading model")
            if self._api_key and request.headers.get("authorization") != f"Bearer {self._api_key}":
                raise Refused(401, "AuthenticationError", "Unauthorized")
            await request.read()
            await route(request)
        except Refused as refused:
            if scope["path"].startswith("/v1/") and scope["method"] == "POST":
                said = {"status": refused.status, "message": str(refused), "ended_at": time.time()}
                self.write_log(
                    {"request_id": request.id, "model": "", "endpoint": request.path, "end": "refused"} | said
                )
            await request.answer_json(refused.body(), refused.status)

    def write_log(self, entry: dict[str, Any]) -> None:
        self.log.append(entry)
        totals = self.totals.get(entry["model"])
        if totals is not None:
            for field in COUNTED:
                totals[field] += entry.get(field, 0)
        if self._log_file is not None:
            with self._log_file.open("ab") as file:
                file.write(orjson.dumps(entry) + b"\n")

    def model_of(self, fields: dict[str, Any]) -> tuple[str, DemoModel]:
        name = fields.get("model")
        model = MODELS.get(name) if isinstance(name, str) else None
        if model is None or not isinstance(name, str):
            raise Refused(404, "NotFoundError", f"The model `{name}` does not exist.")
        if model.always == 503:
            raise Refused(503, "unavailable_error", "Loading model")
        if model.always:
            raise Refused(model.always, "InternalServerError", "CUDA error: an illegal memory access was encountered")
        return name, model

    async def _generate(self, request: Request) -> None:
        fields = request.json()
        name, model = self.model_of(fields)
        if model.embeds:
            raise Refused(400, "BadRequestError", f"The model `{name}` does not generate text.")
        chat = request.path.endswith("/chat/completions")
        job = Job.read(fields, name=name, thinks=model.thinks, max_model_len=model.max_model_len, chat=chat)
        asked = self.control.directives_for(name, job.last_text)
        if model.images:
            asked = {"images": model.images} | asked
        await Generation(self, request, job, asked).run()

    async def _embed(self, request: Request) -> None:
        fields = request.json()
        name, model = self.model_of(fields)
        if not model.embeds:
            raise Refused(400, "BadRequestError", f"The model `{name}` does not support Embeddings API")
        inputs = fields.get("input")
        texts = [inputs] if isinstance(inputs, str) else inputs
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise Refused(400, "BadRequestError", "input: expected a string or a list of strings")
        counts = [len(speech.tokenize(text)) for text in texts]
        if max(counts) > model.max_model_len:
            raise Refused(400, "BadRequestError", _too_long(model.max_model_len, max(counts)))
        data = [{"object": "embedding", "index": i, "embedding": _embedding(text)} for i, text in enumerate(texts)]
        total = sum(counts)
        self.write_log(
            {"request_id": request.id, "model": name, "endpoint": request.path, "prompt_tokens": total}
            | {"cached_tokens": 0, "output_tokens": 0, "end": "stop", "ended_at": time.time()}
        )
        usage = {"prompt_tokens": total, "total_tokens": total, "completion_tokens": 0, "prompt_tokens_details": None}
        await request.answer_json({"object": "list", "model": name, "data": data, "usage": usage})

    async def _tokenize(self, request: Request) -> None:
        fields = request.json()
        _, model = self.model_of(fields)
        if isinstance(fields.get("messages"), list):
            tokens = speech.chat_prompt(fields["messages"], fields.get("tools"))
            if fields.get("add_generation_prompt") is False:
                tokens = tokens[:-3]
        elif isinstance(fields.get("prompt"), str):
            tokens = speech.tokenize(fields["prompt"])
        else:
            raise Refused(400, "BadRequestError", "prompt or messages is required")
        body = {"count": len(tokens), "max_model_len": model.max_model_len}
        await request.answer_json(body | {"tokens": [speech.token_id(token) for token in tokens], "token_strs": None})

    async def _models(self, request: Request) -> None:
        rows = [
            {"id": name, "object": "model", "created": 1_760_000_000, "owned_by": "vllm", "root": name, "parent": None}
            | {"max_model_len": model.max_model_len}
            for name, model in MODELS.items()
        ]
        await request.answer_json({"object": "list", "data": rows})

    async def _health(self, request: Request) -> None:
        await request.answer(b"")

    async def _version(self, request: Request) -> None:
        await request.answer_json({"version": "0.0.0+demo"})

    async def _metrics(self, request: Request) -> None:
        lines: list[str] = []
        for field, metric in COUNTED.items():
            lines.append(f"# TYPE {metric} counter")
            lines += [
                f'{metric}{{engine="0",model_name="{name}"}} {float(totals[field])}'
                for name, totals in self.totals.items()
            ]
        lines += ["# TYPE vllm:num_requests_running gauge", f'vllm:num_requests_running{{engine="0"}} {self.running}']
        await request.answer("\n".join([*lines, ""]).encode(), content_type=b"text/plain; version=0.0.4")

    async def _read_log(self, request: Request) -> None:
        wanted = request.query.get("request_id")
        entries = [entry for entry in self.log if wanted is None or entry["request_id"] == wanted]
        lines = b"".join(orjson.dumps(entry) + b"\n" for entry in entries[int(request.query.get("from", "0")) :])
        await request.answer(lines, content_type=b"application/jsonl")

    async def _read_control(self, request: Request) -> None:
        await request.answer_json(
            {
                "loading": self.control.loading,
                "tokens_per_second": self.control.tokens_per_second,
                "reports_cached": self.control.reports_cached,
                "rules": [
                    {"model": rule.model, "marker": rule.marker, "do": rule.directives} for rule in self.control.rules
                ],
            }
        )

    async def _set_control(self, request: Request) -> None:
        self.control.update(request.json())
        await self._read_control(request)


class Request:
    """One HTTP exchange. `gone` is set as soon as the client has hung up."""

    def __init__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.path: str = scope["path"]
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.query = {name: values[-1] for name, values in parse_qs(scope["query_string"].decode("latin-1")).items()}
        self.id = self.headers.get("x-request-id", "")
        self.gone = asyncio.Event()
        self.gone_at: float | None = None
        self.body = b""
        self._receive = receive
        self._send = send

    async def read(self) -> None:
        parts: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.gone.set()
                break
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > BODY_BYTES_MAX:
                raise Refused(413, "BadRequestError", "Request body too large")
            more = message.get("more_body", False)
        self.body = b"".join(parts)

    def json(self) -> dict[str, Any]:
        try:
            fields = orjson.loads(self.body)
        except orjson.JSONDecodeError as error:
            raise Refused(400, "BadRequestError", f"JSON decode error: {error}") from error
        if not isinstance(fields, dict):
            raise Refused(400, "BadRequestError", "Expected a JSON object")
        return fields

    async def watch(self) -> None:
        """Waits for the client to hang up."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone_at = time.time()
        self.gone.set()

    async def start(self, content_type: bytes, status: int = 200) -> None:
        headers = [(b"content-type", content_type)]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, body: bytes, *, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def answer(self, body: bytes, status: int = 200, content_type: bytes = b"application/json") -> None:
        headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def answer_json(self, value: Any, status: int = 200) -> None:
        await self.answer(orjson.dumps(value), status)


def _too_long(limit: int, count: int) -> str:
    return f"This model's maximum context length is {limit} tokens. However, your request has {count} input tokens."


def _embedding(text: str) -> list[float]:
    """A unit vector that belongs to the text's words: texts that share words lie near each other."""
    vector = [0.0] * EMBEDDING_DIMENSIONS
    for token in speech.tokenize(text.lower()):
        number = speech.token_id(token.strip())
        vector[number % EMBEDDING_DIMENSIONS] += 1.0 if number & 1024 else -1.0
    length = math.sqrt(sum(value * value for value in vector)) or 1.0
    return [value / length for value in vector]
