"""A problem as the call's surface says it, with the address of the brand's pages where a person can do something."""

from __future__ import annotations

from dataclasses import replace

from proxy.call import Call
from proxy.refusals import Problem, Reason
from proxy.responses.request import renamed
from proxy.worker import Worker

_FOR_A_PERSON = frozenset({Reason.TIER_REQUIRED, Reason.INSUFFICIENT_QUOTA})


def worded(trouble: Problem, call: Call, worker: Worker) -> Problem:
    if call.echo is not None:
        trouble = renamed(trouble, call.echo.names)
    if trouble.reason in _FOR_A_PERSON and call.brand is not None:
        trouble = replace(trouble, portal=portal_of(call, worker))
    return call.dialect.worded(trouble, call.brand)


def portal_of(call: Call, worker: Worker) -> str:
    """Where the pages of the call's brand are, as its client reached us: "https://host/dialogix/"."""
    brand, place = call.brand, call.known("place")
    host = call.fields.get(b"host", b"").decode("latin-1")
    if brand is None or place is None or not host:
        return ""
    scheme = "https" if worker.https else "http"
    root = place.root if place.brand is not None else f"/{brand.slug}"
    return f"{scheme}://{host}{root}/"
