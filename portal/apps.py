"""The portal as Django knows it, and the operators' admin site."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.contrib import admin
from django.contrib.admin.apps import SimpleAdminConfig
from django.contrib.admin.checks import check_admin_app, check_dependencies
from django.core.checks import CheckMessage, Tags, register


class PortalConfig(AppConfig):
    name = "portal"

    def ready(self) -> None:
        from billing import upgrade_facts
        from keys import brands
        from portal import accounts, celery, checks  # noqa: F401 (tasks find their app; checks and signals register themselves)
        from portal.demo import in_house
        from portal.docs.pages import PAGES
        from proxy.dialects import DIALECTS
        from proxy.sandbox import engine

        brands.register_dialects(DIALECTS)
        brands.register_docs_pages(PAGES)
        engine.install(in_house.engine, in_house.name_of)
        upgrade_facts.register_verified(accounts.with_confirmed_owner)


class OperationsConfig(SimpleAdminConfig):
    """The admin's pages are read where they are served (urls.py) or checked: what books and forwards calls starts
    without them, in two thirds of the time."""

    default_site = "portal.admin_site.OperationsSite"

    def ready(self) -> None:
        register(check_dependencies, Tags.admin)
        register(_every_page, Tags.admin)


def _every_page(**given: Any) -> list[CheckMessage]:
    admin.autodiscover()
    return check_admin_app(**given)
