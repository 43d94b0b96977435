"""What the demo engine does wrong, or otherwise, when it is asked to.

Asked in a prompt: any `demo:NAME` or `demo:NAME=NUMBER` in the last message, say `demo:die=5` (needs no other access).
Or by rules through POST /control, for a model, for prompts with some text in them, or for everybody.

| name | effect |
| --- | --- |
| fill | goes on until max_tokens |
| tokens=N | N tokens, whatever is natural |
| rate=N | N tokens a second |
| delay=MS | waits before the first token |
| hang | never answers |
| stall=N | N tokens, then silence with the connection open |
| die=N | N tokens, then the connection is cut |
| nodone=N | N tokens, then an orderly end without finish reason, usage and [DONE] |
| error=N | N tokens, then an error frame |
| status=S | answers HTTP status S |
| short=P | reports P per cent fewer tokens, prompt and output, than it read and made |
| over, under, negative, missing, text | lies about usage: far too many, half, below 0, none, as text |
| tool | calls the first tool |
| images=N | draws N images into the answer, beside its text |
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

DIRECTIVE = re.compile(r"\bdemo:([a-z]+)(?:=(\d{1,9}))?")
LIES = frozenset({"over", "under", "short", "negative", "missing", "text"})
_FAULTS = frozenset({"hang", "stall", "die", "nodone", "error", "status"})
NAMES = frozenset({"fill", "tokens", "rate", "delay", "tool", "images"}) | _FAULTS | LIES

Directives = dict[str, int]
"""Name → its number, 0 without one."""


def directives(text: str) -> Directives:
    return {name: int(number or 0) for name, number in DIRECTIVE.findall(text) if name in NAMES}


@dataclass(frozen=True, slots=True)
class Rule:
    model: str = ""
    marker: str = ""
    directives: Directives = field(default_factory=dict)


@dataclass(slots=True)
class Control:
    """What POST /control sets. `loading` makes every path answer 503 as an engine that loads its model does."""

    loading: bool = False
    tokens_per_second: int = 0
    reports_cached: bool = True
    rules: list[Rule] = field(default_factory=list)
    obeys: frozenset[str] = NAMES

    def update(self, wish: dict[str, Any]) -> None:
        self.loading = bool(wish.get("loading", self.loading))
        self.tokens_per_second = int(wish.get("tokens_per_second", self.tokens_per_second))
        self.reports_cached = bool(wish.get("reports_cached", self.reports_cached))
        if "rules" in wish:
            self.rules = [
                Rule(
                    str(rule.get("model", "")),
                    str(rule.get("marker", "")),
                    directives(" ".join(f"demo:{word}" for word in str(rule.get("do", "")).split())),
                )
                for rule in wish["rules"]
            ]

    def directives_for(self, model: str, text: str) -> Directives:
        """Rules first; what the prompt itself asks for goes over them."""
        found: Directives = {}
        for rule in self.rules:
            if rule.model in ("", model) and rule.marker in text:
                found |= rule.directives
        return found | {name: number for name, number in directives(text).items() if name in self.obeys}


def lie(usage: dict[str, Any], asked: Directives) -> dict[str, Any] | None:
    """The usage to report instead of the true one."""
    if "missing" in asked:
        return None
    if "over" in asked:
        return usage | {"completion_tokens": usage["completion_tokens"] * 10 + 100_000, "prompt_tokens": 10**9}
    if "under" in asked:
        return usage | {"completion_tokens": usage["completion_tokens"] // 2}
    if "short" in asked:
        told = {name: usage[name] * (100 - asked["short"]) // 100 for name in ("prompt_tokens", "completion_tokens")}
        return usage | told
    if "negative" in asked:
        return usage | {"completion_tokens": -usage["completion_tokens"] - 1}
    if "text" in asked:
        return usage | {"completion_tokens": str(usage["completion_tokens"])}
    return usage
