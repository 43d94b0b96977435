"""From a body to a hold: what is asked, how much it could use at most, and the reserve itself."""

from __future__ import annotations

from billing.admission import Estimate, Refused
from billing.hold import Hold
from billing.hold import Reason as BillingReason
from billing.tiers import TierUnknown
from keys.directory import KeyRefused
from proxy.authentication import refresh, rejudge, resolve_model
from proxy.call import Call
from proxy.endpoints import EMBEDDINGS
from proxy.refusals import Declined, Reason, decline
from proxy.requests import OUTPUT_TOKENS_MIN, Asked
from proxy.tokenizer import count
from proxy.worker import Worker

_WORTH_COUNTING = (BillingReason.INSUFFICIENT_QUOTA, BillingReason.QUOTA_IN_FLIGHT, BillingReason.RATE_LIMITED)
_TOKEN_UNITS = ("tokens", "input", "credits", "nanos")


async def reserve(call: Call, worker: Worker) -> Hold:
    """Hold the worst case. Before the bound by bytes refuses a call, the engine's tokenizer is asked, once."""
    asked = call.asked
    if _may_not_fit(call, asked):
        if call.prompt_tokens is None:
            await ask_tokenizer(call, worker)
        _fit_default_length(call, asked)
    try:
        return await _reserve(call, worker)
    except Refused as refused:
        refusal = refused.refusal
        if call.prompt_tokens is not None or refusal.reason not in _WORTH_COUNTING:
            raise
        if refusal.unit not in _TOKEN_UNITS or refusal.used >= refusal.limit:
            raise
        bound = _prompt_tokens_max(call, asked)
        counted = await ask_tokenizer(call, worker)
        if counted is None or counted >= bound:
            raise
        return await _reserve(call, worker)


async def _reserve(call: Call, worker: Worker) -> Hold:
    """What admission's reload finds is judged in the middle of it, when one record may be new and another old: before
    that refuses, all is brought up to date and asked once more."""
    try:
        return await _reserve_once(call, worker)
    except (Declined, KeyRefused, TierUnknown):
        await refresh(call, worker)
        call.model = await resolve_model(call, worker)
        return await _reserve_once(call, worker)


async def _reserve_once(call: Call, worker: Worker) -> Hold:
    asked = call.asked
    estimate = Estimate(
        prompt_tokens_max=_prompt_tokens_max(call, asked),
        output_tokens_wanted=asked.output_wanted,
        output_tokens_min=min(OUTPUT_TOKENS_MIN, asked.output_wanted),
        choices=asked.choices,
        images_max=call.model.images_per_call_max * asked.choices,
        endpoint=asked.endpoint.name,
    )
    hold = await worker.admission.reserve(
        call.id,
        call.caller,
        call.snapshot,
        call.model,
        estimate,
        recheck=lambda caller, snapshot: rejudge(call, worker, caller, snapshot),
        stream=asked.stream,
        started_at_ms=call.started_ms,
        address=call.address or None,
    )
    for name in hold.shadowed:
        worker.refusals.count_trial(call, name)
    return hold


def _prompt_tokens_max(call: Call, asked: Asked) -> int:
    """Never more than what was counted, nor than the context of every prompt: engines refuse what is longer."""
    bound = asked.prompt_tokens_max
    if call.prompt_tokens is not None:
        bound = min(bound, call.prompt_tokens)
    return min(bound, call.model.context_length * asked.prompts)


def _may_not_fit(call: Call, asked: Asked) -> bool:
    """Whether prompt and output by their bounds are more than the context, so that the truth must be known."""
    if asked.endpoint is EMBEDDINGS or asked.prompts > 1:
        return False
    return asked.prompt_tokens_max + asked.output_wanted > call.model.context_length


async def ask_tokenizer(call: Call, worker: Worker) -> int | None:
    """Tokens of the prompt as its engine counts them, None where nobody does; the call remembers them."""
    engine, route = worker.routing.order(call.model, call.snapshot)[0]
    call.prompt_tokens = await count(worker.upstream, engine, route, call.asked)
    return call.prompt_tokens


def _fit_default_length(call: Call, asked: Asked) -> None:
    """A length the client did not ask for gives way to its prompt; one it did ask for is the engine's to judge, unless
    the prompt alone is known to fill the context."""
    context = call.model.context_length
    if call.prompt_tokens is not None and call.prompt_tokens - context > OUTPUT_TOKENS_MIN:
        raise decline(
            Reason.CONTEXT_LENGTH_EXCEEDED,
            param="messages",
            detail=f"This model's maximum context length is {context} tokens. "
            f"Your prompt is longer ({call.prompt_tokens} tokens); please shorten it.",
        )
    if not asked.length_field:
        # Where nobody counts, two bytes per token stay on the safe side of every usual text.
        prompt = asked.prompt_tokens_max // 2 if call.prompt_tokens is None else call.prompt_tokens
        asked.output_wanted = min(asked.output_wanted, max(OUTPUT_TOKENS_MIN, context - prompt))
