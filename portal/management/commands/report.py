"""`manage.py report revenue|engines|deferred`: the money reports of the operators' site, for terminals and files."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterable, Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from portal import money_reports, spreadsheets
from portal.management.choosing import brand_named
from portal.money_reports import DAYS_MAX


class Command(BaseCommand):
    help = "Revenue and margin of a brand, what engines earn and cost, and paid credit not spent. Amounts are nanos."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("report", choices=["revenue", "engines", "deferred"])
        parser.add_argument("--brand", help="of engines: those that serve it; without it all")
        parser.add_argument("--days", type=int, default=30, help=f"until now, at most {DAYS_MAX} (30)")
        parser.add_argument(
            "--by", choices=[*money_reports.GROUPS, "all"], default="day", help="of revenue; all: everything at once"
        )
        parser.add_argument("--format", choices=["table", "csv"], default="table")

    def handle(self, *, report: str, brand: str | None, days: int, by: str, format: str, **_: Any) -> None:
        if not 1 <= days <= DAYS_MAX:
            raise CommandError(f"--days is from 1 to {DAYS_MAX}.")
        head, rows = _found(report, brand, days, by)
        if format == "csv":
            for chunk in spreadsheets.chunks(head, rows):
                self.stdout.write(chunk.decode(), ending="")
        else:
            for line in table(head, list(rows)):
                self.stdout.write(line)


def _found(report: str, slug: str | None, days: int, by: str) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
    now = timezone.now()
    if report == "engines":
        engines, since, until = money_reports.engines(days, now, brand_named(slug) if slug else None)
        return money_reports.ENGINES_HEAD, money_reports.engine_rows(engines, since, until)
    brand = brand_named(slug)
    if report == "deferred":
        return money_reports.DEFERRED_HEAD, money_reports.deferred_rows(brand)
    over = money_reports.period(brand, days, now)
    if by == "all":
        return money_reports.DETAIL_HEAD, money_reports.detail(brand, over)
    group = money_reports.GROUPS[by]
    rows = money_reports.grouped_rows(brand, group, money_reports.grouped(brand, group, over))
    return money_reports.head(group), rows


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Columns as wide as their widest cell, numbers to the right."""
    texts = [list(head), *([f"{cell:,}" if isinstance(cell, int) else str(cell or "") for cell in row] for row in rows)]
    widths = [max(len(text[column]) for text in texts) for column in range(len(head))]
    numeric = [all(isinstance(row[column], int) for row in rows) for column in range(len(head))]
    lines = []
    for text in texts:
        cells = [
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(text, widths, numeric, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
