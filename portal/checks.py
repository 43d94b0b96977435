"""What must hold of the settings, checked whenever a command starts. What only running stores can tell is doctor's."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from portal.environment import redis_place

OF_SETTINGS = [Tags.security, Tags.caches]
"""What commands check that have no page to serve: those of all pages take as long as the rest of their start."""


@register(Tags.security)
def no_debugging_in_production(**_: Any) -> list[CheckMessage]:
    if settings.DEBUG and not settings.PRIVATE_STORES:
        return [
            Error(
                "DEBUG is on with a DATABASE_URL: error pages would show settings and rows to everybody.",
                hint="Unset DEBUG.",
                id="portal.E001",
            )
        ]
    return []


@register(Tags.security)
def mailbox_only_in_a_demo(**_: Any) -> list[CheckMessage]:
    if settings.DEMO or settings.EMAIL_BACKEND != "portal.mailbox.EmailBackend":
        return []
    return [
        Error(
            "Mails go to the demo's mailbox, where anybody could read password links.",
            hint="Give EMAIL_URL a mail server, e.g. smtp+tls://USER:PASSWORD@HOST:587.",
            id="portal.E003",
        )
    ]


@register(Tags.caches)
def what_may_be_forgotten_lies_apart(**_: Any) -> list[CheckMessage]:
    """A cache is emptied by FLUSHDB, and a broker's keys have other rules of durability: neither may meet the money."""
    money = redis_place(settings.REDIS_URL)
    return [
        Error(
            f"{name} is the same Redis database as REDIS_URL, where holds and balances are.",
            hint=f"Give {name} another database number, or better another server.",
            id="portal.E002",
        )
        for name in ("BROKER_URL", "CACHE_URL")
        if redis_place(getattr(settings, name)) == money
    ]


@register(Tags.security, deploy=True)
def production_is_closed(**_: Any) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    if not settings.HTTPS:
        found.append(Warning("Cookies travel unencrypted.", hint="Set HTTPS=1 behind TLS.", id="portal.W001"))
    if "*" in settings.ALLOWED_HOSTS:
        found.append(Warning("Any Host header is accepted.", hint="Name the hosts in ALLOWED_HOSTS.", id="portal.W002"))
    if not settings.EMAIL_URL:
        found.append(Warning("Mails are written to files.", hint="Give EMAIL_URL.", id="portal.W003"))
    return found
