"""One POST to an address that a customer chose: never to a private network, never further than to that address.

The name is resolved once, every address it has is judged, and the connection goes to an address that was judged: an
answer of the name server that changes in between changes nothing. Redirects are answers like others. Everything is over
by a deadline, however slowly the other side speaks, and little of what it says is read.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import SplitResult, urlsplit

from django.conf import settings

URL_MAX = 500
ANSWER_BYTES_MAX = 500
CONNECT_SECONDS = 5.0
TOTAL_SECONDS = 10.0
"""From the connection's beginning to the answer's last byte; resolving the name comes before."""
PORTS = {"https": 443, "http": 80}

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], Iterable[str]]

_EMBEDS_IPV4 = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")))
"""Addresses behind which a translator may find any IPv4 address, a private one too (NAT64, 6to4, Teredo)."""


class AddressRefused(Exception):
    """This installation sends nothing there. The message is for the customer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`status` None: there was none, and `text` says why."""

    status: int | None
    text: str

    @property
    def is_good(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


def is_allowed(address: Address, allowed: Sequence[Network]) -> bool:
    """Whether webhooks may go to it: it is a host of the public internet, or of a network the operator allows."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if any(address in network for network in allowed):
        return True
    if any(address in network for network in _EMBEDS_IPV4):
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.is_site_local:  # deprecated, and routed in places still
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def checked_url(url: str) -> SplitResult:
    """AddressRefused says what is wrong with it, without asking any name server."""
    if len(url) > URL_MAX or any(not 33 <= ord(sign) < 127 for sign in url):
        raise AddressRefused(f"An address has at most {URL_MAX} characters, without spaces; write others as %xx.")
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        raise AddressRefused("That is no address of a web server.") from None
    schemes = ("https", "http") if settings.WEBHOOK_HTTP else ("https",)
    if parts.scheme not in schemes or not host:
        raise AddressRefused("An address begins with https:// and names a host.")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise AddressRefused("An address has no user name, password or #fragment.")
    literal = _literal(host)
    if literal is not None and not is_allowed(literal, settings.WEBHOOK_NETWORKS):
        raise AddressRefused("That address is of a private network; webhooks go to public ones only.")
    return parts


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def resolve(host: str, port: int) -> Iterable[str]:
    """Every address the name has."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def addresses_of(host: str, port: int, look_up: Resolve) -> list[str]:
    """Those to connect to, in the resolver's order. One that is not allowed spoils the name: nobody honest has both."""
    found = list(dict.fromkeys(look_up(host, port)))
    for text in found:
        if not is_allowed(ipaddress.ip_address(text.partition("%")[0]), settings.WEBHOOK_NETWORKS):
            raise AddressRefused("The name leads to a private network; webhooks go to public ones only.")
    if not found:
        raise AddressRefused("The name has no address.")
    return found


class _Judged(http.client.HTTPConnection):
    """Connects to the addresses given, not to whatever the name means by then. TLS checks the name all the same."""

    def __init__(self, host: str, port: int, addresses: Sequence[str], context: ssl.SSLContext | None) -> None:
        super().__init__(host, port, timeout=TOTAL_SECONDS)
        self.default_port = PORTS["http" if context is None else "https"]
        self._addresses, self._context = addresses, context
        self._handle: socket.socket | None = None
        self.is_cut = False

    def connect(self) -> None:
        connection = self._connected()
        self._handle = connection.dup()  # TLS takes the socket itself away while it shakes hands
        try:
            context = self._context
            self.sock = context.wrap_socket(connection, server_hostname=self.host) if context else connection
        except BaseException:
            connection.close()
            raise

    def _connected(self) -> socket.socket:
        problem: OSError | None = None
        for address in self._addresses[:2]:
            try:
                connection = socket.create_connection((address, self.port), CONNECT_SECONDS)
            except OSError as error:
                problem = error
            else:
                connection.settimeout(TOTAL_SECONDS)
                return connection
        raise problem or OSError("no address")

    def cut(self) -> None:
        """From another thread: whoever waits for the other side hears of an end."""
        self.is_cut = True
        if self._handle is not None:
            with contextlib.suppress(OSError):
                self._handle.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        super().close()
        if self._handle is not None:
            self._handle.close()


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def post(url: str, headers: Mapping[str, str], body: bytes, *, look_up: Resolve = resolve) -> Answer:
    """Never raises for what the other side does or is."""
    try:
        parts = checked_url(url)
        assert parts.hostname is not None
        port = parts.port or PORTS[parts.scheme]
        addresses = addresses_of(parts.hostname, port, look_up)
    except AddressRefused as error:
        return Answer(None, str(error))
    except (OSError, UnicodeError) as error:
        return Answer(None, f"The name cannot be resolved: {error}"[:ANSWER_BYTES_MAX])
    context = _tls() if parts.scheme == "https" else None
    return _exchange(_Judged(parts.hostname, port, addresses, context), parts, headers, body)


def _exchange(connection: _Judged, parts: SplitResult, headers: Mapping[str, str], body: bytes) -> Answer:
    over = threading.Timer(TOTAL_SECONDS, connection.cut)
    over.daemon = True
    over.start()
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    fixed = {"content-type": "application/json", "user-agent": "webhooks/1.0", "connection": "close"}
    try:
        connection.request("POST", path, body, {**fixed, **headers})
        answer = connection.getresponse()
        if connection.is_cut:  # cut in the middle of headers, which http.client takes for their end
            raise TimeoutError
        return Answer(answer.status, printable(_beginning(answer)))
    except (OSError, http.client.HTTPException, ValueError) as error:
        waited_too_long = connection.is_cut or isinstance(error, TimeoutError)
        why = f"no whole answer within {TOTAL_SECONDS:.0f} seconds" if waited_too_long else _in_words(error)
        return Answer(None, f"No answer: {why}"[:ANSWER_BYTES_MAX])
    finally:
        over.cancel()
        connection.close()


def _beginning(answer: http.client.HTTPResponse) -> bytes:
    """The status decides; a text that breaks off is no reason to send again."""
    try:
        return answer.read(ANSWER_BYTES_MAX)
    except (OSError, http.client.HTTPException, ValueError):
        return b""


def _in_words(error: Any) -> str:
    return str(getattr(error, "verify_message", "") or getattr(error, "strerror", "") or error or type(error).__name__)


def printable(text: bytes) -> str:
    """What a page and PostgreSQL can show: no NUL, no other control characters but line ends."""
    shown = text.decode("utf-8", "replace")
    return "".join(sign if sign.isprintable() or sign in "\n\t" else "\ufffd" for sign in shown)[:ANSWER_BYTES_MAX]
