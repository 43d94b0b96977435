"""What the fake does wrong when it is told to, through POST /control or in the same process.

`{"rules": [{"do": "lose", "path": "/v1/refunds", "times": 1}], "hooks": {"duplicate": 1}, …}`. Each rule is for POST
requests whose path begins with `path` (a `method` may say otherwise), and is used up after `times`.

| do | effect |
| --- | --- |
| lose | the work is done, then the connection is cut instead of an answer |
| status=S | HTTP status S (429, 500, 503) instead of any work; not kept under the idempotency key |
| fail | the work is done, the answer is 500, and that is what the idempotency key gives again |
| slow=MS | the answer comes so many milliseconds late |

Webhooks: `drop` loses them, `duplicate` sends each so many times more, `delay_ms` holds them back, `reorder` sends what
gathered in a tenth of a second backwards. `decline` and `challenge` make every card decline, or ask for
3-D Secure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

DOES = frozenset({"lose", "status", "fail", "slow"})


@dataclass(slots=True)
class Rule:
    do: str
    number: int = 0
    path: str = "/v1/"
    method: str = "POST"
    times: int = 1


@dataclass(slots=True)
class Hooks:
    drop: bool = False
    duplicate: int = 0
    delay_ms: int = 0
    reorder: bool = False


@dataclass(slots=True)
class Knobs:
    rules: list[Rule] = field(default_factory=list)
    hooks: Hooks = field(default_factory=Hooks)
    decline: bool = False
    challenge: bool = False
    tax_percent: int = 20
    nowhere: bool = False
    """No customer has an address that tax could be reckoned by."""
    refunds_wait: bool = False
    """New refunds are pending until POST /control/refunds says how they end."""
    unpaid_ends: bool = True
    """A subscription whose invoice stays unpaid after all tries is canceled; else it stays, as unpaid."""

    def update(self, wish: dict[str, Any]) -> None:
        for name in ("decline", "challenge", "nowhere", "refunds_wait", "unpaid_ends"):
            setattr(self, name, bool(wish.get(name, getattr(self, name))))
        self.tax_percent = int(wish.get("tax_percent", self.tax_percent))
        if "hooks" in wish:
            self.hooks = Hooks(**wish["hooks"])
        if "rules" in wish:
            self.rules = [_rule(rule) for rule in wish["rules"]]

    def take(self, method: str, path: str) -> Rule | None:
        """The first rule that this request meets; it is used up by that."""
        for rule in self.rules:
            if rule.times > 0 and rule.method == method and path.startswith(rule.path):
                rule.times -= 1
                return rule
        return None


def _rule(wish: dict[str, Any]) -> Rule:
    do, _, number = str(wish["do"]).partition("=")
    if do not in DOES:
        raise ValueError(f"no such fault: {do}")
    return Rule(do, int(number or 0), wish.get("path", "/v1/"), wish.get("method", "POST"), int(wish.get("times", 1)))
