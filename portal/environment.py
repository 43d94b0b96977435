"""Typed readers of the environment. A wrong value is refused with what to do about it, never guessed at."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

T = TypeVar("T")
PEPPER_BYTES_MIN = 16
YES = frozenset({"1", "true", "yes", "on"})
NO = frozenset({"0", "false", "no", "off"})


def text(name: str, default: str = "") -> str:
    return os.environ.get(name, "").strip() or default


def flag(name: str, *, default: bool) -> bool:
    given = text(name).lower()
    if not given:
        return default
    if given not in YES | NO:
        raise ImproperlyConfigured(f"{name} is {given!r}; give 1 or 0.")
    return given in YES


def integer(name: str, *, default: int, at_least: int, at_most: int) -> int:
    given = text(name)
    if not given:
        return default
    try:
        number = int(given)
    except ValueError:
        raise ImproperlyConfigured(f"{name} is {given!r}; give a whole number.") from None
    if not at_least <= number <= at_most:
        raise ImproperlyConfigured(f"{name} is {number}; give {at_least} to {at_most}.")
    return number


def choice(name: str, default: str, choices: tuple[str, ...]) -> str:
    given = text(name, default)
    if given not in choices:
        raise ImproperlyConfigured(f"{name} is {given!r}; give one of {', '.join(choices)}.")
    return given


def words(name: str) -> list[str]:
    return [word for word in re.split(r"[,\s]+", text(name)) if word]


def folder(name: str, default: Path) -> Path:
    given = text(name)
    return Path(given).expanduser().absolute() if given else default


def networks(name: str) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    try:
        return [ipaddress.ip_network(word) for word in words(name)]
    except ValueError as error:
        raise ImproperlyConfigured(f"{name}: {error}. Give addresses or networks such as 10.0.0.0/8.") from None


def addresses(name: str) -> list[str]:
    """IP addresses to listen on, as they stand in front of a port."""
    try:
        found = [ipaddress.ip_address(word.strip("[]")) for word in words(name)]
    except ValueError as error:
        raise ImproperlyConfigured(f"{name}: {error}. Give addresses such as 0.0.0.0.") from None
    return [f"[{address}]" if address.version == 6 else str(address) for address in found]


def url(name: str, default: str, *, schemes: tuple[str, ...]) -> str:
    given = text(name, default)
    if given and urlsplit(given).scheme not in schemes:
        shown = urlsplit(given).scheme or given
        raise ImproperlyConfigured(f"{name} begins with {shown!r}; give a URL beginning with {' or '.join(schemes)}.")
    return given


def web_url(name: str) -> str:
    """An http(s) URL with a host and without a final slash, or empty."""
    given = url(name, "", schemes=("http", "https")).rstrip("/")
    if given and not urlsplit(given).hostname:
        raise ImproperlyConfigured(f"{name} is {given!r}; it names no host.")
    return given


def database(name: str, default: str) -> dict[str, object]:
    """A PostgreSQL URL as libpq reads it, in the words of Django's DATABASES."""
    given = url(name, default, schemes=("postgresql", "postgres"))
    try:
        parts = {key: str(value) for key, value in conninfo_to_dict(given).items()}
    except ProgrammingError as error:
        raise ImproperlyConfigured(f"{name} cannot be read: {error}") from None
    if not parts.get("dbname"):
        raise ImproperlyConfigured(f"{name} names no database; give postgresql://USER:PASSWORD@HOST:PORT/DATABASE.")
    named = {django: parts.pop(libpq, "") for django, libpq in DATABASE_PARTS.items()}
    return {"ENGINE": "django.db.backends.postgresql", **named, "OPTIONS": parts}


DATABASE_PARTS = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}


def another_redis_database(redis_url: str, number: int) -> str:
    """The same server's database `number`. REDIS_URL itself must be database 0."""
    parts = urlsplit(redis_url)
    if parts.scheme == "unix":
        return f"unix://{parts.path}?db={number}"  # urlunsplit would drop the empty host, which redis-py wants
    return urlunsplit(parts._replace(path=f"/{number}"))


def celery_transport(broker_url: str) -> str:
    """Celery's spelling of a Redis URL: unix sockets have a scheme of their own."""
    parts = urlsplit(broker_url)
    if parts.scheme != "unix":
        return broker_url
    number = parse_qs(parts.query).get("db", ["0"])[0]
    return f"redis+socket://{parts.path}?virtual_host={number}"


def secret(name: str, kept: Mapping[str, str], *, length_min: int = 1) -> str:
    """From the environment, else from the installation's own secrets; required where it keeps none."""
    value = text(name, kept.get(name, ""))
    if not value:
        raise ImproperlyConfigured(
            f"{name} is required when DATABASE_URL is given. `python manage.py help` needs none; README, Settings, says"
            " how to make one."
        )
    if len(value) < length_min:
        raise ImproperlyConfigured(f"{name} is shorter than {length_min} characters.")
    return value


def peppers(name: str, value: str) -> dict[int, bytes]:
    """ "1:hex,2:hex" as {version: bytes}; the highest version signs new keys, the others still verify old ones."""
    found: dict[int, bytes] = {}
    for part in value.split(","):
        version, _, digits = part.strip().partition(":")
        number = _parsed(int, version)
        pepper = _parsed(bytes.fromhex, digits)
        if number is None or number < 1 or pepper is None or len(pepper) < PEPPER_BYTES_MIN or number in found:
            raise ImproperlyConfigured(
                f"{name} must be 1:HEX, or 1:HEX,2:HEX while a new pepper takes over: versions from 1, each once,"
                f" at least {PEPPER_BYTES_MIN * 2} hex digits."
            )
        found[number] = pepper
    return found


def _parsed(convert: Callable[[str], T], given: str) -> T | None:
    try:
        return convert(given)
    except ValueError:
        return None


def sealing_keys(name: str, value: str) -> list[str]:
    keys = [key for key in re.split(r"[,\s]+", value) if key]
    try:
        for key in keys:
            Fernet(key)
    except ValueError:
        raise ImproperlyConfigured(
            f"{name} must be Fernet keys (32 random bytes, URL-safe base64) between commas; the first seals, all open."
        ) from None
    return keys


def smtp(given: str) -> dict[str, object]:
    """smtp://user:password@host:port (smtp+tls: STARTTLS, smtps: TLS from the start) as Django's e-mail settings."""
    parts = urlsplit(given)
    if not parts.hostname:
        raise ImproperlyConfigured("EMAIL_URL names no host; give smtp+tls://USER:PASSWORD@HOST:587.")
    return {
        "EMAIL_HOST": parts.hostname,
        "EMAIL_PORT": parts.port or {"smtp": 25, "smtp+tls": 587, "smtps": 465}[parts.scheme],
        "EMAIL_HOST_USER": unquote(parts.username or ""),
        "EMAIL_HOST_PASSWORD": unquote(parts.password or ""),
        "EMAIL_USE_TLS": parts.scheme == "smtp+tls",
        "EMAIL_USE_SSL": parts.scheme == "smtps",
    }


def redis_place(redis_url: str) -> tuple[str, str]:
    """(server, database number), to see whether two URLs mean the same place."""
    parts = urlsplit(redis_url)
    if parts.scheme == "unix":
        return parts.path, parse_qs(parts.query).get("db", ["0"])[0]
    return f"{parts.hostname}:{parts.port or 6379}", parts.path.strip("/") or "0"
