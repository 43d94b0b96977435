"""What this room's pages have in common: writers that may still refuse, amounts as text, lists too long to count."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, cast

from django import forms
from django.contrib import messages
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.core.paginator import Paginator
from django.db import DataError
from django.forms import BaseForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from billing import money
from keys.admin import Page
from keys.models import Organization

COUNTED_MAX = 10_000
"""More rows than this nobody pages through, and counting them all would read the table."""


class Written(Page):
    """Rows that a writer of the room saves. It may refuse what the form let pass, because somebody else was faster."""

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return super().changeform_view(request, *args, **kwargs)
        except ValidationError as error:  # the view's transaction is rolled back, its log entry too
            said = " ".join(error.messages)
        except DataError:  # of the sums that an amount moves
            said = "With such an amount a sum would be larger than the books can hold."
        self.message_user(request, f"Not saved. {said}", messages.ERROR)
        return redirect(request.get_full_path())

    def each(self, request: HttpRequest, what: str, rows: Iterable[Any], write: Callable[[Any], Any]) -> None:
        """An action: `write` every row; those that the writer refuses are named."""
        changed = []
        for row in rows:
            try:
                changed.append(write(row))
            except ValidationError as error:
                self.message_user(request, f"{row}: {' '.join(error.messages)}", messages.ERROR)
        if changed:
            versions = [
                version for answer in changed for version in (answer if isinstance(answer, tuple) else (answer,))
            ]
            self.done(request, what, versions)


class Bounded(Paginator):  # type: ignore[type-arg]
    @cached_property
    def count(self) -> int:
        return int(cast(Any, self.object_list).order_by()[:COUNTED_MAX].count())


class NanosField(forms.CharField):
    """Currency units as people write them ("0.01"); nanos inside, exactly."""

    def prepare_value(self, value: Any) -> Any:
        return money.amount(value) if isinstance(value, int) else value

    def to_python(self, value: Any) -> Any:
        text = str(super().to_python(value) or "").strip()
        try:
            return money.nanos(text) if text else 0
        except money.AmountInvalid as error:
            raise ValidationError(str(error)) from None

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return bool(self.to_python(data) != (initial or 0))
        except ValidationError:
            return True


class OptionalNanosField(NanosField):
    """Empty is None: not said, which is not nothing."""

    def to_python(self, value: Any) -> Any:
        return super().to_python(value) if str(value or "").strip() else None

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return bool(self.to_python(data) != initial)
        except ValidationError:
            return True


def say(form: BaseForm, problems: dict[str, str]) -> None:
    """Each problem at its field, or above the form where it has none."""
    for name, problem in problems.items():
        form.add_error(name if name in form.fields else None, problem)


def say_error(form: BaseForm, error: ValidationError) -> None:
    """What a writer would answer, at the fields that it names."""
    if not hasattr(error, "error_dict"):
        form.add_error(None, error)
        return
    for name, texts in error.message_dict.items():
        known = name.removesuffix("_picos") if name != NON_FIELD_ERRORS else None
        form.add_error(known if known in form.fields else None, ValidationError(texts))


def money_of(nanos: int | None, currency: str) -> str:
    return "" if nanos is None else money.display(nanos, currency)


def organization_ids(public_id: str) -> list[int]:
    return list(Organization.objects.filter(public_id=public_id).values_list("id", flat=True))
