"""How one call's answer leaves: as the engine gave it but for its stamp, or split. Chosen once per call."""

from __future__ import annotations

from typing import Any

from proxy.call import Call
from proxy.meter import Measured
from proxy.rewriting import StreamRewriter
from proxy.splitting import SplitRewriter, answer_split


def rewriter_of(call: Call) -> StreamRewriter:
    """What turns the engine's events into the client's; the same one each time it is asked for."""
    if call.rewriter is None:
        call.rewriter = _new_rewriter(call)
    return call.rewriter


def _new_rewriter(call: Call) -> StreamRewriter:
    asked = call.asked
    if asked.split is None:
        return StreamRewriter(call.dialect, call.stamp, include_usage=asked.include_usage)
    return SplitRewriter(call.dialect, call.stamp, asked.split, include_usage=asked.include_usage)


def whole(call: Call, answer: dict[str, Any], measured: Measured) -> dict[str, Any]:
    """The body of a whole answer, from the engine's."""
    if call.asked.split is not None:
        answer = answer_split(answer, call.asked.split)
    return call.dialect.whole(answer, call.stamp, call.dialect.usage(measured.usage))
