"""Forms of the operators' pages about engines: one to be asked, and what is to become of each model it serves."""

from __future__ import annotations

import re
from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from billing.models import Engine
from keys.models import Brand
from proxy.probe import FoundModel

_IN_A_LINE = {"class": "vTextField"}


class AddressForm(forms.Form):
    url = forms.CharField(
        label="Address",
        max_length=200,
        widget=forms.TextInput(attrs={**_IN_A_LINE, "placeholder": "http://gpu-1:8000/v1", "spellcheck": "false"}),
        help_text="What an OpenAI SDK would take as base_url",
    )
    api_key = forms.CharField(
        label="API key",
        required=False,
        max_length=400,
        widget=forms.PasswordInput(attrs={**_IN_A_LINE, "autocomplete": "new-password"}),
        help_text="The engine's own, where it wants one. Kept sealed and never shown again",
    )
    name = forms.SlugField(
        required=False,
        max_length=60,
        widget=forms.TextInput(attrs=_IN_A_LINE),
        help_text="What to call it here; empty: made from its address",
    )
    brand = forms.ModelChoiceField(
        Brand.objects.order_by("name"), empty_label=None, help_text="Sells the models that are drafted"
    )
    is_shared = forms.BooleanField(
        label="Every brand may use it", required=False, help_text="Otherwise only that brand's models"
    )
    models = forms.CharField(
        label="Only these models",
        required=False,
        widget=forms.TextInput(attrs={**_IN_A_LINE, "spellcheck": "false"}),
        help_text="As the engine names them, with commas between; empty: all, up to 16",
    )
    kind = forms.ChoiceField(choices=[("", "Found out by asking"), *Engine.Kind.choices], required=False)
    any_certificate = forms.BooleanField(
        label="Take any TLS certificate", required=False, help_text="Of an engine with one that nobody signed"
    )

    def clean_models(self) -> list[str]:
        return [name for name in re.split(r"[,\s]+", self.cleaned_data["models"]) if name]


class DraftForm(forms.Form):
    """One model that was found. `found` stands beside it."""

    take = forms.BooleanField(label="Draft it", required=False)
    slug = forms.CharField(label="Sold as", max_length=120, required=False)
    context_length = forms.IntegerField(label="Context, tokens", min_value=1, max_value=2**31 - 1, required=False)
    input = forms.CharField(label="Input price", max_length=20, required=False)
    output = forms.CharField(label="Output price", max_length=20, required=False)

    def __init__(self, found: FoundModel, data: Any, *, prefix: str) -> None:
        usual = {"take": True, "slug": found.name_there, "context_length": found.context_length or None}
        super().__init__(data, initial=usual, prefix=prefix)
        self.found = found
        for field in self.fields.values():
            field.widget.attrs["aria-label"] = f"{field.label}: {found.name_there}"
        for name in ("input", "output"):
            self.fields[name].widget.attrs.update(size=7, placeholder="–", inputmode="decimal")
        self.fields["context_length"].widget.attrs["placeholder"] = "not said"

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if cleaned.get("take"):
            if not cleaned.get("slug"):
                self.add_error("slug", "Under which name is it sold?")
            if bool(cleaned.get("input")) != bool(cleaned.get("output")):
                raise ValidationError("Give the price of input and of output, or neither yet.")
        return cleaned

    @property
    def prices(self) -> dict[str, str | None]:
        return {name: self.cleaned_data[name] or None for name in ("input", "output")}
