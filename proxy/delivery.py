"""From the engine's answer to the client's: metered as it passes, settled before its last bytes leave.

Whole or streamed, one meter and one way of settling. Once the head of a stream has left, trouble becomes an event and
what was delivered is charged; before that nothing was delivered and nothing is.
"""

from __future__ import annotations

import asyncio
import time

import orjson

from billing.hold import Outcome
from proxy import costs, engine_errors, rendering
from proxy.answers import EventStream, Send, send_whole
from proxy.assistant import Listener, of_answer
from proxy.call import Call
from proxy.conversations import keep
from proxy.endpoints import EMBEDDINGS
from proxy.headers import answer_headers
from proxy.idempotency import Replay
from proxy.meter import Bounds, Ending, Event, Kind, Measured, Meter
from proxy.refusals import Declined, Problem, Reason, problem
from proxy.upstream import FirstByteTimeout, IdleTimeout, Response, TotalTimeout, UpstreamFailure
from proxy.wording import worded
from proxy.worker import Worker

ANSWER_BYTES_MAX = 64 * 1024 * 1024
TAIL_SECONDS_MAX = 1.0
"""How long an engine may take to end its body after [DONE] before its connection is not worth keeping."""


def meter_for(call: Call) -> Meter:
    estimate = call.hold.estimate
    bounds = Bounds(
        prompt_tokens_max=estimate.prompt_tokens_max,
        output_tokens_max=call.hold.granted,
        context_length=call.model.context_length,
        choices=call.asked.choices,
        prompt_bytes=estimate.prompt_tokens_max,
        prompt_tokens=call.prompt_tokens,
        generates=call.asked.endpoint is not EMBEDDINGS,
        images_max=estimate.images_max,
    )
    return Meter(call.engine.capabilities, bounds)


async def settle(call: Call, worker: Worker, measured: Measured, *, status: int = 200) -> None:
    """The charge is in the write-ahead log when this returns; admission owns the rest, so that a request which is
    cancelled here is settled all the same."""
    outcome = Outcome(
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
    worker.metrics.settled(call, measured)
    await worker.admission.settle(call.hold, outcome)


# whole ----------------------------------------------------------------------------------------------------------------


async def deliver_whole(call: Call, worker: Worker, response: Response, send: Send) -> None:
    """Reads the whole answer, settles, sends. A client that has gone meanwhile pays for what was made."""
    meter = meter_for(call)
    try:
        body = await response.read(ANSWER_BYTES_MAX)
    except UpstreamFailure as failure:
        if call.gone:
            await settle(call, worker, meter.result(Ending.CLIENT_GONE), status=499)
            return
        raise Declined(engine_errors.of_failure(failure, call.model)) from failure
    finally:
        response.close()
    answer = meter.whole(body)
    if answer is None or meter.error is not None:
        raise Declined(engine_errors.of_error_event(meter.error, call.model, call.engine, call.route))
    call.first_token_at = time.perf_counter()
    measured = meter.result(Ending.COMPLETE)
    if not measured.succeeded:
        raise Declined(problem(Reason.ENGINE_ERROR, model=call.model_name))
    await settle(call, worker, measured)
    if call.part is not None:
        await keep(call, worker, measured, of_answer(answer, thinks=call.model.is_reasoning))
    told = rendering.whole(call, answer, measured)
    ours = orjson.dumps(told)
    if call.idempotency is not None:  # kept without the cost: who asks again may ask for it, or not
        await worker.idempotency.finish(call.idempotency, Replay(call.id, ours, costs.nanos(call)))
        call.idempotency = None
    if costs.is_asked(call):
        ours = orjson.dumps(costs.added(told, costs.nanos(call)))
    await send_whole(call.scope, send, answer_headers(call, worker, measured.usage), ours)


# streamed -------------------------------------------------------------------------------------------------------------


class Streamed:
    """One streamed answer on its way."""

    def __init__(self, call: Call, worker: Worker, response: Response, out: EventStream) -> None:
        self.call = call
        self.worker = worker
        self.response = response
        self.out = out
        self.meter = meter_for(call)
        self.rewriter = rendering.rewriter_of(call)
        self.listener = None if call.part is None else Listener(call.snapshot.brand.conversation_bytes_max)
        self.loop = asyncio.get_running_loop()
        self.source = "running" if call.engine.capabilities.running_usage else "estimated"

    async def deliver(self) -> None:
        call, worker = self.call, self.worker
        try:
            ending = await self._pass_on()
        except asyncio.CancelledError:  # the client does not read, or the server is stopping
            await self._settle_cut(Ending.CLIENT_GONE if call.gone else Ending.TIMEOUT, status=499)
            raise
        except Exception:  # what was delivered is charged, whatever broke here
            if self.out.began:
                await self._settle_cut(Ending.ERROR, status=200)
            raise
        if call.gone and not self.meter.finished:
            ending = Ending.CLIENT_GONE
        unread: list[Event] = []
        if ending is not Ending.COMPLETE:
            unread = self.meter.absorb(call.unread + self.response.close())
        measured = self.meter.result(ending)
        trouble = None if measured.succeeded or ending is Ending.CLIENT_GONE else self._trouble(ending)
        if trouble is not None and not self.out.began:
            self.response.close()
            raise Declined(trouble)  # nothing was delivered: an ordinary error, and nothing charged
        if trouble is not None:
            trouble = worded(trouble, call, worker)
        await settle(call, worker, measured, status=499 if ending is Ending.CLIENT_GONE else 200)
        if trouble is not None:
            worker.refusals.note(call, trouble)
        if self.listener is not None:
            await keep(call, worker, measured, self.listener.message(thinks=call.model.is_reasoning))
        if call.idempotency is not None:  # streams are not kept: the same key may run again
            name, call.idempotency = call.idempotency, None
            await worker.idempotency.forget(name, call.id)
        if ending is Ending.LAPSED and unread:  # its client is there, and pays for what came while this worker slept
            await self.out.write(self._rewritten(unread), now=self.loop.time())
        await self._end(trouble, measured)

    async def _pass_on(self) -> Ending:
        """Events as they come, until the engine is done, fails, or nobody listens any more."""
        call, meter, hold = self.call, self.meter, self.call.hold
        clock = self.loop.time
        try:
            async for piece in self.response:
                data = self._rewritten(meter.feed(piece))
                now = clock()
                if data:
                    if not call.first_token_at and meter.content_events:
                        call.first_token_at = time.perf_counter()
                    await self.out.write(data, now=now)
                if meter.done or meter.error is not None:
                    break
                if now >= hold.next_progress:
                    self.worker.admission.progress(hold, meter.running(), self.source)
                if hold.lapsed:
                    return Ending.LAPSED
            else:
                data = self._rewritten(meter.finish())
                if data:
                    await self.out.write(data, now=clock())
        except (FirstByteTimeout, IdleTimeout, TotalTimeout):
            return Ending.TIMEOUT
        except UpstreamFailure:
            return Ending.CLIENT_GONE if call.gone else Ending.CUT
        except orjson.JSONDecodeError:  # in an event that the meter had no reason to read
            meter.error = "an event that is not JSON"
        return Ending.ERROR if meter.error is not None else Ending.COMPLETE

    def _rewritten(self, events: list[Event]) -> bytes:
        if self.listener is not None:
            self._listen(self.listener, events)
        if len(events) == 1:
            event = events[0]
            return self.rewriter.rewrite(event.data, event.parsed) if event.kind <= Kind.FINISH else b""
        return b"".join(
            [self.rewriter.rewrite(event.data, event.parsed) for event in events if event.kind <= Kind.FINISH]
        )

    def _listen(self, listener: Listener, events: list[Event]) -> None:
        for event in events:
            if event.kind <= Kind.FINISH:
                listener.hear(orjson.loads(event.data) if event.parsed is None else event.parsed)

    def _trouble(self, ending: Ending) -> Problem:
        model, call = self.call.model, self.call
        if self.meter.error is not None:
            return engine_errors.of_error_event(self.meter.error, model, call.engine, call.route)
        reason = {Ending.TIMEOUT: Reason.ENGINE_TIMEOUT, Ending.LAPSED: Reason.CALL_LAPSED}.get(
            ending, Reason.ENGINE_CUT
        )
        return problem(reason, model=call.model_name)

    async def _settle_cut(self, ending: Ending, *, status: int) -> None:
        self.meter.absorb(self.call.unread + self.response.close())
        await settle(self.call, self.worker, self.meter.result(ending), status=status)

    async def _end(self, trouble: Problem | None, measured: Measured) -> None:
        """The last bytes. SDKs hang up at [DONE], so what follows it would be lost; without it they raise."""
        call = self.call
        if call.gone and not self.meter.finished:
            return
        if trouble is not None:
            await self.out.end(self.rewriter.trouble(trouble, call.brand))
            return
        if costs.is_asked(call):
            self.rewriter.cost = costs.told(call)
        await self.out.end(self.rewriter.last(measured))
        if not self.response.complete:
            self.worker.own(_read_tail(self.response))


async def _read_tail(response: Response) -> None:
    """After [DONE] only the end of the body is left; with it the connection can be used again."""
    try:
        async with asyncio.timeout(TAIL_SECONDS_MAX):
            async for _ in response:
                continue
    except (UpstreamFailure, TimeoutError):
        pass
    finally:
        response.close()
