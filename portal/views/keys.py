"""API keys: list, create, reveal once, edit, rotate, revoke."""

from __future__ import annotations

from datetime import timedelta

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.db.models import F
from django.http import Http404, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from billing import reports
from billing.models import Model
from keys import access, issuing
from keys.models import ApiKey, Organization, Role
from portal import firstcall, form_tokens, onboarding
from portal.forms import KeyChangeForm, KeyForm, RotateForm
from portal.middleware import MemberRequest
from portal.pages import of_organization, page, verified_first
from portal.views.usage import places, today
from proxy.sandbox import calls as test_calls

PER_PAGE = 50
UNREACHABLE = "The gateway is unreachable just now and refuses every call; it learns of this first."


@require_safe
@of_organization()
def keys(request: MemberRequest, organization: Organization) -> HttpResponse:
    rows = (
        organization.keys.filter(manages_as="", purpose=ApiKey.Purpose.PROGRAM)
        .select_related("use", "created_by", "service_account")
        .order_by(F("revoked_at").desc(nulls_first=True), "-created_at", "-id")
    )
    listed = Paginator(rows, PER_PAGE).get_page(request.GET.get("page"))
    now = timezone.now()
    last = today(organization.brand, now)
    used = reports.usage(organization.pk, first=last.replace(day=1), last=last, by=("key_id",))
    context = {
        "keys": listed,
        "used": {row.key_id: row for row in used},
        "places": places([row.cost_nanos for row in used]),
        "tests": test_calls.by_key(organization.pk) if any(key.mode == ApiKey.Mode.TEST for key in listed) else {},
        "unlimited": len(issuing.scopes_of(organization.brand)),
        "now": now,
        "in_playground": organization.keys.filter(
            purpose=ApiKey.Purpose.PLAYGROUND, revoked_at=None, expires_at__gt=now
        ).count(),
    }
    return page(request, organization, "keys", "portal/keys.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@of_organization(role_at_least=Role.DEVELOPER)
@verified_first
def key_new(request: MemberRequest, organization: Organization) -> HttpResponse:
    models = _models(organization)
    form = KeyForm(request.POST or None, organization=organization, models=models)
    if request.method == "POST" and form.is_valid():
        if not form_tokens.spend(request):
            return _sent_before(request, organization)
        try:
            issued = issuing.issue(
                organization=organization,
                actor=request.user,
                address=request.client_address,
                **form.values(timezone.now()),
            )
        except ValidationError as error:
            form.take(error)
        else:
            return _reveal(request, organization, issued, models)
    context = {"form": form, "form_token": form_tokens.mint(request)}
    return page(request, organization, "keys", "portal/key_new.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@of_organization(role_at_least=Role.DEVELOPER)
@verified_first
def key_edit(request: MemberRequest, organization: Organization, key: str) -> HttpResponse:
    row = _key(request, organization, key)
    if row.revoked_at is not None or row.purpose != ApiKey.Purpose.PROGRAM:
        messages.error(request, "That key is revoked, for good. Create a new one instead.")
        return redirect("keys", organization.public_id)
    form = KeyChangeForm(request.POST or None, key=row, models=_models(organization))
    if request.method == "POST" and form.is_valid():
        try:
            version = issuing.change(
                key=row, actor=request.user, address=request.client_address, **form.values(timezone.now())
            )
        except ValidationError as error:
            form.take(error)
        else:
            if version is None or version.applied:
                messages.success(request, f"{row.name} is as you wish, from its next request on.")
            else:
                messages.warning(request, f"{row.name} is changed. {UNREACHABLE}")
            return redirect("keys", organization.public_id)
    return page(request, organization, "keys", "portal/key_edit.html", {"form": form, "key": row})


@require_http_methods(["GET", "HEAD", "POST"])
@of_organization(role_at_least=Role.DEVELOPER)
@verified_first
def key_rotate(request: MemberRequest, organization: Organization, key: str) -> HttpResponse:
    row = _key(request, organization, key)
    form = RotateForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        if not form_tokens.spend(request):
            return _sent_before(request, organization)
        try:
            issued = issuing.rotate(
                key=row,
                overlap=timedelta(hours=form.cleaned_data["overlap_hours"]),
                actor=request.user,
                address=request.client_address,
            )
        except issuing.KeyNotLive:
            messages.error(request, "That key is revoked or expired already. Create a new one instead.")
            return redirect("keys", organization.public_id)
        except ValidationError as error:
            messages.error(request, error.messages[0])
            return redirect("keys", organization.public_id)
        return _reveal(request, organization, issued, _models(organization), replaced=row)
    context = {"form": form, "key": row, "form_token": form_tokens.mint(request)}
    return page(request, organization, "keys", "portal/key_rotate.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@of_organization(role_at_least=Role.DEVELOPER)
def key_revoke(request: MemberRequest, organization: Organization, key: str) -> HttpResponse:
    row = _key(request, organization, key)
    if request.method != "POST":
        return page(request, organization, "keys", "portal/key_revoke.html", {"key": row})
    version = issuing.revoke(key=row, actor=request.user, address=request.client_address)
    if version.applied:
        messages.success(request, f"{row.name} is revoked. Requests with it are refused from now on.")
    else:
        messages.warning(request, f"{row.name} is revoked. {UNREACHABLE}")
    return redirect("keys", organization.public_id)


@of_organization(role_at_least=Role.DEVELOPER)
@require_POST
def keys_revoke(request: MemberRequest, organization: Organization) -> HttpResponse:
    """Those that were ticked, after the reader has seen how many and which."""
    ticked = organization.keys.filter(
        manages_as="", revoked_at=None, public_id__in=request.POST.getlist("key")[:PER_PAGE]
    ).order_by("name", "pk")
    chosen = list(ticked.select_related("use"))
    if not chosen:
        messages.warning(request, "No key was chosen.")
        return redirect("keys", organization.public_id)
    if "sure" not in request.POST:
        return page(request, organization, "keys", "portal/keys_revoke.html", {"keys": chosen})
    versions = issuing.revoke_all(keys=chosen, actor=request.user, address=request.client_address)
    told = f"{chosen[0].name} is revoked." if len(chosen) == 1 else f"{len(chosen)} keys are revoked."
    if all(version.applied for version in versions):
        messages.success(request, f"{told} Requests with them are refused from now on.")
    else:
        messages.warning(request, f"{told} {UNREACHABLE}")
    return redirect("keys", organization.public_id)


@sensitive_variables("issued")
def _reveal(
    request: MemberRequest,
    organization: Organization,
    issued: issuing.Issued,
    models: list[Model],
    replaced: ApiKey | None = None,
) -> HttpResponse:
    """The one page that ever shows the secret. It is the answer to the form itself: nothing keeps it for a redirect."""
    brand = organization.brand
    allowed = models if issued.key.model_slugs is None else [m for m in models if m.slug in issued.key.model_slugs]
    context = {
        "key": issued.key,
        "secret": issued.secret,
        "published": issued.published,
        "replaced": replaced,
        "checklist": onboarding.shown(organization, request.user, access.role_in(request.user, organization)),
        "samples": firstcall.samples(
            base_url=firstcall.base_url(request),
            schemes=brand.schemes,
            model=firstcall.model_for(brand, allowed),
            secret=issued.secret,
        ),
    }
    return page(request, organization, "keys", "portal/key_reveal.html", context, status=201)


def _key(request: MemberRequest, organization: Organization, public_id: str) -> ApiKey:
    row = access.key_for(request.user, request.brand, public_id, role_at_least=Role.DEVELOPER)
    if row.organization_id != organization.pk:
        raise Http404
    return row


def _models(organization: Organization) -> list[Model]:
    rows = Model.objects.filter(brand=organization.brand).exclude(state=Model.State.RETIRED)
    return list(rows.order_by("position", "slug"))


def _sent_before(request: MemberRequest, organization: Organization) -> HttpResponse:
    text = "That form was sent before, so no further key was made. A key's secret is shown only once."
    messages.warning(request, text)
    return redirect("keys", organization.public_id)
