"""One Stripe account of the fake: its objects by id, its events, and its own log of the money that moved.

Everything is plain JSON, so that the demo's Stripe remembers over a restart what the demo's books remember.
"""

from __future__ import annotations

import copy
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any

from portal.demo.stripe.parameters import refused

Object = dict[str, Any]
PREFIXES = {
    "customer": "cus_",
    "checkout.session": "cs_test_",
    "payment_intent": "pi_",
    "payment_method": "pm_",
    "setup_intent": "seti_",
    "charge": "ch_",
    "refund": "re_",
    "dispute": "du_",
    "balance_transaction": "txn_",
    "event": "evt_",
    "billing_portal.session": "bps_",
    "product": "prod_",
    "price": "price_",
    "subscription": "sub_",
    "subscription_item": "si_",
    "invoice": "in_",
    "tax.calculation": "taxcalc_",
    "tax.transaction": "tax_",
}
API_VERSION = "2026-10-28.endive"
PAGE_MAX = 100


class Account:
    def __init__(self, name: str, clock: Callable[[], float] = time.time) -> None:
        self.name = name
        self._clock = clock
        self.ahead = 0.0
        """Seconds by which its time runs before everybody else's (subscriptions.advance)."""
        self.objects: dict[str, Object] = {}
        self.log: list[Object] = []
        """Every movement of money, oldest first: payment, refund, refund_failed, dispute, dispute_won."""
        self.hook_url = ""
        self.hook_secrets: list[str] = []
        self.waiting: list[Object] = []
        """Events on their way to the webhook endpoint; the service takes them from here."""

    def clock(self) -> float:
        return self._clock() + self.ahead

    # Objects

    def new(self, kind: str, **fields: Any) -> Object:
        made = {
            "id": PREFIXES[kind] + secrets.token_hex(12),
            "object": kind,
            "created": int(self.clock()),
            "livemode": False,
            **fields,
        }
        self.objects[made["id"]] = made
        return made

    def get(self, kind: str, object_id: Any) -> Object:
        found = self.objects.get(str(object_id))
        if found is None or found["object"] != kind:
            raise refused(f"No such {kind}: '{object_id}'", param="id", code="resource_missing", status=404)
        return found

    def all(self, kind: str) -> list[Object]:
        """Newest first."""
        return [found for found in reversed(self.objects.values()) if found["object"] == kind]

    def page(self, found: Iterable[Object], params: Object, url: str) -> Object:
        rows = [row for row in found if _within(row["created"], params.get("created"))]
        after = params.get("starting_after")
        if after is not None:
            ids = [row["id"] for row in rows]
            if after not in ids:
                raise refused(f"No such object: '{after}'", param="starting_after", code="resource_missing")
            rows = rows[ids.index(after) + 1 :]
        limit = min(int(params.get("limit", 10)), PAGE_MAX)
        return {"object": "list", "url": url, "has_more": len(rows) > limit, "data": rows[:limit]}

    # What happened

    def tell(self, kind: str, about: Object, previous: Object | None = None) -> None:
        """An event, with the object as it is now."""
        data: Object = {"object": copy.deepcopy(about)} | ({"previous_attributes": previous} if previous else {})
        event = self.new(
            "event",
            type=kind,
            api_version=API_VERSION,
            data=data,
            pending_webhooks=1,
            request={"id": None, "idempotency_key": None},
        )
        self.waiting.append(event)

    def move(self, kind: str, intent: Object, amount: int, **more: Any) -> None:
        self.log.append(
            {
                "kind": kind,
                "at": self.clock(),
                "payment_intent": intent["id"],
                "amount": amount,
                "currency": intent["currency"],
                "customer": intent["customer"],
                "metadata": dict(intent["metadata"]),
                **more,
            }
        )

    # Over a restart

    def state(self) -> Object:
        return {
            "objects": self.objects,
            "log": self.log,
            "hook_url": self.hook_url,
            "hook_secrets": self.hook_secrets,
            "waiting": self.waiting,
            "ahead": self.ahead,
        }

    def restore(self, state: Object) -> None:
        for name, value in state.items():
            setattr(self, name, value)


def _within(created: int, wanted: Any) -> bool:
    if not isinstance(wanted, dict):
        return wanted is None or created == int(wanted)
    bounds = {name: int(value) for name, value in wanted.items()}
    return (
        created >= bounds.get("gte", created)
        and created > bounds.get("gt", created - 1)
        and created <= bounds.get("lte", created)
        and created < bounds.get("lt", created + 1)
    )
