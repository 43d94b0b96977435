"""An engine that streams: `python -m tests.speed.paced_engine PORT INTERVAL_MS CHUNKS`.

Each POST gets CHUNKS events at an even pace, the first at once, then usage and [DONE], as vLLM words them; with usage
in every event where it is asked for. GET /status tells how many streams were asked for. asyncio's transports alone: it
must cost little beside what is measured.
"""

from __future__ import annotations

import asyncio
import sys
from itertools import count
from typing import cast

import uvloop

PROMPT_TOKENS = 21
WORD = " quick"

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


def _piece(data: bytes) -> bytes:
    event = b"data: %b\n\n" % data
    return b"%x\r\n%b\r\n" % (len(event), event)


def _usage(chunks: int) -> bytes:
    return b'{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d}' % (
        PROMPT_TOKENS,
        PROMPT_TOKENS + chunks,
        chunks,
    )


def pieces_of(number: int, chunks: int, *, continuous: bool) -> list[bytes]:
    """One stream, ready to be written: a piece for each interval."""
    start = b'{"id":"chatcmpl-%d","object":"chat.completion.chunk","created":1750000000,"model":"paced",' % number
    pieces = []
    for made in range(1, chunks + 1):
        finish = b'"stop"' if made == chunks else b"null"
        delta = b'{"role":"assistant","content":"%b"}' if made == 1 else b'{"content":"%b"}'
        choice = b'{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b}' % (delta % WORD.encode(), finish)
        running = b',"usage":' + _usage(made) if continuous else b""
        pieces.append(_piece(start + b'"choices":[' + choice + b"]" + running + b"}"))
    pieces[-1] += _piece(start + b'"choices":[],"usage":' + _usage(chunks) + b"}") + _piece(b"[DONE]") + b"0\r\n\r\n"
    return pieces


class Connection(asyncio.Protocol):
    """Requests one after another, each with a content-length."""

    streams = count(1)
    begun = 0

    def __init__(self, interval_s: float, chunks: int) -> None:
        self.interval_s = interval_s
        self.chunks = chunks
        self.loop = asyncio.get_running_loop()
        self.received = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found:
            return
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0].strip()
        if len(body) < int(length or b"0"):
            return
        self.received = b""
        if head.startswith(b"GET"):
            self._tell()
        else:
            Connection.begun += 1
            pieces = pieces_of(next(self.streams), self.chunks, continuous=b'"continuous_usage_stats":true' in body)
            pieces[0] = _HEAD + pieces[0]
            self._stream(pieces, 0, self.loop.time())

    def _tell(self) -> None:
        assert self.transport is not None
        text = b"%d" % Connection.begun
        self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(text), text))

    def _stream(self, pieces: list[bytes], number: int, due: float) -> None:
        if self.transport is None:
            return
        self.transport.write(pieces[number])
        if number + 1 < len(pieces):
            due += self.interval_s
            self.loop.call_at(due, self._stream, pieces, number + 1, due)


async def serve(port: int, interval_s: float, chunks: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(interval_s, chunks), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    given_port, interval_ms, given_chunks = map(int, sys.argv[1:4])
    uvloop.run(serve(given_port, interval_ms / 1000, given_chunks))
