"""Spends what the demo's exhausted keys have left, by real calls, so that their refusal is a real one."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

CALLS_MAX = 60
REFUSED = (402, 429)
LONG_PROMPT = "demo:fill" + " word" * 15_000
"""Tokens that are read are quicker than tokens that are made, where a quota has room for hundreds of thousands."""

Body = dict[str, Any]


def use_up(facts: dict[str, Any], *, address: str) -> list[str]:
    """`facts`: demo.json; `address`: the running proxy's host:port. Brands whose exhausted key is not refused yet."""
    with ThreadPoolExecutor() as threads:
        done = threads.map(lambda brand: _is_used_up(brand, address), facts["brands"].values())
        return [slug for slug, is_done in zip(facts["brands"], done, strict=True) if not is_done]


def _is_used_up(brand: dict[str, Any], address: str) -> bool:
    """Whatever the quota counts, one kind of call after the other is made until it is refused; when the smallest is,
    nothing is left."""
    calls = 0
    for body in _bodies(brand):
        status = 200
        while status == 200 and calls < CALLS_MAX:
            calls += 1
            status = _call(brand, body, address)
        if status not in REFUSED:
            return False
    return True


def _bodies(brand: dict[str, Any]) -> Iterator[Body]:
    """From the largest call to the smallest. The reasoning model is served by the demo engine in every demo, which
    knows the word that makes it go on; the last is what a newcomer would try."""
    thinking = brand["models"]["reasoning"]
    yield _body(thinking, LONG_PROMPT, 8_000)
    yield _body(thinking, "demo:fill", 8_000)
    yield _body(brand["model"], "Hello", 16)


def _body(model: str, text: str, max_tokens: int) -> Body:
    return {"model": model, "max_tokens": max_tokens, "messages": [{"role": "user", "content": text}]}


def _call(brand: dict[str, Any], body: Body, address: str) -> int:
    """The status of one call; 0 when there is no answer."""
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
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
