"""How pages write numbers, money, times and icons."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from django import template
from django.templatetags.static import static
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing import money as amounts
from billing.calls import Call
from billing.gauges import Gauge
from billing.models import TierLimit

if TYPE_CHECKING:
    from portal.trail import Change

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


@register.filter
def units(nanos: int) -> str:
    """Of no one currency: "12.34"."""
    return amounts.decimal(nanos, 9, places_min=2)


@register.simple_tag
def money_short(nanos: int, currency: str) -> SafeString:
    """Rounded down to the currency's usual decimals, the exact amount one hover away. Small change is shown exactly."""
    exact, short = amounts.display(nanos, currency), amounts.display_short(nanos, currency)
    if abs(nanos) < amounts.NANOS_PER_UNIT or exact == short:
        return format_html('<span class="number">{}</span>', exact)
    return format_html('<span class="number" title="{}">{}</span>', exact, short)


@register.simple_tag
def money_column(nanos: int, currency: str, places: int) -> SafeString:
    """One of a column's amounts, all to the same decimals and rounded down; the exact amount is one hover away."""
    unit = 10 ** (9 - places)
    text = amounts.decimal(nanos // unit * unit, 9, places_min=places)
    symbol = amounts.SYMBOLS.get(currency)
    shown = f"{symbol}{text}" if symbol else f"{text} {currency}"
    return format_html('<span title="{}">{}</span>', amounts.display(nanos, currency), shown)


@register.filter
def words(name: str) -> str:
    """A name of ours as a person writes it: "client_gone" → "client gone"."""
    return name.replace("_", " ")


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


MOMENTS = {"date": "%b %Y", "minute": "%b %Y, %H:%M UTC", "second": "%b %Y, %H:%M:%S UTC"}


@register.simple_tag
def moment(at: datetime, to: str = "minute") -> SafeString:
    """A time that portal.js shows in the reader's zone; without it, UTC."""
    at = at.astimezone(UTC)
    text = f"{at.day} {at.strftime(MOMENTS[to])}"
    return format_html('<time datetime="{}" data-to="{}">{}</time>', at.isoformat(), to, text)


@register.simple_tag
def said(change: Change, side: str = "before") -> str:
    """One side of a change of the trail; a moment like every other."""
    text = change.before if side == "before" else change.after
    return moment(datetime.fromisoformat(text)) if text and change.is_moment else text or "none"


@register.simple_tag
def day(on: date) -> SafeString:
    """A brand day: a date of the brand's calendar, the same for every reader."""
    return format_html('<time datetime="{}" data-day>{}</time>', on.isoformat(), f"{on.day} {on:%b %Y}")


@register.filter
def picos(value: int, currency: str) -> str:
    """An exact amount in picos, of which a thousand are a nano."""
    digits = amounts.decimal(value, 12, places_min=2)
    symbol = amounts.SYMBOLS.get(currency)
    return f"{symbol}{digits}" if symbol else f"{digits} {currency}"


@register.simple_tag
def tokens(call: Call) -> SafeString:
    """Input and output of a call: "1,200 → 80"."""
    read = sum(call.total(name) or 0 for name in ("uncached_input_tokens", "cache_read_tokens", "cache_write_tokens"))
    written = call.total("output_tokens") or 0
    return format_html(
        '<span class="number">{} <span aria-hidden="true">→</span><span class="visually-hidden">in,</span> {}'
        '<span class="visually-hidden"> out</span></span>',
        f"{read:,}",
        f"{written:,}",
    )


UNITS = {
    "requests": "requests",
    "input": "input tokens",
    "output": "output tokens",
    "tokens": "tokens",
    "credits": "credits",
}


@register.simple_tag
def amount_of(unit: str, amount: int, currency: str) -> str:
    """ "10,000 tokens", "$20.00"."""
    return amounts.display(amount, currency) if unit == "nanos" else f"{amount:,} {UNITS[unit]}"


@register.simple_tag
def limit_in_words(limit: TierLimit, currency: str) -> str:
    """ "1,000 requests per day and model", "5 calls at once", "$20.00 per month"."""
    whose = "" if limit.scope == "organization" else limit.model.slug if limit.model else limit.scope
    if limit.unit == "concurrent":
        return f"{limit.amount:,} calls at once{f' per {whose}' if whose else ''}"
    amount = amount_of(limit.unit, limit.amount, currency)
    window = "in all" if limit.window == "lifetime" else f"per {limit.window}"
    and_whose = f" {'per' if limit.window == 'lifetime' else 'and'} {whose}" if whose else ""
    return f"{amount} {window}{and_whose}{', included' if limit.is_allotment else ''}"


@register.simple_tag
def key_limit(limit: dict[str, Any], currency: str) -> str:
    """A limit of a key as its row keeps it, in words: "60 requests per minute"."""
    window = "in all" if limit["window"] == "lifetime" else f"per {limit['window']}"
    amount = amount_of(limit["unit"], limit["amount"], currency)
    return f"{limit['amount']:,} calls at once" if limit["unit"] == "concurrent" else f"{amount} {window}"


@register.filter
def of_key(rows: dict[int, Any], key_id: int) -> Any:
    """The row of a key, or nothing."""
    return rows.get(key_id)


WINDOWS = {"minute": "in the last minute", "day": "today", "month": "this month", "lifetime": "in all"}


@register.simple_tag
def gauge_in_words(gauge: Gauge) -> str:
    """ "Requests today", "Included tokens this month", "Calls at once"."""
    limit = gauge.limit
    if limit.unit == "concurrent":
        return "Calls at once"
    counted = "spend" if limit.unit == "nanos" else UNITS[limit.unit]
    said = f"included {counted}" if limit.is_allotment else counted
    return f"{said[:1].upper()}{said[1:]} {WINDOWS[limit.window]}"


@register.simple_tag
def counted(unit: str, amount: int, currency: str) -> str:
    """An amount beside a title that names its unit: "1,000", "$20.00"; small change of money is exact."""
    if unit != "nanos":
        return f"{amount:,}"
    small = abs(amount) < amounts.NANOS_PER_UNIT
    return amounts.display(amount, currency) if small else amounts.display_short(amount, currency)


@register.simple_tag
def moment_of(at: datetime, zone: str) -> SafeString:
    """A time of the brand's day (a reset): in the brand's zone, which portal.js turns into the reader's own."""
    text = clock(at.isoformat(), zone)
    return format_html('<time datetime="{}" data-to="minute">{}</time>', at.astimezone(UTC).isoformat(), text)


@register.filter
def unit_name(unit: str) -> str:
    """ "input tokens"."""
    return UNITS[unit]


@register.simple_tag
def quota_in_words(facts: dict[str, Any], currency: str) -> str:
    """Of an alert's facts (billing.alerts): "1,000 requests per day", "9 credits per day, of the key server (ak-…)"."""
    window = "in all" if facts["window"] == "lifetime" else f"per {facts['window']}"
    said = f"{amount_of(facts['unit'], facts['amount'], currency)} {window}"
    if facts["is_allotment"]:
        said = f"{said}, included"
    return f"{said}, of the {facts['scope']} {facts['whose']}" if facts["whose"] else said


@register.simple_tag
def clock(at: str, zone: str) -> str:
    """ISO 8601 as a mail says it, in the brand's zone: "22 Nov 2026, 00:00 Europe/Zurich"."""
    own = datetime.fromisoformat(at).astimezone(ZoneInfo(zone))
    return f"{own.day} {own:%b %Y, %H:%M} {zone}"
