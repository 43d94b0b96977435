"""A call, metered, priced and booked: every figure beside the one it must equal."""

from __future__ import annotations

from asgiref.sync import sync_to_async

from billing import explaining
from billing.calls import Call
from billing.explaining import Bill
from billing.models import Payer, PostingLine
from billing.money import display, price_per_million
from keys.models import Brand
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
    lines.append(f"sum {bill.picos} picos, rounded up once: {bill.rounded_nanos} nanos")
    money, holds = await _paid(call, bill)
    is_metered = (seen["prompt_tokens"], seen["completion_tokens"]) == (prompt, event.output_tokens)
    return Proof(lines + money, holds and is_metered and bill.rounded_nanos == bill.list_cost_nanos)


async def _paid(call: Call, bill: Bill) -> tuple[list[str], bool]:
    """What became of the price: charged and posted, or included in the tier."""
    if call.event.payer == Payer.INCLUDED:
        return [
            "included in the account's tier: nothing is charged"
        ], bill.cost_nanos == 0 and not call.event.posting_id
    posted = await eventually(lambda: _posted(call)) or []
    total = sum(amount for _, amount in posted)
    lines = [f"charged {bill.cost_nanos} nanos = {display(bill.cost_nanos, await sync_to_async(_currency)(call))}"]
    lines += [f"ledger {kind:<10} {amount:>16} nanos" for kind, amount in posted]
    lines.append(f"ledger lines of that posting sum to {total}")
    return lines, bool(posted) and total == 0 and bill.rounded_nanos == bill.cost_nanos == call.event.cost_nanos


def _currency(call: Call) -> str:
    return Brand.objects.get(id=call.event.brand_id).currency


def _posted(call: Call) -> list[tuple[str, int]] | None:
    rows = PostingLine.objects.filter(posting_id=call.event.posting_id or 0).order_by("account__kind")
    return list(rows.values_list("account__kind", "amount_nanos")) or None
