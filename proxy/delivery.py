"""From the engine's answer to the client's: metered as it passes, settled before its last bytes leave.

Whole or streamed, one meter and one way of settling. Once the head of a stream has left, trouble becomes an event and
what was delivered is charged; before that nothing was delivered and nothing is.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import orjson

from proxy import costs, engine_errors, rendering
from proxy.answers import EventStream, Send, send_whole
from proxy.assistant import Listener, of_answer
from proxy.call import Call
from proxy.conversations import keep
from proxy.endpoints import EMBEDDINGS
from proxy.headers import answer_headers
from proxy.idempotency import ANSWER_BYTES_MAX as ANSWER_BYTES_KEPT_MAX
from proxy.large_answers import ANSWER_BYTES_MAX, SMALL_BYTES
from proxy.meter import Bounds, Ending, Event, Kind, Measured, Meter
from proxy.refusals import Declined, Problem, Reason, problem
from proxy.settling import settle, settle_answered
from proxy.upstream import FirstByteTimeout, IdleTimeout, Response, TotalTimeout, UpstreamFailure
from proxy.wording import worded
from proxy.worker import Worker

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


# whole ----------------------------------------------------------------------------------------------------------------


async def deliver_whole(call: Call, worker: Worker, response: Response, send: Send) -> None:
    """Reads the whole answer, settles, sends. A client that has gone meanwhile pays for what was made."""
    try:
        await _deliver_whole(call, worker, response, send)
    finally:
        if call.turn is not None:
            worker.large_answers.leave(call.turn)


async def _deliver_whole(call: Call, worker: Worker, response: Response, send: Send) -> None:
    meter = meter_for(call)
    try:
        body = await _body(call, worker, response)
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
    ours = await _settled_whole(call, worker, measured, answer)
    await send_whole(call.scope, send, answer_headers(call, worker, measured.usage), ours)


async def _body(call: Call, worker: Worker, response: Response) -> bytes:
    """Past SMALL_BYTES in turn with others; the turn lasts until the answer has left."""
    first = await response.read_first(SMALL_BYTES)
    if response.ended:
        return first
    call.turn = worker.large_answers.ask(call.caller.organization.id)
    await response.await_turn(call.turn.given)
    return first + await response.read(ANSWER_BYTES_MAX - len(first))


async def _settled_whole(call: Call, worker: Worker, measured: Measured, answer: dict[str, Any]) -> bytes:
    """The body that leaves."""

    async def keep_turn() -> None:
        if call.part is not None:
            await keep(call, worker, measured, of_answer(answer, thinks=call.model.is_reasoning))

    if call.idempotency is None:
        await settle(call, worker, measured)
        await keep_turn()
        return _with_cost(call, rendering.whole(call, answer, measured))
    told: list[dict[str, Any]] = []

    def render() -> bytes:
        """Without the cost: who asks again may ask for it, or not."""
        told.append(rendering.whole(call, answer, measured))
        return orjson.dumps(told[0])

    await settle_answered(call, worker, measured, render, keep_turn)
    return _with_cost(call, told[0])


def _with_cost(call: Call, told: dict[str, Any]) -> bytes:
    return orjson.dumps(costs.added(told, costs.nanos(call)) if costs.is_asked(call) else told)


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
        self.kept: bytearray | None = None if call.idempotency is None else bytearray()
        self.last: bytes | None = None
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
        if call.idempotency is not None and ending is Ending.COMPLETE and trouble is None:
            await settle_answered(call, worker, measured, lambda: self._record(measured), lambda: self._keep(measured))
        else:
            await settle(call, worker, measured, status=499 if ending is Ending.CLIENT_GONE else 200)
            if trouble is not None:
                worker.refusals.note(call, trouble)
            await self._keep(measured)
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
                    if self.kept is not None:
                        await self._tee(data)
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
                    if self.kept is not None:
                        await self._tee(data)
                    await self.out.write(data, now=clock())
        except (FirstByteTimeout, IdleTimeout, TotalTimeout):
            return Ending.TIMEOUT
        except UpstreamFailure:
            return Ending.CLIENT_GONE if call.gone else Ending.CUT
        except orjson.JSONDecodeError:  # in an event that the meter had no reason to read
            meter.error = "an event that is not JSON"
        return Ending.ERROR if meter.error is not None else Ending.COMPLETE

    async def _tee(self, data: bytes) -> None:
        """What leaves under an Idempotency-Key is kept, up to the most that may be; none leaves before the key's record
        says so."""
        call, kept = self.call, self.kept
        assert kept is not None
        if not kept and not await self.worker.idempotency.began(call.idempotency or "", call.id):
            self.response.close()
            raise Declined(problem(Reason.IDEMPOTENT_CALL_RUNNING))
        if len(kept) <= ANSWER_BYTES_KEPT_MAX:
            kept += data

    def _record(self, measured: Measured) -> bytes | None:
        """The whole stream as it leaves; None: more than may be kept."""
        self.last = self._last(measured)
        kept = self.kept or bytearray()
        return None if len(kept) > ANSWER_BYTES_KEPT_MAX else bytes(kept) + self.last

    def _last(self, measured: Measured) -> bytes:
        if costs.is_asked(self.call):
            self.rewriter.cost = costs.told(self.call)
        return self.rewriter.last(measured)

    async def _keep(self, measured: Measured) -> None:
        if self.listener is not None:
            thinks = self.call.model.is_reasoning
            await keep(self.call, self.worker, measured, self.listener.message(thinks=thinks))

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
        await self.out.end(self._last(measured) if self.last is None else self.last)
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
