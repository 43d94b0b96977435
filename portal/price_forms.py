"""Forms of the operators' price book: a row for each model, and from when on."""

from __future__ import annotations

import hashlib
from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from billing import money, prices
from billing.models import Model, Rate

TOKENS = {
    "input": "Input",
    "output": "Output",
    "cache_read": "Cache read",
    "cache_write": "Cache write",
    "reasoning": "Reasoning",
}
APART = {"request": "Request", "image": "Image"}


class PriceRow(forms.Form):
    """Everybody's price of one model, per million tokens, per request and per image. Empty: none of its own. Credits
    stay as they are: they are set on the page of the rate."""

    free = forms.BooleanField(required=False)
    seen = forms.CharField(required=False, widget=forms.HiddenInput)
    """The rate that held when the page was shown."""

    def __init__(self, model: Model, standing: Rate | None, data: Any) -> None:
        prefix, seen = f"m{model.pk}", str(standing.pk) if standing else ""
        self.is_overtaken = data is not None and data.get(f"{prefix}-seen", "") != seen
        """Another price holds since: that one is shown, and nothing is set."""
        given = None if self.is_overtaken else data
        super().__init__(given, prefix=prefix, initial={**_said(standing), "seen": seen})
        self.model, self.standing = model, standing
        self.fields["free"].widget.attrs["aria-label"] = f"Free: {model.slug}"
        for name, label in (TOKENS | APART).items():
            attrs = {"size": 6, "inputmode": "decimal", "aria-label": f"{label}: {model.slug}"}
            widget = forms.TextInput(attrs=attrs)
            self.fields[name] = forms.CharField(required=False, max_length=20, label=label, widget=widget)

    def amounts(self) -> list[Any]:
        return [self[name] for name in TOKENS | APART]

    def terms(self) -> prices.Terms | None:
        """As billing.prices takes them; None where nothing is said, or nothing else than holds. Raises
        ValidationError."""
        given = self.cleaned_data
        if not given["free"] and not any(given[name] for name in TOKENS | APART) and self.standing is None:
            return None
        try:
            apart = {f"{name}_nanos": money.nanos(given[name] or "0") for name in APART}
        except money.AmountInvalid as error:
            raise ValidationError(str(error)) from error
        terms = prices.Terms(
            is_free=given["free"],
            request_nanos=apart["request_nanos"],
            image_nanos=apart["image_nanos"],
            credits_per_request=self.standing.credits_per_request if self.standing else 0,
            credits_per_1000_tokens=self.standing.credits_per_1000_tokens if self.standing else 0,
            per_million={name: given[name] or None for name in TOKENS},
        )
        return None if prices.is_set(model=self.model, **terms) else terms


class BeginForm(forms.Form):
    begins = forms.SplitDateTimeField(
        required=False,
        label="From",
        widget=forms.SplitDateTimeWidget(
            date_attrs={"type": "date", "aria-label": "From, day"},
            time_attrs={"type": "time", "aria-label": "From, time"},
        ),
        help_text="UTC. A day without a time: from its first minute on. Empty: as soon as they are set",
    )
    reason = forms.CharField(
        required=False,
        max_length=200,
        label="Why, where a price looks like a slip",
        widget=forms.TextInput(attrs={"class": "vTextField"}),
    )

    def __init__(self, data: Any) -> None:
        if data and data.get("begins_0") and not data.get("begins_1"):
            data = {**data.dict(), "begins_1": "00:00"}
        super().__init__(data)


def mark(looked_at: Any) -> str:
    """Of what a preview showed: only that is set by the button beneath it, nothing that was typed since."""
    return hashlib.sha256(repr(looked_at).encode()).hexdigest()[:24]


def _said(rate: Rate | None) -> dict[str, Any]:
    if rate is None:
        return {}
    if rate.is_free:
        return {"free": True}
    picos = {name: getattr(rate, f"{name}_picos") for name in TOKENS}
    said = {name: money.price_per_million(value) for name, value in picos.items() if value is not None}
    apart = {name: getattr(rate, f"{name}_nanos") for name in APART}
    return said | {name: money.amount(nanos) for name, nanos in apart.items() if nanos}
