"""The kinds of limit, and what one call takes of each by arithmetic of its own: from the engine's log and the prices
below, not from the code that is tested."""

from __future__ import annotations

from typing import Any, NamedTuple

from billing.money import nanos

PER_MILLION = {"input": "0.0007", "output": "0.0013"}
INPUT_PICOS, OUTPUT_PICOS = 700, 1_300
CREDITS_PER_REQUEST, CREDITS_PER_1000_TOKENS = 1, 70
MAX_TOKENS = 16
"""The least that may be granted: a hold is never made smaller to fit."""
TEMPLATE_TOKENS = 3
"""What the demo engine puts around a message, and before the answer."""
EXACT, ROOMY = "\n" * 5, "demo:use " * 12
"""Messages: one whose bytes are its tokens, so that a call holds what it takes; one that holds far more."""
TOKENIZER_MARGIN = 16
CREDIT = "1000"
"""Of a customer whose balance is not what ends first, in units."""


class Used(NamedTuple):
    """Tokens of one call: what it really took, as its engine counted it, or the most it could take."""

    prompt: int
    output: int

    @property
    def most(self) -> Used:
        """What a call holds at the least: its prompt as the tokenizer says, with a margin, or exactly, by its bytes."""
        is_exact = self.prompt == len(EXACT) + 2 * TEMPLATE_TOKENS
        return self if is_exact else Used(self.prompt + TOKENIZER_MARGIN, self.output)

    @property
    def nanos(self) -> int:
        return -(-(self.prompt * INPUT_PICOS + self.output * OUTPUT_PICOS) // 1_000)

    def of(self, unit: str) -> int:
        if unit == "requests":
            return 1
        if unit == "input":
            return self.prompt
        if unit == "output":
            return self.output
        if unit == "tokens":
            return self.prompt + self.output
        if unit == "credits":
            return CREDITS_PER_REQUEST + -(-(self.prompt + self.output) * CREDITS_PER_1000_TOKENS // 1_000)
        return self.nanos


class Kind(NamedTuple):
    """One limit to be met. `window` "" is the balance itself; `what` is how the line of the issue calls it."""

    what: str
    unit: str
    window: str
    scope: str = "organization"
    message: str = EXACT

    @property
    def name(self) -> str:
        name = f"{self.scope}.{self.unit}.{self.window}" if self.window else "balance"
        return name if self.message == EXACT else f"{name}, held above use"

    @property
    def places(self) -> int:
        """How many counters the calls fall on: two keys, two models, else one."""
        return 1 if self.scope == "organization" else 2

    def limits(self, amount: int) -> list[dict[str, Any]]:
        if not self.window:
            return []
        return [{"unit": self.unit, "window": self.window, "scope": self.scope, "amount": amount}]

    def credit(self, amount: int) -> int:
        """Nanos to grant."""
        return nanos(CREDIT) if self.window else amount


CONCURRENT = "concurrent"
KINDS = (
    Kind("requests", "requests", "day"),
    Kind("requests", "requests", "day", "key"),
    Kind("requests", "requests", "lifetime", "model"),
    Kind("tokens", "tokens", "day", "key"),
    Kind("tokens", "tokens", "day", message=ROOMY),
    Kind("tokens", "output", "month", "model"),
    Kind("credits", "credits", "day", "model"),
    Kind("credits", "credits", "month", message=ROOMY),
    Kind("spend", "nanos", "month", "key"),
    Kind("spend", "nanos", "day", message=ROOMY),
    Kind("spend", "nanos", ""),
    Kind("concurrency", CONCURRENT, "minute"),
    Kind("concurrency", CONCURRENT, "minute", "key"),
    Kind("concurrency", CONCURRENT, "minute", "model"),
)
MORE = (
    Kind("requests", "requests", "day", "model"),
    Kind("tokens", "tokens", "day"),
    Kind("tokens", "tokens", "month", "model"),
    Kind("tokens", "input", "day"),
    Kind("credits", "credits", "day"),
    Kind("credits", "credits", "day", "key"),
    Kind("spend", "nanos", "month"),
    Kind("spend", "nanos", "day", "model"),
)
"""What the suite leaves to runs by hand: the same units in other windows and scopes."""
