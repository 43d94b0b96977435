"""What PostgreSQL means to do for a page: every SELECT that it sent, explained, and the tables those go through."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from django.db import connection
from django.test import Client

EVENTS = "usage_event"


class Scan(NamedTuple):
    """One node of a plan that reads a table. `kind`: "Seq Scan", "Index Scan", …"""

    kind: str
    table: str


class Read(NamedTuple):
    status: int
    statements: int
    scans: frozenset[Scan]

    @property
    def of_events(self) -> set[Scan]:
        return {scan for scan in self.scans if scan.table.startswith(EVENTS)}


def read(client: Client, path: str) -> Read:
    """Opens the page and explains what it asked."""
    sent: list[tuple[str, Any]] = []

    def note(execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        sent.append((str(sql), params))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(note):
        answer = client.get(path)
        answer.getvalue()
    scans = {scan for sql, params in sent if sql.startswith("SELECT") for scan in _scans(_plan(sql, params))}
    return Read(answer.status_code, len(sent), frozenset(scans))


def small_tables() -> set[str]:
    """Tables that PostgreSQL does well to read whole: days without calls."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT relname FROM pg_class WHERE relkind = 'r' AND reltuples < 1000")
        return {name for (name,) in cursor.fetchall()}


def _plan(sql: str, params: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}", params)
        found = cursor.fetchone()[0]
    return json.loads(found) if isinstance(found, str) else found


def _scans(node: Any) -> Iterator[Scan]:
    """Every scan of a plan, however deep."""
    if isinstance(node, dict):
        if "Relation Name" in node:
            yield Scan(node["Node Type"], node["Relation Name"])
        for inner in node.values():
            yield from _scans(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from _scans(inner)
