"""How a call ends in the books, once; and under an Idempotency-Key never without what a retry needs to know:

  1  its turn of a conversation is kept
  2  the answer and the event of its charge are kept under the key's name, if that is still this call's
  3  the charge is posted, and the record marked settled; then the answer's last bytes leave

A worker killed before 2 has charged nothing, and a retry runs anew. From 2 on whoever is asked again posts the event,
if nobody did yet, and gives the answer. A call that finds its name taken slept past its lease, and is given away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from msgspec.structs import replace

from billing import crash, events
from billing.events import Event
from billing.hold import Outcome
from billing.usage import Usage
from proxy.call import Call
from proxy.idempotency import ANSWER_BYTES_MAX, Replay
from proxy.meter import Measured
from proxy.refusals import Reason, decline
from proxy.worker import Worker

Turn = Callable[[], Awaitable[None]]


class _Bill(NamedTuple):
    """What a call under an Idempotency-Key comes to; `name`: its record's."""

    name: str
    outcome: Outcome
    event: Event


async def settle(call: Call, worker: Worker, measured: Measured, *, status: int = 200) -> None:
    """The charge is in the write-ahead log when this returns; admission owns the rest, so that a request which is
    cancelled here is settled all the same. Under an Idempotency-Key no answer is kept."""
    outcome = _outcome(call, measured, status)
    worker.metrics.settled(call, measured)
    if call.idempotency is None or call.hold.charge is not None:
        await worker.admission.settle(call.hold, outcome)
        return
    bill = _Bill(call.idempotency, outcome, worker.admission.bill(call.hold, outcome))
    call.idempotency = None
    await asyncio.shield(worker.own(_settle_unkept(call, worker, bill)))


async def settle_answered(
    call: Call, worker: Worker, measured: Measured, render: Callable[[], bytes | None], turn: Turn
) -> None:
    """A call with an Idempotency-Key that has been answered whole. `render` gives the answer once the charge is known;
    None: it is too large to be kept. Declined where the name is another call's."""
    outcome = _outcome(call, measured, 200)
    bill = _Bill(call.idempotency or "", outcome, worker.admission.bill(call.hold, outcome))
    try:
        body = render()
    except BaseException:
        worker.admission.unbill(call.hold)
        raise
    worker.metrics.settled(call, measured)
    call.idempotency = None
    if not await asyncio.shield(worker.own(_settle_kept(call, worker, bill, body, turn))):
        raise decline(Reason.IDEMPOTENT_CALL_RUNNING)


async def _settle_unkept(call: Call, worker: Worker, bill: _Bill) -> None:
    is_ours, event = True, bill.event
    if event.cost_nanos or event.credits or bill.outcome.usage.total_tokens:
        is_ours = await worker.idempotency.spend(bill.name, call.id)
    else:
        await worker.idempotency.forget(bill.name, call.id)
    await worker.admission.post(call.hold, event if is_ours else _given_away(call, worker, bill))


async def _settle_kept(call: Call, worker: Worker, bill: _Bill, body: bytes | None, turn: Turn) -> bool:
    await turn()
    crash.at("before_answer_kept")
    if body is None or len(body) > ANSWER_BYTES_MAX:
        is_ours = await worker.idempotency.spend(bill.name, call.id)
    else:
        answer = Replay(call.id, body, bill.event.cost_nanos, events.encode(bill.event))
        is_ours = await worker.idempotency.keep(bill.name, answer)
    crash.at("after_answer_kept")
    await worker.admission.post(call.hold, bill.event if is_ours else _given_away(call, worker, bill))
    crash.at("before_answer_marked")
    worker.own(worker.idempotency.mark_settled(bill.name, call.id))
    return is_ours


def _given_away(call: Call, worker: Worker, bill: _Bill) -> Event:
    worker.admission.unbill(call.hold)
    nothing = replace(bill.outcome, usage=Usage(), usage_source="none", end_reason="client_gone", billable=False)
    return worker.admission.bill(call.hold, nothing)


def _outcome(call: Call, measured: Measured, status: int) -> Outcome:
    return Outcome(
        usage=measured.usage,
        usage_source=measured.source.value,
        end_reason=measured.end_reason,  # type: ignore[arg-type]  # Ending and _END_REASONS spell billing's
        flags=(*measured.flags, "client_gone") if call.gone and measured.succeeded else measured.flags,
        http_status=status,
        engine_id=call.engine.id if call.engine is not None else None,
        first_token_ms=call.first_token_ms(),
        duration_ms=call.elapsed_ms(),
        agent=call.agent,
        metadata=call.asked.metadata,
        user=call.asked.user,
    )
