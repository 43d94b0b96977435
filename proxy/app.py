"""The proxy's front door: raw ASGI. Host and path to an endpoint; what says no is worded here and nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable
from typing import Any

import orjson
from redis.exceptions import RedisError

from billing.admission import Refused, StoreUnavailable
from billing.catalogue import BrandUnknown, SnapshotUnreadable
from billing.tiers import TierUnknown
from keys.credentials import CredentialsRefused
from keys.directory import DirectoryUnavailable, KeyRefused
from proxy import cors, pipeline, resources, standing, verdicts
from proxy.addresses import client_address
from proxy.answers import Header, Send, send_body, send_empty
from proxy.authentication import authenticate
from proxy.bodies import ClientLeft, Receive, check_headers
from proxy.call import Call
from proxy.dialects import dialect_named
from proxy.dispatch import Place
from proxy.endpoints import HEALTH, NOWHERE, SESSION, Endpoint, Kind, endpoint_at
from proxy.headers import common_headers
from proxy.refusals import Declined, Problem, Reason, decline, problem, retry_headers
from proxy.rendering import rewriter_of
from proxy.sessions import is_chat_only
from proxy.wording import worded
from proxy.worker import Worker

log = logging.getLogger(__name__)

METRICS_PATH = "/metrics"
LAST_WORDS_SECONDS_MAX = 1.0
_OPENAI = dialect_named("openai")
_NO_STORE = (StoreUnavailable, DirectoryUnavailable, RedisError, BrandUnknown, SnapshotUnreadable, TierUnknown)
_worker: Worker | None = None


def wants(scope: dict[str, Any]) -> bool:
    """Whether a request is the proxy's: it lies under a base path of a brand (or would, for a brand still unknown)."""
    path: str = scope["path"]
    if path == METRICS_PATH:
        return True
    return _worker is not None and _worker.brands.ours(_host_of(scope["headers"]), path)


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await begun(scope, receive, send)


def begun(scope: dict[str, Any], receive: Receive, send: Send) -> Awaitable[None]:
    """The application's own work, to be awaited. Each step of a request passes through all that awaits it: no more than
    is needed."""
    return _live(receive, send) if scope["type"] == "lifespan" else _serve(scope, receive, send)


async def _live(receive: Receive, send: Send) -> None:
    global _worker  # noqa: PLW0603 - one worker per process, made when its event loop runs
    await receive()
    try:
        _worker = await Worker().__aenter__()
    except Exception as error:
        log.exception("the proxy cannot start")
        await send({"type": "lifespan.startup.failed", "message": str(error)})
        return
    await send({"type": "lifespan.startup.complete"})
    await receive()
    worker, _worker = _worker, None
    await worker.__aexit__()
    await send({"type": "lifespan.shutdown.complete"})


async def _serve(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    call = Call(scope, receive, dict(scope["headers"]), _OPENAI)
    worker = _worker
    if worker is None:
        await _answer(call, problem(Reason.DRAINING), [], send)
        return
    client = scope.get("client")
    call.address = client_address(
        client[0] if client else None, call.fields.get(b"x-forwarded-for"), worker.trusted_proxies
    )
    worker.began()
    try:
        await _dispatch(call, worker, send)
    except ClientLeft:
        await pipeline.abandon(call, worker, None)
    except asyncio.CancelledError:
        await _cut_short(call, worker, send)
        raise
    except Exception as error:
        trouble = worded(problem_of(error, call, worker), call, worker)
        await pipeline.abandon(call, worker, trouble)
        worker.guard.refused(call, trouble.reason)
        worker.refusals.note(call, trouble)
        worker.metrics.refused(call, trouble)
        if not call.gone:
            trouble, limits = await standing.of_refusal(call, worker, trouble)
            await _answer(call, trouble, limits, send)
    finally:
        worker.guard.leave(call)
        worker.ended()


async def _cut_short(call: Call, worker: Worker, send: Send) -> None:
    """The server stops, or the client has not read for too long: what was held is given back, and who still reads is
    told."""
    trouble = worded(problem(Reason.DRAINING), call, worker)
    await pipeline.abandon(call, worker, trouble)
    worker.refusals.note(call, trouble)
    if not call.gone:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_SECONDS_MAX):
                await _answer(call, trouble, [], send)


async def _dispatch(call: Call, worker: Worker, send: Send) -> None:
    if call.path == METRICS_PATH:
        await resources.metrics(call, worker, send)
        return
    call.place = place = await _place(call, worker)
    if place.brand is not None:
        call.brand, call.dialect = place.brand, dialect_named(place.brand.dialect)
    elif worker.brands.default is not None:
        call.dialect = dialect_named(worker.brands.default.dialect)
    endpoint = endpoint_at(place.rest)
    await _check_head(call, worker, endpoint)
    if endpoint is None or (endpoint is SESSION and call.brand is not None and is_chat_only(call.brand)):
        if call.brand is not None and call.brand.is_plain_chat and call.method != "OPTIONS":
            await _nothing_but_chat(call, worker)
        raise decline(Reason.UNKNOWN_PATH, method=call.method, path=call.path[:200])
    call.endpoint = endpoint
    if call.method == "OPTIONS":
        await _preflight(call, worker, endpoint, send)
    elif call.method not in endpoint.methods:
        if call.brand is not None and call.brand.is_plain_chat:
            await authenticate(call, worker)
        allowed = ", ".join(endpoint.methods)
        headers = ((b"allow", allowed.encode()),)
        raise decline(
            Reason.METHOD_NOT_ALLOWED, method=call.method[:20], path=call.path[:200], allowed=allowed, headers=headers
        )
    elif worker.draining:
        raise decline(Reason.DRAINING)
    elif endpoint.kind is Kind.METERED:
        worker.room.enter()
        try:
            await pipeline.run(call, worker, send)
        finally:
            worker.room.leave(call.body_bytes)
    else:
        await resources.answer(call, worker, send)


async def _check_head(call: Call, worker: Worker, endpoint: Endpoint | None) -> None:
    """Before anything of the body is read. Who calls is asked only where it words the refusal: the key says the brand,
    or the surface tells every caller how they stand."""
    try:
        check_headers(call.headers, call.fields)
    except Declined:
        call.endpoint = endpoint or NOWHERE
        asks = call.brand is None or call.dialect.limits_everywhere
        if asks and endpoint is not HEALTH and call.method != "OPTIONS":
            with contextlib.suppress(*_NO_STORE):  # waiting for the store would not make the request any smaller
                await authenticate(call, worker)
        raise


async def _nothing_but_chat(call: Call, worker: Worker) -> None:
    """Keys of such a brand know one path: another is forbidden, to callers with a key, rather than missing."""
    call.endpoint = NOWHERE
    await authenticate(call, worker)
    raise decline(Reason.CHAT_ONLY, detail=f"; there is no {call.method[:20]} {call.path[:200]}")


async def _place(call: Call, worker: Worker) -> Place:
    """Where the request goes; looked up again in a fresh list of brands before it is called unknown."""
    host = _host_of(call.headers)
    try:
        place = worker.brands.place(host, call.path)
        if place is not None:
            return place
    except Declined:
        if host is None:
            raise
    await worker.catalogue.refresh_brands()
    if not worker.catalogue.knows_brands:
        raise StoreUnavailable("the list of brands could not be read yet")
    place = worker.brands.place(host, call.path)
    if place is None:
        raise decline(Reason.UNKNOWN_PATH, method=call.method, path=call.path[:200])
    return place


async def _preflight(call: Call, worker: Worker, endpoint: Endpoint, send: Send) -> None:
    """OPTIONS. Where the key would say the brand, any brand that lives here may allow the page."""
    headers: list[Header] = [(b"x-request-id", call.id.encode()), (b"allow", ", ".join(endpoint.methods).encode())]
    origin = call.fields.get(b"origin")
    if origin is not None:
        brands = worker.brands
        here = [brand for brand in brands.by_id.values() if brands.serves(brand, call.place)]
        wanted = call.fields.get(b"access-control-request-headers")
        headers += cors.preflight_headers(
            here if call.brand is None else [call.brand], origin, endpoint.methods, wanted
        )
    await send_empty(send, 204, headers)


def problem_of(error: Exception, call: Call, worker: Worker) -> Problem:
    """Everything that can say no, in the proxy's words. What nobody foresaw is an internal error, and nothing more."""
    if isinstance(error, Declined):
        return error.problem
    if isinstance(error, Refused):
        return verdicts.of_refusal(error.refusal, model=call.model_name, now_ms=worker.counters.now_ms())
    if isinstance(error, CredentialsRefused):
        return verdicts.of_credentials(error)
    if isinstance(error, KeyRefused):
        endpoint = call.endpoint
        return verdicts.of_key(
            error, endpoint=endpoint.name, scope=endpoint.scope, model=call.model_name, address=call.address
        )
    if isinstance(error, _NO_STORE):
        log.warning("call %s finds no store: %s", call.id, error)
        return problem(Reason.STORE_UNAVAILABLE)
    log.error("call %s failed", call.id, exc_info=error)
    return problem(Reason.INTERNAL)


async def _answer(call: Call, trouble: Problem, limits: list[Header], send: Send) -> None:
    """A worded problem in the dialect's envelope; as the last event where the head of a stream has left already."""
    out = call.out
    if out is not None and await out.quiet():
        if not out.ended:
            await out.end(rewriter_of(call).trouble(trouble, call.brand))
        return
    headers = [*common_headers(call), *trouble.headers, *retry_headers(trouble), *limits]
    body = orjson.dumps(call.dialect.error(trouble, call.brand))
    await send_body(send, trouble.status, headers, body, head_only=call.method == "HEAD")


def _host_of(headers: list[tuple[bytes, bytes]]) -> bytes | None:
    """The Host header; None when it is missing or there is more than one."""
    found: bytes | None = None
    for name, value in headers:
        if name == b"host":
            if found is not None:
                return None
            found = value
    return found
