"""A wire between programs and a store that loses, delays and repeats: one unix socket that stands for another."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from pathlib import Path

PIECE_BYTES = 65_536
LATE_SECONDS = (0.1, 4.0)
"""Longer than the two seconds that programs wait for an answer, and shorter."""
REPEAT_SECONDS_MAX = 2.0


class Relay:
    """`lose`: chance that a reply is lost and its connection cut, half the time in the middle of the reply. `late`:
    chance that it comes late. `double`: chance that what a program sends reaches the store a second time, over another
    connection, as a wire that sends again would have it. All belong to the event loop that serves."""

    def __init__(self, path: Path, target: Path, *, seed: int) -> None:
        self.path = path
        self.target = target
        self.lose = self.late = self.double = 0.0
        self.done: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self.path.unlink(missing_ok=True)
        await asyncio.start_unix_server(self._serve, str(self.path))
        self.path.chmod(0o700)

    def calm(self) -> None:
        self.lose = self.late = self.double = 0.0

    def cut(self) -> None:
        """Every connection, at once."""
        self.done["cut"] += len(self._open)
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there = await asyncio.open_unix_connection(str(self.target))
        except OSError:
            writer.transport.abort()
            return
        self._open.add(writer)
        asking = asyncio.create_task(self._ask(reader, there))
        try:
            with suppress(OSError):
                await self._answer(there_reader, writer)
        finally:
            self._open.discard(writer)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            there.transport.abort()
            writer.close()

    async def _ask(self, reader: asyncio.StreamReader, there: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await reader.read(PIECE_BYTES):
                if self._random.random() < self.double:
                    await self._repeat(piece)
                there.write(piece)
                await there.drain()
        there.transport.abort()

    async def _answer(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await there.read(PIECE_BYTES):
            luck = self._random.random()
            if luck < self.lose:
                self.done["lost"] += 1
                if luck < self.lose / 2:
                    writer.write(piece[: len(piece) // 2])
                return
            if luck < self.lose + self.late:
                self.done["late"] += 1
                await asyncio.sleep(self._random.uniform(*LATE_SECONDS))
            writer.write(piece)
            await writer.drain()

    async def _repeat(self, piece: bytes) -> None:
        self.done["doubled"] += 1
        with suppress(OSError, TimeoutError):
            reader, writer = await asyncio.open_unix_connection(str(self.target))
            try:
                writer.write(piece)
                await asyncio.wait_for(reader.read(PIECE_BYTES), REPEAT_SECONDS_MAX)
            finally:
                writer.transport.abort()
