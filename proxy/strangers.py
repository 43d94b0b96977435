"""How often somebody without a key may ask for what needs none, by address. One worker's own count; bounded memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address

from proxy.addresses import read_address
from proxy.refusals import Reason, decline

AT_ONCE = 60
PER_SECOND = 2.0
ADDRESSES_MAX = 10_000


class Strangers:
    """A bucket of AT_ONCE requests per address, filled again at PER_SECOND. An IPv6 network of 64 bits is one address:
    it is what one customer of a provider gets. Of too many addresses the one that asked longest ago is forgotten."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address → left, as of when

    def take(self, address: str) -> None:
        """Declined(RATE_LIMITED) when the address has nothing left."""
        name, now = _whose(address), self._clock()
        left, since = self._buckets.pop(name, (float(AT_ONCE), now))
        left = min(float(AT_ONCE), left + (now - since) * PER_SECOND)
        if left < 1:
            self._buckets[name] = (left, now)
            wait_ms = max(1, int((1 - left) / PER_SECOND * 1000))
            raise decline(
                Reason.RATE_LIMITED, limit=f"{AT_ONCE} requests without an API key at once", retry_after_ms=wait_ms
            )
        self._buckets[name] = (left - 1, now)
        if len(self._buckets) > ADDRESSES_MAX:
            self._buckets.popitem(last=False)


def _whose(address: str) -> str:
    parsed = read_address(address)
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return str(int(parsed) >> 64)
    return str(parsed)
