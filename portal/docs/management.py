"""The management API's operations as a table, from its OpenAPI document."""

from __future__ import annotations

from portal.docs.surface import Surface
from portal.docs.tables import Cell, Table, code
from portal.manage_api import schema


def operations(_surface: Surface) -> Table:
    rows = [
        (code(f"{method.upper()} {address}"), Cell(operation["summary"], note=operation["description"]))
        for address, methods in schema.document()["paths"].items()
        for method, operation in methods.items()
    ]
    return Table(("Operation", "Does"), rows)
