"""For operators: an engine is added by its address. It is asked what it is, serves and can do; what came of that is
shown; one more button keeps it, with the models that were chosen."""

from __future__ import annotations

import secrets
from typing import Any

import msgspec
from django.contrib import admin, messages
from django.core.cache import cache
from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.html import format_html
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_http_methods
from redis.exceptions import RedisError

from billing import prices
from billing.admin.pages import say_error
from billing.models import Engine, Model
from keys import sealing
from keys.admin import by
from keys.models import Brand
from portal import engine_intake
from portal.engine_forms import AddressForm, DraftForm
from proxy.probe import Found, ProbeFailed

SECONDS_MAX = 45
"""That somebody waits for; `manage.py engine add` has no such bound."""
KEPT_SECONDS = 900
"""How long what was found waits to be kept."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What waits for the second button. It never leaves the server: it has the engine's key."""

    found: Found
    api_key: str
    name: str
    brand_id: int
    is_shared: bool
    verify_tls: bool


@sensitive_post_parameters("api_key")
@require_http_methods(["GET", "HEAD", "POST"])
def engine_add(request: HttpRequest) -> HttpResponse:
    if request.POST.get("found"):
        return _keep(request, request.POST["found"])
    form = AddressForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            return _found(request, form)
        except ProbeFailed as failure:
            form.add_error("url", str(failure))
    return _page(request, form=form)


@sensitive_variables("given", "finding")
def _found(request: HttpRequest, form: AddressForm) -> HttpResponse:
    """Asks, and shows what came of it. Raises ProbeFailed."""
    given = form.cleaned_data
    found = engine_intake.asked(
        given["url"],
        api_key=given["api_key"],
        verify_tls=not given["any_certificate"],
        kind=given["kind"],
        only=given["models"],
        seconds_max=SECONDS_MAX,
    )
    finding = Finding(
        found=found,
        api_key=given["api_key"],
        name=given["name"],
        brand_id=given["brand"].pk,
        is_shared=given["is_shared"],
        verify_tls=not given["any_certificate"],
    )
    token = secrets.token_urlsafe(24)
    try:
        cache.set(_place(request, token), sealing.seal_text(msgspec.json.encode(finding).decode()), KEPT_SECONDS)
    except RedisError as error:
        raise ProbeFailed(f"What was found cannot be kept: Redis cannot be asked ({error}).") from error
    return _shown(request, token, finding, _drafts(found, None))


def _place(request: HttpRequest, token: str) -> str:
    return f"engine-found:{request.user.pk}:{token[:64]}"


def _drafts(found: Found, data: Any) -> list[DraftForm]:
    working = [model for model in found.models if not model.trouble]
    return [DraftForm(model, data, prefix=f"m{number}") for number, model in enumerate(working)]


@sensitive_variables("finding", "sealed")
def _keep(request: HttpRequest, token: str) -> HttpResponse:
    sealed = cache.get(_place(request, token))
    if sealed is None:
        messages.warning(request, "What was found is kept already, or was for too long. Ask the engine again.")
        return redirect("admin:engine_add")
    finding = msgspec.json.decode(sealing.open_text(sealed), type=Finding)
    drafts = _drafts(finding.found, request.POST)
    problems: list[str] = []
    wrong = [draft for draft in drafts if not draft.is_valid()]  # each is asked, so that all say what is wrong
    if not wrong:
        try:
            engine = _saved(request, finding, [draft for draft in drafts if draft.cleaned_data["take"]])
        except ValidationError as error:
            problems = [text for text in error.messages if not any(draft.errors for draft in drafts)]
        else:
            cache.delete(_place(request, token))
            return redirect("admin:engine_now", engine.pk)
    return _shown(request, token, finding, drafts, problems)


@sensitive_variables("finding")
def _saved(request: HttpRequest, finding: Finding, wanted: list[DraftForm]) -> Engine:
    """All or nothing. A ValidationError about a model stands at its form, too."""
    brand = Brand.objects.get(pk=finding.brand_id)
    drafted = []
    with transaction.atomic():
        engine = engine_intake.kept(
            finding.found,
            brand=None if finding.is_shared else brand,
            name=finding.name,
            api_key=finding.api_key,
            verify_tls=finding.verify_tls,
            **by(request),
        )
        for draft in wanted:
            try:
                drafted.append(_drafted(request, engine, brand, draft))
            except ValidationError as error:
                say_error(draft, error)
                raise
    messages.success(request, f"Engine {engine.name} is in use from now on.")
    _tell(request, drafted)
    return engine


def _drafted(request: HttpRequest, engine: Engine, brand: Brand, draft: DraftForm) -> tuple[Model, bool]:
    given = draft.cleaned_data
    model, is_new = engine_intake.drafted(
        *(engine, draft.found),
        brand=brand,
        slug=given["slug"],
        context_length=given["context_length"] or 0,
        **by(request),
    )
    if given["input"]:
        prices.set_price(model=model, per_million=draft.prices, **by(request))
    return model, is_new


def _tell(request: HttpRequest, drafted: list[tuple[Model, bool]]) -> None:
    for model, is_new in drafted:
        word = "is drafted" if is_new else "was there; this engine serves it, too"
        priced = prices.in_force(model.rates.filter(organization=None)).exists()
        if priced:
            messages.success(request, f"Model {model.slug} {word}.")
        else:
            url = f"{reverse('admin:billing_rate_add')}?model={model.pk}"
            said = 'Model {} {}. Its calls are refused until it has a price: <a href="{}">set one</a>.'
            messages.warning(request, format_html(said, model.slug, word, url))


@sensitive_variables("finding")
def _shown(
    request: HttpRequest, token: str, finding: Finding, drafts: list[DraftForm], problems: list[str] | None = None
) -> HttpResponse:
    found = finding.found
    brand = Brand.objects.get(pk=finding.brand_id)
    context = {
        "found": found,
        "token": token,
        "brand": brand,
        "is_shared": finding.is_shared,
        "standing": engine_intake.standing(found.base_url, None if finding.is_shared else brand),
        "abilities": engine_intake.abilities(found.capabilities),
        "drafts": drafts,
        "broken": [model for model in found.models if model.trouble],
        "problems": problems,
    }
    return _page(request, **context)


def _page(request: HttpRequest, **context: Any) -> HttpResponse:
    return render(
        request, "admin/engine_add.html", {**admin.site.each_context(request), "title": "Add an engine", **context}
    )
