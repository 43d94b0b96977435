"""For operators: one engine as it is now, and the buttons that drain it, bring it back and ask it anew."""

from __future__ import annotations

from typing import Any

import msgspec
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods

from billing import engines
from billing.catalogue import engine_record
from billing.models import Engine
from billing.snapshot import Capabilities
from keys import brand_scope, sealing
from keys.admin import by
from portal import engine_intake, engine_watch
from portal.views.engine_intake import SECONDS_MAX
from proxy.probe import ProbeFailed

STATES = {
    "drain": (Engine.State.DRAINING, "drains: running calls end, no new ones are sent"),
    "live": (Engine.State.LIVE, "takes calls again"),
    "down": (Engine.State.DOWN, "is down: it gets no calls"),
}


@require_http_methods(["GET", "HEAD", "POST"])
def engine_now(request: HttpRequest, engine: int) -> HttpResponse:
    """A brand's staff see, and its managers switch, the engines that are that brand's alone."""
    within = brand_scope.within(Engine.objects.select_related("brand"), "brand", brand_scope.reach(request))
    row = get_object_or_404(within, pk=engine)
    if request.method == "POST":
        _act(request, row, request.POST.get("act", ""))
        return redirect("admin:engine_now", row.pk)
    known = engine_record(row)
    (look,) = engine_watch.looks([row])
    context: dict[str, Any] = {
        **admin.site.each_context(request),
        "title": f"Engine {row.name}",
        "engine": row,
        "look": look,
        "by_workers": engine_watch.in_words(row),
        "in_flight": engine_watch.in_flight(row),
        "compared": engine_watch.compared(row),
        "abilities": engine_intake.abilities(known.capabilities),
        "routes": row.routes.select_related("model__brand").order_by("model__brand__name", "model__slug"),
        "may_probe": request.user.is_superuser,
    }
    return render(request, "admin/engine_now.html", context)


def _act(request: HttpRequest, row: Engine, act: str) -> None:
    if act == "probe":
        _probe(request, row)
    elif act in STATES:
        state, said = STATES[act]
        engines.change(engine=row, state=state, **by(request))
        messages.success(request, f"{row.name} {said}.")


def _probe(request: HttpRequest, row: Engine) -> None:
    """Asks with the key and headers that it has, about the models it serves here, and keeps what is found."""
    if not request.user.is_superuser:
        raise PermissionDenied
    record = engine_record(row)
    before = record.capabilities
    try:
        found = engine_intake.asked(
            row.base_url,
            api_key=sealing.open_text(record.api_key) if record.api_key else "",
            verify_tls=row.verify_tls,
            headers=row.headers,
            kind=row.kind,
            only=sorted(set(row.routes.values_list("name_there", flat=True))),
            seconds_max=SECONDS_MAX,
        )
        engine_intake.found_again(row, found, **by(request))
    except (ProbeFailed, ValidationError, sealing.SealBroken) as failure:
        messages.error(request, f"Nothing is changed. {failure}")
        return
    for model in found.models:
        if model.trouble:
            messages.warning(request, f"{model.name_there} answered {model.trouble}.")
    changed = _difference(before, found.capabilities)
    messages.success(request, f"Asked anew: {changed or 'everything is as it was'}.")


def _difference(before: Capabilities, after: Capabilities) -> str:
    was, now = msgspec.to_builtins(before), msgspec.to_builtins(after)
    return "; ".join(f"{name} {was[name]!r} → {now[name]!r}" for name in now if was[name] != now[name])
