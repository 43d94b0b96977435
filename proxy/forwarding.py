"""The request as an engine gets it: our lengths, our usage options, its own name for the model. Pure."""

from __future__ import annotations

import hmac
from typing import Any

import orjson

from billing.snapshot import EngineRecord, ModelRecord, Route, Snapshot
from proxy.endpoints import CHAT, COMPLETIONS
from proxy.fields import NEVER
from proxy.reporting import reporting_fields
from proxy.requests import Asked

SALTS_MAX = 20_000
_GENERATES = (CHAT.name, COMPLETIONS.name)


def extras_of(model: ModelRecord, snapshot: Snapshot) -> frozenset[str]:
    """Engine parameters let through for a model: its own list, and what all engines that serve it declare."""
    kept: dict[int, frozenset[str]] = snapshot.__dict__.setdefault("_extras", {})  # a snapshot never changes
    found = kept.get(model.id)
    if found is None:
        found = kept[model.id] = _extras_of(model, snapshot)
    return found


def _extras_of(model: ModelRecord, snapshot: Snapshot) -> frozenset[str]:
    names = set(model.extra_fields)
    declared = [
        set(snapshot.engines_by_id[route.engine_id].capabilities.extra_fields)
        for route in model.routes
        if route.engine_id in snapshot.engines_by_id
    ]
    if declared:
        names |= set.intersection(*declared)
    return frozenset(names - NEVER)


class Salts:
    """What keeps organizations' cached prompts apart: no one meets another's, neither by timing nor on its bill.
    Hexadecimal, because engines differ in what else a salt may hold."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._known: dict[str, str] = {}

    def of(self, organization: str) -> str:
        salt = self._known.get(organization)
        if salt is None:
            if len(self._known) >= SALTS_MAX:
                self._known.clear()
            salt = hmac.digest(self._key, b"cache_salt\0" + organization.encode(), "sha256").hex()
            self._known[organization] = salt
        return salt


def body_for(asked: Asked, engine: EngineRecord, route: Route, *, granted: int, salt: str, priority: int) -> bytes:
    """`granted`: output tokens per choice, always explicit: engines otherwise write to the end of their context."""
    fields: dict[str, Any] = {"model": route.name_there, **asked.fields}
    known = engine.capabilities
    if asked.endpoint.name in _GENERATES:
        _ask_to_generate(fields, asked, engine, granted)
    if known.cache_salt:
        fields["cache_salt"] = salt
    if known.priority:
        fields["priority"] = -priority if engine.kind == "sglang" else priority  # there the higher goes first
    return orjson.dumps(fields)


def _ask_to_generate(fields: dict[str, Any], asked: Asked, engine: EngineRecord, granted: int) -> None:
    length = "max_tokens"
    if engine.kind == "openai" and asked.length_field == "max_completion_tokens":
        length = asked.length_field
    fields[length] = granted
    if asked.has_developer and engine.kind != "openai":
        fields["messages"] = [
            {**message, "role": "system"} if message["role"] == "developer" else message
            for message in fields["messages"]
        ]
    if asked.stream:
        fields["stream"] = True
        fields |= reporting_fields(engine.capabilities, choices=asked.choices)
