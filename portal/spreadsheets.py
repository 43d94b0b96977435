"""Rows as a CSV file (RFC 4180) that is sent while it is read, so that its length costs no memory."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

from asgiref.sync import sync_to_async
from django.http import StreamingHttpResponse

ROWS_PER_CHUNK = 500
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What makes a spreadsheet program read a text as a formula (OWASP, CSV injection)."""


class Number(str):
    """The digits of an exact amount, perhaps with a sign: a number, so it is not escaped."""

    __slots__ = ()


class Download(StreamingHttpResponse):
    """A file of `rows` under `head`. Under ASGI its chunks are read in a thread, one by one; Django itself would read
    a plain iterator to its end first."""

    def __init__(self, name: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        self._chunks = chunks(head, rows)
        super().__init__(self._chunks, content_type="text/csv; charset=utf-8")
        self["Content-Disposition"] = f'attachment; filename="{name}"'

    async def __aiter__(self) -> AsyncIterator[bytes]:
        read = sync_to_async(lambda: next(self._chunks, b""))
        while chunk := await read():
            yield chunk


def chunks(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[bytes]:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(head)
    for number, row in enumerate(rows, start=1):
        writer.writerow([cell(value) for value in row])
        if number % ROWS_PER_CHUNK == 0:
            yield buffer.getvalue().encode()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue().encode()


def cell(value: Any) -> Any:
    """Texts that a spreadsheet would run get an apostrophe in front; numbers stay numbers, absent is empty."""
    if isinstance(value, str) and not isinstance(value, Number) and value.startswith(FORMULA):
        return f"'{value}"
    return value
