"""How many tokens a prompt really is, asked of the engine that would read it: before a call is refused, or cut short,
on the bound by its bytes."""

from __future__ import annotations

from typing import Any

import orjson

from billing.snapshot import EngineRecord, Route
from proxy.endpoints import CHAT, COMPLETIONS
from proxy.requests import Asked
from proxy.upstream import Deadlines, Pool, UpstreamFailure

MARGIN_TOKENS = 16
"""Room for what a template adds only when it generates."""
ANSWER_BYTES_MAX = 16 * 1024 * 1024
DEADLINES = Deadlines(connect_ms=1_000, first_byte_ms=2_000, idle_ms=1_000, total_ms=3_000)
_JSON = ((b"content-type", b"application/json"),)


async def count(pool: Pool, engine: EngineRecord, route: Route, asked: Asked) -> int | None:
    """Tokens of the prompt, with a margin; None where the engine does not say."""
    kind = engine.capabilities.tokenize
    if asked.endpoint is not CHAT and not (asked.endpoint is COMPLETIONS and type(asked.fields["prompt"]) is str):
        return None
    try:
        if kind == "vllm":
            found = await _vllm(pool, engine, route, asked)
        elif kind == "llamacpp":
            found = await _llamacpp(pool, engine, asked)
        else:
            return None
    except (UpstreamFailure, ValueError):
        return None
    return None if found is None else found + MARGIN_TOKENS


async def _vllm(pool: Pool, engine: EngineRecord, route: Route, asked: Asked) -> int | None:
    names = ("messages", "tools", "chat_template_kwargs") if asked.endpoint is CHAT else ("prompt",)
    body = {"model": route.name_there} | {name: asked.fields[name] for name in names if name in asked.fields}
    answer = await _ask(pool, engine, "/tokenize", body)
    found = answer.get("count")
    return found if type(found) is int and found >= 0 else None


async def _llamacpp(pool: Pool, engine: EngineRecord, asked: Asked) -> int | None:
    if asked.endpoint is CHAT:
        body: dict[str, Any] = {name: asked.fields[name] for name in ("messages", "tools") if name in asked.fields}
        prompt = (await _ask(pool, engine, "/apply-template", body)).get("prompt")
    else:
        prompt = asked.fields["prompt"]
    if type(prompt) is not str:
        return None
    answer = await _ask(pool, engine, "/tokenize", {"content": prompt, "add_special": True})
    tokens = answer.get("tokens")
    return len(tokens) if type(tokens) is list else None


async def _ask(pool: Pool, engine: EngineRecord, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = await pool.send(engine, path, orjson.dumps(body), _JSON, DEADLINES, from_root=True)
    try:
        if response.status != 200:
            return {}
        answer = orjson.loads(await response.read(ANSWER_BYTES_MAX))
    finally:
        response.close()
    return answer if type(answer) is dict else {}
