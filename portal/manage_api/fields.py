"""Fields that take what the schema says and nothing that merely resembles it: no text for a number, no number for a
truth, no name that means nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.utils import timezone
from rest_framework import serializers
from rest_framework.fields import empty

NANOS_MAX = 2**62
DATETIME = "RFC 3339, UTC"


class Text(serializers.CharField):
    default_error_messages = {"unreadable": "Control characters are not taken."}

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"trim_whitespace": False, "min_length": 1, "max_length": 200, **options})

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class Whole(serializers.IntegerField):
    def to_internal_value(self, data: Any) -> int:
        if type(data) is not int:
            self.fail("invalid")
        return super().to_internal_value(data)


class Truth(serializers.BooleanField):
    def to_internal_value(self, data: Any) -> bool:
        if type(data) is not bool:
            self.fail("invalid", input=data)
        return data


class Choice(serializers.ChoiceField):
    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, str):
            self.fail("invalid_choice", input=data)
        return super().to_internal_value(data)


class Ahead(serializers.DateTimeField):
    """A moment that has not come yet. What is none is refused as a value: a calendar is beyond a schema."""

    default_error_messages = {
        "unreadable": "Not a moment of RFC 3339 with a time zone, from the year 2000 to 9000.",
        "passed": "This moment has passed.",
    }

    def to_internal_value(self, value: Any) -> Any:
        if not isinstance(value, str):
            self.fail("invalid", format=DATETIME)
        try:
            found = super().to_internal_value(value.upper())
        except (serializers.ValidationError, OverflowError):
            self.fail("unreadable")
        if not 2000 <= found.year <= 9000:
            self.fail("unreadable")
        if found <= timezone.now():
            self.fail("passed")
        return found

    def enforce_timezone(self, value: Any) -> Any:
        if value.tzinfo is None:
            self.fail("unreadable")
        return super().enforce_timezone(value)


class Number(serializers.IntegerField):
    """A whole number in a query string: digits of ASCII, and nothing that Python reads as some."""

    def to_internal_value(self, data: Any) -> int:
        if not (isinstance(data, str) and data.isascii() and data.isdigit()):
            self.fail("invalid")
        return super().to_internal_value(data)


class Day(serializers.DateField):
    """In a query string."""

    default_error_messages = {"unreadable": "A day from the year 2000 to 9000."}

    def to_internal_value(self, value: Any) -> Any:
        found = super().to_internal_value(value)
        if not 2000 <= found.year <= 9000:
            self.fail("unreadable")
        return found


class Strict:
    """For serializers of bodies and of query strings."""

    fields: Any
    initial_data: Any

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            unknown = [name for name in data if name not in self.fields]
            wrong: dict[str, list[str]] = {str(name): ["There is no such field."] for name in unknown[:20]}
            if wrong:
                raise serializers.ValidationError(wrong)
        return super().to_internal_value(data)  # type: ignore[misc]


class Word(serializers.CharField):
    """Text in a query string, as it stands."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"trim_whitespace": False, "min_length": 1, "max_length": 200, "required": False, **options})


class Wish(Strict, serializers.Serializer[Any]):
    # A body. EXAMPLE is shown in the documentation and held against the schema by a test. What is written as a
    # docstring of one of these would stand in the schema.
    EXAMPLE: dict[str, Any] = {}


class Asked(Strict, serializers.Serializer[Any]):
    # A query string. Values come as text, so DRF's own fields read them.
    pass


class Shape(serializers.Serializer[Any]):
    # What an answer holds: plain values, from a dict.
    EXAMPLE: dict[str, Any] = {}

    def run_validation(self, data: Any = empty) -> Any:
        raise TypeError("a shape is for answers only")


class EmptyWish(Wish):
    # For acts that need no more than their address.
    pass


def utc(**options: Any) -> serializers.DateTimeField:
    return serializers.DateTimeField(**options)


def nanos(**options: Any) -> serializers.IntegerField:
    return serializers.IntegerField(help_text="Nanos: 10⁻⁹ of the account's currency unit", **options)


def nanos_wish(**options: Any) -> Whole:
    bounds = {"min_value": 0, "max_value": NANOS_MAX, **options}
    return Whole(help_text="Nanos: 10⁻⁹ of the account's currency unit", **bounds)
