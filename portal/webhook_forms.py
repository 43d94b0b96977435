"""Forms about webhooks: manners only. What must hold is held by billing and the database."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from billing import money, webhook_sending
from billing.webhook_models import WebhookEndpoint, WebhookEvent
from portal.payment_forms import read

OVERLAPS = ((24, "goes on signing for a day"), (168, "goes on signing for a week"), (0, "ends now"))


class EndpointForm(forms.Form):
    url = forms.CharField(
        label="Address",
        max_length=webhook_sending.URL_MAX,
        widget=forms.TextInput(
            attrs={"inputmode": "url", "autocomplete": "off", "spellcheck": "false", "placeholder": "https://…"}
        ),
        help_text="Of your own server. Events are posted there as JSON.",
    )
    events = forms.MultipleChoiceField(
        label="Events", choices=WebhookEvent.choices, widget=forms.CheckboxSelectMultiple
    )
    low_balance = forms.CharField(
        label="The balance is low below",
        max_length=20,
        widget=forms.TextInput(attrs={"inputmode": "decimal", "autocomplete": "off"}),
        help_text="Told once each time it falls below.",
    )

    def __init__(self, *args: Any, endpoint: WebhookEndpoint | None = None, **kwargs: Any) -> None:
        initial: dict[str, Any] = {"events": WebhookEvent.values, "low_balance": "5"}
        if endpoint is not None:
            initial = {
                "url": endpoint.url,
                "events": endpoint.events,
                "low_balance": money.amount(endpoint.low_balance_nanos),
            }
        super().__init__(*args, **{**kwargs, "initial": initial})

    def clean_low_balance(self) -> int:
        return read(self.cleaned_data["low_balance"])

    def values(self) -> dict[str, Any]:
        data = self.cleaned_data
        return {"url": data["url"], "events": data["events"], "low_balance_nanos": data["low_balance"]}

    def take(self, error: ValidationError) -> None:
        """What billing refuses, at the field that it names."""
        if hasattr(error, "error_dict"):
            for name, problems in error.message_dict.items():
                self.add_error(name if name in self.fields else None, problems)
        else:
            self.add_error(None, error)


class RotateSecretForm(forms.Form):
    overlap_hours = forms.TypedChoiceField(label="The old secret", choices=OVERLAPS, coerce=int, initial=24)

    def overlap(self) -> timedelta:
        return timedelta(hours=self.cleaned_data["overlap_hours"])
