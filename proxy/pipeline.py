"""The way of one metered call, on one screen: authenticate, reserve, forward, meter, settle.

Everything that says no raises, and app.py words it. A hold never outlives its call: whatever ends the call here, the
hold was settled, or is voided.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import orjson

from billing.counters import StoreUnavailable
from billing.events import End
from billing.hold import Outcome
from proxy import conversations, costs, standing
from proxy.answers import EventStream, Send, send_body
from proxy.authentication import authenticate, refresh, resolve_model
from proxy.bodies import parse_object, read_body
from proxy.call import Call
from proxy.delivery import Streamed, deliver_whole
from proxy.endpoints import CHAT, RESPONSES
from proxy.forwarding import extras_of
from proxy.headers import answer_headers, common_headers
from proxy.idempotency import Replay, record_name
from proxy.refusals import Problem, Reason, decline
from proxy.requests import model_named, read
from proxy.reservation import reserve
from proxy.responses.request import read_response
from proxy.sending import learn, release, send
from proxy.splitting import FIELD_HEADER, taken_from
from proxy.upstream import Response
from proxy.watching import Watch
from proxy.worker import Worker


async def run(call: Call, worker: Worker, asgi_send: Send) -> None:
    """Raises what says no; `abandon` must follow then."""
    await authenticate(call, worker)
    if call.caller.is_test:
        worker = worker.bench
    replay = await read_request(call, worker)
    if replay is not None:
        await answer_again(call, worker, replay, asgi_send)
        return
    try:
        await conversations.take_part(call, worker)
        call.hold = await reserve(call, worker)
        worker.guard.served(call)
        await forward(call, worker, asgi_send)
    finally:
        conversations.leave(call, worker)


async def read_request(call: Call, worker: Worker) -> Replay | None:
    """Body → what is asked. An answer from record, where the same call was answered before."""
    body = await _body(call, worker)
    fields = parse_object(body)
    call.model_name = model_named(fields, call.snapshot.brand.default_model)
    call.model = await resolve_model(call, worker)
    call.session_id = conversations.session_named(fields, call)
    _read_asked(call, fields)
    key = call.fields.get(b"idempotency-key")
    return None if key is None else await _recorded(call, worker, key, body)


async def _body(call: Call, worker: Worker) -> bytes:
    """Counted as it comes, whatever its head declares: a declaration costs its sender nothing."""
    room, organization_id = worker.room, call.caller.organization.id
    room.await_body(organization_id)
    worker.heart.await_body(call)
    try:
        body = await read_body(call.receive, partial(_count, call, worker))
    finally:
        worker.heart.body_came(call)
        room.body_came(organization_id, call.body_bytes)
    if not call.body_bytes:  # it came in one piece
        room.grow(len(body))
        call.body_bytes = len(body)
    return body


def _count(call: Call, worker: Worker, size: int) -> None:
    worker.room.grow_waiting(call.caller.organization.id, size)
    call.body_bytes += size


def _read_asked(call: Call, fields: dict[str, Any]) -> None:
    brand, extras = call.snapshot.brand, extras_of(call.model, call.snapshot)
    split = None
    if call.endpoint is CHAT or call.endpoint is RESPONSES:
        split = taken_from(fields, brand, call.model, extras, call.fields.get(FIELD_HEADER))
    if call.endpoint is RESPONSES:
        call.asked, call.echo = read_response(fields, call.model, extras, brand)
    else:
        call.asked = read(fields, call.endpoint, call.model, extras, brand)
    call.asked.split = split
    if call.asked.stream and costs.is_asked(call):  # it is told with the usage, at the end
        call.asked.include_usage = True


async def _recorded(call: Call, worker: Worker, key: bytes, body: bytes) -> Replay | None:
    """Takes the key's name for this call, or finds the answer under it. A replay reserves nothing, so that the caller
    still may call is asked here."""
    name = record_name(call.caller, key, call.endpoint.name, body)
    try:
        replay = await worker.idempotency.begin(name, call.id, call.caller.shard)
    except StoreUnavailable:  # perhaps the name was taken all the same
        worker.own(worker.idempotency.forget(name, call.id))
        raise
    if replay is None:
        call.idempotency = name
        return None
    await refresh(call, worker)
    await resolve_model(call, worker)
    if replay.event is not None:  # its worker may have died before the charge was posted
        await worker.admission.post_again(replay.event)
        worker.own(worker.idempotency.mark_settled(name, replay.call_id))
    return replay


async def forward(call: Call, worker: Worker, asgi_send: Send) -> None:
    """To an engine and back. The client is watched from here on: one that leaves stops the engine."""
    if call.asked.stream:
        now = asyncio.get_running_loop().time()
        call.out = EventStream(asgi_send, answer_headers(call, worker), now=now, until=now + call.model.total_ms / 1000)
        worker.heart.add(call.out)
    watch = Watch(call, worker.leavers)
    worker.heart.watch(watch)
    try:
        response = watch.response = await watch.until_gone(send(call, worker))
        _check_kind(call, response)
        if call.out is not None:
            await Streamed(call, worker, response, call.out).deliver()
        else:
            await deliver_whole(call, worker, response, asgi_send)
    finally:
        worker.heart.unwatch(watch)
        if call.out is not None:
            worker.heart.discard(call.out)
        learn(call, worker, watch.response)
        release(call, worker)


def _check_kind(call: Call, response: Response) -> None:
    """Engines may answer with the other kind than was asked for: nobody can be charged for what cannot be read."""
    is_stream = response.headers.get(b"content-type", b"").startswith(b"text/event-stream")
    if is_stream != call.asked.stream:
        response.close()
        raise decline(Reason.ENGINE_ERROR, model=call.model_name)


async def answer_again(call: Call, worker: Worker, replay: Replay, asgi_send: Send) -> None:
    """With the first one's id and cost: this one is free."""
    call.id = replay.call_id
    headers = [*common_headers(call), (b"idempotent-replayed", b"true"), *await standing.headers(call, worker)]
    headers.append(costs.header(replay.cost_nanos))
    if call.asked.stream:
        now = asyncio.get_running_loop().time()
        await EventStream(asgi_send, headers, now=now, until=now).end(replay.body)
        return
    body = replay.body
    if costs.is_asked(call):
        body = orjson.dumps(costs.added(orjson.loads(body), replay.cost_nanos))
    await send_body(asgi_send, 200, headers, body)


async def abandon(call: Call, worker: Worker, problem: Problem | None) -> None:
    """After a call that ended without being settled: everything it held is given back. Its name first, before the
    client hears of it: who tries again at once must not be told that the call is still running."""
    if call.idempotency is not None:
        name, call.idempotency = call.idempotency, None
        await worker.idempotency.forget(name, call.id)
    hold, engine = call.known("hold"), call.known("engine")
    if hold is None or hold.charge is not None:
        return
    if call.caller.is_test:
        worker = worker.bench
    outcome = Outcome(
        end_reason=_end_reason(call, problem),
        http_status=problem.status if problem is not None else 499,
        engine_id=None if engine is None else engine.id,
        duration_ms=call.elapsed_ms(),
        agent=call.agent,
        billable=False,
    )
    await worker.admission.void(hold, outcome)


def _end_reason(call: Call, problem: Problem | None) -> End:
    if call.gone or problem is None:
        return "client_gone"
    return "timeout" if problem.reason is Reason.ENGINE_TIMEOUT else "upstream_error"
