"""Forms: manners only. What must hold is held by the domain and the database."""

from __future__ import annotations

from typing import Any

from allauth.account import forms as allauth

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


class SignInForm(Plain, allauth.LoginForm):  # type: ignore[misc]
    pass


class SignUpForm(Plain, allauth.SignupForm):  # type: ignore[misc]
    pass


class ResetPasswordForm(Plain, allauth.ResetPasswordForm):  # type: ignore[misc]
    pass


class NewPasswordForm(Plain, allauth.ResetPasswordKeyForm):  # type: ignore[misc]
    pass


class ChangePasswordForm(Plain, allauth.ChangePasswordForm):  # type: ignore[misc]
    pass


class EmailForm(Plain, allauth.AddEmailForm):  # type: ignore[misc]
    pass


class ReauthenticateForm(Plain, allauth.ReauthenticateForm):  # type: ignore[misc]
    pass
