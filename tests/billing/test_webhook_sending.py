"""Signatures as the specification has them; nothing goes into private networks, whatever a name turns out to mean."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from billing import webhook_sending, webhook_signing
from billing.webhook_sending import AddressRefused
from tests.billing.receiving import receiver

LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]


@pytest.fixture
def allowed(settings):
    settings.WEBHOOK_NETWORKS, settings.WEBHOOK_HTTP = LOOPBACK, True


def test_signature_of_the_specifications_example():
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    headers = webhook_signing.headers([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.1", "172.16.5.4", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("224.0.0.1", "255.255.255.255", "198.18.0.1", "192.0.2.1", "240.0.0.1"),
        *("::1", "::", "fe80::1", "fec0::1", "fc00::1", "fd12::1", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1"),
        *("::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:7f00:1::1", "::7f00:1"),
    ],
)
def test_private_addresses_are_refused(address, settings):
    settings.WEBHOOK_NETWORKS, settings.WEBHOOK_HTTP = [], False
    assert not webhook_sending.is_allowed(ipaddress.ip_address(address), [])
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(AddressRefused, match="private network"):
        webhook_sending.checked_url(f"https://{host}/hooks")
    with pytest.raises(AddressRefused, match="private network"):
        webhook_sending.addresses_of("a.example", 443, lambda *_: [address])
    with pytest.raises(AddressRefused, match="private network"):  # one among public ones
        webhook_sending.addresses_of("a.example", 443, lambda *_: ["93.184.215.14", address])


@pytest.mark.parametrize("address", ["93.184.215.14", "1.1.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1"])
def test_public_addresses_are_taken(address):
    assert webhook_sending.is_allowed(ipaddress.ip_address(address), [])


def test_the_operator_allows_networks():
    inside = ipaddress.ip_address("10.1.2.3")
    assert webhook_sending.is_allowed(inside, [ipaddress.ip_network("10.1.0.0/16")])
    assert not webhook_sending.is_allowed(inside, [ipaddress.ip_network("10.2.0.0/16")])


@pytest.mark.parametrize(
    "url",
    [
        *("http://example.com/", "ftp://example.com/", "https://", "https:///x", "example.com", "https://a b.example/"),
        *("https://user:word@example.com/", "https://example.com/#part", "https://example.com:99999/", "https://[::1"),
        *("https://example.com/\r\nx: y", "https://exämple.com/", "https://example.com/" + "a" * 500),
    ],
)
def test_addresses_that_are_none_are_refused(url, settings):
    settings.WEBHOOK_NETWORKS, settings.WEBHOOK_HTTP = [], False
    with pytest.raises(AddressRefused):
        webhook_sending.checked_url(url)
    assert webhook_sending.post(url, {}, b"{}").status is None


def test_a_name_that_leads_home_is_refused_before_anything_is_sent(settings):
    settings.WEBHOOK_NETWORKS, settings.WEBHOOK_HTTP = [], True
    with receiver() as there:
        answer = webhook_sending.post(there.url.replace("127.0.0.1", "localhost"), {}, b"{}")
        assert (answer.status, there.requests) == (None, [])
        assert "private network" in answer.text


def test_the_connection_goes_to_the_address_that_was_judged(settings, monkeypatch):
    """The name server says something else the second time: nobody asks it a second time."""
    settings.WEBHOOK_NETWORKS, settings.WEBHOOK_HTTP = [], True
    answers, connected = [["93.184.215.14"], ["127.0.0.1"]], []

    def connect(address, timeout):
        connected.append(address)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "create_connection", connect)
    answer = webhook_sending.post("http://rebinding.example/", {}, b"{}", look_up=lambda *_: answers.pop(0))
    assert answer.status is None
    assert connected == [("93.184.215.14", 80)]
    assert len(answers) == 1


def test_what_is_sent_and_what_comes_back(allowed):
    with receiver() as there:
        there.answers.append((200, {}, b"taken\x00" + b"x" * 2_000))
        answer = webhook_sending.post(there.url + "?a=b", {"webhook-id": "evt_1"}, b'{"a": 1}')
        ((path, headers, body),) = there.requests
    assert (path, body) == ("/hooks?a=b", b'{"a": 1}')
    assert headers["content-type"] == "application/json"
    assert headers["webhook-id"] == "evt_1"
    assert headers["host"] == there.url.split("/")[2]
    assert answer.is_good
    assert len(answer.text) == 500
    assert answer.text.startswith("taken\ufffdx")


def test_redirects_are_not_followed(allowed):
    with receiver() as there:
        there.answers.append((302, {"location": there.url}, b""))
        answer = webhook_sending.post(there.url, {}, b"{}")
        assert (answer.status, answer.is_good, len(there.requests)) == (302, False, 1)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_drips_is_left_by_the_deadline(allowed, monkeypatch, scheme):
    """Each byte is in time, the whole never is; over https already in the handshake."""
    monkeypatch.setattr(webhook_sending, "TOTAL_SECONDS", 0.5)
    over = threading.Event()
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with closing(connection):
                try:
                    connection.sendall(b"HTTP/1.1 200 OK\r\n" if scheme == "http" else b"\x16\x03\x03\x40\x00")
                    while not over.wait(0.1):
                        connection.sendall(b"a")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        began = time.monotonic()
        answer = webhook_sending.post(f"{scheme}://127.0.0.1:{server.getsockname()[1]}/", {}, b"{}")
        took = time.monotonic() - began
        over.set()
        thread.join()
    assert answer.status is None
    assert "within" in answer.text
    assert took < 3


def certificate_for(name: str, folder) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's side with a certificate of that name, and a client's that believes it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = Encoding.PEM
    (folder / "pair.pem").write_bytes(
        key.private_bytes(pem, PrivateFormat.PKCS8, NoEncryption()) + made.public_bytes(pem)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "pair.pem")
    return server, ssl.create_default_context(cadata=made.public_bytes(pem).decode())


def test_tls_checks_the_name_although_the_connection_goes_to_an_address(allowed, tmp_path, monkeypatch):
    server, client = certificate_for("hooks.example", tmp_path)
    with receiver(server) as there:
        port = there.url.rpartition(":")[2]
        unknown = webhook_sending.post(f"https://hooks.example:{port}", {}, b"{}", look_up=lambda *_: ["127.0.0.1"])
        monkeypatch.setattr(webhook_sending, "_tls", lambda: client)
        good, bad = (
            webhook_sending.post(f"https://{name}:{port}", {}, b"{}", look_up=lambda *_: ["127.0.0.1"])
            for name in ("hooks.example", "other.example")
        )
        assert (unknown.status, good.status, bad.status) == (None, 204, None)
        assert "self-signed" in unknown.text
        assert "match" in bad.text
        assert len(there.requests) == 1


def test_a_server_without_tls_gets_nothing_over_https(allowed):
    with receiver() as there:
        answer = webhook_sending.post(there.url.replace("http:", "https:"), {}, b"{}")
    assert answer.status is None
    assert there.requests == []
