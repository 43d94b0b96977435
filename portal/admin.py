"""What other packages register and operators should not have, and what this room knows of a lower room's rows."""

from __future__ import annotations

from allauth.mfa.models import Authenticator
from allauth.usersessions.models import UserSession
from django.contrib import admin
from django.urls import reverse
from django.utils.html import format_html

from billing.admin.engines import EngineAdmin
from billing.models import Engine
from keys.admin import OrganizationAdmin
from keys.models import Organization
from portal import engine_watch
from portal.views import ledger

# Their rows hold the secrets of second factors and of sessions: nobody but their owner has business there.
admin.site.unregister(Authenticator)
admin.site.unregister(UserSession)


@admin.display(description="Now")
def now_of(engine: Engine) -> str:
    """As this host's workers find it; asking it takes a page of its own."""
    url = reverse("admin:engine_now", args=[engine.pk])
    return format_html('<a href="{}">{}</a>', url, engine_watch.in_words(engine))


@admin.display(description="In flight")
def in_flight_of(engine: Engine) -> str:
    running = engine_watch.in_flight(engine)
    return f"{'–' if running is None else running} of {engine.max_in_flight}"


@admin.display(description="Ledger")
def ledger_of(organization: Organization) -> str:
    return format_html('<a href="{}">every transaction, with the balance after each</a>', ledger.link_of(organization))


EngineAdmin.more_columns = (now_of, in_flight_of)
OrganizationAdmin.more_about += (ledger_of,)
