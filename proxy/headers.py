"""Headers of ours that an answer carries, besides what its dialect says of limits."""

from __future__ import annotations

from billing.usage import Usage
from proxy import cors, costs
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


def answer_headers(call: Call, worker: Worker, used: Usage | None = None) -> list[Header]:
    """On an answer that was reserved for; with what it `used`, once it is settled: limits then tell that instead of
    what was held."""
    hold, asked = call.hold, call.asked
    limits = hold.limits if used is None else hold.limits_after(used)
    headers = common_headers(call)
    headers += call.dialect.limit_headers(limits, worker.counters.now_ms())
    if hold.applied:
        headers.append((b"x-max-tokens-applied", b"%d" % hold.granted))
    if used is not None and hold.charge is not None:
        headers.append(costs.header(hold.charge.cost_nanos))
    if asked.dropped:
        headers.append((b"x-dropped-fields", dropped_header(asked.dropped)))
    if call.part is not None and call.part.conversation.forgotten:
        headers.append((b"x-session-dropped-turns", call.part.conversation.forgotten.encode()))
    return headers
