"""One timer per worker for all its calls: it begins to watch clients, keeps silent streams alive, and ends writes and
bodies that take too long, so that a usual call arms no timer and starts no task of its own."""

from __future__ import annotations

import asyncio
import time

from proxy.answers import EventStream
from proxy.bodies import BODY_SECONDS_MAX, LATE, SILENT_SECONDS_MAX
from proxy.call import Call
from proxy.watching import Watch

BEAT_SECONDS = 0.25
"""An engine is stopped within a second of its client's leaving; this is the part of it that we may take to notice."""


class Heart:
    def __init__(self) -> None:
        self._streams: set[EventStream] = set()
        self._unwatched: set[Watch] = set()
        self._awaited: set[Call] = set()
        self._silent: dict[Call, tuple[int, int]] = {}  # of these: bytes that had come, for how many beats no more
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._beat_forever(), name="proxy: heart")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def add(self, stream: EventStream) -> None:
        self._streams.add(stream)

    def discard(self, stream: EventStream) -> None:
        self._streams.discard(stream)

    def watch(self, watch: Watch) -> None:
        self._unwatched.add(watch)

    def unwatch(self, watch: Watch) -> None:
        self._unwatched.discard(watch)
        watch.stop()

    def await_body(self, call: Call) -> None:
        """The body is being read; `body_came` must follow."""
        self._awaited.add(call)

    def body_came(self, call: Call) -> None:
        self._awaited.discard(call)

    async def _beat_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            unwatched, self._unwatched = self._unwatched, set()
            for watch in unwatched:
                watch.begin()
            self._end_late_bodies(time.perf_counter())
            now = loop.time()
            for stream in list(self._streams):
                if stream.is_due(now):
                    stream.beat(now)
                elif stream.is_stuck(now) and stream.task is not None:
                    self._streams.discard(stream)
                    stream.task.cancel()

    def _end_late_bodies(self, now: float) -> None:
        """Silence is counted in beats: while this worker stood still, nobody could be heard."""
        before, self._silent = self._silent, {}
        for call in list(self._awaited):
            size, beats = before.get(call, (0, 0))
            beats = beats + 1 if size == call.body_bytes else 0
            self._silent[call] = call.body_bytes, beats
            if beats * BEAT_SECONDS > SILENT_SECONDS_MAX or now - call.began > BODY_SECONDS_MAX:
                self._awaited.discard(call)
                if call.task is not None:
                    call.task.cancel(LATE)
