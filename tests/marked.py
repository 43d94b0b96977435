"""One row of any table for a brand, every word of it marked, so that a page which shows one gives itself away.

Rows are made from their fields alone, so a new table needs nothing here, unless a constraint wants to be humoured.
"""

from __future__ import annotations

import itertools
import os
import time
from typing import Any, cast

from django.apps import apps
from django.contrib.postgres.fields import ArrayField
from django.db import IntegrityError, models, transaction
from django.utils import timezone

from billing import call_ids
from keys.caller import SHARDS

_numbers = itertools.count(10_000)
_BY_ID = {
    "brand_id": "keys.Brand",
    "organization_id": "keys.Organization",
    "key_id": "keys.ApiKey",
    "model_id": "billing.Model",
    "engine_id": "billing.Engine",
    "tier_id": "billing.Tier",
    "rate_id": "billing.Rate",
    "posting_id": "billing.Posting",
}
"""Plain numbers that name rows."""
_HUMOURED: dict[str, dict[str, Any]] = {
    "auditevent": {"action": "brand.changed"},
    "brand": {"currency": "USD", "sign_up_grant_nanos": 0, "month_anchor": 1, "base_paths": ["/v1"]},
    "engine": {"base_url": "http://gpu.example/v1"},
    "posting": {"kind": "grant"},
    "postingline": {"amount_nanos": 1},
    "ledgeraccount": {"kind": "wallet"},
    "publication": {"subject": "org"},
    "reversal": {"kind": "refund"},
    "stripeaccount": {"livemode": False, "is_active": True},
    "tierlimit": {"scope": "model"},
    "invoicereversal": {"kind": "refund"},
    "topup": {"currency": "USD", "kind": "checkout"},
    "walletmark": {"left": {}},
}


class Rows:
    """The rows of one brand. `rows[Model]` makes what is missing."""

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self._kept: dict[type[models.Model], models.Model] = {}

    def __getitem__(self, model: type[models.Model]) -> Any:
        if model not in self._kept:
            self._kept[model] = self._make(model)
            if model._meta.model_name == "posting":  # without lines it would not stand
                self.of("billing.PostingLine")
        return self._kept[model]

    def of(self, label: str) -> Any:
        return self[cast("type[models.Model]", apps.get_model(label))]

    def _make(self, model: type[models.Model]) -> models.Model:
        fixed = _HUMOURED.get(model._meta.model_name or "", {})
        if model._meta.model_name == "journalshard":
            fixed = {"shard": next(_numbers) % SHARDS}
        values = {}
        for field in model._meta.concrete_fields:
            if field.name in fixed:
                values[field.name] = fixed[field.name]
            elif not isinstance(field, models.AutoField | models.GeneratedField):
                value = self._value(field)
                if value is not None:
                    values[field.name] = value
        try:
            with transaction.atomic():
                row = model._default_manager.create(**values)
        except IntegrityError:  # more than the table lets stand together: what must be there, then
            optional = {field.name for field in model._meta.concrete_fields if field.null} - fixed.keys()
            row = model._default_manager.create(**{name: values[name] for name in values.keys() - optional})
        if model._meta.model_name == "postingline":  # lines sum to zero
            other = apps.get_model("billing.LedgerAccount").objects.create(brand=self.of("keys.Brand"), kind="revenue")
            model._default_manager.create(**values | {"account": other, "amount_nanos": -1})
        return row

    def _value(self, field: Any) -> Any:
        if field.is_relation:
            return None if field.related_model is field.model else self[field.related_model]
        if field.name in _BY_ID:
            return self.of(_BY_ID[field.name]).pk
        if field.choices and not isinstance(field, ArrayField):
            return None if field.has_default() or field.has_db_default() else field.choices[0][0]
        if isinstance(field, models.CharField | models.TextField):
            return self._text(field)
        if field.null or field.has_default() or field.has_db_default():
            return None
        return _plain(field)

    def _text(self, field: Any) -> str | None:
        if (field.has_default() and field.get_default()) or field.max_length in range(1, len(self.mark) + 6):
            return None if field.has_default() or field.blank else self.mark[: field.max_length]
        text = f"{self.mark}-{next(_numbers)}"
        if isinstance(field, models.EmailField):
            return f"{text}@example.com"
        return f"https://{text}.example/" if isinstance(field, models.URLField) or "url" in field.name else text


def _plain(field: Any) -> Any:
    kinds: list[tuple[Any, Any]] = [
        (models.UUIDField, lambda: call_ids.mint(int(time.time() * 1000), os.urandom(10))),
        (models.DateTimeField, timezone.now),
        (models.DateField, lambda: timezone.now().date()),
        (models.BooleanField, lambda: False),
        (models.JSONField, dict),
        (ArrayField, list),
        (models.BinaryField, lambda: os.urandom(32)),
        (models.GenericIPAddressField, lambda: "192.0.2.7"),
        (models.SmallIntegerField, lambda: 50),
        (models.PositiveSmallIntegerField, lambda: 50),
        (models.IntegerField, lambda: next(_numbers)),
    ]
    for kind, value in kinds:
        if isinstance(field, kind):
            return value()
    raise AssertionError(f"tests/marked.py knows no value for {field}")
