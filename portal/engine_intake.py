"""An inference server becomes an engine of ours: what asking it showed, kept as a row, and its models drafted. What
`manage.py engine add` and the operators' page both do."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

from billing import engine_counters, engines
from billing.models import Engine, Model
from billing.snapshot import Capabilities
from keys.audit import Actor
from keys.models import Brand
from proxy.probe import Found, FoundModel, probe

CONTEXT_UNKNOWN = 8192
TOKENS_PER_MESSAGE, TOKENS_PER_CALL = 16, 64
"""Least room kept for a chat template; a model's own, if it is larger, is kept with a quarter more."""


def asked(
    url: str,
    *,
    api_key: str = "",
    verify_tls: bool = True,
    headers: dict[str, str] | None = None,
    kind: str = "",
    only: Collection[str] = (),
    seconds_max: float | None = None,
) -> Found:
    """What the server at `url` is and can do. Raises ProbeFailed, in `seconds_max` at the latest."""
    return asyncio.run(
        probe(
            url,
            api_key=api_key,
            verify_tls=verify_tls,
            headers=headers,
            kind=kind,
            only=only,
            seconds_max=seconds_max,
        )
    )


def kept(
    found: Found,
    *,
    brand: Brand | None,
    actor: Actor,
    name: str = "",
    api_key: str = "",
    address: str | None = None,
    **facts: Any,
) -> Engine:
    """The engine's row: a new one, or the one at this address, with what was found now. `brand` None: every brand's.
    `api_key` "" leaves the one it has. ValidationError names the field that is wrong."""
    facts["kind"] = found.kind
    there = standing(found.base_url, brand)
    if there is None:
        return engines.register(
            name=name or engines.free_name(found.base_url, found.kind),
            base_url=found.base_url,
            brand=brand,
            api_key=api_key,
            capabilities=found.capabilities,
            actor=actor,
            address=address,
            **facts,
        )
    found_again(there, found, actor=actor, address=address, api_key=api_key, **facts)
    return there


def standing(base_url: str, brand: Brand | None) -> Engine | None:
    return Engine.objects.filter(base_url=base_url, brand=brand).first()


def found_again(
    engine: Engine, found: Found, *, actor: Actor, api_key: str = "", address: str | None = None, **facts: Any
) -> None:
    """An engine that is known was asked anew. What asking made it count is nobody's use."""
    engines.change(
        engine=engine,
        api_key=api_key or None,
        capabilities=engines.as_stored(found.capabilities),
        actor=actor,
        address=address,
        **facts,
    )
    engine_counters.begin_anew(found.base_url)


def drafted(
    engine: Engine,
    found: FoundModel,
    *,
    brand: Brand,
    actor: Actor,
    slug: str = "",
    context_length: int = 0,
    address: str | None = None,
) -> tuple[Model, bool]:
    """The brand's model that this engine serves, and whether it is new. `slug` "": sold under the name it has there;
    `context_length` 0: what the engine says, or CONTEXT_UNKNOWN."""
    return engines.draft_model(
        brand=brand,
        slug=slug or found.name_there,
        engine=engine,
        name_there=found.name_there,
        context_length=context_length or found.context_length or CONTEXT_UNKNOWN,
        features=list(found.features),
        is_reasoning=found.is_reasoning,
        tokens_per_message=max(TOKENS_PER_MESSAGE, found.tokens_per_message * 5 // 4),
        tokens_per_call=max(TOKENS_PER_CALL, found.tokens_per_call * 5 // 4),
        actor=actor,
        address=address,
    )


def abilities(known: Capabilities) -> list[tuple[bool, str]]:
    """What the engine can report and do, in words; True where that is as one wishes."""
    told = (
        (known.reports_usage, "counts tokens", "DOES NOT COUNT TOKENS (calls are charged by estimate)"),
        (known.reports_cached, "says what came from its cache", "does not say what came from its cache"),
        (bool(known.running_usage), "counts while it streams", "counts only at the end"),
        (bool(known.tokenize), "has a tokenizer", "has no tokenizer to ask"),
        (known.stops_on_close, "stops when a client hangs up", "writes on when a client of a whole answer hangs up"),
        (known.counts_every_choice, "", "counts one choice only"),
        (known.sends_done, "", "ends streams without [DONE]"),
        (known.cache_salt, "keeps customers' caches apart", ""),
        (known.priority, "takes priorities", ""),
    )
    return [(good, well if good else ill) for good, well, ill in told if (well if good else ill)]
