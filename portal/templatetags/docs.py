"""What pages of the documentation take from rows and tables: {% facts "prices" %}, {% example "first" %}, …"""

from __future__ import annotations

from typing import Any

from django import template
from django.template.context import Context
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

from portal.docs import changes, costs, examples, management, quality, refused, service, tables
from portal.docs.pages import PAGES, pages_of
from portal.docs.surface import Surface

register = template.Library()

TABLES = tables.TABLES | {
    "prices-to-come": changes.prices_to_come,
    "price-history": changes.price_history,
    "errors": refused.errors,
    "service-day": lambda surface: service.table(surface, "day"),
    "service-month": lambda surface: service.table(surface, "month"),
    "verified": quality.verified,
    "worked-example": costs.worked_example,
    "management-operations": management.operations,
}


def _surface(context: Context) -> Surface:
    found: Surface = context["surface"]
    return found


def _drawn(name: str, values: dict[str, Any]) -> SafeString:
    return render_to_string(f"docs/{name}.html", values)


@register.simple_tag(takes_context=True)
def facts(context: Context, name: str) -> SafeString:
    """A table; a sentence where it would be empty."""
    return _drawn("_table", {"table": TABLES[name](_surface(context))})


@register.simple_tag(takes_context=True)
def example(context: Context, name: str) -> SafeString:
    """A request in three languages; nothing where the brand has no such thing."""
    found = examples.example(_surface(context), name)
    return _drawn("_example", {"example": found}) if found is not None else mark_safe("")


@register.simple_tag(takes_context=True)
def has_example(context: Context, name: str) -> bool:
    return examples.ASKS[name](_surface(context)) is not None


@register.simple_tag(takes_context=True)
def has_endpoint(context: Context, name: str) -> bool:
    return _surface(context).has(name)


@register.simple_tag(takes_context=True)
def refusal(context: Context, name: str) -> SafeString:
    """The body of an error answer, made by the brand's dialect."""
    surface = _surface(context)
    status, body = refused.with_status(surface, name)
    return _drawn("_code", {"id": f"refusal-{name}", "label": f"HTTP {status}", "language": "json", "text": body})


@register.simple_tag(takes_context=True)
def limit_headers(context: Context) -> SafeString:
    text = refused.limit_headers(_surface(context))
    return (
        _drawn("_code", {"id": "limit-headers", "label": "Headers", "language": "http", "text": text})
        if text
        else mark_safe("")
    )


@register.simple_tag(takes_context=True, name="quality")
def quality_of(context: Context) -> SafeString:
    """Bars of 30 days for each model the canary asks, and the figures."""
    found = quality.histories(_surface(context))
    return _drawn("_quality", {"histories": found, "table": quality.table(found)})


@register.simple_tag
def exposed_headers() -> SafeString:
    values = {"id": "exposed-headers", "label": "Readable in browsers", "language": "http"}
    return _drawn("_code", {**values, "text": refused.readable_headers()})


@register.simple_tag(takes_context=True)
def page(context: Context, name: str, text: str = "") -> SafeString | str:
    """A link to a page of this brand; only its words where the brand does not have the page."""
    words = text or PAGES[name].title
    if name not in {each.name for each in pages_of(_surface(context).brand)}:
        return words
    return format_html('<a href="{}">{}</a>', reverse("docs_page", args=[name]), words)
