"""Forms: manners only. What must hold is held by the domain and the database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from allauth.account import forms as allauth
from allauth.account.adapter import get_adapter
from allauth.mfa.base import forms as allauth_mfa
from allauth.mfa.totp import forms as allauth_totp
from django import forms
from django.core.exceptions import ValidationError
from django.http import HttpRequest

from billing import limits, money
from billing.models import Model
from keys import access, issuing, mailboxes
from keys.models import ApiKey, Brand, Organization, Role, Scope, ServiceAccount
from portal import throttle

PASSWORD_RULE = "At least 8 characters, and not a common password."  # noqa: S105


class Plain:
    """allauth's fields without placeholders (a label says it) and with the password rule as one sentence."""

    fields: dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, field in self.fields.items():
            field.widget.attrs.pop("placeholder", None)
            field.help_text = PASSWORD_RULE if name == "password1" else ""
            if name in {"login", "email"}:
                field.label = "E-mail address"


def kept(email: str) -> str:
    """The address, where the brand of the page takes it."""
    brand = get_adapter().request.brand
    if mailboxes.is_needlessly_quoted(email):
        raise ValidationError("Please write the address without quotation marks: mail reaches it just as well.")
    if brand.disposable_mail == Brand.DisposableMail.REFUSED and mailboxes.is_disposable(email):
        raise ValidationError(
            f"{email.rpartition('@')[2]} gives mailboxes to be thrown away. Please use an address that you keep: "
            "bills, warnings and new passwords go there."
        )
    return email


class SignInForm(Plain, allauth.LoginForm):  # type: ignore[misc]
    pass


class NewAccountForm(forms.Form):
    name = forms.CharField(max_length=100, label="Name of the account", help_text="A company, a team or a project.")


class SignUpForm(Plain, allauth.SignupForm):  # type: ignore[misc]
    def clean_email(self) -> str:
        return kept(super().clean_email())

    def try_save(self, request: HttpRequest) -> Any:
        throttle.count_sign_up(request)
        return super().try_save(request)


class ResetPasswordForm(Plain, allauth.ResetPasswordForm):  # type: ignore[misc]
    pass


class NewPasswordForm(Plain, allauth.ResetPasswordKeyForm):  # type: ignore[misc]
    pass


class ChangePasswordForm(Plain, allauth.ChangePasswordForm):  # type: ignore[misc]
    pass


class EmailForm(Plain, allauth.AddEmailForm):  # type: ignore[misc]
    def clean_email(self) -> str:
        return kept(super().clean_email())


class ReauthenticateForm(Plain, allauth.ReauthenticateForm):  # type: ignore[misc]
    pass


class SecondFactorForm(Plain, allauth_mfa.AuthenticateForm):  # type: ignore[misc]
    pass


class ConfirmByCodeForm(Plain, allauth_mfa.ReauthenticateForm):  # type: ignore[misc]
    pass


class EnrolForm(Plain, allauth_totp.ActivateTOTPForm):  # type: ignore[misc]
    pass


LIFETIMES = [("", "Never"), ("7", "In 7 days"), ("30", "In 30 days"), ("90", "In 90 days"), ("365", "In a year")]
OVERLAPS = [
    (0, "Stops at once"),
    (1, "Works for one more hour"),
    (24, "Works for one more day"),
    (168, "Works for one more week"),
]
SCOPE_LABELS = {
    Scope.CHAT: "Chat completions",
    Scope.COMPLETIONS: "Completions",
    Scope.RESPONSES: "Responses",
    Scope.EMBEDDINGS: "Embeddings",
    Scope.IMAGES: "Images",
    Scope.MODELS: "List models",
    Scope.USAGE: "Read usage",
}


class OfSomebody(forms.Form):
    """Whose a key is: the account's, or a service account's whose role may have such a key."""

    service_account = forms.ChoiceField(
        label="Belongs to", required=False, help_text="A service account's keys end when it is disabled."
    )

    def offer(self, organization: Organization, roles: Iterable[str]) -> None:
        live = organization.service_accounts.filter(disabled_at=None, role__in=[*roles]).order_by("name")
        self.service_accounts = {row.public_id: row for row in live}
        field = self.fields["service_account"]
        assert isinstance(field, forms.ChoiceField)
        field.choices = [("", "The account"), *((name, row.name) for name, row in self.service_accounts.items())]

    @property
    def owner(self) -> ServiceAccount | None:
        return self.service_accounts.get(self.cleaned_data["service_account"])


MODES = [
    (ApiKey.Mode.LIVE, "Live: calls models, and is charged"),
    (ApiKey.Mode.TEST, "Test: the same answers in form, made up, for nothing"),
]


class KeyRules(forms.Form):
    """What a key may do."""

    name = forms.CharField(max_length=100, help_text="Where the key will be used, e.g. “production server”.")
    scopes = forms.MultipleChoiceField(label="May use", widget=forms.CheckboxSelectMultiple)
    models = forms.MultipleChoiceField(
        required=False,
        label="Only these models",
        widget=forms.CheckboxSelectMultiple,
        help_text="Choose none to allow every model of your plan, also those added later.",
    )
    expires_in = forms.ChoiceField(label="Expires", choices=LIFETIMES, required=False)
    cidrs = forms.CharField(
        label="Allowed networks",
        required=False,
        max_length=5_000,
        widget=forms.Textarea(attrs={"rows": 2, "placeholder": "203.0.113.0/24", "spellcheck": "false"}),
        help_text="One address or network per line. Empty allows every address.",
    )
    requests_per_minute = forms.IntegerField(label="Requests per minute", required=False, min_value=1, max_value=10**9)
    tokens_per_day = forms.IntegerField(label="Tokens per day", required=False, min_value=1, max_value=10**15)
    spend_per_month = forms.CharField(label="Spend per month", required=False, max_length=30)
    LIMITS = {
        "requests_per_minute": ("requests", "minute"),
        "tokens_per_day": ("tokens", "day"),
        "spend_per_month": ("nanos", "month"),
    }

    def __init__(self, *args: Any, organization: Organization, models: Sequence[Model], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.currency = organization.brand.currency
        field = self.fields["models"]
        assert isinstance(field, forms.MultipleChoiceField)
        field.choices = [(model.slug, model.slug) for model in models]
        scopes, allowed = self.fields["scopes"], issuing.scopes_of(organization.brand)
        assert isinstance(scopes, forms.MultipleChoiceField)
        scopes.choices = [(scope, label) for scope, label in SCOPE_LABELS.items() if scope in allowed]
        scopes.initial = list(allowed)

    def clean_spend_per_month(self) -> int | None:
        given = self.cleaned_data["spend_per_month"].strip()
        if not given:
            return None
        try:
            return money.nanos(given)
        except money.AmountInvalid as error:
            raise forms.ValidationError(f"{str(error)[:1].upper()}{str(error)[1:]}.") from None

    def values(self, now: datetime) -> dict[str, Any]:
        data = self.cleaned_data
        given = [{"unit": unit, "window": window, "amount": data[name]} for name, (unit, window) in self.LIMITS.items()]
        return {
            "name": data["name"],
            "scopes": data["scopes"],
            "model_slugs": data["models"] or None,
            "cidrs": data["cidrs"].split(),
            "limits": limits.normalised_key_limits([limit for limit in given if limit["amount"] is not None]),
            "expires_at": self.expiry(data["expires_in"], now),
        }

    def expiry(self, chosen: str, now: datetime) -> datetime | None:
        return now + timedelta(days=int(chosen)) if chosen else None

    def take(self, error: ValidationError) -> None:
        """Show what the domain refused beside the field it is about."""
        found = error.message_dict if hasattr(error, "error_dict") else {"__all__": error.messages}
        for name, texts in found.items():
            for text in texts:
                self.add_error(name if name in self.fields else None, text)


class KeyForm(OfSomebody, KeyRules):
    """A new key. `values` are issuing.issue's arguments."""

    mode = forms.ChoiceField(label="Kind", choices=MODES, required=False, initial=ApiKey.Mode.LIVE)

    def __init__(self, *args: Any, organization: Organization, models: Sequence[Model], **kwargs: Any) -> None:
        super().__init__(*args, organization=organization, models=models, **kwargs)
        self.offer(organization, access.AT_LEAST[Role.DEVELOPER])

    def values(self, now: datetime) -> dict[str, Any]:
        mode = ApiKey.Mode(self.cleaned_data["mode"] or ApiKey.Mode.LIVE)
        return super().values(now) | {"service_account": self.owner, "mode": mode}


class KeyChangeForm(KeyRules):
    """A key from now on. `values` are issuing.change's arguments: what the form has no field for stays, as limits of
    other windows and models that are offered no longer."""

    KEEP = "keep"
    version = forms.CharField(widget=forms.HiddenInput, max_length=20)

    def __init__(self, *args: Any, key: ApiKey, models: Sequence[Model], **kwargs: Any) -> None:
        self.key = key
        offered = {model.slug for model in models}
        self.unoffered = [slug for slug in key.model_slugs or [] if slug not in offered]
        super().__init__(*args, organization=key.organization, models=models, initial=self._initial(), **kwargs)
        expires = self.fields["expires_in"]
        assert isinstance(expires, forms.ChoiceField)
        expires.choices = [(self.KEEP, self._until()), *LIFETIMES] if key.expires_at else LIFETIMES

    @property
    def other_limits(self) -> list[dict[str, Any]]:
        known = self.LIMITS.values()
        return [limit for limit in self.key.limits if (limit["unit"], limit["window"]) not in known]

    def clean_version(self) -> str:
        given: str = self.cleaned_data["version"]
        if given != str(self.key.version):
            raise forms.ValidationError("Somebody changed this key meanwhile. Look at it again, then change it.")
        return given

    def values(self, now: datetime) -> dict[str, Any]:
        values = super().values(now)
        values["limits"] += self.other_limits
        if values["model_slugs"] or self.unoffered:
            values["model_slugs"] = [*(values["model_slugs"] or []), *self.unoffered]
        return values

    def expiry(self, chosen: str, now: datetime) -> datetime | None:
        return self.key.expires_at if chosen == self.KEEP else super().expiry(chosen, now)

    def _initial(self) -> dict[str, Any]:
        key = self.key
        amounts = {(limit["unit"], limit["window"]): limit["amount"] for limit in key.limits}
        found = {name: amounts.get(kind) for name, kind in self.LIMITS.items()}
        spend = found["spend_per_month"]
        return found | {
            "spend_per_month": "" if spend is None else money.decimal(spend, 9, places_min=2),
            "version": str(key.version),
            "name": key.name,
            "scopes": key.scopes,
            "models": [slug for slug in key.model_slugs or [] if slug not in self.unoffered],
            "cidrs": "\n".join(key.cidrs),
            "expires_in": self.KEEP if key.expires_at else "",
        }

    def _until(self) -> str:
        at = self.key.expires_at
        assert at is not None
        return f"As it is: {at.day} {at:%b %Y, %H:%M} UTC"


class ManagementKeyForm(OfSomebody):
    """`values` are issuing.issue_for_management's arguments."""

    name = forms.CharField(max_length=100, help_text="Which program will manage the account with it.")
    role = forms.ChoiceField(label="May do what this role may", initial=Role.ADMIN)
    expires_in = forms.ChoiceField(label="Expires", choices=LIFETIMES, required=False, initial="90")
    cidrs = forms.CharField(
        label="Allowed networks",
        required=False,
        max_length=5_000,
        widget=forms.Textarea(attrs={"rows": 2, "placeholder": "203.0.113.0/24", "spellcheck": "false"}),
        help_text="One address or network per line. Empty allows every address.",
    )

    def __init__(self, *args: Any, organization: Organization, roles: Sequence[Role], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.offer(organization, roles)
        role = self.fields["role"]
        assert isinstance(role, forms.ChoiceField)
        role.choices = [(each.value, each.label) for each in roles]

    def values(self, now: datetime) -> dict[str, Any]:
        data = self.cleaned_data
        return {
            "name": data["name"],
            "role": Role(data["role"]),
            "service_account": self.owner,
            "cidrs": data["cidrs"].split(),
            "expires_at": now + timedelta(days=int(data["expires_in"])) if data["expires_in"] else None,
        }

    def take(self, error: ValidationError) -> None:
        for name, texts in error.message_dict.items():
            self.add_error(name if name in self.fields else None, texts)


class ServiceAccountForm(forms.Form):
    name = forms.CharField(max_length=100)
    role = forms.ChoiceField(initial=Role.DEVELOPER)

    def __init__(self, *args: Any, roles: Sequence[Role], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        role = self.fields["role"]
        assert isinstance(role, forms.ChoiceField)
        role.choices = [(each.value, each.label) for each in roles]


class AccountForm(forms.Form):
    name = forms.CharField(max_length=100)


class InvitationForm(forms.Form):
    email = forms.EmailField(label="E-mail address", max_length=254)
    role = forms.ChoiceField(initial=Role.DEVELOPER)

    def __init__(self, *args: Any, roles: Sequence[Role], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        role = self.fields["role"]
        assert isinstance(role, forms.ChoiceField)
        role.choices = [(each.value, each.label) for each in roles]


class RotateForm(forms.Form):
    overlap_hours = forms.TypedChoiceField(label="The old key", choices=OVERLAPS, coerce=int, initial=24)


class PromoForm(forms.Form):
    code = forms.CharField(
        max_length=60, widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false", "autofocus": True})
    )


class AlertsForm(forms.Form):
    """At which shares of which limits an account is written to. `choices`: limits by name, in words."""

    percents = forms.CharField(
        label="Write at",
        required=False,
        max_length=60,
        widget=forms.TextInput(attrs={"inputmode": "numeric", "placeholder": "80, 100", "autocomplete": "off"}),
        help_text="Percent of a limit, from 1 to 100, separated by commas. Empty: never.",
    )
    limits = forms.MultipleChoiceField(
        label="Of these limits",
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="Once per limit, day or month, and percentage, to owners, admins and billing.",
    )

    def __init__(self, *args: Any, choices: Sequence[tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["limits"]
        assert isinstance(field, forms.MultipleChoiceField)
        field.choices = list(choices)

    def clean_percents(self) -> list[int]:
        texts = self.cleaned_data["percents"].replace("%", " ").replace(",", " ").split()
        if not all(text.isascii() and text.isdigit() and len(text) <= 3 for text in texts):
            raise forms.ValidationError("Whole numbers from 1 to 100, separated by commas.")
        return [int(text) for text in texts]

    def take(self, error: ValidationError) -> None:
        for name, texts in error.message_dict.items():
            self.add_error(name if name in self.fields else None, texts)
