"""What a call costs, and the most it could cost. Pure integers: rates in picos per token, results in nanos.

A call is rounded once, up. The ceiling is monotone, so a charge for usage within the bounds of a hold never passes it.
"""

from __future__ import annotations

import msgspec

from billing.snapshot import ModelRecord, RateRecord
from billing.usage import Usage

PICOS_PER_NANO = 1_000
TOKENS_PER_CREDIT_STEP = 1_000
WORST_CASE_PICOS_MAX = 2**53 - 1
"""Redis scripts compute with doubles; a hold above this (9,007 currency units) is refused before it reaches them."""


class PriceMissing(Exception):
    """The rate lacks an input or output price: refuse the call, never guess."""


class HoldTooLarge(Exception):
    """The worst case of a call is beyond what one hold may be."""


class Buckets(msgspec.Struct, frozen=True, gc=False):
    """A complete rate with its fallbacks filled in, picos per token."""

    input: int
    cache_read: int
    cache_write: int
    output: int
    reasoning: int


def complete(rate: RateRecord | None) -> bool:
    """Whether a call may be priced with it: input and output given, and zero only where free is said."""
    if rate is None or rate.input_picos is None or rate.output_picos is None:
        return False
    charges = (rate.input_picos, rate.output_picos, rate.request_nanos, rate.image_nanos)
    return rate.is_free or any(charges)


def buckets(rate: RateRecord) -> Buckets:
    """A missing cache rate is the input rate, a missing reasoning rate the output rate."""
    if rate.input_picos is None or rate.output_picos is None or not complete(rate):
        raise PriceMissing(f"rate {rate.id} has no input or output price")
    input_picos, output_picos = rate.input_picos, rate.output_picos
    return Buckets(
        input=input_picos,
        cache_read=input_picos if rate.cache_read_picos is None else rate.cache_read_picos,
        cache_write=input_picos if rate.cache_write_picos is None else rate.cache_write_picos,
        output=output_picos,
        reasoning=output_picos if rate.reasoning_picos is None else rate.reasoning_picos,
    )


def rate_for(model: ModelRecord, organization_id: int, now_ms: int) -> RateRecord | None:
    """The rate in force now, the organization's own before everybody's. Its period is narrowed to the time in which it
    stays the answer, so that a script which sees Redis' clock outside it can say STALE. None: no price."""
    own = model.rates_by_organization.get(organization_id, ())
    for rate in own:
        if _in_force(rate, now_ms):
            return rate
    for rate in model.rates_by_organization.get(None, ()):
        if _in_force(rate, now_ms):
            return _narrowed(rate, own, now_ms) if own else rate
    return None


def _in_force(rate: RateRecord, now_ms: int) -> bool:
    return rate.from_ms <= now_ms and (rate.until_ms is None or now_ms < rate.until_ms)


def _narrowed(rate: RateRecord, own: tuple[RateRecord, ...], now_ms: int) -> RateRecord:
    ended = [other.until_ms for other in own if other.until_ms is not None and other.until_ms <= now_ms]
    begins = [other.from_ms for other in own if other.from_ms > now_ms]
    if rate.until_ms is not None:
        begins.append(rate.until_ms)
    return msgspec.structs.replace(rate, from_ms=max([rate.from_ms, *ended]), until_ms=min(begins, default=None))


def hold_picos(
    rate: RateRecord, prompt_tokens_max: int, *, choices: int = 1, images_max: int = 0, price: Buckets | None = None
) -> tuple[int, int]:
    """(fixed, per): a call granted `g` output tokens per choice costs at most ceil((fixed + g·per) / 1000) nanos.

    Each token is held at the dearest rate it could be charged at, whichever bucket the engine puts it in. `price`: the
    rate's buckets, where they are known already.
    """
    price = price or buckets(rate)
    fixed = prompt_tokens_max * max(price.input, price.cache_read, price.cache_write)
    fixed += (rate.request_nanos + images_max * rate.image_nanos) * PICOS_PER_NANO
    return fixed, choices * max(price.output, price.reasoning)


def worst_case_picos(fixed: int, per: int, output_tokens: int) -> int:
    """Raises HoldTooLarge past what scripts can compute exactly."""
    picos = fixed + output_tokens * per
    if picos > WORST_CASE_PICOS_MAX:
        raise HoldTooLarge(f"{picos} picos is more than one call may hold ({WORST_CASE_PICOS_MAX})")
    return picos


def hold_credits(rate: RateRecord, prompt_tokens: int, *, choices: int = 1) -> tuple[int, int, int]:
    """(fixed, per, scale): a call granted `g` output tokens per choice takes at most ceil((fixed + g·per) / scale)
    credits: those of every request, and those per 1,000 tokens, rounded up once."""
    by_tokens = rate.credits_per_1000_tokens
    if not by_tokens:
        return rate.credits_per_request, 0, 1
    fixed = rate.credits_per_request * TOKENS_PER_CREDIT_STEP + prompt_tokens * by_tokens
    return fixed, choices * by_tokens, TOKENS_PER_CREDIT_STEP


def credits(rate: RateRecord, usage: Usage) -> int:
    """What the usage takes of a quota of credits."""
    return rate.credits_per_request + -(-usage.total_tokens * rate.credits_per_1000_tokens // TOKENS_PER_CREDIT_STEP)


def nanos_up(picos: int) -> int:
    return -(-picos // PICOS_PER_NANO)


def charge(rate: RateRecord, usage: Usage, price: Buckets | None = None) -> int:
    """Nanos for the usage. Reasoning tokens are part of output and priced apart where the rate says so. `price`: the
    rate's buckets, where they are known already."""
    price = price or buckets(rate)
    reasoning = min(usage.reasoning or 0, usage.output)
    picos = (
        usage.input * price.input
        + (usage.cache_read or 0) * price.cache_read
        + (usage.cache_write or 0) * price.cache_write
        + (usage.output - reasoning) * price.output
        + reasoning * price.reasoning
    )
    return nanos_up(picos) + rate.request_nanos + usage.images * rate.image_nanos
