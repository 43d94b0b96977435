"""Which mailbox an e-mail address reaches, and whether that mailbox is one to be thrown away. Pure.

Providers deliver several addresses into one mailbox: tags after a plus sign, dots, older domains of the same service.
For sign-in an address is what was typed; what is given once to a person goes by mailbox.
"""

from __future__ import annotations

import unicodedata

from disposable_email_domains import blocklist

_ONE_SERVICE = {
    "googlemail.com": "gmail.com",
    "protonmail.com": "proton.me",
    "protonmail.ch": "proton.me",
    "pm.me": "proton.me",
    "me.com": "icloud.com",
    "mac.com": "icloud.com",
    "ya.ru": "yandex.ru",
    "yandex.com": "yandex.ru",
    "yandex.by": "yandex.ru",
    "yandex.kz": "yandex.ru",
}
"""Domain → the service's own: the same name before the @ is the same mailbox there."""
_IDLE = {"gmail.com": ".", "proton.me": ".-_"}
"""Signs that the service does not tell apart from nothing."""
_FASTMAIL = ".fastmail.com"


def mailbox(address: str) -> str:
    """The address that every alias of the same mailbox leads to, for comparing only; "" for what is no address."""
    local, _, domain = unicodedata.normalize("NFKC", address).strip().casefold().rpartition("@")
    domain = _ONE_SERVICE.get(domain, domain)
    if domain.endswith(_FASTMAIL):  # anything@name.fastmail.com is a tag of name@fastmail.com
        local, domain = domain.removesuffix(_FASTMAIL), _FASTMAIL[1:]
    tags = "-" if domain.startswith("yahoo.") else "+"
    name = local.partition(tags)[0] or local
    for sign in _IDLE.get(domain, ""):
        name = name.replace(sign, "") or name
    return f"{name}@{domain}" if domain else ""


def is_disposable(address: str) -> bool:
    """Whether the address is of a domain (or below one) that gives mailboxes to be thrown away."""
    labels = address.strip().casefold().rpartition("@")[2].rstrip(".").split(".")
    return any(".".join(labels[first:]) in blocklist for first in range(len(labels) - 1))
