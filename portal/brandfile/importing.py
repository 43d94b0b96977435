"""BrandFile → rows, through the writers that people use, so that everything is checked, audited and published alike.

One transaction: either the brand becomes what the file says, or nothing changes. What is there already is not written
again, so importing twice changes nothing. Models that the file does not name are retired; tiers that it does not name
are refused, because customers stand on them.
"""

from __future__ import annotations

from typing import Any

from django.db import transaction

from billing import engines
from billing.models import Model
from keys import brands
from keys.models import Brand
from portal.brandfile import catalogue, ladder
from portal.brandfile.judging import Judge
from portal.brandfile.structure import BrandFile, BrandFileWrong

APART = frozenset({"slug", "currency", "sign_up_grant", "engines", "models", "tiers"})
BRAND_COLUMNS = tuple(name for name in BrandFile.__struct_fields__ if name not in APART)
"""Keys that are fields of Brand as they stand."""


def import_brand(file: BrandFile, *, actor: str, confirmed: str = "") -> list[str]:
    """What was changed, in words; empty when the brand was so already. Raises BrandFileWrong with every problem found,
    and then nothing is changed. `confirmed`: why prices that look like slips are meant."""
    judge = Judge(actor, confirmed)
    with transaction.atomic():
        named = {*file.engines, *(name for model in file.models for name in model.routes)}
        standing = engines.locked_by_name(named)  # before the brand: the house's order of locks
        brand = _brand(file, judge)
        if brand is not None:
            known = catalogue.set_engines(file, brand, standing, judge)
            catalogue.set_models(file, brand, known, judge)
            ladder.set_tiers(file, brand, judge)
            _check_default_model(file, judge)
        if judge.problems:
            raise BrandFileWrong(judge.problems)
    return judge.changes


def _brand(file: BrandFile, judge: Judge) -> Brand | None:
    values: dict[str, Any] = {name: getattr(file, name) for name in BRAND_COLUMNS}
    values["sign_up_grant_nanos"] = judge.nanos("sign_up_grant", file.sign_up_grant)
    brand = Brand.objects.filter(slug=file.slug).first()
    with judge.writing("", {"sign_up_grant_nanos": "sign_up_grant"}):
        if brand is None:
            brand = brands.create(slug=file.slug, currency=file.currency, actor=judge.actor, **values)
            judge.changes.append(f"brand {brand.slug}: new")
            return brand
        if brand.currency != file.currency:
            judge.wrong("currency", f"books are kept in {brand.currency}, and that stays")
        if judge.changed(f"brand {brand.slug}", brand, values):
            brands.change(brand=brand, actor=judge.actor, **values)
    return brand


def _check_default_model(file: BrandFile, judge: Judge) -> None:
    if not file.default_model:
        return
    served = Model.objects.filter(brand__slug=file.slug).exclude(state=Model.State.RETIRED)
    names = {name for model in served for name in (model.slug, *model.aliases)}
    names |= {entry.id for entry in file.models if entry.state != "retired"}  # refused ones are told already
    if file.default_model not in names:
        judge.wrong("default_model", f"{file.default_model!r} is no model of this brand that can be called")
