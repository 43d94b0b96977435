"""Webhooks of the fake: signed as Stripe signs (t=, v1=: HMAC-SHA256 over time, point, body), sent until they are
answered with 2xx or the tries are used up, and disordered as the knobs say."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import http.client
import json
import time
from collections.abc import Iterable
from urllib.parse import urlsplit

from portal.demo.stripe.account import Account, Object
from portal.demo.stripe.knobs import Hooks

TRIES_MAX = 10
PAUSE_SECONDS = 0.5  # doubled after each try
TIMEOUT_SECONDS = 10
GATHER_SECONDS = 0.1


def signature(body: str, secrets: Iterable[str], at: int) -> str:
    signed = f"{at}.{body}".encode()
    digests = (hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets)
    return ",".join([f"t={at}", *(f"v1={digest}" for digest in digests)])


class Deliveries:
    """Sends what accounts have waiting. All tasks belong to it and end with the event loop."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self.sent: list[tuple[str, int]] = []
        """(event id, status) of every try; 0 where nobody answered."""

    def start(self, account: Account, hooks: Hooks) -> None:
        events, account.waiting = account.waiting, []
        if not events or not account.hook_url or hooks.drop:
            return
        task = asyncio.get_running_loop().create_task(self._deliver(account, events, hooks))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _deliver(self, account: Account, events: list[Object], hooks: Hooks) -> None:
        if hooks.delay_ms:
            await asyncio.sleep(hooks.delay_ms / 1000)
        if hooks.reorder:
            await asyncio.sleep(GATHER_SECONDS)
            events = events[::-1]
        for event in events * (1 + hooks.duplicate):
            await self._send(account, event)

    async def _send(self, account: Account, event: Object) -> None:
        body = json.dumps(event, separators=(",", ":"))
        pause = PAUSE_SECONDS
        for _ in range(TRIES_MAX):
            headers = {
                "Content-Type": "application/json; charset=utf-8",
                "User-Agent": "Stripe/1.0 (fake; no money moves)",
                "Stripe-Signature": signature(body, account.hook_secrets, int(time.time())),
            }
            status = await asyncio.to_thread(_post, account.hook_url, body.encode(), headers)
            self.sent.append((event["id"], status))
            if 200 <= status < 300:
                event["pending_webhooks"] = 0
                return
            await asyncio.sleep(pause)
            pause *= 2


def _post(url: str, body: bytes, headers: dict[str, str]) -> int:
    """The answer's status, 0 where there was none."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("POST", parts.path, body, headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
