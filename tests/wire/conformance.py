"""One documented example: what is sent, and how an answer is held against what the page shows. Pure but for `send`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import orjson

from tests.proxy.shop import read_events
from tests.wire.mall import SLUGS, Stall

FOLDER = Path(__file__).resolve().parent
MISSING = object()
KNOWN = frozenset(
    {
        *("name", "method", "path", "key", "scheme", "body", "status", "shape", "equal", "match", "headers"),
        *("headers_absent", "absent", "holds", "holds_at", "lengths", "stream", "every_delta"),
    }
)


def pages() -> dict[str, dict[str, Any]]:
    """Brand → its page: where it says the API is, and its examples."""
    found = {slug: tomllib.loads((FOLDER / slug / "examples.toml").read_text()) for slug in SLUGS}
    for page in found.values():
        for example in page["example"]:
            assert not example.keys() - KNOWN, f"{example['name']}: {example.keys() - KNOWN}"
    return found


PAGES = pages()


def send(client: httpx.Client, stall: Stall, example: Mapping[str, Any]) -> httpx.Response:
    """The example with the stall's host and one of its keys."""
    secret = stall.keys[example["key"]] if example.get("key") else "" if "key" in example else stall.keys["api_key"]
    headers, params = credentials(example.get("scheme", "Bearer"), secret)
    body = example.get("body", "")
    for state, slug in stall.models.items():
        body = body.replace(f"{{model:{state}}}", slug)
    if body:
        headers["content-type"] = "application/json"
    url = stall.path + example["path"]
    return client.request(example["method"], url, content=body or None, headers=headers, params=params)


def credentials(scheme: str, secret: str) -> tuple[dict[str, str], dict[str, str]]:
    """Headers and query that carry the key."""
    if not secret:
        return {}, {}
    if scheme == "?api_key=":
        return {}, {"api_key": secret}
    return ({"x-api-key": secret} if scheme == "X-API-Key" else {"authorization": f"{scheme} {secret}"}), {}


def differences(example: Mapping[str, Any], answer: httpx.Response, everywhere: Mapping[str, str]) -> list[str]:
    """What the answer lacks of what the page promises; empty when it keeps all of it."""
    found = []
    if answer.status_code != example["status"]:
        return [f"status {answer.status_code} instead of {example['status']}: {answer.text[:300]}"]
    wanted = dict(example.get("headers", {}))
    if answer.status_code != 401:
        wanted = dict(everywhere) | wanted
    for name, pattern in wanted.items():
        if not re.search(pattern, answer.headers.get(name, "")):
            found.append(f"header {name} is {answer.headers.get(name)!r}, not {pattern}")
    found += [f"header {name} is there" for name in example.get("headers_absent", ()) if name in answer.headers]
    if "x-request-id" not in answer.headers:
        found.append("no x-request-id")
    if "stream" in example:
        return [*found, *_stream_differences(example, answer)]
    return [*found, *_body_differences(example, answer.json())]


def _body_differences(example: Mapping[str, Any], body: Any) -> Iterator[str]:
    if "shape" in example:
        yield from unlike(orjson.loads(example["shape"]), body)
    for path, value in example.get("equal", {}).items():
        if at(body, path) != value:
            yield f"{path} is {at(body, path)!r}, not {value!r}"
    for path, pattern in example.get("match", {}).items():
        if not re.search(pattern, str(at(body, path)), re.DOTALL):
            yield f"{path} is {at(body, path)!r}, not {pattern}"
    yield from (f"{path} is there" for path in example.get("absent", ()) if at(body, path) is not MISSING)
    for path, length in example.get("lengths", {}).items():
        if len(at(body, path)) != length:
            yield f"{path} has {len(at(body, path))} items, not {length}"
    rows = {row["id"]: row for row in body[example.get("holds_at", "data")]} if "holds" in example else {}
    for row in example.get("holds", ()):
        wrong = {
            name: rows.get(row["id"], {}).get(name) for name in row if rows.get(row["id"], {}).get(name) != row[name]
        }
        if wrong:
            yield f"{row['id']} has {wrong}"


def _stream_differences(example: Mapping[str, Any], answer: httpx.Response) -> Iterator[str]:
    if not answer.headers["content-type"].startswith("text/event-stream"):
        yield f"content-type {answer.headers['content-type']}"
        return
    *events, done = read_events(answer.content)
    if done != b"[DONE]":
        yield "no [DONE] at the end"
    shown = [orjson.loads(text) for text in example["stream"]]
    for one in shown:
        if not any(not list(unlike(one, event)) for event in events):
            yield f"no event has all that this one has: {one}"
    outside = {**shown[0], "choices": [{**shown[0]["choices"][0], "delta": {}}]}
    for event in events:
        yield from unlike(outside, event)
        delta = event["choices"][0]["delta"]
        yield from (f"a delta without {name}" for name in example.get("every_delta", ()) if name not in delta)
    if events[-1]["choices"][0].get("finish_reason") not in ("stop", "length", "tool_calls"):
        yield f"the last event has no finish_reason: {events[-1]}"


def unlike(shown: Any, found: Any, where: str = "") -> Iterator[str]:
    """Where `found` lacks a field that the page shows, or has one of another type. What is more than shown is fine."""
    if isinstance(shown, dict):
        if not isinstance(found, dict):
            yield f"{where or 'the answer'} is no object"
            return
        for name, value in shown.items():
            if name not in found:
                yield f"{where}{name} is missing"
            else:
                yield from unlike(value, found[name], f"{where}{name}.")
    elif isinstance(shown, list):
        if not isinstance(found, list) or (shown and not found):
            yield f"{where} is no list with something in it"
        elif len(shown) > 1:
            for number, value in enumerate(shown):
                yield from unlike(value, found[number] if number < len(found) else None, f"{where}{number}.")
        elif shown:
            for number, value in enumerate(found):
                yield from unlike(shown[0], value, f"{where}{number}.")
    elif shown is not None and not _same_type(shown, found):
        yield f"{where} is {found!r}, which is not like {shown!r}"


def _same_type(shown: Any, found: Any) -> bool:
    if isinstance(shown, bool) or isinstance(found, bool):
        return isinstance(shown, bool) and isinstance(found, bool)
    if isinstance(shown, float):
        return isinstance(found, int | float)
    return isinstance(found, type(shown))


def at(body: Any, path: str) -> Any:
    for name in path.split("."):
        if isinstance(body, list):
            body = body[int(name)] if name.isdigit() and int(name) < len(body) else MISSING
        else:
            body = body.get(name, MISSING) if isinstance(body, dict) else MISSING
    return body
