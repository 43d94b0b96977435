"""Stripe's promise about idempotency keys: one key does its work once and gives the same answer again, to the same
question; to another question it is an error; while the first is still running, a conflict. Kept for a day."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from portal.demo.stripe.parameters import StripeRefuses

KEPT_SECONDS = 24 * 3600
KEY_LENGTH_MAX = 255


@dataclass(slots=True)
class Kept:
    question: str
    at: float
    status: int = 0
    body: bytes = b""


class Answers:
    """Per account. `begin` gives the answer to repeat, or None: then do the work and `keep` or `forget`."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._kept: dict[tuple[str, str], Kept] = {}
        self._clock = clock

    def begin(self, account: str, key: str, question: str) -> Kept | None:
        if len(key) > KEY_LENGTH_MAX:
            raise StripeRefuses(400, "invalid_request_error", "Idempotency keys have at most 255 characters.")
        found = self._kept.get((account, key))
        if found is None or found.at < self._clock() - KEPT_SECONDS:
            self._kept[account, key] = Kept(question, self._clock())
            return None
        if found.question != question:
            raise StripeRefuses(
                400,
                "idempotency_error",
                "Keys for idempotent requests can only be used with the same parameters they were first used with.",
            )
        if not found.status:
            raise StripeRefuses(
                409,
                "idempotency_error",
                "There is currently another in-progress request using this idempotency key.",
                code="idempotency_key_in_use",
            )
        return found

    def keep(self, account: str, key: str, status: int, body: bytes) -> None:
        kept = self._kept[account, key]
        kept.status, kept.body = status, body

    def forget(self, account: str, key: str) -> None:
        self._kept.pop((account, key), None)

    def clear(self) -> None:
        """As if a day had passed."""
        self._kept.clear()
