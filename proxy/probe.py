"""Finds out what an engine is, serves and can report, by asking it: a dozen small calls per model, once, when it is
registered. So the meter and the prompt bound never guess.

It stands in this room and not in billing because it reads engines with the same client and meter that calls go through:
what it found is what they will see.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import orjson

from billing.snapshot import Capabilities, EngineRecord
from proxy.engine_kinds import KINDS, kind_of
from proxy.events import EventReader
from proxy.reasoning import OPEN
from proxy.splitting import MARKED_THOUGHT, OWN_FIELDS
from proxy.upstream import ConnectFailed, Deadlines, Pool, UpstreamFailure

ANSWER_BYTES_MAX = 16 * 1024 * 1024
PATIENCE = Deadlines(connect_ms=5_000, first_byte_ms=60_000, idle_ms=60_000, total_ms=120_000)
DOORS = ("/version", "/get_model_info", "/info", "/props")
MODELS_MAX = 16
"""More than that is somebody else's catalogue, where every question costs money."""
FEW, SOME = 4, 24
"""Output tokens asked for."""
LONG_PROMPT = "The same words again and again, so that a prompt cache has something to find. " * 24
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}},
}


class ProbeFailed(Exception):
    """The engine cannot be registered as it is; the message says what to do."""


@dataclass(frozen=True, slots=True)
class FoundModel:
    """`context_length` 0: the engine does not say. `trouble`: what it answered instead of working, "" when it works."""

    name_there: str
    context_length: int = 0
    features: tuple[str, ...] = ()
    is_reasoning: bool = False
    tokens_per_message: int = 0
    tokens_per_call: int = 0
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    kind: str
    base_url: str
    capabilities: Capabilities
    models: tuple[FoundModel, ...]


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def ok(self) -> bool:
        return self.status == 200

    def json(self) -> dict[str, Any]:
        try:
            parsed = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return {}
        return parsed if isinstance(parsed, dict) else {}

    def events(self) -> tuple[list[dict[str, Any]], bool]:
        """The JSON events of a stream, and whether it ended with [DONE]."""
        reader = EventReader()
        texts = [frame.data for frame in [*reader.feed(self.body), *reader.finish()] if frame.data is not None]
        parsed = [Reply(200, {}, text).json() for text in texts if text != b"[DONE]"]
        return parsed, b"[DONE]" in texts

    def complaint(self) -> str:
        """The engine's own words for why not."""
        said = self.json().get("error") or self.json().get("detail") or self.body[:200].decode(errors="replace")
        text = said.get("message") if isinstance(said, dict) else said
        return f"{self.status}: {str(text).strip() or 'no words'}"


@dataclass(slots=True)
class Traits:
    """What one model's answers showed of its engine."""

    reports_usage: bool = False
    reports_cached: bool = False
    running_usage: str = ""
    counts_every_choice: bool = False
    sends_done: bool = False
    cache_salt: bool = False
    priority: bool = False
    tokenize: str = ""


async def probe(
    base_url: str,
    *,
    api_key: str = "",
    verify_tls: bool = True,
    headers: dict[str, str] | None = None,
    kind: str = "",
    only: Collection[str] = (),
    seconds_max: float | None = None,
) -> Found:
    """Ask the engine at `base_url` (with or without its closing /v1). `kind` overrules what it looks like; `only` names
    the models to look at; `seconds_max` bounds it all. Raises ProbeFailed when it cannot be reached, refuses the key,
    serves nothing, or takes longer than that."""
    record = EngineRecord(
        id=0,
        name="probe",
        kind=kind or "openai",
        base_url=_with_v1(base_url),
        api_key=api_key,
        headers={"connection": "close", **(headers or {})},  # kept ones are safe only once the kind is known
        verify_tls=verify_tls,
    )
    pool = Pool(lambda text: text)
    asking = _Probe(pool, record, kind, frozenset(only))
    try:
        async with asyncio.timeout(seconds_max):
            return await asking.run()
    except TimeoutError as error:
        raise ProbeFailed(
            f"The engine was not done within {seconds_max:.0f} s: it was asked {asking.asked}. Name fewer models to "
            "look at, or try again when it is less busy."
        ) from error
    finally:
        await pool.close()


@dataclass
class _Probe:
    pool: Pool
    engine: EngineRecord
    kind: str
    only: frozenset[str]
    traits: Traits | None = None
    asked: str = ""
    """The last question, for when there is no answer."""

    async def run(self) -> Found:
        listed = await self.ask("GET", "/models")
        if listed.status in (401, 403):
            raise ProbeFailed("The engine refuses the key. Give the one that it was started with (--key).")
        if listed.status == 503:
            raise ProbeFailed(f"The engine is not ready ({listed.complaint()}). Try again when it has loaded.")
        rows = listed.json().get("data")
        if not listed.ok or not isinstance(rows, list):
            raise ProbeFailed(
                f"{self.engine.base_url}/models is no list of models ({listed.complaint()}). Give the address that an "
                "OpenAI SDK would take as base_url."
            )
        named = [row for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)]
        if not named:
            raise ProbeFailed("The engine lists no models. Start it with one, or load one, and try again.")
        named = self._wanted(named)
        doors = {door: await self._door(door) for door in DOORS}
        server = listed.headers.get(b"server", b"").decode("latin-1")
        self.kind = self.kind or kind_of(str(named[0].get("owned_by", "")), server, doors)
        models = tuple([await self._model(row["id"], _context(row, doors)) for row in named])
        kind = self.kind or ("transformers" if self.traits and not self.traits.sends_done else "openai")
        return Found(kind, self.engine.base_url, self._capabilities(kind), models)

    def _wanted(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        missing = self.only - {row["id"] for row in rows}
        if missing:
            raise ProbeFailed(f"The engine does not list {', '.join(sorted(missing))}.")
        wanted = [row for row in rows if not self.only or row["id"] in self.only]
        if len(wanted) > MODELS_MAX:
            raise ProbeFailed(
                f"The engine lists {len(rows)} models. Name the ones to sell, at most {MODELS_MAX} at once (--model)."
            )
        return wanted

    async def ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, from_root: bool = False
    ) -> Reply:
        self.asked = f"{method} {path}" + (f" of {body['model']}" if body and "model" in body else "")
        sent = b"" if body is None else orjson.dumps(body)
        headers = [(b"content-type", b"application/json")] if sent else []
        try:
            response = await self.pool.send(
                self.engine, path, sent, headers, PATIENCE, method=method, from_root=from_root
            )
            try:
                return Reply(response.status, response.headers, await response.read(ANSWER_BYTES_MAX))
            finally:
                response.close()
        except ConnectFailed as failure:
            raise ProbeFailed(f"The engine cannot be reached at {self.engine.base_url} ({failure}).") from failure
        except UpstreamFailure as failure:
            raise ProbeFailed(f"The engine did not answer {method} {path} properly ({failure}).") from failure
        except ValueError as error:
            raise ProbeFailed(str(error)) from error

    async def _door(self, path: str) -> Any:
        reply = await self.ask("GET", path, from_root=True)
        return reply.json() or None if reply.ok else None

    def _capabilities(self, kind: str) -> Capabilities:
        traits = self.traits or Traits()
        return Capabilities(
            reports_usage=traits.reports_usage,
            reports_cached=traits.reports_cached,
            running_usage=traits.running_usage,
            counts_every_choice=traits.counts_every_choice,
            tokenize=traits.tokenize,
            stops_on_close=KINDS[kind].stops_on_close,
            sends_done=traits.sends_done or self.traits is None,
            cache_salt=traits.cache_salt,
            priority=traits.priority,
            extra_fields=KINDS[kind].extra_fields,
        )

    # one model --------------------------------------------------------------------------------------------------

    async def _model(self, name: str, context: int) -> FoundModel:
        chat = await self._chat(name, "a", max_tokens=FEW)
        text = await self.ask("POST", "/completions", {"model": name, "prompt": "a", "max_tokens": 1})
        vectors = await self.ask("POST", "/embeddings", {"model": name, "input": "a"})
        works = {"chat": chat.ok, "completions": text.ok, "embeddings": vectors.ok and "data" in vectors.json()}
        features = [feature for feature, there in works.items() if there]
        found = FoundModel(name, context, tuple(features))
        if not features:
            return replace(found, trouble=chat.complaint())
        if not chat.ok:
            return found
        if (await self._chat(name, "a", max_tokens=FEW, tools=[TOOL], tool_choice="auto")).ok:
            features.append("tools")
        thinks, apart = await self._look_at_stream(name)
        features += ["reasoning"] * thinks + [MARKED_THOUGHT] * apart
        per_message, per_call = await self._template_tokens(name, chat)
        return replace(
            found,
            features=tuple(features),
            is_reasoning=thinks,
            tokens_per_message=per_message,
            tokens_per_call=per_call,
        )

    async def _chat(self, name: str, text: str, **fields: Any) -> Reply:
        messages = [{"role": "user", "content": text}]
        return await self.ask("POST", "/chat/completions", {"model": name, "messages": messages} | fields)

    async def _look_at_stream(self, name: str) -> tuple[bool, bool]:
        """Reads one stream, learns the engine's traits from the first model that has one, and says whether the model
        thinks aloud, and whether the engine puts that in a field of its own."""
        reply, asked = await self._stream(name)
        events, done = reply.events()
        if self.traits is None and reply.ok and events:
            self.traits = Traits(sends_done=done, running_usage=_running(events, asked))
            self.traits.reports_usage = any(isinstance(event.get("usage"), dict) for event in events)
            await self._look_closer(self.traits, name)
        deltas = [choice.get("delta") or {} for event in events for choice in event.get("choices") or []]
        said = "".join(str(delta.get("content") or "") for delta in deltas)
        apart = any(delta.get(name) for delta in deltas for name in OWN_FIELDS)
        return OPEN in said or apart, apart

    async def _stream(self, name: str) -> tuple[Reply, str]:
        """A stream, asked for as much counting as the engine puts up with; and which running count was asked for."""
        usage = {"include_usage": True}
        tries: list[tuple[str, dict[str, Any]]] = [("", {"stream_options": usage}), ("", {})]
        if self.kind == "llamacpp":
            tries.insert(0, ("timings_per_token", {"stream_options": usage, "timings_per_token": True}))
        else:
            tries.insert(0, ("continuous_usage_stats", {"stream_options": usage | {"continuous_usage_stats": True}}))
        reply = Reply(0, {}, b"")
        for asked, fields in tries:
            reply = await self._chat(name, "Count to twenty.", max_tokens=SOME, stream=True, **fields)
            if reply.ok:
                return reply, asked
        return reply, ""

    async def _look_closer(self, traits: Traits, name: str) -> None:
        for _ in range(2):
            reply = (await self._chat(name, LONG_PROMPT, max_tokens=1)).json()
            details = (reply.get("usage") or {}).get("prompt_tokens_details")
            read = (reply.get("usage") or {}).get("cache_read_input_tokens")
            traits.reports_cached = (
                isinstance(details, dict) or read is not None or "cache_n" in str(reply.get("timings"))
            )
        several = (await self._chat(name, "Count to twenty.", max_tokens=FEW, n=2)).json()
        made = (several.get("usage") or {}).get("completion_tokens")
        traits.counts_every_choice = len(several.get("choices") or ()) == 2 and isinstance(made, int) and made > FEW
        # understood is what is refused when it is nonsense and accepted when it is not
        traits.cache_salt = await self._understands(name, "cache_salt", "", "probe")
        traits.priority = await self._understands(name, "priority", "high", 1)
        traits.tokenize = await self._tokenizer(name)

    async def _understands(self, name: str, parameter: str, nonsense: Any, sense: Any) -> bool:
        refused = await self._chat(name, "a", max_tokens=1, **{parameter: nonsense})
        accepted = await self._chat(name, "a", max_tokens=1, **{parameter: sense})
        return refused.status in (400, 422) and accepted.ok

    async def _tokenizer(self, name: str) -> str:
        body = {"model": name, "messages": [{"role": "user", "content": "a"}], "tools": [TOOL]}
        count = (await self.ask("POST", "/tokenize", body, from_root=True)).json().get("count")
        if isinstance(count, int) and count > 0:
            return "vllm"
        template = (await self.ask("POST", "/apply-template", body, from_root=True)).json().get("prompt")
        return "llamacpp" if isinstance(template, str) else ""

    async def _template_tokens(self, name: str, one: Reply) -> tuple[int, int]:
        """Tokens that the chat template puts around each message, and once around a call (tools included): measured on
        messages of one token. (0, 0) where the engine does not count."""
        alone = _prompt_tokens(one)
        turns = [{"role": role, "content": "a"} for role in ("user", "assistant", "user")]
        body = {"model": name, "messages": turns, "max_tokens": 1}
        three = _prompt_tokens(await self.ask("POST", "/chat/completions", body))
        if alone is None or three is None:
            return 0, 0
        per_message = max(0, -(-(three - alone) // 2))
        with_tool = _prompt_tokens(await self._chat(name, "a", max_tokens=1, tools=[TOOL], tool_choice="auto"))
        tool_bytes = len(orjson.dumps(TOOL, option=orjson.OPT_INDENT_2))
        per_call = max(alone - per_message, (with_tool or 0) - per_message - tool_bytes, 0)
        return per_message, per_call


def _with_v1(url: str) -> str:
    """As an SDK takes it: a bare host gets the /v1 that engines serve under, and the path of a call, as people copy it
    from a curl command, goes."""
    url = url.strip().rstrip("/")
    for path in ("/chat/completions", "/completions", "/embeddings", "/models"):
        url = url.removesuffix(path)
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ProbeFailed(f"{url} is no http(s) address: {error}.") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ProbeFailed(f"{url} is no http(s) address.")
    return url if parts.path else f"{url}/v1"


def _context(row: dict[str, Any], doors: dict[str, Any]) -> int:
    """Where engines say how long a context may be: vLLM and SGLang in the list, llama.cpp per slot in /props (and what
    the model was trained for in the list), TGI in /info."""
    meta = row.get("meta") if isinstance(row.get("meta"), dict) else {}
    props = doors.get("/props") or {}
    settings = props.get("default_generation_settings") or {}
    info = doors.get("/info") or {}
    for value in (
        row.get("max_model_len"),
        row.get("context_length"),
        settings.get("n_ctx"),
        info.get("max_total_tokens"),
        (meta or {}).get("n_ctx_train"),
    ):
        if type(value) is int and value > 0:
            return value
    return 0


def _running(events: list[dict[str, Any]], asked: str) -> str:
    """`asked` when several events with content have a running count."""
    member = "timings" if asked == "timings_per_token" else "usage"
    counted = [event for event in events if event.get("choices") and isinstance(event.get(member), dict)]
    return asked if len(counted) >= 2 else ""


def _prompt_tokens(reply: Reply) -> int | None:
    count = (reply.json().get("usage") or {}).get("prompt_tokens") if reply.ok else None
    return count if type(count) is int else None
