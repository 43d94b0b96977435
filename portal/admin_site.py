"""The operators' site: Django's admin, ordered by what people come for, behind the same sign-in as every page."""

from __future__ import annotations

from typing import Any

from allauth.account.decorators import secure_admin_login
from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, URLResolver, path
from django.utils.decorators import method_decorator

GROUPS: dict[str, tuple[str, ...]] = {
    "Customers": ("Organization", "ApiKey", "Membership", "Invitation", "User", "EmailAddress"),
    "Brands and prices": ("Brand", "Model", "Engine", "Rate", "Tier"),
    "Money": ("LedgerAccount", "Posting", "Grant", "TierAssignment", "TierChange", "LimitOverride"),
    "Calls": ("UsageEvent", "UsageDay", "UsageQuarter", "RefusalRecord", "RefusalCount"),
    "Operation": (
        *("AuditEvent", "DeadLetter", "JournalShard", "JournalWriter", "WorkerLease", "CounterChange"),
        *("Publication", "Notice", "EngineFinding", "EngineReading", "UpgradeNight"),
    ),
}
"""Models of the index in the order of use. What is not named here stands at the end."""
REST = "Other"


class OperationsSite(AdminSite):
    site_header = "Operations"
    site_title = "Operations"
    index_title = "Operations"
    enable_nav_sidebar = True

    # The portal's sign-in is throttled and will ask for a second factor; Django's own form knows neither.
    @method_decorator(secure_admin_login)
    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        return super().login(request, extra_context)

    def get_urls(self) -> list[URLPattern | URLResolver]:
        from portal.views.money_reports import deferred_report, engines_report, revenue_report
        from portal.views.price_previewer import preview_prices
        from portal.views.support import support
        from portal.views.tier_simulator import simulate_tiers

        return [
            path("support/", self.admin_view(support), name="support"),
            path("reports/", self.admin_view(revenue_report), name="report_revenue"),
            path("reports/engines/", self.admin_view(engines_report), name="report_engines"),
            path("reports/deferred/", self.admin_view(deferred_report), name="report_deferred"),
            path("simulate-tiers/", self.admin_view(simulate_tiers), name="simulate_tiers"),
            path("preview-prices/", self.admin_view(preview_prices), name="preview_prices"),
            *super().get_urls(),
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
