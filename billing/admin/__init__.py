"""The operator's pages over this room. What people decide goes through the room's writers, so it is checked, audited
and published like any other change; money and usage are read-only; no page shows an engine's key or a header's value.
"""

from billing.admin import (
    accounts,
    books,
    calls,
    engines,
    ladder,
    models,
    operation,
    payments,
    prices,
    promo_codes,
    subscriptions,
    telling,
    webhooks,
)

__all__ = [
    "accounts",
    "books",
    "calls",
    "engines",
    "ladder",
    "models",
    "operation",
    "payments",
    "prices",
    "promo_codes",
    "subscriptions",
    "telling",
    "webhooks",
]
