"""The engine that test keys reach, in the worker's own process: no GPU, no connection, nothing to set up.

What answers is an ASGI application that speaks as vLLM does; a higher room gives it (`install`). Where none was given,
test calls are refused as those of a model without engines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from billing.snapshot import Capabilities, EngineRecord, ModelRecord, Route, Snapshot
from proxy.engine_slots import EngineSlots
from proxy.failures import Cut, UpstreamFailure
from proxy.refusals import Reason, decline
from proxy.response import Response
from proxy.routing import Choice, Routing
from proxy.upstream import USUAL_DEADLINES, Deadlines, Headers, Pool

Message = dict[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]
Named = Callable[[ModelRecord], str]

CALLS_MAX: Final = 64
"""Of one worker at a time."""
ENGINE: Final = EngineRecord(
    id=0,
    name="test",
    kind="vllm",
    base_url="http://test.invalid/v1",
    max_in_flight=CALLS_MAX,
    capabilities=Capabilities(
        reports_cached=True,
        running_usage="continuous_usage_stats",
        tokenize="vllm",
        stops_on_close=True,
        cache_salt=True,
    ),
)
_makers: list[tuple[Callable[[], App], Named]] = []


def install(make: Callable[[], App], named: Named) -> None:
    """`make` gives one worker's engine; `named`, what that calls the like of one of a brand's models."""
    _makers[:] = [(make, named)]


class HouseRouting(Routing):
    """Every model is served by the one engine."""

    def __init__(self, slots: EngineSlots) -> None:
        super().__init__(slots)
        self._named = _makers[0][1] if _makers else None

    def order(self, model: ModelRecord, snapshot: Snapshot, conversation: bytes = b"") -> list[Choice]:
        if self._named is None:
            raise decline(Reason.ENGINE_MISCONFIGURED, model=model.slug)
        return [(ENGINE, Route(engine_id=ENGINE.id, name_there=self._named(model)))]


class HouseEngine(Pool):
    """Answers where a pool would ask an engine over a connection."""

    def __init__(self) -> None:
        super().__init__(lambda sealed: sealed)
        self._app = _makers[0][0]() if _makers else None
        self._running: set[asyncio.Task[None]] = set()

    async def send(
        self,
        engine: EngineRecord,
        path: str,
        body: bytes,
        headers: Headers = (),
        deadlines: Deadlines = USUAL_DEADLINES,
        *,
        method: str = "POST",
        from_root: bool = False,
    ) -> Response:
        assert self._app is not None
        scope = {
            "type": "http",
            "method": method,
            "path": path if from_root else f"/v1{path}",
            "query_string": b"",
            "headers": list(headers),
        }
        exchange = _Exchange(self.loop, body)
        task = self.loop.create_task(exchange.run(self._app, scope))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await exchange.begun()


class _Exchange:
    """One request in the process: to the engine an ASGI server, to its answer a connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, body: bytes) -> None:
        self.loop = loop
        self.paused = False
        self._body: bytes | None = body
        self._closed = asyncio.Event()
        self._response: Response | None = Response(self)

    async def begun(self) -> Response:
        """The answer, once its head has come. UpstreamFailure where none comes."""
        response = self._response
        assert response is not None
        try:
            while not response.status and response._failure is None:
                await response._wait()
        except BaseException:
            response.close()
            raise
        if not response.status:
            assert response._failure is not None
            raise response._failure
        return response

    async def run(self, app: App, scope: dict[str, Any]) -> None:
        try:
            await app(scope, self._receive, self._send)
        finally:
            self.fail(Cut("the test engine broke off"))

    async def _receive(self) -> dict[str, Any]:
        body, self._body = self._body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        await self._closed.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        response = self._response
        if response is None:
            return
        if message["type"] == "http.response.start":
            response.headers = dict(message["headers"])
            response.status = message["status"]
        else:
            if message.get("body"):
                response._pieces.append(message["body"])
            if not message.get("more_body", False):
                response._complete = True
                response._connection = self._response = None
        response._wake()
        await asyncio.sleep(0)  # so that an answer leaves as it is made

    def fail(self, failure: UpstreamFailure) -> None:
        response, self._response = self._response, None
        self._closed.set()
        if response is not None:
            response._connection = None
            response._failure = failure
            response._wake()

    def resume(self) -> None:
        self.paused = False

    def drain(self) -> None:
        """Nothing is on its way: what was made has arrived."""
