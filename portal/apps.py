"""The portal as Django knows it, and the operators' admin site."""

from __future__ import annotations

from django.apps import AppConfig
from django.contrib.admin.apps import AdminConfig


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


class OperationsConfig(AdminConfig):
    default_site = "portal.admin_site.OperationsSite"
