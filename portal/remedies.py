"""What to do about a refusal, by its reason. The proxy says why in its answer; pages add the next step."""

from __future__ import annotations

from proxy.refusals import TABLE, Reason

SEND_ONE_KEY = "Send one key, once, in a way this API takes; the overview shows how."
NEW_KEY = "Create a new key, and put it where your program keeps the old one."
WIDER_KEY = "Use a key that may do this, or create one."
MORE_CREDIT = "Look at the balance and the plan: get more credit, or wait for the limit's next day or month."
READ_THE_MESSAGE = "Mend the request as the message says; sending it again as it was cannot help."
TRY_AGAIN = "Nothing is wrong on your side. Try again in a moment; the openai clients do so by themselves."
TELL_US = "Nothing is wrong on your side. If it goes on, write to support with the request id."

REMEDIES: dict[Reason, str] = {
    Reason.MISSING_KEY: SEND_ONE_KEY,
    Reason.MALFORMED_AUTHORIZATION: SEND_ONE_KEY,
    Reason.DUPLICATE_AUTHORIZATION: SEND_ONE_KEY,
    Reason.AMBIGUOUS_CREDENTIALS: SEND_ONE_KEY,
    Reason.SCHEME_NOT_ACCEPTED: SEND_ONE_KEY,
    Reason.INVALID_KEY: "Compare the key with the one you were shown; if it is lost, create a new one.",
    Reason.KEY_REVOKED: NEW_KEY,
    Reason.KEY_EXPIRED: NEW_KEY,
    Reason.MANAGEMENT_KEY: "Create an API key, and call with that; keep the management key for programs that manage.",
    Reason.SCOPE_NOT_ALLOWED: WIDER_KEY,
    Reason.ADDRESS_NOT_ALLOWED: "Call from a network the key allows, or create a key that allows this one.",
    Reason.MODEL_NOT_ALLOWED: WIDER_KEY,
    Reason.TIER_REQUIRED: "Use a model of your plan, or ask for a larger plan.",
    Reason.CHAT_ONLY: "Send text to the chat endpoint, without tools and other parts: keys here do nothing else.",
    Reason.ORGANIZATION_SUSPENDED: "Write to support: the account is suspended.",
    Reason.BRAND_PAUSED: TELL_US,
    Reason.INSUFFICIENT_QUOTA: MORE_CREDIT,
    Reason.QUOTA_IN_FLIGHT: "Your running calls held the rest. Try again when they have ended, or ask for less output.",
    Reason.RATE_LIMITED: "Send fewer requests per minute, or wait as long as the Retry-After header said.",
    Reason.TOO_MANY_REFUSED: "Mend what the requests before it were refused for; then retry more slowly.",
    Reason.CONCURRENCY: "Run fewer calls at once.",
    Reason.PRICE_MISSING: TELL_US,
    Reason.HOLD_TOO_LARGE: "Ask for fewer output tokens or choices.",
    Reason.MODEL_NOT_FOUND: "Use one of the models that the overview lists.",
    Reason.MODEL_MAINTENANCE: "Use another model until the maintenance is over.",
    Reason.CONTEXT_LENGTH_EXCEEDED: "Shorten the messages, or use a model with a longer context.",
    Reason.IDEMPOTENT_CALL_RUNNING: "The first call with that Idempotency-Key still runs. Wait for its answer.",
    Reason.IDEMPOTENT_CALL_SPENT: "Send the request with a new Idempotency-Key to run it anew.",
    Reason.ENGINE_MISCONFIGURED: TELL_US,
    Reason.INTERNAL: TELL_US,
}

LINKS: dict[Reason, tuple[tuple[str, str], ...]] = {
    **dict.fromkeys(
        (
            *(Reason.INVALID_KEY, Reason.KEY_REVOKED, Reason.KEY_EXPIRED, Reason.MANAGEMENT_KEY),
            *(Reason.SCOPE_NOT_ALLOWED, Reason.ADDRESS_NOT_ALLOWED, Reason.MODEL_NOT_ALLOWED),
        ),
        (("API keys", "keys"),),
    ),
    **dict.fromkeys(
        (
            *(Reason.MISSING_KEY, Reason.MALFORMED_AUTHORIZATION, Reason.DUPLICATE_AUTHORIZATION),
            *(Reason.AMBIGUOUS_CREDENTIALS, Reason.SCHEME_NOT_ACCEPTED, Reason.MODEL_NOT_FOUND),
        ),
        (("Overview", "overview"),),
    ),
    **dict.fromkeys((Reason.RATE_LIMITED, Reason.CONCURRENCY), (("Limits", "limits"),)),
    Reason.TIER_REQUIRED: (("Models", "overview"), ("Limits & tier", "limits")),
    Reason.INSUFFICIENT_QUOTA: (("Balance", "balance"), ("Limits", "limits")),
    Reason.QUOTA_IN_FLIGHT: (("Balance", "balance"),),
}
"""Where the remedy is taken: what the page is called, and its name in the URL conf."""


def links(reason: str) -> tuple[tuple[str, str], ...]:
    return next((pages for known, pages in LINKS.items() if known.value == reason), ())


def remedy(reason: str) -> str:
    known = {member.value: member for member in Reason}
    found = known.get(reason)
    if found is None:
        return TELL_US
    return REMEDIES.get(found) or (TRY_AGAIN if _passing(found) else READ_THE_MESSAGE)


def _passing(reason: Reason) -> bool:
    return TABLE[reason].status >= 500
