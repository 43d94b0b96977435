"""How often somebody without a key may ask for what needs none, by address. One worker's own count; bounded memory."""

from __future__ import annotations

import time

from proxy.addresses import network_of
from proxy.buckets import Buckets, Clock
from proxy.refusals import Reason, decline

AT_ONCE = 60
PER_SECOND = 2.0
ADDRESSES_MAX = 10_000


class Strangers:
    """A bucket of AT_ONCE requests per address, filled again at PER_SECOND."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._buckets = Buckets(AT_ONCE, PER_SECOND, names_max=ADDRESSES_MAX, clock=clock)

    def take(self, address: str) -> None:
        """Declined(RATE_LIMITED) when the address has nothing left."""
        wait_ms = self._buckets.take(network_of(address))
        if wait_ms:
            raise decline(
                Reason.RATE_LIMITED, limit=f"{AT_ONCE} requests without an API key at once", retry_after_ms=wait_ms
            )
