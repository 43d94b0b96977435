"""What a dialect says: how one family of public surfaces looks on the wire. Small and pure.

A dialect gives words and shapes only. It never decides whether a call is allowed, what it costs or where it goes. A new
one is one file in this folder, its line in `__init__.py`, and its `wire/` folder of examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from billing.snapshot import BrandRecord, ModelRecord
from billing.usage import Usage
from proxy.limits import LimitState
from proxy.refusals import Problem

Header = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Listed:
    """A model as /models shows it. `available`: this key's tier and allow-list take it. `parameters`: request fields
    that do something with it."""

    model: ModelRecord
    available: bool
    tier_required: str
    prices: dict[str, str]
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DayUsed:
    date: str
    requests: int
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class UsageReport:
    """What /usage tells. `tokens_limit` None means unlimited."""

    user: str
    tier: str
    tokens_used: int
    tokens_limit: int | None
    days: Sequence[DayUsed]


class Stamp(msgspec.Struct, frozen=True, gc=False):
    """What every piece of an answer carries: our id, the time the call began (Unix seconds), the name we sell."""

    id: str
    created: int
    model: str


class Dialect(Protocol):
    name: str
    request_fields: frozenset[str]
    """Fields of this surface beyond the public schema, which the gateway itself understands."""
    limits_everywhere: bool
    """Whether every answer but a 401 tells the caller's limits, refusals of any kind included."""
    rewrites_choices: bool
    """Whether `chunk` changes what stands in choices; then every piece of a stream has to be read."""

    def worded(self, problem: Problem, brand: BrandRecord | None) -> Problem:
        """The problem with the status, type, code and words that this surface has for it."""
        ...

    def error(self, problem: Problem, brand: BrandRecord | None) -> dict[str, Any]:
        """The body of an error answer, from a problem that `worded` gave."""
        ...

    def error_event(self, problem: Problem, brand: BrandRecord | None) -> dict[str, Any]:
        """The object in the `data:` of an error after the first byte, from a problem that `worded` gave. SDKs look for
        a truthy `error` in it."""
        ...

    def limit_headers(
        self, states: Sequence[LimitState], now_ms: int, *, refused_by: LimitState | None = None
    ) -> list[Header]:
        """`refused_by`: the limit that refused the call, which is then the one shown of its unit."""
        ...

    def models(self, listed: Sequence[Listed], brand: BrandRecord) -> dict[str, Any]: ...

    def model(self, listed: Listed, brand: BrandRecord) -> dict[str, Any]: ...

    def usage_report(self, report: UsageReport, brand: BrandRecord) -> dict[str, Any]: ...

    def usage(self, usage: Usage) -> dict[str, Any]:
        """The `usage` object of an answer; unknown counts are 0 here."""
        ...

    def whole(self, answer: dict[str, Any], stamp: Stamp, usage: dict[str, Any]) -> dict[str, Any]:
        """A whole chat completion, completion or embedding, from the engine's own."""
        ...

    def chunk(self, chunk: dict[str, Any], stamp: Stamp, usage_null: bool) -> dict[str, Any]:
        """One piece of a stream, from the engine's own. `usage_null`: the client asked for usage, which comes last."""
        ...

    def usage_chunk(self, object_name: str, stamp: Stamp, usage: dict[str, Any]) -> dict[str, Any]: ...
