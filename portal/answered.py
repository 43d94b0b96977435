"""What a customer's program was answered, as far as that is kept: for staff who are asked about it. Reads only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from billing import calls, catalogue
from keys.models import Brand
from proxy import costs
from proxy.dialects import dialect_named
from proxy.models import RefusalRecord
from proxy.refusals import TABLE, Reason, problem, retry_headers


@dataclass(frozen=True, slots=True)
class Answered:
    """`body` "": answers are not stored. `missing`: what else it said, which is not kept."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: str
    missing: str


def of_call(call: calls.Call) -> Answered:
    event = call.event
    headers = [("x-request-id", str(event.call_id))]
    if not event.stream:
        name, value = costs.header(event.cost_nanos)
        headers.append((name.decode(), value.decode()))
    missing = "what was left of each limit just then"
    return Answered(event.http_status, headers, "", f"{missing}; what the model wrote")


def of_refusal(refusal: RefusalRecord, brand: Brand | None) -> Answered:
    """Status and message are those that were sent; code, type and shape are this surface's for that reason."""
    headers = [("x-request-id", str(refusal.call_id))]
    known = {reason.value: reason for reason in TABLE}
    reason = known.get(refusal.reason)
    if reason is None:
        return Answered(refusal.status, headers, "", "the rest: this release knows no such reason")
    record = catalogue.build(brand.pk).brand if brand else None
    dialect = dialect_named(brand.dialect if brand else "")
    said = replace(dialect.worded(problem(reason), record), status=refusal.status, message=refusal.message)
    told = ((name.decode(), value.decode()) for name, value in retry_headers(said))
    headers += [(name, value) for name, value in told if not (refusal.limit and name.startswith("retry-after"))]
    missing = "how long it was told to wait, where the limit said so" if refusal.limit else ""
    body = json.dumps(dialect.error(said, record), indent=2, ensure_ascii=False)
    return Answered(refusal.status, headers, body, missing or _of_limits(reason))


def _of_limits(reason: Reason) -> str:
    return "" if TABLE[reason].status == 401 else "headers about limits, where it carried any"
