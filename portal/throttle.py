"""How often a page may be tried: one table of rules, counted by django-ratelimit per address and per account.

Every refused try is a 429 page with Retry-After. While Redis is away each web worker counts on its own, so guessing
stays slow and nobody is locked out of the one page that could mend it. Sign-ups that were filled in rightly are
counted once more, by day, up to what the brand's row allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.redis import RedisCache
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django_ratelimit.core import get_usage
from redis.exceptions import RedisError

from portal import second_factor

CACHE = "throttle"
SIGN_UPS = "sign-ups from your network"
Handler = Callable[[HttpRequest], HttpResponse]


@dataclass(frozen=True, slots=True)
class Rule:
    """Rates as django-ratelimit writes them. `account` counts what the form's `field` names, `person` whoever is signed
    in, or has only the second factor left to give; an account can thus be kept busy by a stranger, for minutes, which
    is the price of slowing a guesser who has many addresses."""

    what: str
    address: str
    account: str = ""
    field: str = ""
    person: str = ""


RULES = {
    "account_login": Rule("sign-ins", address="30/5m", account="10/5m", field="login"),
    "account_signup": Rule("sign-ups", address="30/h", account="5/h", field="email"),
    "account_reset_password": Rule("requests for a new password", address="30/h", account="5/h", field="email"),
    "account_reset_password_from_key": Rule("tries", address="30/5m"),
    "account_confirm_email": Rule("tries", address="30/5m"),
    "account_reauthenticate": Rule("tries", address="30/5m", person="10/5m"),
    "account_change_password": Rule("tries", address="30/5m", person="10/5m"),
    "account_set_password": Rule("tries", address="30/5m", person="10/5m"),
    "mfa_authenticate": Rule("tries", address="30/5m", person="10/5m"),
    "mfa_reauthenticate": Rule("tries", address="30/5m", person="10/5m"),
    "mfa_activate_totp": Rule("tries", address="30/5m", person="20/5m"),
    "account_email": Rule("changes", address="60/h", person="20/h"),
    "account_open": Rule("new accounts", address="30/h", person="5/h"),
    "account_new": Rule("new accounts", address="30/h", person="5/h"),
    "member_invite": Rule("invitations", address="60/h", person="30/h"),
    "invitation_resend": Rule("invitations", address="60/h", person="30/h"),
    "top_up": Rule("payments", address="30/h", person="20/h"),
    "auto_top_up": Rule("changes of automatic top-ups", address="60/h", person="20/h"),
    "plan": Rule("changes of the plan", address="60/h", person="20/h"),
    "card": Rule("cards", address="20/h", person="10/h"),
    "promo": Rule("codes", address="30/h", person="10/h"),
    "webhook": Rule("changes of webhooks", address="240/h", person="120/h"),
    "key_new": Rule("new keys", address="120/h", person="60/h"),
    "playground_key": Rule("new keys", address="240/h", person="120/h"),
    "key_rotate": Rule("new keys", address="120/h", person="60/h"),
    "management_key_new": Rule("new keys", address="60/h", person="30/h"),
}


class SteadyCache(RedisCache):
    """Redis, or this process's memory while Redis cannot be reached. For what may be forgotten: the two never agree, so
    a code of the second factor could then be used once in each worker, within its half minute."""

    def __init__(self, server: str, params: dict[str, Any]) -> None:
        super().__init__(server, params)
        self._memory = LocMemCache("throttle", {**params, "OPTIONS": {"MAX_ENTRIES": 10_000}})

    def add(self, *args: Any, **kwargs: Any) -> Any:
        return self._either("add", *args, **kwargs)

    def incr(self, *args: Any, **kwargs: Any) -> Any:
        return self._either("incr", *args, **kwargs)

    def get(self, *args: Any, **kwargs: Any) -> Any:
        return self._either("get", *args, **kwargs)

    def set(self, *args: Any, **kwargs: Any) -> Any:
        return self._either("set", *args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> Any:
        return self._either("delete", *args, **kwargs)

    def _either(self, method: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return getattr(super(), method)(*args, **kwargs)
        except RedisError:
            return getattr(self._memory, method)(*args, **kwargs)


def address_of(request: HttpRequest) -> str:
    """For RATELIMIT_IP_META_KEY; the library masks IPv6 to /64."""
    return str(request.client_address)  # type: ignore[attr-defined]


class ThrottleMiddleware:
    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_view(self, request: HttpRequest, *_view: Any) -> HttpResponse | None:
        name = request.resolver_match.view_name if request.resolver_match else ""
        rule = RULES.get(name)
        if rule is None or request.method != "POST":
            return None
        waits = [wait for wait in _waits(request, name, rule) if wait]
        return too_many(request, rule.what, max(waits)) if waits else None

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        return too_many(request, error.what, error.seconds) if isinstance(error, TooMany) else None


def _waits(request: HttpRequest, name: str, rule: Rule) -> Iterator[int]:
    """Seconds to wait by each counter of the rule, 0 where there is room. All are counted, also when one refuses."""
    yield _wait(request, f"{name}.address", rule.address, "ip")
    if rule.account:
        given = request.POST.get(rule.field, "").strip().lower()[:254]
        yield _wait(request, f"{name}.account", rule.account, lambda _group, _request: f"account:{len(given)}:{given}")
    person = str(request.user.pk) if request.user.is_authenticated else second_factor.signing_in(request)
    if rule.person and person:
        yield _wait(request, f"{name}.person", rule.person, lambda _group, _request: f"person:{person}")


def _wait(request: HttpRequest, group: str, rate: str, key: str | Callable[[str, HttpRequest], str]) -> int:
    usage = get_usage(request, group=group, key=key, rate=rate, increment=True)
    if usage is None or not usage["should_limit"]:
        return 0
    return max(1, int(usage["time_left"]))


class TooMany(Exception):
    """For what a form finds out: a 429 page like the others. `seconds` until there is room again."""

    def __init__(self, what: str, seconds: int) -> None:
        super().__init__(what)
        self.what, self.seconds = what, seconds


def count_sign_up(request: HttpRequest) -> None:
    """One more sign-up of the day on this brand from the client's address (IPv6: its /64 network), whether or not
    anybody has that e-mail address already. TooMany past what the brand's row allows."""
    brand = request.brand  # type: ignore[attr-defined]
    if brand.sign_ups_per_address:
        seconds = _wait(request, f"sign-ups.{brand.pk}", f"{brand.sign_ups_per_address}/d", "ip")
        if seconds:
            raise TooMany(SIGN_UPS, seconds)


def too_many(request: HttpRequest, what: str, seconds: int) -> HttpResponse:
    minutes = -(-seconds // 60)
    hours = 0 if minutes <= 60 else -(-minutes // 60)
    context = {"what": what, "minutes": minutes, "hours": hours}
    response = render(request, "portal/throttled.html", context, status=429)
    response["Retry-After"] = str(seconds)
    return response
