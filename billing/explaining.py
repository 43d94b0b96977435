"""What one call cost, line by line, and what happened to it in words. Reads a settled call, touches no store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from billing.calls import Call
from billing.money import PICOS_PER_TOKEN_PER_MILLION
from billing.pricing import PICOS_PER_NANO, buckets, nanos_up
from billing.snapshot import RateRecord


@dataclass(frozen=True, slots=True)
class Line:
    """`quantity` × `price_picos` for each `per` of them = `picos`, exactly. `name` is for programs."""

    name: str
    label: str
    quantity: int
    unit: str
    price_picos: int
    per: int
    picos: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Bill:
    """`picos` is the exact sum of the lines; the charge is that, rounded up once to whole nanos."""

    lines: Sequence[Line]
    picos: int
    rounded_nanos: int
    list_cost_nanos: int
    cost_nanos: int
    note: str

    @property
    def has_remainder(self) -> bool:
        return self.picos != self.rounded_nanos * PICOS_PER_NANO


def bill(call: Call) -> Bill:
    """The amounts as they hold now, corrections folded in."""
    lines = _lines(call, frozen_rate(call.event.rates))
    picos = sum(line.picos for line in lines)
    rounded = nanos_up(picos)
    return Bill(lines, picos, rounded, call.total("list_cost_nanos") or 0, call.cost_nanos, _note(call, rounded))


def frozen_rate(rates: Mapping[str, int | None]) -> RateRecord:
    known = {name: value for name, value in rates.items() if value is not None and name in RATE_FIELDS}
    return RateRecord(id=0, from_ms=0, is_free=True, **known)


RATE_FIELDS = frozenset(
    {
        *("input_picos", "output_picos", "cache_read_picos", "cache_write_picos", "reasoning_picos"),
        *("request_nanos", "image_nanos"),
    }
)


def _lines(call: Call, rate: RateRecord) -> list[Line]:
    price = buckets(rate)
    output, images = call.total("output_tokens") or 0, call.total("images") or 0
    reasoning = min(call.total("reasoning_tokens") or 0, output)
    reasoning_apart = bool(reasoning) and rate.reasoning_picos is not None
    answer = output - reasoning if reasoning_apart else output
    lines = [
        _tokens("input", "Input", call.total("uncached_input_tokens") or 0, price.input),
        _tokens(
            *("cache_read", "Input read from cache", call.total("cache_read_tokens") or 0, price.cache_read),
            note="at the input price" if rate.cache_read_picos is None else "",
        ),
        _tokens(
            *("cache_write", "Input written to cache", call.total("cache_write_tokens") or 0, price.cache_write),
            note="at the input price" if rate.cache_write_picos is None else "",
        ),
        _tokens(
            *("output", "Output", answer, price.output),
            note=f"{reasoning:,} of them reasoning" if reasoning and not reasoning_apart else "",
        ),
    ]
    if reasoning_apart:
        lines.append(_tokens("reasoning", "Reasoning", reasoning, price.reasoning))
    if images:
        picos = rate.image_nanos * PICOS_PER_NANO
        lines.append(Line("images", "Images", images, "images", picos, 1, images * picos))
    if rate.request_nanos:
        picos = rate.request_nanos * PICOS_PER_NANO
        lines.append(Line("request", "Request", 1, "request", picos, 1, picos))
    return [line for line in lines if line.quantity or line.name in {"input", "output"}]


def _tokens(name: str, label: str, tokens: int, picos: int, note: str = "") -> Line:
    million = PICOS_PER_TOKEN_PER_MILLION
    return Line(name, label, tokens, "tokens", picos * million, million, tokens * picos, note)


def _note(call: Call, rounded: int) -> str:
    if call.event.payer == "included":
        return "Your plan includes this call, so nothing was charged." if rounded else ""
    if call.cost_nanos < rounded:
        return "The engine reported more than the call could use at most, so only what had been set aside was charged."
    return ""


END_REASONS = {
    "stop": "The model finished its answer.",
    "length": "The answer reached the token limit of the call.",
    "tool_calls": "The model asked for a tool.",
    "content_filter": "The content filter ended the answer.",
    "client_gone": "Your client closed the connection; what the model had written until then is charged.",
    "upstream_error": "The engine failed.",
    "upstream_cut": "The engine's connection broke; what had been delivered until then is charged.",
    "timeout": "The engine did not answer in time.",
    "lapsed": "The gateway that carried the call was lost; what it had last recorded is charged.",
}
USAGE_SOURCES = {
    "final": "counted by the engine, at the end of the call",
    "running": "counted by the engine while it wrote, up to the point where the call ended",
    "estimated": "estimated by the gateway: the engine gave no count",
    "none": "nothing was used",
}
FLAGS = {
    "usage_above_hold": "The engine reported more usage than the call could have at most.",
    "cache_unknown": "The engine does not say what it read from its cache, so all input is charged as uncached.",
    "cached_over_prompt": "The engine reported more cached input than there was; it is charged as uncached.",
    "reasoning_over_output": "The engine reported more reasoning than output.",
    "output_over_grant": "The engine wrote more than it was allowed; the part beyond is not charged.",
    "prompt_over_hold": "The engine counted more input than was set aside; the part beyond is not charged.",
    "past_context": "The engine reported more tokens than the model's context holds; the part beyond is not charged.",
    "prompt_estimated": "The input was counted by the gateway; the engine did not say.",
    "output_estimated": "The output was counted by the gateway; the engine did not say.",
    "images_over_hold": "The engine made more images than were set aside; those beyond are not charged.",
    "usage_missing": "The engine gave no usage.",
    "usage_invalid": "The engine gave a usage that cannot be read.",
    "usage_negative": "The engine gave a negative usage.",
    "no_finish_reason": "The engine did not say why it stopped.",
    "no_done": "The engine's stream ended without its end mark.",
    "bad_event": "The engine sent a part that cannot be read.",
}


def ended(call: Call) -> str:
    """Why it ended, in words."""
    return END_REASONS.get(call.event.end_reason, call.event.end_reason)


def counted(call: Call) -> str:
    """Who counted its tokens, in words."""
    return USAGE_SOURCES.get(call.usage_source, call.usage_source)


def flags_in_words(flags: Sequence[str]) -> list[str]:
    return [FLAGS.get(flag, flag.replace("_", " ").capitalize() + ".") for flag in flags]
