"""Headers of ours that an answer carries, besides what its dialect says of limits."""

from __future__ import annotations

from proxy import cors
from proxy.answers import Header
from proxy.call import Call
from proxy.requests import dropped_header
from proxy.worker import Worker


def common_headers(call: Call) -> list[Header]:
    """On every answer: the request id, and what a brand's pages in browsers may read."""
    headers: list[Header] = [(b"x-request-id", call.id.encode())]
    origin = call.fields.get(b"origin")
    if origin is not None:
        headers += cors.answer_headers(call.brand, origin)
    return headers


def answer_headers(call: Call, worker: Worker) -> list[Header]:
    """On an answer that was reserved for."""
    hold, asked = call.hold, call.asked
    headers = common_headers(call)
    headers += call.dialect.limit_headers(hold.limits, worker.counters.now_ms(), refused=False)
    if hold.applied:
        headers.append((b"x-max-tokens-applied", b"%d" % hold.granted))
    if asked.dropped:
        headers.append((b"x-dropped-fields", dropped_header(asked.dropped)))
    if call.part is not None and call.part.conversation.forgotten:
        headers.append((b"x-session-dropped-turns", call.part.conversation.forgotten.encode()))
    return headers
