"""What calls had cost at other rates, from their sums. Pure: sums and a rate in, nanos out.

A sum does not know where one call ended and the next began, nor which of them a plan paid for. So:

- Tokens, images and requests times rates is exact; the rounding is not. Each call is rounded up by less than a nano, so
  what they had cost together lies between `nanos` and `nanos + rounding_nanos_max`.
- Where a plan included all of the calls, or none, who pays is exact. Where it included some, the balance is taken to
  pay the same part of the new price as it did of the old one (`is_shared`).
- Calls that were free are taken as paid by the balance (`was_free`): nothing says whom a price would have met.
"""

from __future__ import annotations

from dataclasses import dataclass

from billing.pricing import charge
from billing.snapshot import RateRecord
from billing.usage import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Of any number of calls of one model. `calls` are those an engine did not fail: only they are charged by request.
    `listed_nanos` is what their rates said, `paid_nanos` what the balance paid of it."""

    calls: int
    usage: Usage
    listed_nanos: int
    paid_nanos: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerated:
    nanos: int
    rounding_nanos_max: int
    is_shared: bool = False
    was_free: bool = False


def rerated(sums: Sums, rate: RateRecord) -> Rerated:
    """What the balance would have paid. Raises pricing.PriceMissing."""
    listed = charge(rate, sums.usage) + (sums.calls - 1) * rate.request_nanos  # charge() is of one request
    if not sums.listed_nanos:
        return Rerated(nanos=listed, rounding_nanos_max=_rounding(sums, listed), was_free=True)
    if sums.paid_nanos == sums.listed_nanos:
        return Rerated(nanos=listed, rounding_nanos_max=_rounding(sums, listed))
    if not sums.paid_nanos:
        return Rerated(nanos=0, rounding_nanos_max=0)
    part = listed * sums.paid_nanos // sums.listed_nanos
    return Rerated(nanos=part, rounding_nanos_max=_rounding(sums, part), is_shared=True)


def _rounding(sums: Sums, nanos: int) -> int:
    return sums.calls if nanos else 0
