"""The real engine that DEMO_INFERENCE_URL puts behind demo models: asked at every start what it is and can do, because
engines differ (one that sends no [DONE], say, must not be taken for one that broke)."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from billing import engines
from billing.models import Engine, Model
from billing.snapshot import Capabilities
from proxy.probe import Found, FoundModel, ProbeFailed, probe

NAME = "demo-inference"
MAX_IN_FLIGHT = 256
ASKED_SECONDS_MAX = 60
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RealEngine:
    """`name_there`: what the engine calls the model that demo models stand for. `found`: what it said of that model;
    None when it did not answer."""

    engine: Engine
    name_there: str
    found: FoundModel | None


def real_engine(actor: str) -> RealEngine | None:
    """None when DEMO_INFERENCE_URL is not set. One that does not answer stays as it was known, or is taken for a plain
    OpenAI-compatible one."""
    if not settings.DEMO_INFERENCE_URL:
        return None
    found = _ask(settings.DEMO_INFERENCE_URL, settings.DEMO_INFERENCE_MODEL)
    engine = _row(settings.DEMO_INFERENCE_URL, found, actor)
    model = _model(found)
    return RealEngine(engine, settings.DEMO_INFERENCE_MODEL or (model.name_there if model else ""), model)


def fit(model: Model, real: RealEngine, actor: str) -> None:
    """A model is not longer than its engine, and leaves room for that engine's chat template."""
    found = real.found
    if found is None:
        return
    length = min(model.context_length, found.context_length or model.context_length)
    engines.change_model(
        model=model,
        actor=actor,
        context_length=length,
        max_completion_tokens=min(model.max_completion_tokens, length),
        default_max_tokens=min(model.default_max_tokens, max(1, length // 2)),
        tokens_per_message=max(model.tokens_per_message, found.tokens_per_message * 5 // 4),
        tokens_per_call=max(model.tokens_per_call, found.tokens_per_call * 5 // 4),
    )


def _ask(url: str, model: str) -> Found | None:
    async def within_limits() -> Found:
        async with asyncio.timeout(ASKED_SECONDS_MAX):
            return await probe(url, only=[model] if model else [])

    try:
        return asyncio.run(within_limits())
    except (ProbeFailed, TimeoutError) as error:
        log.warning("DEMO_INFERENCE_URL: %s", error or "no answer in time")
        return None


def _row(url: str, found: Found | None, actor: str) -> Engine:
    facts: dict[str, Any] = {"base_url": url.rstrip("/")}
    if found is not None:
        facts = {"base_url": found.base_url, "kind": found.kind, "capabilities": engines.as_stored(found.capabilities)}
    engine = Engine.objects.filter(name=NAME).first()
    if engine is None:
        return engines.register(
            name=NAME,
            kind=found.kind if found else Engine.Kind.OPENAI,
            base_url=facts["base_url"],
            capabilities=found.capabilities if found else Capabilities(),
            max_in_flight=MAX_IN_FLIGHT,
            is_shared=True,  # it is somebody's, and may serve them too
            actor=actor,
        )
    engines.change(engine=engine, actor=actor, **facts)
    return engine


def _model(found: Found | None) -> FoundModel | None:
    """The first model that chats."""
    models = found.models if found else ()
    return next((model for model in models if "chat" in model.features), models[0] if models else None)
