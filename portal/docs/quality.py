"""What the canary saw, as tables: its checks of the last month, and what stands behind each model."""

from __future__ import annotations

from datetime import datetime

from portal.canary import history
from portal.canary.history import History
from portal.docs.service import per_cent
from portal.docs.surface import Surface
from portal.docs.tables import Cell, Table, amount, code
from portal.models import ModelEvidence

SHOWN_CHARS_MAX = 200


def histories(surface: Surface) -> list[History]:
    return history.of(surface.brand, surface.now)


def table(found: list[History]) -> Table:
    rows = [
        (
            code(each.slug),
            amount(per_cent(each.day_share)),
            amount(per_cent(each.month_share)),
            amount("–" if each.first_token_ms is None else f"{each.first_token_ms:,} ms"),
            _last(each),
        )
        for each in found
    ]
    return Table(("Model", "Passed, 24 hours", "Passed, 30 days", "First token, median", "Last check"), rows)


def _last(each: History) -> Cell:
    if each.last_at is None:
        return Cell("–")
    why = f" ({each.last_code})" if each.last_code else ""
    return Cell(f"{each.last_outcome}{why}", note=_time(each.last_at))


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


def verified(surface: Surface) -> Table:
    """What engines say of themselves, and the answer last seen."""
    evidence = {each.model_id: each for each in ModelEvidence.objects.filter(model__brand=surface.brand)}
    rows = []
    for model in surface.models:
        found = evidence.get(model.id)
        if found is None:
            rows.append((code(model.slug), Cell("not asked yet"), Cell("–"), Cell("–")))
            continue
        seen_at = "" if found.answered_at is None else _time(found.answered_at)
        rows.append(
            (
                code(model.slug),
                Cell("; ".join(f"{each['kind']} {each['version']}".strip() for each in found.engines) or "–"),
                Cell("; ".join(dict.fromkeys(each["model"] for each in found.engines)) or "–"),
                Cell(found.answer[:SHOWN_CHARS_MAX] or "–", note=seen_at),
            )
        )
    return Table(("Model", "Engine", "Served there as", "Answer last seen"), rows)
