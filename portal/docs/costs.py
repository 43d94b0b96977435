"""A worked example of what a cached prompt saves, at the brand's own rates of this moment."""

from __future__ import annotations

from billing import money
from billing.pricing import charge
from billing.usage import Usage
from portal.docs.surface import Surface
from portal.docs.tables import Cell, Table, amount

PROMPT, CACHED, ANSWER = 4_000, 3_840, 200
"""Tokens of the example: a long, steady beginning that is found again, and a short answer."""


def worked_example(surface: Surface) -> Table | None:
    """None where the model of the examples has no price."""
    model = next((model for model in surface.models if model.slug == surface.model), None)
    rate = None if model is None else surface.rate(model)
    if rate is None:
        return None
    fresh = Usage(input=PROMPT, output=ANSWER)
    again = Usage(input=PROMPT - CACHED, cache_read=CACHED, output=ANSWER)
    currency = surface.brand.currency
    rows = [
        (
            Cell(name),
            amount(f"{usage.input:,}"),
            amount(f"{usage.cache_read or 0:,}"),
            amount(f"{usage.output:,}"),
            amount(money.display(charge(rate, usage), currency)),
        )
        for name, usage in (("First request", fresh), ("Same beginning again", again))
    ]
    return Table(("Call", "Input", "Cached input", "Output", "Charged"), rows)
