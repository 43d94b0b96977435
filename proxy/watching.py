"""Is the client still there? An ASGI server says so to whoever asks it while the answer is on its way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar

from proxy.bodies import ClientLeft
from proxy.call import Call
from proxy.leavers import Leavers
from proxy.upstream import Response

T = TypeVar("T")


class Watch:
    """Notices the hang-up of one call's client, and closes the way to the engine: always for streams, for whole answers
    only where the engine's row says that closing stops it and their organization does not leave all the time (else it
    is read to its end and charged).

    It begins when the worker's heart next beats: most calls are over by then and need no watching."""

    __slots__ = ("_call", "_leavers", "_sending", "_stopped", "_task", "response")

    def __init__(self, call: Call, leavers: Leavers) -> None:
        self._call = call
        self._leavers = leavers
        self.response: Response | None = None
        self._sending: asyncio.Task[object] | None = None
        self._stopped = False
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._wait())

    async def until_gone(self, sending: Awaitable[T]) -> T:
        """The engine's response; ClientLeft when the client went before its head came."""
        self._sending = self._call.task
        try:
            return await sending
        except asyncio.CancelledError:
            if self._call.gone and self._sending is None and not self._stopped:
                task = self._call.task
                if task is not None and task.uncancel() == 0:
                    raise ClientLeft from None
            raise
        finally:
            self._sending = None

    def stop(self) -> None:
        self._stopped = True
        if self._task is not None:
            self._task.cancel()

    async def _wait(self) -> None:
        while True:
            message = await self._call.receive()
            if message["type"] == "http.disconnect":
                break
        if self._stopped:
            return
        self._call.gone = True
        if not self._may_close():
            return
        if self.response is not None:
            self._call.unread = self.response.close()
        elif self._sending is not None:
            task, self._sending = self._sending, None
            task.cancel()

    def _may_close(self) -> bool:
        call, engine = self._call, self._call.known("engine")
        if call.asked.stream or engine is None:
            return True
        if not engine.capabilities.stops_on_close:
            return False
        if not call.sent_at:
            return True
        return self._leavers.may_go(call.caller.organization.id, time.perf_counter() - call.sent_at)
