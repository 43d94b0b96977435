"""Which mailbox an e-mail address reaches, and whether that mailbox is one to be thrown away. Pure.

Providers deliver several addresses into one mailbox: tags after a plus sign, dots, older domains of the same service.
An address also has several spellings: names in quotation marks, wide letters, domains in letters or as DNS has them.
For sign-in an address is what was typed; what is given once to a person goes by mailbox.
"""

from __future__ import annotations

import re
import string
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


_ONLY_QUOTED = re.compile(r"[\s\x00-\x1f\x7f\"\\]")
"""What a name before the @ has only within quotation marks, and these themselves. Senders strip marks that need not be
there, and hosts seldom tell the rest apart, so addresses are compared without."""
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"@[^@]*', re.DOTALL)
_PLAIN = re.compile(r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[a-z0-9!#$%&'*+/=?^_`{|}~-]+)*", re.IGNORECASE | re.ASCII)


def mailbox(address: str) -> str:
    """The address that every alias of the same mailbox leads to, for comparing only; "" for what is no address."""
    local, domain = _parts(address)
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
    labels = _parts(address)[1].split(".")
    return any(".".join(labels[first:]) in blocklist for first in range(len(labels) - 1))


def is_needlessly_quoted(address: str) -> bool:
    """Whether the name before the @ is in quotation marks and says nothing that it could not say without: another
    spelling of a plain address, to which it is delivered."""
    found = _QUOTED.fullmatch(_folded(address))
    return found is not None and _PLAIN.fullmatch(re.sub(r"\\(.)", r"\1", found[1], flags=re.DOTALL)) is not None


def _parts(address: str) -> tuple[str, str]:
    """(name, domain), each as it is compared; the domain is "" for what is no address."""
    local, _, domain = _folded(address).rpartition("@")
    return unicodedata.normalize("NFKC", _ONLY_QUOTED.sub("", local)) or local, _in_dns(domain)


def _folded(address: str) -> str:
    wide = unicodedata.normalize("NFKC", address).casefold()
    return unicodedata.normalize("NFKC", wide).strip()


def _in_dns(domain: str) -> str:
    """The domain as mail to it is sent: by Python's codec (IDNA 2003, with which Django writes the envelope), whatever
    newer rules make of a letter; unchanged where that refuses it."""
    domain = domain.rstrip(_ENDS)
    try:
        return domain.encode("idna").decode("ascii").rstrip(_ENDS) if len(domain) <= _LONGEST else domain
    except UnicodeError:
        return domain


_LONGEST = 253
_ENDS = string.whitespace + "\x1c\x1d\x1e\x1f\x85.\u3002\uff0e\uff61"
"""Space, and what separates labels by IDNA."""
