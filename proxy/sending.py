"""The call on its way to an engine: a slot, the line in the write-ahead log, the request; another engine where the
first certainly did not get it."""

from __future__ import annotations

from billing.snapshot import EngineRecord, Route
from keys.sealing import SealBroken
from proxy import engine_errors
from proxy.affinity import conversation_of
from proxy.call import Call
from proxy.engine_slots import WAIT_SECONDS_MAX
from proxy.forwarding import body_for
from proxy.refusals import Declined, Problem, Reason, decline
from proxy.reporting import can_count_choices
from proxy.requests import Asked
from proxy.routing import Choice
from proxy.upstream import Deadlines, Response, UpstreamFailure
from proxy.worker import Worker

ENGINES_TRIED_MAX = 3
ERROR_BYTES_MAX = 64 * 1024
_CLIENTS_FAULT = frozenset({Reason.ENGINE_REFUSED_REQUEST, Reason.CONTEXT_LENGTH_EXCEEDED})
_NOT_BEGUN = frozenset({Reason.ENGINE_NOT_READY, Reason.ENGINE_RATE_LIMITED, Reason.ENGINE_UNAVAILABLE})
"""Answers (503, 429, 424) by which an engine says that it did not take the call: it loads, or is full."""
_JSON = (b"content-type", b"application/json")


async def send(call: Call, worker: Worker) -> Response:
    """The engine's answer, status 200, its body unread. Declined otherwise; `call.slot` is held while it lasts.

    An engine without a free slot is waited for only when no other takes the call."""
    conversation = b""
    if len(call.model.routes) > 1:
        conversation = conversation_of(call.asked, call.caller.organization.id, call.session_id)
    choices = worker.routing.order(call.model, call.snapshot, conversation)[:ENGINES_TRIED_MAX]
    if len(choices) == 1:
        return await _last(choices[0], call, worker)
    full: list[Choice] = []
    passed_on: _TryAnother | None = None
    for choice in choices:
        try:
            return await _send_to(*choice, call, worker, wait_s=0)
        except _TryAnother as another:
            passed_on = another
        except Declined as declined:
            if declined.problem.reason is not Reason.ENGINE_BUSY:
                raise
            full.append(choice)
    if full:
        return await _last(full[0], call, worker)
    assert passed_on is not None
    raise Declined(passed_on.problem) from passed_on


async def _last(choice: Choice, call: Call, worker: Worker) -> Response:
    try:
        return await _send_to(*choice, call, worker, wait_s=WAIT_SECONDS_MAX)
    except _TryAnother as another:
        raise Declined(another.problem) from another


class _TryAnother(Exception):
    """The engine certainly has not begun: another may have the call. `problem` is what to say when there is none."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.reason)
        self.problem = problem


async def _send_to(engine: EngineRecord, route: Route, call: Call, worker: Worker, *, wait_s: float) -> Response:
    asked, hold, model = call.asked, call.hold, call.model
    _check_choices(asked, engine)
    organization = hold.caller.organization
    body = body_for(
        asked,
        engine,
        route,
        granted=hold.granted,
        salt=worker.salts.of(organization.public_id) if engine.capabilities.cache_salt else "",
        priority=hold.template.tier.priority,
    )
    call.slot = await worker.slots.acquire(engine.id, engine.max_in_flight, organization.id, wait_s)
    call.engine, call.route = engine, route
    worker.routing.began(engine, route)  # before anything is waited for: else each call of this turn is its one trial
    await worker.admission.dispatched(hold, engine.id)
    worker.metrics.dispatched(call)
    headers = (_JSON, (b"x-request-id", call.id.encode()))
    deadlines = Deadlines.of(model, whole=not asked.stream)
    try:
        response = await worker.upstream.send(engine, asked.endpoint.engine_path, body, headers, deadlines)
    except UpstreamFailure as failure:
        raise _of_failure(failure, call, worker) from failure
    except (ValueError, SealBroken) as error:  # its row: an address or a key nobody can use
        raise decline(Reason.ENGINE_MISCONFIGURED, model=model.slug) from error
    worker.routing.reached(engine.id)
    call.upstream_status = response.status
    if response.status != 200:
        await _decline_with(response, call, worker)
    return response


def learn(call: Call, worker: Worker, response: Response | None) -> None:
    """After a call, what its answer says of the engine. That a client left says nothing of it."""
    if response is None or response.status != 200 or call.gone:
        return
    if response.failed:
        worker.routing.failed(call.engine, call.route)
    else:
        worker.routing.answered(call.engine, call.route)


def _of_failure(failure: UpstreamFailure, call: Call, worker: Worker) -> Exception:
    """What follows from an exchange that broke before its answer: the next engine only where this one never got it."""
    worker.metrics.engine_failed(call.engine, type(failure).__name__)
    problem = engine_errors.of_failure(failure, call.model)
    if failure.undelivered:
        worker.routing.unreached(call.engine.id)
        release(call, worker)
        return _TryAnother(problem)
    worker.routing.failed(call.engine, call.route)
    return Declined(problem)


def release(call: Call, worker: Worker) -> None:
    slot, call.slot = call.slot, None
    if slot is not None:
        worker.slots.release(slot)


def _check_choices(asked: Asked, engine: EngineRecord) -> None:
    if asked.choices > 1 and not can_count_choices(engine.capabilities, stream=asked.stream):
        raise decline(
            Reason.UNSUPPORTED_PARAMETER, param="n", detail="This model gives one choice per request; send n=1."
        )


async def _decline_with(response: Response, call: Call, worker: Worker) -> None:
    try:
        body = await response.read(ERROR_BYTES_MAX)
    except UpstreamFailure:
        body = b""
    finally:
        response.close()
    problem = engine_errors.of_answer(
        response.status, response.headers, body, model=call.model, engine=call.engine, route=call.route
    )
    if problem.reason in _CLIENTS_FAULT:
        raise Declined(problem)
    worker.metrics.engine_failed(call.engine, str(response.status))
    if response.status >= 500:
        worker.routing.failed(call.engine, call.route)
    if problem.reason in _NOT_BEGUN:
        release(call, worker)
        raise _TryAnother(problem)
    raise Declined(problem)
