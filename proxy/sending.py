"""The call on its way to an engine: a slot, the line in the write-ahead log, the request; another engine where the
first certainly did not get it."""

from __future__ import annotations

from billing.snapshot import EngineRecord, Route
from keys.sealing import SealBroken
from proxy import engine_errors
from proxy.call import Call
from proxy.engine_slots import WAIT_SECONDS_MAX
from proxy.forwarding import body_for
from proxy.meter import can_count_choices
from proxy.refusals import Declined, Reason, decline
from proxy.requests import Asked
from proxy.upstream import Deadlines, Response, UpstreamFailure
from proxy.worker import Worker

ENGINES_TRIED_MAX = 3
ERROR_BYTES_MAX = 64 * 1024
_JSON = (b"content-type", b"application/json")


async def send(call: Call, worker: Worker) -> Response:
    """The engine's answer, status 200, its body unread. Declined otherwise; `call.slot` is held while it lasts."""
    choices = worker.routing.order(call.model, call.snapshot)[:ENGINES_TRIED_MAX]
    for engine, route in choices[:-1]:
        try:
            return await _send_to(engine, route, call, worker, wait_s=0)
        except _TryAnother:
            continue
        except Declined as declined:
            if declined.problem.reason is not Reason.ENGINE_BUSY:
                raise
    try:
        return await _send_to(*choices[-1], call, worker, wait_s=WAIT_SECONDS_MAX)
    except _TryAnother as last:
        raise Declined(engine_errors.of_failure(last.failure, call.model)) from last.failure


class _TryAnother(Exception):
    def __init__(self, failure: UpstreamFailure) -> None:
        super().__init__(str(failure))
        self.failure = failure


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
    await worker.admission.dispatched(hold, engine.id)
    worker.metrics.dispatched(call)
    headers = (_JSON, (b"x-request-id", call.id.encode()))
    try:
        response = await worker.upstream.send(engine, asked.endpoint.engine_path, body, headers, Deadlines.of(model))
    except UpstreamFailure as failure:
        worker.metrics.engine_failed(engine, type(failure).__name__)
        if not failure.undelivered:
            raise Declined(engine_errors.of_failure(failure, model)) from failure
        worker.routing.failed(engine)
        release(call, worker)
        raise _TryAnother(failure) from failure
    except (ValueError, SealBroken) as error:  # its row: an address or a key nobody can use
        raise decline(Reason.ENGINE_MISCONFIGURED, model=model.slug) from error
    call.upstream_status = response.status
    if response.status != 200:
        await _decline_with(response, call, worker)
    return response


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
    if problem.reason is not Reason.ENGINE_REFUSED_REQUEST and problem.reason is not Reason.CONTEXT_LENGTH_EXCEEDED:
        worker.metrics.engine_failed(call.engine, str(response.status))
    raise Declined(problem)
