"""How one call's answer leaves: as the engine gave it but for its stamp, split, or as a response."""

from __future__ import annotations

from typing import Any

from proxy.call import Call
from proxy.meter import Measured
from proxy.responses.answer import whole as whole_response
from proxy.responses.stream import ResponseRewriter
from proxy.rewriting import StreamRewriter
from proxy.splitting import SplitRewriter, answer_split


def rewriter_of(call: Call) -> StreamRewriter:
    """What turns the engine's events into the client's; the same one each time it is asked for."""
    if call.rewriter is None:
        call.rewriter = _new_rewriter(call)
    return call.rewriter


def _new_rewriter(call: Call) -> StreamRewriter:
    asked = call.asked
    if call.echo is not None:
        return ResponseRewriter(call.dialect, call.stamp, call.echo, asked.split)
    if asked.split is None:
        return StreamRewriter(call.dialect, call.stamp, include_usage=asked.include_usage)
    return SplitRewriter(call.dialect, call.stamp, asked.split, include_usage=asked.include_usage)


def whole(call: Call, answer: dict[str, Any], measured: Measured) -> dict[str, Any]:
    """The body of a whole answer, from the engine's."""
    if call.echo is not None:
        return whole_response(answer, call.stamp, call.echo, call.asked.split, measured)
    if call.asked.split is not None:
        answer = answer_split(answer, call.asked.split)
    return call.dialect.whole(answer, call.stamp, call.dialect.usage(measured.usage))
