"""Forms about paying: manners only. What must hold is held by billing and the database."""

from __future__ import annotations

from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from billing import currencies, money
from billing.payment_models import AutoTopUp

USUAL = (10, 25, 50, 100)
WHOLE_FACTOR = 100
"""Where a currency has no decimals, usual amounts are larger: 2,500 yen rather than 25."""


def usual_amounts(currency: str) -> list[int]:
    """In units of the currency."""
    factor = WHOLE_FACTOR if currencies.places(currency) == 0 else 1
    amounts = [amount * factor for amount in USUAL]
    return [amount for amount in amounts if currencies.charge_problem(amount * money.NANOS_PER_UNIT, currency) is None]


def read(text: str) -> int:
    """Nanos, or a form's error."""
    try:
        return money.nanos(text)
    except money.AmountInvalid as error:
        raise ValidationError(f"{str(error)[:1].upper()}{str(error)[1:]}.") from None


class TopUpForm(forms.Form):
    choice = forms.ChoiceField(label="Amount", widget=forms.RadioSelect)
    other = forms.CharField(
        label="Another amount",
        required=False,
        max_length=20,
        widget=forms.TextInput(attrs={"inputmode": "decimal", "autocomplete": "off", "data-chooses": "choice=other"}),
    )
    keeps_card = forms.BooleanField(label="Keep this card for automatic top-ups", required=False)

    def __init__(self, *args: Any, currency: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.currency, self.amount_nanos = currency, 0
        amounts = usual_amounts(currency)
        field = self.fields["choice"]
        assert isinstance(field, forms.ChoiceField)
        shown = [(str(amount), money.display(amount * money.NANOS_PER_UNIT, currency)) for amount in amounts]
        field.choices = [*shown, ("other", "Another amount")]
        field.initial = shown[1][0] if len(shown) > 1 else "other"

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        chosen = data.get("choice")
        if chosen == "other":
            try:
                self.amount_nanos = read(data.get("other") or "")
            except ValidationError as error:
                self.add_error("other", error)
                return data
            problem = currencies.charge_problem(self.amount_nanos, self.currency)
            if problem:
                self.add_error("other", problem)
        elif chosen:
            self.amount_nanos = int(chosen) * money.NANOS_PER_UNIT
            if (data.get("other") or "").strip():  # one of the usual amounts is chosen before anybody chooses
                said = money.display(self.amount_nanos, self.currency)
                self.add_error("other", f"{said} is chosen above. Choose “Another amount” there, or leave this empty.")
        return data


def _amount(label: str, help_text: str) -> forms.CharField:
    widget = forms.TextInput(attrs={"inputmode": "decimal", "autocomplete": "off"})
    return forms.CharField(label=label, max_length=20, widget=widget, help_text=help_text)


class AutoTopUpForm(forms.Form):
    threshold = _amount("When the balance is below", "Looked at every few seconds.")
    amount = _amount("Charge this much", "Of credit.")
    monthly_cap = _amount("At most in a month", "A month of automatic top-ups; your own do not count.")

    def __init__(self, *args: Any, wish: AutoTopUp | None, currency: str, **kwargs: Any) -> None:
        amounts = usual_amounts(currency) or [1]
        usual = {
            "threshold": amounts[0] // 2 or 1,
            "amount": amounts[len(amounts) // 2],
            "monthly_cap": amounts[-1] * 2,
        }
        initial = {name: str(amount) for name, amount in usual.items()}
        if wish is not None:
            initial = {name: money.amount(getattr(wish, f"{name}_nanos")) for name in usual}
        super().__init__(*args, **{**kwargs, "initial": initial})

    def clean_threshold(self) -> int:
        return read(self.cleaned_data["threshold"])

    def clean_amount(self) -> int:
        return read(self.cleaned_data["amount"])

    def clean_monthly_cap(self) -> int:
        return read(self.cleaned_data["monthly_cap"])

    def values(self) -> dict[str, int]:
        return {f"{name}_nanos": self.cleaned_data[name] for name in ("threshold", "amount", "monthly_cap")}

    def take(self, error: ValidationError) -> None:
        """What billing refuses, at the field that it names."""
        if hasattr(error, "error_dict"):
            for name, problems in error.message_dict.items():
                self.add_error(name if name in self.fields else None, problems)
        else:
            self.add_error(None, error)
