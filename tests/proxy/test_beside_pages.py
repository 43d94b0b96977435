"""The proxy as production serves it: in one application with the portal, whose pages must never reach a caller."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import orjson
import pytest

from portal.asgi import application
from tests.proxy.shop import Gateway, Shop, serve

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def gateway(shop: Shop) -> Iterator[Gateway]:
    with serve(shop, application) as served:
        yield served


@pytest.mark.parametrize("hosts", [b"", b"host: localhost\r\nhost: localhost\r\n"])
def test_a_request_without_one_host_is_refused_below_a_slug_too(gateway: Gateway, hosts: bytes) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as link:
        link.sendall(b"POST /dialogix/v1/chat/completions HTTP/1.1\r\n%bcontent-length: 0\r\n\r\n" % hosts)
        answer = b""
        while not answer.endswith(b"}"):
            piece = link.recv(65_536)
            assert piece, answer
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"\r\nx-request-id: " in head.lower()
    assert b"\r\ncontent-type: application/json" in head.lower()
    assert orjson.loads(body)["error"]["code"] == "invalid_host"
