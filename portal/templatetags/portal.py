"""How pages write numbers, money, times and icons."""

from __future__ import annotations

from datetime import UTC, date, datetime

from django import template
from django.templatetags.static import static
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing import money as amounts

register = template.Library()


@register.simple_tag
def icon(name: str) -> SafeString:
    return format_html(
        '<svg class="icon" aria-hidden="true" focusable="false"><use href="{}#{}"></use></svg>',
        static("portal/icons.svg"),
        name,
    )


@register.filter
def money(nanos: int | None, currency: str) -> str:
    """Exact: every decimal there is, at least the currency's usual ones."""
    return "" if nanos is None else amounts.display(nanos, currency)


@register.simple_tag
def money_short(nanos: int, currency: str) -> SafeString:
    """Rounded down to the currency's usual decimals, the exact amount one hover away. Small change is shown exactly."""
    exact, short = amounts.display(nanos, currency), amounts.display_short(nanos, currency)
    if abs(nanos) < amounts.NANOS_PER_UNIT or exact == short:
        return format_html('<span class="number">{}</span>', exact)
    return format_html('<span class="number" title="{}">{}</span>', exact, short)


@register.filter
def per_million(picos: int | None, currency: str) -> str:
    """A rate as people compare them: the price of a million tokens."""
    if picos is None:
        return "–"
    return amounts.display(picos * amounts.NANOS_PER_UNIT // amounts.PICOS_PER_TOKEN_PER_MILLION, currency)


@register.filter
def count(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"


@register.filter
def duration(milliseconds: int | None) -> str:
    if milliseconds is None:
        return "–"
    if milliseconds < 1_000:
        return f"{milliseconds} ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1_000:.2f} s"
    minutes, seconds = divmod(milliseconds // 1_000, 60)
    return f"{minutes} min {seconds} s"


@register.simple_tag
def moment(at: datetime | None, precise: bool = False, empty: str = "–") -> SafeString | str:
    """A time that portal.js shows in the reader's zone; without it, UTC."""
    if at is None:
        return empty
    at = at.astimezone(UTC)
    text = f"{at.day} {at:%b %Y, %H:%M:%S} UTC" if precise else f"{at.day} {at:%b %Y, %H:%M} UTC"
    return format_html('<time datetime="{}"{}>{}</time>', at.isoformat(), " data-precise" if precise else "", text)


@register.simple_tag
def day(on: date) -> SafeString:
    """A brand day: a date of the brand's calendar, the same for every reader."""
    return format_html('<time datetime="{}" data-day>{}</time>', on.isoformat(), f"{on.day} {on:%b %Y}")
