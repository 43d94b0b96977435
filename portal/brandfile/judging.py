"""What one import finds wrong and what it changes: all problems are collected, so that a person mends a file once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import models, transaction

from billing import money


class Judge:
    def __init__(self, actor: str, confirmed: str = "") -> None:
        """`confirmed`: why prices that look like slips are meant."""
        self.actor = actor
        self.confirmed = confirmed
        self.problems: list[str] = []
        self.changes: list[str] = []

    def wrong(self, path: str, reason: str) -> None:
        self.problems.append(f"{path}: {reason}")

    @contextmanager
    def writing(self, path: str, keys: Mapping[str, str] | None = None) -> Iterator[None]:
        """What a writer refuses becomes problems below `path`; what it began is undone, and the import goes on looking.
        `keys`: a row's field → its key in the file, where they differ."""
        try:
            with transaction.atomic():
                yield
        except ValidationError as error:
            for name, texts in _by_field(error).items():
                key = (keys or {}).get(name, name)
                where = ".".join(part for part in (path, key) if part)
                self.problems += [f"{where}: {text}" if where else text for text in texts]

    def nanos(self, path: str, text: Any) -> int:
        try:
            return money.nanos(text)
        except money.AmountInvalid as error:
            self.wrong(path, str(error))
            return 0

    def changed(self, subject: str, row: models.Model, values: Mapping[str, Any]) -> bool:
        """Whether the row differs from `values`; which fields do is told."""
        differing = [name for name, value in values.items() if getattr(row, name) != value]
        if differing:
            self.changes.append(f"{subject}: {', '.join(differing)}")
        return bool(differing)


def _by_field(error: ValidationError) -> dict[str, list[str]]:
    if not hasattr(error, "error_dict"):
        return {"": error.messages}
    return {"" if name == NON_FIELD_ERRORS else name: texts for name, texts in error.message_dict.items()}
