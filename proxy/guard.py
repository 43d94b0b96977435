"""The abuse guard: whoever is refused again and again is answered by the worker itself, before Redis and PostgreSQL.

Two things are counted, each by one worker for itself, in bounded memory:

- By address, look-ups of keys that nobody had. Past the bound a key that this worker does not know is put off (429)
  rather than called wrong; keys that it knows are served from everywhere, so that nobody suffers from who shares their
  address. A key that was put off and comes again when it was told to is looked up, so a flood of ever new keys does not
  lock out an honest one that the worker meets for the first time.
- By key, calls that were refused. Past the bound most calls of the key are refused unjudged, and some are judged all
  the same, at the bound's pace; the first one that passes forgets the rest. So a top-up or a new tier holds on the next
  request that is judged: at once for whoever waits as they were told, and for a flood within 1/pace.
"""

from __future__ import annotations

import time
from collections import OrderedDict

from proxy.addresses import network_of
from proxy.buckets import Buckets, Clock
from proxy.call import Call
from proxy.refusals import Reason, decline

PUT_OFF_MAX = 20_000
PUT_OFF_SECONDS = 1.0
COUNTED = frozenset(
    {
        *(Reason.INSUFFICIENT_QUOTA, Reason.QUOTA_IN_FLIGHT, Reason.RATE_LIMITED, Reason.CONCURRENCY),
        *(Reason.KEY_REVOKED, Reason.KEY_EXPIRED, Reason.ORGANIZATION_SUSPENDED, Reason.ADDRESS_NOT_ALLOWED),
        *(Reason.MANAGEMENT_KEY, Reason.SCOPE_NOT_ALLOWED, Reason.SCHEME_NOT_ACCEPTED, Reason.CHAT_ONLY),
        *(Reason.MODEL_NOT_FOUND, Reason.MODEL_NOT_ALLOWED, Reason.TIER_REQUIRED),
    }
)
"""Refusals of a known key that the stores were asked for, and that are the caller's to mend."""


class Guard:
    """`refusals_per_minute`: of one key. `unknown_keys_per_minute`: looked up for one address."""

    def __init__(
        self, refusals_per_minute: int, unknown_keys_per_minute: int, *, clock: Clock = time.monotonic
    ) -> None:
        self._clock = clock
        self._keys = Buckets(refusals_per_minute, refusals_per_minute / 60, clock=clock)
        self._addresses = Buckets(unknown_keys_per_minute, unknown_keys_per_minute / 60, clock=clock)
        self._again = Buckets(unknown_keys_per_minute, unknown_keys_per_minute / 60, clock=clock)
        self._put_off: OrderedDict[bytes, float] = OrderedDict()

    def look_up(self, call: Call, name: bytes) -> None:
        """Before a key that this worker does not know is looked up: `name` stands for it. Declined past the bound."""
        network = network_of(call.address)
        wait_ms = self._addresses.take(network)
        if not wait_ms:
            call.counted_at = (self._addresses, network)
            return
        came_at = self._put_off.get(name)
        if came_at is not None and self._clock() - came_at >= PUT_OFF_SECONDS and not self._again.take(network):
            del self._put_off[name]
            call.counted_at = (self._again, network)
            return
        if came_at is None:
            self._put_off[name] = self._clock()
            if len(self._put_off) > PUT_OFF_MAX:
                self._put_off.popitem(last=False)
        per_minute = int(self._addresses.at_once)
        raise decline(
            Reason.TOO_MANY_REFUSED,
            limit=f"{per_minute:,} unknown API keys per minute from your address",
            retry_after_ms=max(wait_ms, int(PUT_OFF_SECONDS * 1000)),
        )

    def enter(self, call: Call, key_id: int) -> None:
        """Before a call of a known key is judged. Keys that were not refused lately pass without being counted."""
        if key_id not in self._keys:
            return
        wait_ms = self._keys.take(key_id)
        if wait_ms:
            per_minute = int(self._keys.at_once)
            raise decline(
                Reason.TOO_MANY_REFUSED,
                limit=f"{per_minute:,} refused requests per minute for your API key",
                retry_after_ms=wait_ms,
            )
        call.counted_at = (self._keys, key_id)

    def served(self, call: Call) -> None:
        """The call holds what it may need: whatever refused this key before is over."""
        self._keys.fill(call.caller.key_id)
        call.counted_at = None

    def refused(self, call: Call, reason: Reason) -> None:
        caller = call.known("caller")
        if reason not in COUNTED or caller is None:
            self.leave(call)
        elif call.counted_at is None:
            self._keys.take(caller.key_id)
        call.counted_at = None

    def leave(self, call: Call) -> None:
        """The call ended otherwise: it was not to be counted."""
        if call.counted_at is not None:
            buckets, name = call.counted_at
            buckets.give_back(name)
            call.counted_at = None
