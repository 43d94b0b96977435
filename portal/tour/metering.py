"""A call, metered, priced and booked: every figure beside the one it must equal."""

from __future__ import annotations

from billing.calls import Call
from billing.models import PostingLine
from billing.money import display, price_per_million
from portal import explaining
from portal.tour import Proof
from portal.tour.demo import Demo, eventually


async def a_call_is_explained(demo: Demo) -> Proof:
    answer = await demo.ask("Explain in one sentence why exact bills matter.", max_tokens=64)
    if answer.status != 200:
        return Proof([f"The call was answered {answer.status}: {answer.body}"], holds=False)
    seen = answer.body["usage"]
    call = await demo.settled(answer.call_id)
    event, bill = call.event, explaining.bill(call)
    prompt = sum(call.total(name) or 0 for name in ("uncached_input_tokens", "cache_read_tokens", "cache_write_tokens"))
    lines = [
        f"x-request-id {answer.call_id}",
        f"the client saw   prompt {seen['prompt_tokens']}, completion {seen['completion_tokens']}",
        f"the books have   prompt {prompt}, completion {event.output_tokens}"
        f"   ({event.usage_source}, ended by {event.end_reason})",
    ]
    for line in bill.lines:
        price = price_per_million(line.price_picos // line.per) if line.per > 1 else str(line.price_picos)
        lines.append(f"{line.label:<24} {line.quantity:>6} {line.unit} × {price} a million = {line.picos:>12} picos")
    shown = display(bill.cost_nanos, "USD")
    lines.append(f"sum {bill.picos} picos, rounded up once: {bill.rounded_nanos} nanos = {shown}")
    posted = await eventually(lambda: _posted(call))
    for kind, amount in posted or []:
        lines.append(f"ledger {kind:<10} {amount:>16} nanos")
    lines.append(f"ledger lines of that posting sum to {sum(amount for _, amount in posted or [])}")
    holds = (
        (seen["prompt_tokens"], seen["completion_tokens"]) == (prompt, event.output_tokens)
        and bill.rounded_nanos == bill.cost_nanos == event.cost_nanos
        and bool(posted)
        and sum(amount for _, amount in posted or []) == 0
    )
    return Proof(lines, holds)


def _posted(call: Call) -> list[tuple[str, int]] | None:
    rows = PostingLine.objects.filter(posting_id=call.event.posting_id or 0).order_by("account__kind")
    return list(rows.values_list("account__kind", "amount_nanos")) or None
