"""The journal entry: what settle puts on the stream in field `e`, and what the journal turns into a UsageEvent. Pure.

One JSON object per call, with the field names of billing.models.UsageEvent; times are Unix milliseconds (`…_ms`), the
brand day is YYYYMMDD. Unknown fields are ignored and absent ones take their default, so that old and new workers can
write to one stream. `counted` is the one definition of what a call counts for in quota windows: settle, the journal's
counter changes, seeds and reconcile all go by it (`COUNTED_SQL` is the same over rollup columns).
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address
from typing import Annotated, Literal

import msgspec

INT64_MAX = 2**63 - 1
TEXT_CHARS_MAX = 200
USER_CHARS_MAX = 512
METADATA_PAIRS_MAX = 16
METADATA_CHARS_MAX = 512

Count = Annotated[int, msgspec.Meta(ge=0, le=INT64_MAX)]
Id = Annotated[int, msgspec.Meta(ge=1, le=INT64_MAX)]
CallId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")]
Day = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{8}$")]
Source = Literal["final", "running", "estimated", "none"]
End = Literal[
    "stop",
    "length",
    "tool_calls",
    "content_filter",
    "client_gone",
    "upstream_error",
    "upstream_cut",
    "timeout",
    "lapsed",
]

COUNTED_SQL = {
    "req": "requests - failures",
    "in": "uncached_input_tokens + cache_read_tokens + cache_write_tokens",
    "out": "output_tokens",
    "tok": "uncached_input_tokens + cache_read_tokens + cache_write_tokens + output_tokens",
    "cred": "credits",
    "nano": "cost_nanos",
}


class EventMalformed(Exception):
    """The entry is no event: not JSON, a field missing, of another type, or out of its range."""


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One settled call. `cost_nanos` is what the balance paid (0 when included), `list_cost_nanos` what the rates say;
    a null token bucket means the engine did not say; `output_tokens` includes `reasoning_tokens`. What was held for:
    `prompt_tokens_max`, and `granted_tokens` of output for each of `choices` (null in entries of older workers)."""

    call_id: CallId
    brand_id: Id
    organization_id: Id
    key_id: Id
    model_id: Id
    engine_id: Id | None = None
    tier_id: Id | None = None
    rate_id: Id | None = None
    rates: dict[str, int | None] = {}
    endpoint: str
    payer: Literal["included", "prepaid"]
    uncached_input_tokens: Count = 0
    cache_read_tokens: Count | None = None
    cache_write_tokens: Count | None = None
    output_tokens: Count = 0
    reasoning_tokens: Count | None = None
    images: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0
    credits: Count = 0
    list_cost_nanos: Count = 0
    cost_nanos: Count = 0
    held_nanos: Count = 0
    prompt_tokens_max: Count | None = None
    granted_tokens: Count | None = None
    choices: Annotated[int, msgspec.Meta(ge=1, le=2**15 - 1)] = 1
    usage_source: Source
    end_reason: End
    flags: tuple[str, ...] = ()
    http_status: Annotated[int, msgspec.Meta(ge=0, le=999)] = 200
    stream: bool = False
    day: Day
    started_at_ms: Count
    first_token_ms: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] | None = None
    duration_ms: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0
    settled_at_ms: Count
    address: str | None = None
    agent: str = ""
    metadata: dict[str, str] = {}
    user: str = ""


class Counted(msgspec.Struct, frozen=True):
    """What a call adds to each unit of its windows; the fields are the units' names in Redis (`input` is "in")."""

    req: int
    input: int
    out: int
    tok: int
    cred: int
    nano: int

    def by_unit(self) -> dict[str, int]:
        return {
            "req": self.req,
            "in": self.input,
            "out": self.out,
            "tok": self.tok,
            "cred": self.cred,
            "nano": self.nano,
        }


FAILURES: tuple[End, ...] = ("upstream_error", "timeout")


def is_failure(source: str, end_reason: str) -> bool:
    """Whether an engine failed the call before it gave anything: its request is given back. A client that left is no
    failure, or leaving early would make requests free."""
    return source == "none" and end_reason in FAILURES


def counted(event: Event) -> Counted:
    """Every event is one request, but for those an engine failed. Spend (`nano`) is what was charged, so an included
    call adds none."""
    prompt = event.uncached_input_tokens + (event.cache_read_tokens or 0) + (event.cache_write_tokens or 0)
    return Counted(
        req=0 if is_failure(event.usage_source, event.end_reason) else 1,
        input=prompt,
        out=event.output_tokens,
        tok=prompt + event.output_tokens,
        cred=event.credits,
        nano=event.cost_nanos,
    )


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Event)
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def encode(event: Event) -> bytes:
    """Whatever a client put into the ornaments, the event can be written."""
    try:
        return _encoder.encode(event)
    except UnicodeEncodeError:
        return _encoder.encode(storable(event))


def decode(blob: bytes) -> Event:
    """Raises EventMalformed."""
    try:
        return _decoder.decode(blob)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EventMalformed(str(error)) from error


def storable_text(text: str, chars_max: int = TEXT_CHARS_MAX) -> str:
    """`text` as PostgreSQL takes it: no NUL, no lone surrogates, bounded: a clever name is no way past the bill."""
    return _UNSTORABLE.sub("", text)[:chars_max]


def storable(event: Event) -> Event:
    """The event with its ornaments (address, agent, user, metadata) made fit to store; amounts are never touched."""
    pairs = list(event.metadata.items())[:METADATA_PAIRS_MAX]
    return msgspec.structs.replace(
        event,
        address=_storable_address(event.address),
        agent=storable_text(event.agent),
        user=storable_text(event.user, USER_CHARS_MAX),
        metadata={storable_text(name): storable_text(value, METADATA_CHARS_MAX) for name, value in pairs},
    )


@lru_cache(maxsize=4096)
def _storable_address(address: str | None) -> str | None:
    try:
        return str(ip_address(address.partition("%")[0])) if address else None
    except ValueError:
        return None
