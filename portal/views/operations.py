"""For operators: find anything by what a customer quotes; jobs and what waits; the books compared."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

import redis
from django.contrib import admin, messages
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_safe

from billing import journal, reconcile, worker_leases
from billing.models import DeadLetter, JournalShard, WorkerLease
from keys import brand_scope
from keys.connections import redis_client
from keys.models import ApiKey, Organization, User
from portal import jobs
from portal.celery import SCHEDULE
from portal.views.requests import read_id

FOUND_MAX = 20
DIFFERENCES_MAX = 200


@dataclass(frozen=True, slots=True)
class Hit:
    kind: str
    name: str
    about: str
    url: str


@require_safe
def search(request: HttpRequest) -> HttpResponse:
    """A request id leads straight to what happened; anything else to what bears it, within the reader's brands."""
    asked = request.GET.get("q", "").replace("\0", "").strip()[:254]
    if read_id(asked) is not None:
        return redirect(f"{reverse('admin:support')}?id={asked}")
    hits = _hits(request, asked) if len(asked) >= 2 else []
    if len(hits) == 1:
        return redirect(hits[0].url)
    context = {**admin.site.each_context(request), "title": "Search", "asked": asked, "hits": hits}
    return render(request, "admin/search.html", context)


def _hits(request: HttpRequest, asked: str) -> list[Hit]:
    organizations = Q(public_id=asked) | Q(name__icontains=asked) | Q(slug=asked) | Q(memberships__user__email=asked)
    tail = asked.rpartition("…")[2] or asked
    keys = Q(public_id=asked) | Q(hint=asked) | Q(hint__endswith=tail) if len(tail) >= 4 else Q(public_id=asked)
    people = Q(email__icontains=asked) | Q(name__icontains=asked)
    return [
        *(
            Hit("Organization", row.name, f"{row.brand} {row.public_id}", _page(row))
            for row in _rows(request, Organization, organizations).select_related("brand")[:FOUND_MAX]
        ),
        *(
            Hit("Key", f"{row.name} {row.hint}", f"{row.organization} {row.public_id}", _page(row))
            for row in _rows(request, ApiKey, keys).select_related("organization")[:FOUND_MAX]
        ),
        *(Hit("Person", row.email, row.name, _page(row)) for row in _rows(request, User, people)[:FOUND_MAX]),
    ]


def _rows(request: HttpRequest, model: Any, condition: Q) -> QuerySet[Any]:
    found = model._default_manager.filter(pk__in=model._default_manager.filter(condition).values("pk"))
    return brand_scope.choices(admin.site, found, request).order_by("-pk")


def _page(row: Any) -> str:
    return reverse(f"admin:keys_{row._meta.model_name}_change", args=[row.pk])


@require_safe
def jobs_page(request: HttpRequest) -> HttpResponse:
    now = timezone.now()
    context: dict[str, Any] = {**admin.site.each_context(request), "title": "Jobs"}
    try:
        waiting = journal.lag(redis_client())
        oldest = None if waiting.oldest_ms is None else max(0, int(now.timestamp()) - waiting.oldest_ms // 1000)
        context |= {"jobs": jobs.runs(SCHEDULE, now), "waiting": waiting.entries, "oldest_s": oldest}
    except redis.RedisError as error:
        context["unreachable"] = str(error)
    alive = WorkerLease.objects.filter(expires_at__gt=now)
    context |= {
        "workers": alive.order_by("name"),
        "running": sum(lease.running for lease in alive),
        "silent": list(worker_leases.silent()),
        "shards": JournalShard.objects.filter(leased_until__gt=now).count(),
        "dead": DeadLetter.objects.filter(resolved_at=None).count(),
    }
    return render(request, "admin/jobs.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
def reconcile_page(request: HttpRequest) -> HttpResponse:
    """Asks for the comparison by a button: it reads a good part of the books."""
    context: dict[str, Any] = {**admin.site.each_context(request), "title": "Reconcile"}
    store = redis_client()
    try:
        if request.method == "POST":
            found = reconcile.reconcile(store)
            shown = [*islice(found, DIFFERENCES_MAX)]
            context |= {"compared": True, "differences": shown, "more": sum(1 for _ in found)}
        context["last"] = _last(store)
    except redis.RedisError as error:
        messages.error(request, f"Redis cannot be asked: {error}")
    return render(request, "admin/reconcile.html", context)


def _last(store: Any) -> dict[str, Any] | None:
    last = reconcile.last(store)
    if last is None:
        return None
    at = datetime.fromtimestamp(last.at_ms / 1000, timezone.get_current_timezone())
    return {"differences": last.differences, "at": at}
