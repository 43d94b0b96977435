"""Whatever a brand file says: importing it, exporting it and importing that again are the same brand."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import money
from keys.models import Brand, Scheme, Scope
from portal.brandfile.exporting import as_text, brand_file
from portal.brandfile.importing import import_brand
from portal.brandfile.reading import read
from portal.brandfile.structure import BrandFile, EngineEntry, LimitEntry, ModelEntry, RatesEntry, TierEntry

ACTOR = "test"
IDS = ("small", "labs/large-2.0", "Große", "x:y@1")
pytestmark = pytest.mark.django_db

words = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=30).map(str.strip)
"""Anything that people may type, quotes and backslashes too."""
prices = st.integers(1, 10**9).map(money.price_per_million)
amounts = st.integers(0, 10**12).map(money.amount)
engines = st.builds(
    EngineEntry,
    kind=st.sampled_from(["vllm", "openai", "llamacpp"]),
    base_url=st.sampled_from(["http://gpu:8000/v1", "https://[::1]/v1/"]),
    only_here=st.booleans(),
    max_in_flight=st.integers(1, 1000),
    cost_per_hour=amounts,
    capabilities=st.dictionaries(st.sampled_from(["reports_cached", "sends_done"]), st.booleans()),
)
priced = st.builds(
    RatesEntry,
    input=prices,
    output=prices,
    cache_read=st.none() | prices,
    reasoning=st.none() | prices,
    request=amounts,
    image=amounts,
    credits_per_request=st.integers(0, 9),
    credits_per_1000_tokens=st.integers(0, 9),
)
free = st.builds(RatesEntry, free=st.just(True), credits_per_request=st.integers(0, 9))


@st.composite
def models(draw: Any, slug: str, named: list[str]) -> ModelEntry:
    context = draw(st.integers(1, 10**6))
    longest = draw(st.none() | st.integers(1, context))
    return ModelEntry(
        id=slug,
        name=draw(words),
        description=draw(words),
        aliases=draw(st.sampled_from([[], [f"{slug}-latest"]])),
        released_on=draw(st.none() | st.dates(date(2000, 1, 1))),
        context_length=context,
        max_completion_tokens=longest,
        default_max_tokens=draw(st.none() | st.integers(1, longest or context)),
        modalities=draw(st.sampled_from([{}, {"image_url": 1600}])),
        features=draw(st.lists(st.sampled_from(["chat", "tools"]), unique=True)),
        is_reasoning=draw(st.booleans()),
        state=draw(st.sampled_from(["live", "maintenance", "retired"])),
        position=draw(st.none() | st.integers(0, 50)),
        rates=draw(st.none() | priced | free),
        routes=dict.fromkeys(draw(st.lists(st.sampled_from(named), unique=True)) if named else [], slug),
    )


@st.composite
def tiers(draw: Any, slug: str, rank: int, ids: list[str]) -> TierEntry:
    payer = draw(st.sampled_from(["included", "prepaid", "included_then_prepaid"]))
    found: dict[tuple[str, ...], LimitEntry] = {}
    for unit in draw(st.lists(st.sampled_from(["requests", "tokens", "credits", "nanos", "concurrent"]), max_size=4)):
        if unit == "nanos" and payer == "included":
            continue
        windows = [""] if unit == "concurrent" else ["minute", "day", "month", "lifetime"]
        window: Any = draw(st.sampled_from(windows))
        model = draw(st.sampled_from(ids)) if ids and draw(st.booleans()) else ""
        found[unit, window, model] = LimitEntry(
            unit=unit,
            window=window,
            scope="model" if model else draw(st.sampled_from(["key", "organization", "model"])),
            model=model,
            amount=draw(amounts) if unit == "nanos" else draw(st.integers(0, 2**53 - 1)),
            is_allotment=unit == "tokens" and window != "minute" and payer == "included_then_prepaid",
            is_shadow=unit != "concurrent" and draw(st.booleans()),
        )
    is_listed, monthly_price = draw(st.booleans()), draw(st.none() | amounts)
    is_earned = is_listed and monthly_price is None and draw(st.booleans())
    return TierEntry(
        slug=slug,
        name=draw(words) or slug,
        label=draw(words),
        payer=payer,
        is_default=rank == 1,
        is_listed=is_listed,
        monthly_price=monthly_price,
        priority=draw(st.integers(-5, 5)),
        models=draw(st.none() | st.lists(st.sampled_from(ids), unique=True)) if ids else None,
        upgrade_rule={"all": [{"fact": "verified"}], "cool_down_days": 2} if is_earned else None,
        rank=draw(st.none() | st.just(rank + 10)),
        limits=list(found.values()),
    )


@st.composite
def files(draw: Any) -> BrandFile:
    named = draw(st.lists(st.sampled_from(["gpu-1", "gpu-2"]), unique=True))
    ids = draw(st.lists(st.sampled_from(IDS), unique=True))
    sold = [draw(models(slug, named)) for slug in ids]
    callable_ = [model.id for model in sold if model.state != "retired"]
    return BrandFile(
        slug="acme",
        name=draw(words) or "Acme",
        key_prefix="acme-",
        hosts=draw(st.sampled_from([[], ["api.acme.example"]])),
        schemes=draw(st.lists(st.sampled_from(Scheme.values), min_size=1, unique=True)),
        key_scopes=draw(st.lists(st.sampled_from(Scope.values), unique=True)),
        default_model=draw(st.sampled_from(["", *callable_])),
        is_plain_chat=draw(st.booleans()),
        conversation_days=draw(st.integers(0, 30)),
        sign_up_grant=draw(amounts),
        sign_ups_per_address=draw(st.integers(0, 32_767)),
        disposable_mail=draw(st.sampled_from(["refused", "without_credit"])),
        theme=draw(st.sampled_from([{}, {"accent": "#1e7f6e"}])),
        parameters=draw(
            st.sampled_from([{}, {"temperature": {"min": 0, "max": 1.5, "default": 0.7}, "n": {"max": 1}}])
        ),
        engines={name: draw(engines) for name in named},
        models=sold,
        tiers=[draw(tiers(slug, rank, ids)) for rank, slug in enumerate(draw(st.sampled_from([[], ["a", "b"]])), 1)],
    )


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(files())
def test_import_and_export_are_each_others_inverse(file: BrandFile) -> None:
    with transaction.atomic():
        assert import_brand(read(as_text(file).encode()), actor=ACTOR, confirmed="drawn by chance")
        assert import_brand(file, actor=ACTOR, confirmed="drawn by chance") == []
        exported = brand_file(Brand.objects.get(slug="acme"))
        assert read(as_text(exported).encode()) == exported
        assert import_brand(exported, actor=ACTOR, confirmed="drawn by chance") == []
        assert import_brand(file, actor=ACTOR, confirmed="drawn by chance") == []
        transaction.set_rollback(True)
