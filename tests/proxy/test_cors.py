from proxy.cors import answer_headers, preflight_headers
from tests.proxy.records import brand

ANY = brand(cors_origins=("*",))
ONE = brand(id=2, slug="b", cors_origins=("https://app.example",))
NONE = brand(id=3, slug="c")


def test_an_allowed_page_may_read_the_answer_and_its_headers() -> None:
    headers = dict(answer_headers(ONE, b"https://app.example"))
    assert headers[b"access-control-allow-origin"] == b"https://app.example"
    assert headers[b"vary"] == b"origin"
    for name in (b"x-request-id", b"retry-after", b"x-ratelimit-remaining-tokens"):
        assert name in headers[b"access-control-expose-headers"]
    assert dict(answer_headers(ANY, b"https://x.example"))[b"access-control-allow-origin"] == b"*"


def test_other_pages_get_nothing() -> None:
    assert answer_headers(ONE, b"https://evil.example") == ()
    assert answer_headers(NONE, b"https://app.example") == ()
    assert answer_headers(ONE, None) == ()


def test_a_preflight_names_methods_and_the_headers_asked_for() -> None:
    headers = dict(preflight_headers([NONE, ONE], b"https://app.example", ("POST",), b"Authorization, X-Stainless-Os"))
    assert headers[b"access-control-allow-methods"] == b"POST, OPTIONS"
    assert headers[b"access-control-allow-headers"] == b"authorization, x-stainless-os"


def test_a_preflight_of_a_stranger_allows_nothing() -> None:
    assert b"access-control-allow-origin" not in dict(
        preflight_headers([ONE], b"https://evil.example", ("POST",), None)
    )


def test_header_names_that_are_none_are_not_repeated() -> None:
    headers = dict(preflight_headers([ANY], b"https://x.example", ("POST",), b"a\r\nset-cookie: x"))
    assert headers[b"access-control-allow-headers"].startswith(b"authorization")
