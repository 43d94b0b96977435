"""The canary's rounds: who is due, asked once, written down. Safe to run twice, late, or never.

1. Each brand that is active; each of its models that is live, has a price and an engine.
2. Whoever inserts the row of a model's slot asks; the unique constraint decides between two that try.
3. All are asked beside each other, a few at a time, within one deadline; what is not answered by then has failed.
4. Outcomes are written, then what the engines say they are, then rows older than 30 days go.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import orjson
from django.conf import settings
from django.db.models import Exists, OuterRef

from billing import catalogue, prices
from billing.models import Engine, Model, ModelEngine, Rate
from billing.snapshot import EngineRecord
from keys.models import Brand
from keys.sealing import open_text
from portal.canary import accounts, calls, questions
from portal.canary.calls import Answered, Door
from portal.canary.questions import Question
from portal.models import CanaryCheck, ModelEvidence
from proxy.engine_counters import get
from proxy.upstream import Pool

log = logging.getLogger(__name__)

EVERY = timedelta(minutes=5)
PICTURES_EVERY = timedelta(hours=1)
EVIDENCE_EVERY = timedelta(hours=1)
KEPT = timedelta(days=30)
AT_ONCE = 4
ROUND_SECONDS_MAX = 120.0
"""Well under the time that a task may take, and other tasks wait behind it (portal.celery)."""
OUR_OWN = frozenset({402, 403, 429})
"""The canary's account was refused: that says nothing of the model, so nothing is kept of it."""
_LATE = Answered(None, "late", "")


class Due(NamedTuple):
    check: CanaryCheck
    question: Question
    door: Door


def run(*, now: datetime) -> int:
    """How many models were asked."""
    if not settings.CANARY:
        return 0
    CanaryCheck.objects.filter(slot_at__lt=now - KEPT).delete()
    due = [each for brand in Brand.objects.filter(state=Brand.State.ACTIVE) for each in _due(brand, now)]
    for each, answered in zip(due, _asked(due), strict=True):
        _write(each, answered, now)
    _look_at_engines(now)
    return len(due)


def _due(brand: Brand, now: datetime) -> list[Due]:
    records = {record.id: record for record in catalogue.build(brand.pk).models}
    claimed: list[tuple[CanaryCheck, Question]] = []
    for model in sold(brand, now):
        question = questions.for_model(records[model.pk])
        if question is None:
            continue
        every = PICTURES_EVERY if question.kind == "image" else EVERY
        check, is_ours = CanaryCheck.objects.get_or_create(model=model, slot_at=_slot(now, every))
        if is_ours:
            claimed.append((check, question))
    if not claimed:
        return []
    door = calls.door(brand, accounts.key_for(brand, [check.model for check, _ in claimed], now))
    return [Due(check, question, door) for check, question in claimed]


def sold(brand: Brand, now: datetime) -> Iterable[Model]:
    """Live, with a price for everybody and an engine that may serve it."""
    routes = ModelEngine.objects.filter(model=OuterRef("pk"), engine__state=Engine.State.LIVE)
    rates = prices.in_force(Rate.objects.filter(model=OuterRef("pk"), organization=None), now)
    return Model.objects.filter(Exists(routes), Exists(rates), brand=brand, state=Model.State.LIVE).order_by("pk")


def _slot(now: datetime, every: timedelta) -> datetime:
    """The beginning of the period in which `now` lies."""
    return datetime.fromtimestamp(now.timestamp() // every.total_seconds() * every.total_seconds(), tz=now.tzinfo)


def _asked(due: list[Due]) -> list[Answered]:
    executor = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="canary")
    asked: list[Future[Answered]] = [executor.submit(calls.ask, each.door, each.question) for each in due]
    wait(asked, timeout=ROUND_SECONDS_MAX)
    executor.shutdown(wait=False, cancel_futures=True)
    return [future.result() if future.done() and not future.cancelled() else _LATE for future in asked]


def _write(each: Due, answered: Answered, now: datetime) -> None:
    check = each.check
    if answered.status in OUR_OWN:
        log.warning("the canary may not ask %s of %s: %s", check.model, each.door.host, answered.code)
        check.delete()
        return
    check.outcome = _outcome(each.question, answered)
    check.http_status, check.code, check.call_id = answered.status, answered.code, answered.call_id
    check.first_token_ms, check.duration_ms = answered.first_token_ms, answered.duration_ms
    check.save()
    if answered.text and not answered.code:
        ModelEvidence.objects.update_or_create(
            model=check.model,
            defaults={"prompt": questions.prompt_of(each.question), "answer": answered.text, "answered_at": now},
        )


def _outcome(question: Question, answered: Answered) -> str:
    if answered.status != 200 or answered.code:
        return CanaryCheck.Outcome.FAILED
    is_right = questions.is_right(question.kind, answered.text)
    return CanaryCheck.Outcome.PASSED if is_right else CanaryCheck.Outcome.WRONG


# what engines say they are ----------------------------------------------------------------------------------

_VERSION_DOORS = {"vllm": "/version", "sglang": "/get_server_info", "llamacpp": "/props", "tgi": "/info"}
_VERSION_FIELDS = ("version", "build_info")


def _look_at_engines(now: datetime) -> None:
    """Once an hour at most for each model that the canary has asked."""
    stale = ModelEvidence.objects.exclude(engines_at__gt=now - EVIDENCE_EVERY).select_related("model")
    found = list(stale)
    if not found:
        return
    routes = ModelEngine.objects.filter(model__in=[each.model_id for each in found]).select_related("engine")
    records = {route.engine_id: catalogue.engine_record(route.engine) for route in routes}
    versions = asyncio.run(_versions(list(records.values())))
    for evidence in found:
        evidence.engines = [
            {"kind": route.engine.kind, "version": versions[route.engine_id], "model": route.name_there}
            for route in routes
            if route.model_id == evidence.model_id
        ]
        evidence.engines_at = now
        evidence.save(update_fields=["engines", "engines_at"])


async def _versions(engines: list[EngineRecord]) -> dict[int, str]:
    pool = Pool(open_text)
    try:
        said = await asyncio.gather(*(_version(pool, engine) for engine in engines))
    finally:
        await pool.close()
    return {engine.id: version for engine, version in zip(engines, said, strict=True)}


async def _version(pool: Pool, engine: EngineRecord) -> str:
    """As the engine itself tells it; "" where its kind has no such door, or it does not answer."""
    door = _VERSION_DOORS.get(engine.kind)
    body = await get(pool, engine, door) if door else None
    try:
        facts: Any = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError:
        return ""
    told = [str(facts[name]) for name in _VERSION_FIELDS if isinstance(facts, dict) and facts.get(name)]
    return told[0][:80] if told else ""
