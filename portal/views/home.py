"""The brand's front door, its colours, and the demo's mailbox."""

from __future__ import annotations

from datetime import datetime

from django.conf import settings
from django.db.models import Prefetch, Q
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import cache_control
from django.views.decorators.http import require_safe

from billing.models import Model, Rate
from keys.models import Brand
from portal import firstcall, theme
from portal import mailbox as post_office
from portal.middleware import PortalRequest


@require_safe
def home(request: PortalRequest) -> HttpResponse:
    brand = request.brand
    models = price_list(brand, timezone.now())
    samples = firstcall.samples(
        base_url=firstcall.base_url(request), schemes=brand.schemes, model=firstcall.model_for(brand, models)
    )
    return render(request, "portal/landing.html", {"models": models, "samples": samples})


def price_list(brand: Brand, now: datetime) -> list[Model]:
    """What the brand sells, each with `current_rates`: the one everybody pays now, or none."""
    in_force = Q(effective_until=None) | Q(effective_until__gt=now)
    rates = Rate.objects.filter(in_force, organization=None, effective_from__lte=now).order_by("-effective_from")
    models = Model.objects.filter(brand=brand).exclude(state=Model.State.RETIRED).order_by("position", "slug")
    return list(models.prefetch_related(Prefetch("rates", queryset=rates, to_attr="current_rates")))


@require_safe
@cache_control(max_age=300, private=True)
def colours(request: PortalRequest) -> HttpResponse:
    return HttpResponse(theme.stylesheet(request.brand.theme), content_type="text/css; charset=utf-8")


@require_safe
def mailbox(request: HttpRequest) -> HttpResponse:
    if not settings.DEMO:
        raise Http404
    return render(request, "portal/mailbox.html", {"mails": post_office.newest_first()})
