"""The operators' site: Django's admin, ordered by what people come for, behind the same sign-in as every page."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from allauth.account.decorators import secure_admin_login
from django.contrib.admin import AdminSite, ModelAdmin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, URLResolver, path
from django.utils import timezone
from django.utils.decorators import method_decorator

GROUPS: dict[str, tuple[str, ...]] = {
    "Customers": (
        *("Organization", "ApiKey", "ServiceAccount", "KeyUse", "Membership", "Invitation", "User", "EmailAddress"),
        *("FirstAccount", "BrandStaff", "Group"),
    ),
    "Brands and prices": ("Brand", "Model", "Engine", "Rate", "Tier"),
    "Standing": ("TierAssignment", "TierChange", "UpgradeNight", "LimitOverride", "LimitAlert", "AlertPreference"),
    "Money": ("LedgerAccount", "Posting", "Grant", "GrantEnd", "PromoCode", "PromoClaim", "WalletMark", "LedgerSeal"),
    "Payments": (
        *("TopUp", "AutoTopUp", "Reversal", "Subscription", "SubscriptionPrice", "SubscriptionInvoice"),
        *("InvoiceReversal", "StripeCustomer", "StripeEvent", "StripeAccount"),
    ),
    "Telling customers": ("Notice", "NoticesSeen", "WebhookEndpoint", "WebhookDelivery"),
    "Calls": ("UsageEvent", "UsageDay", "UsageQuarter", "RefusalRecord", "RefusalCount", "TestCall"),
    "Operation": (
        *("AuditEvent", "DeadLetter", "JournalShard", "JournalWriter", "WorkerLease", "CounterChange"),
        *("Publication", "EngineFinding", "EngineReading"),
    ),
}
"""Models of the index in the order of use. What is not named here stands at the end."""
REST = "Other"


View = Callable[..., HttpResponseBase]


def superusers(view: View) -> View:
    """A page about the installation as a whole."""

    @wraps(view)
    def guarded(request: HttpRequest) -> HttpResponseBase:
        if not request.user.is_superuser:
            raise PermissionDenied
        return view(request)

    return guarded


class OperationsSite(AdminSite):
    site_header = "Operations"
    site_title = "Operations"
    index_title = "Operations"
    enable_nav_sidebar = True

    @method_decorator(secure_admin_login)
    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The portal's sign-in is throttled and asks for a second factor; Django's form knows neither, so nobody gets
        it: not even staff, who might try the passwords of others there."""
        return redirect("admin:index")

    def password_change(  # type: ignore[override]
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Throttled like every page that takes a password."""
        return redirect("account_change_password")

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        """The morning's questions above the lists: the installation's health for superusers, today by brand for all."""
        from keys import staff
        from portal import morning

        whole = bool(request.user.is_superuser)
        context = {
            "watched": whole,
            "findings": morning.findings() if whole else [],
            "waiting": morning.waiting_entries() if whole else None,
            "days": morning.days(staff.brands_of(request.user), timezone.now()),
        }
        return super().index(request, {**context, **(extra_context or {})})

    def register(self, model_or_iterable: Any, admin_class: Any = None, **options: Any) -> None:
        """Every page stands under the scope of brands, whoever wrote it."""
        from keys.brand_scope import scoped

        super().register(model_or_iterable, scoped(admin_class or ModelAdmin), **options)

    def get_urls(self) -> list[URLPattern | URLResolver]:
        from portal.views.engine_intake import engine_add
        from portal.views.engine_now import engine_now
        from portal.views.ladder import ladder
        from portal.views.ledger import ledger
        from portal.views.money_reports import deferred_report, engines_report, revenue_report
        from portal.views.operations import jobs_page, reconcile_page, search
        from portal.views.price_book import price_book
        from portal.views.price_previewer import preview_prices
        from portal.views.support import support
        from portal.views.tier_simulator import simulate_tiers

        of_brands: list[tuple[str, View, str]] = [
            ("search/", search, "search"),
            ("engines/<int:engine>/", engine_now, "engine_now"),
            ("support/", support, "support"),
            ("ledger/", ledger, "ledger"),
            ("reports/", revenue_report, "report_revenue"),
            ("reports/deferred/", deferred_report, "report_deferred"),
            ("simulate-tiers/", simulate_tiers, "simulate_tiers"),
            ("preview-prices/", preview_prices, "preview_prices"),
            ("price-book/", price_book, "price_book"),
            ("ladder/", ladder, "ladder"),
        ]
        """They ask keys.staff whose rows they may show."""
        of_the_installation: list[tuple[str, View, str]] = [
            ("engines/add/", engine_add, "engine_add"),
            ("reports/engines/", engines_report, "report_engines"),
            ("jobs/", jobs_page, "jobs"),
            ("reconcile/", reconcile_page, "reconcile"),
        ]
        return [
            *(path(route, self.admin_view(view), name=name) for route, view, name in of_brands),
            *(path(route, self.admin_view(superusers(view)), name=name) for route, view, name in of_the_installation),
            # Django's way from any row's number to its page: no row here has one.
            *(found for found in super().get_urls() if getattr(found, "name", "") != "view_on_site"),
        ]

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> list[Any]:
        apps = super().get_app_list(request, app_label)
        return apps if app_label else regrouped(apps)


def regrouped(apps: list[Any]) -> list[Any]:
    """Django's list by app as a list by task, in its own shape."""
    models = {model["object_name"]: model for app in apps for model in app["models"]}
    named = {name for names in GROUPS.values() for name in names}
    rest = tuple(sorted(name for name in models if name not in named))
    found = []
    for title, names in [*GROUPS.items(), (REST, rest)]:
        members = [models[name] for name in names if name in models]
        if members:
            found.append(
                {
                    "name": title,
                    "app_label": title.lower().replace(" ", "-"),
                    "app_url": "",
                    "has_module_perms": True,
                    "models": members,
                }
            )
    return found
