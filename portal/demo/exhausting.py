"""Spends what the demo's exhausted keys have left, by real calls, so that their refusal is a real one."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

CALLS_MAX = 10
REFUSED = (402, 429)


def use_up(facts: dict[str, Any], *, address: str) -> list[str]:
    """`facts`: demo.json; `address`: the running proxy's host:port. Brands whose exhausted key is not refused yet."""
    return [slug for slug, brand in facts["brands"].items() if not _is_used_up(brand, address)]


def _is_used_up(brand: dict[str, Any], address: str) -> bool:
    for _ in range(CALLS_MAX):
        status = _call(brand, address)
        if status in REFUSED:
            return True
        if status != 200:
            return False
    return False


def _call(brand: dict[str, Any], address: str) -> int:
    """The status of one call that takes as much as it may get; 0 when there is no answer. The reasoning model is served
    by the demo engine in every demo, which knows the word that makes it go on."""
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    body = {
        "model": brand["models"]["reasoning"],
        "max_tokens": 8_000,
        "messages": [{"role": "user", "content": "demo:fill"}],
    }
    headers = {
        "Host": "localhost",
        "Authorization": f"Bearer {brand['keys']['exhausted']}",
        "Content-Type": "application/json",
    }
    try:
        connection.request("POST", f"{urlsplit(brand['base_url']).path}/chat/completions", json.dumps(body), headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
