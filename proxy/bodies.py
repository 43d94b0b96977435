"""The request body: read with limits, then parsed only when it cannot hurt. The one place that sees raw JSON."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from proxy.refusals import Reason, decline

BODY_BYTES_MAX = 8 * 1024 * 1024
BODY_SECONDS_MAX = 60.0
SILENT_SECONDS_MAX = 10.0
"""Without any byte of a body that is not whole."""
DEPTH_MAX = 64
HEADER_COUNT_MAX = 100
HEADER_BYTES_MAX = 32 * 1024

LATE = "the body did not arrive in time"
"""Whoever cancels a task that reads a body says so (proxy.heart, after BODY_SECONDS_MAX or a long silence)."""

Receive = Callable[[], Awaitable[dict[str, Any]]]

# A string, closed or not: the closing quote is optional so that the scan stays linear on any input.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_ALL_SQUARE = bytes.maketrans(b"{}", b"[]")


class ClientLeft(Exception):
    """The client hung up before its request was complete."""


def check_headers(headers: list[tuple[bytes, bytes]], fields: dict[bytes, bytes]) -> None:
    """Refuse heads that are out of proportion and bodies in an encoding (a gzip bomb is not worth a feature)."""
    if len(headers) > HEADER_COUNT_MAX:
        raise decline(Reason.HEADERS_TOO_LARGE)
    if sum([len(name) + len(value) for name, value in headers]) > HEADER_BYTES_MAX:
        raise decline(Reason.HEADERS_TOO_LARGE)
    encoding = fields.get(b"content-encoding")
    if encoding is not None and encoding.lower() != b"identity":
        raise decline(Reason.ENCODING_NOT_ACCEPTED)
    length = fields.get(b"content-length")
    if length is not None and (not length.isdigit() or len(length) > 12 or int(length) > BODY_BYTES_MAX):
        raise decline(Reason.BODY_TOO_LARGE, limit=BODY_BYTES_MAX)


async def read_body(receive: Receive, took: Callable[[int], None]) -> bytes:
    """The whole body, at most BODY_BYTES_MAX. Of one that comes in pieces `took` hears the bytes of each before the
    next is read, and may raise."""
    try:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        if message.get("more_body"):
            return await _rest(receive, message, took)
        body: bytes = message.get("body", b"")
    except asyncio.CancelledError as cancelled:
        task = asyncio.current_task()
        if cancelled.args == (LATE,) and task is not None and task.uncancel() == 0:
            raise decline(Reason.BODY_TIMEOUT) from None
        raise
    if len(body) > BODY_BYTES_MAX:
        raise decline(Reason.BODY_TOO_LARGE, limit=BODY_BYTES_MAX)
    return body


async def _rest(receive: Receive, message: dict[str, Any], took: Callable[[int], None]) -> bytes:
    body = bytearray(message.get("body", b""))
    took(len(body))
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        piece = message.get("body", b"")
        took(len(piece))
        body += piece
        if len(body) > BODY_BYTES_MAX:
            raise decline(Reason.BODY_TOO_LARGE, limit=BODY_BYTES_MAX)
    return bytes(body)


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. NaN, Infinity, lone surrogates and deep nesting are refused."""
    if body.count(b"[") + body.count(b"{") > DEPTH_MAX and deeper_than(body, DEPTH_MAX):
        raise decline(Reason.TOO_DEEP, limit=DEPTH_MAX)
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        where = f" (line {error.lineno}, column {error.colno})" if body else " (it is empty)"
        raise decline(Reason.INVALID_JSON, detail=where) from None
    if type(found) is not dict:
        raise decline(Reason.INVALID_JSON, detail="")
    return found


def deeper_than(body: bytes, bound: int) -> bool:
    """Whether brackets nest more than `bound` deep. Text without balance counts as deep only if it does nest; whatever
    else is wrong with it the parser says better."""
    brackets = _STRING.sub(b"", body).translate(_ALL_SQUARE, _NOT_BRACKETS)
    for _ in range(bound):
        inner = brackets.replace(b"[]", b"")  # takes off the innermost level
        if len(inner) == len(brackets):
            break
        brackets = inner
    else:
        return bool(brackets)
    return len(brackets) > bound
