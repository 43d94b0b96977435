from ipaddress import ip_network

import pytest

from proxy.addresses import client_address

TRUSTED = [ip_network("10.0.0.0/8"), ip_network("::1/128")]


@pytest.mark.parametrize(
    ("peer", "header", "trusted", "expected"),
    [
        ("9.9.9.9", None, TRUSTED, "9.9.9.9"),
        ("9.9.9.9", b"1.2.3.4", [], "9.9.9.9"),
        ("9.9.9.9", b"1.2.3.4", TRUSTED, "9.9.9.9"),
        ("10.0.0.1", b"1.2.3.4", TRUSTED, "1.2.3.4"),
        ("10.0.0.1", b"6.6.6.6, 1.2.3.4, 10.0.0.2", TRUSTED, "1.2.3.4"),
        ("::1", b"1.2.3.4", TRUSTED, "1.2.3.4"),
        ("::ffff:10.0.0.1", b"1.2.3.4", TRUSTED, "1.2.3.4"),
        ("10.0.0.1", b"garbage", TRUSTED, "10.0.0.1"),
        ("10.0.0.1", b"1.2.3.4, garbage", TRUSTED, "10.0.0.1"),
        ("10.0.0.1", b"10.0.0.5, 10.0.0.2", TRUSTED, "10.0.0.5"),
        ("10.0.0.1", b"2001:db8::1", TRUSTED, "2001:db8::1"),
        (None, b"1.2.3.4", TRUSTED, "1.2.3.4"),
        (None, b"1.2.3.4", [], ""),
    ],
)
def test_only_trusted_proxies_say_whose_address_it_is(peer, header, trusted, expected) -> None:
    assert client_address(peer, header, trusted) == expected
