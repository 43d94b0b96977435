"""Webhooks of an account: where it hears of events, the secret once, the log, and sending again."""

from __future__ import annotations

from collections.abc import Callable

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.http import Http404, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods, require_safe

from billing import webhook_deliveries, webhook_endpoints
from billing.webhook_models import WebhookEndpoint
from keys.models import Organization, Role
from portal.docs import pages as docs
from portal.middleware import MemberRequest
from portal.pages import of_organization, page, verified_first
from portal.webhook_forms import EndpointForm, RotateSecretForm

PER_PAGE = 25
BIGINT_DIGITS = 19


@require_safe
@of_organization(role_at_least=Role.ADMIN)
def webhooks(request: MemberRequest, organization: Organization) -> HttpResponse:
    context = {
        "endpoints": organization.webhook_endpoints.order_by("pk"),
        "may_add": organization.webhook_endpoints.count() < webhook_endpoints.ENDPOINTS_MAX,
        "has_docs": any(each.name == "webhooks" for each in docs.pages_of(organization.brand)),
    }
    return page(request, organization, "webhooks", "portal/webhooks.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@of_organization(role_at_least=Role.ADMIN)
@verified_first
def webhook_new(request: MemberRequest, organization: Organization) -> HttpResponse:
    form = EndpointForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            endpoint, secret = webhook_endpoints.add(
                organization=organization, actor=request.user, address=request.client_address, **form.values()
            )
        except ValidationError as error:
            form.take(error)
        else:
            return _reveal(request, organization, endpoint, secret)
    return page(request, organization, "webhooks", "portal/webhook_new.html", {"form": form})


@require_http_methods(["GET", "HEAD", "POST"])
@of_organization(role_at_least=Role.ADMIN)
@verified_first
def webhook(request: MemberRequest, organization: Organization, endpoint: str) -> HttpResponse:
    row = _endpoint(organization, endpoint)
    if request.method == "POST" and request.POST.get("act") in ACTS:
        return ACTS[request.POST["act"]](request, organization, row)
    form = EndpointForm(request.POST or None, endpoint=row)
    if request.method == "POST" and form.is_valid():
        try:
            webhook_endpoints.change(endpoint=row, actor=request.user, address=request.client_address, **form.values())
        except ValidationError as error:
            form.take(error)
        else:
            messages.success(request, "Saved.")
            return _back(organization, row)
    listed = Paginator(row.deliveries.order_by("-pk"), PER_PAGE).get_page(request.GET.get("page"))
    context = {"endpoint": row, "form": form, "listed": listed, "now": timezone.now()}
    return page(request, organization, "webhooks", "portal/webhook.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@of_organization(role_at_least=Role.ADMIN)
@verified_first
def webhook_rotate(request: MemberRequest, organization: Organization, endpoint: str) -> HttpResponse:
    row = _endpoint(organization, endpoint)
    form = RotateSecretForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        secret = webhook_endpoints.rotate(
            endpoint=row, overlap=form.overlap(), actor=request.user, address=request.client_address
        )
        row.refresh_from_db()
        return _reveal(request, organization, row, secret)
    return page(request, organization, "webhooks", "portal/webhook_rotate.html", {"form": form, "endpoint": row})


@sensitive_variables("secret")
def _reveal(request: MemberRequest, organization: Organization, row: WebhookEndpoint, secret: str) -> HttpResponse:
    """The one page that ever shows the secret: the answer to the form itself."""
    context = {"endpoint": row, "secret": secret}
    return page(request, organization, "webhooks", "portal/webhook_secret.html", context, status=201)


def _endpoint(organization: Organization, public_id: str) -> WebhookEndpoint:
    row = organization.webhook_endpoints.filter(public_id=public_id).first()
    if row is None:
        raise Http404("No such page.")
    row.organization = organization
    return row


def _back(organization: Organization, row: WebhookEndpoint) -> HttpResponse:
    return redirect("webhook", organization.public_id, row.public_id)


# What the buttons of an endpoint's page do


def _turn(request: MemberRequest, organization: Organization, row: WebhookEndpoint) -> HttpResponse:
    on = request.POST["act"] == "on"
    webhook_endpoints.turn(endpoint=row, on=on, actor=request.user, address=request.client_address)
    messages.success(request, "Events are sent there." if on else "Nothing is sent there until you turn it on again.")
    return _back(organization, row)


def _remove(request: MemberRequest, organization: Organization, row: WebhookEndpoint) -> HttpResponse:
    webhook_endpoints.remove(endpoint=row, actor=request.user, address=request.client_address)
    messages.success(request, f"{row.url} is removed.")
    return redirect("webhooks", organization.public_id)


def _test(request: MemberRequest, organization: Organization, row: WebhookEndpoint) -> HttpResponse:
    webhook_deliveries.send_test(row, actor=request.user, address=request.client_address)
    messages.success(request, "A test is on its way. Load the page again in a few seconds to see what came back.")
    return _back(organization, row)


def _again(request: MemberRequest, organization: Organization, row: WebhookEndpoint) -> HttpResponse:
    number = request.POST.get("delivery", "")
    known = number.isascii() and number.isdigit() and len(number) < BIGINT_DIGITS
    delivery = row.deliveries.filter(pk=number).first() if known else None
    if delivery is None:
        raise Http404("No such page.")
    if webhook_deliveries.send_again(delivery, actor=request.user, address=request.client_address):
        messages.success(request, f"{delivery.event_id} is on its way again.")
    else:
        messages.warning(request, f"{delivery.event_id} is being sent just now.")
    return _back(organization, row)


ACTS: dict[str, Callable[[MemberRequest, Organization, WebhookEndpoint], HttpResponse]] = {
    "on": _turn,
    "off": _turn,
    "remove": _remove,
    "test": _test,
    "again": _again,
}
