import pytest

from proxy.dispatch import Brands
from proxy.refusals import Declined
from tests.proxy.records import brand

DIALOGIX = brand(id=1, slug="dialogix", hosts=("api.dialogix.example",))
AXIONE = brand(id=3, slug="axione", base_paths=("/api/v1",), hosts=("axione.example",))
RESERVED = brand(id=4, slug="admin")


@pytest.fixture
def brands() -> Brands:
    return Brands(
        [DIALOGIX, AXIONE, RESERVED], default_brand="dialogix", allowed_hosts=["localhost", ".gateway.example", "[::1]"]
    )


@pytest.mark.parametrize(
    ("host", "path", "slug", "root", "base", "rest"),
    [
        (b"api.dialogix.example", "/v1/models", "dialogix", "", "/v1", "/models"),
        (b"API.Dialogix.Example:443", "/v1/models", "dialogix", "", "/v1", "/models"),
        (b"api.dialogix.example", "/api/v1/chat/completions", "dialogix", "", "/api/v1", "/chat/completions"),
        (b"axione.example", "/api/v1/models/a/b", "axione", "", "/api/v1", "/models/a/b"),
        (b"localhost:8000", "/axione/api/v1/models", "axione", "/axione", "/api/v1", "/models"),
        (b"localhost:8000", "/dialogix/v1", "dialogix", "/dialogix", "/v1", "/"),
        (b"localhost:8000", "/v1/models", None, "", "/v1", "/models"),
        (b"[::1]:8000", "/v1/models", None, "", "/v1", "/models"),
        (b"eu.gateway.example", "/v1/models", None, "", "/v1", "/models"),
        (b"gateway.example", "/v1/models", None, "", "/v1", "/models"),
    ],
)
def test_host_then_slug_then_open(brands: Brands, host, path, slug, root, base, rest) -> None:
    place = brands.place(host, path)
    assert place is not None
    assert (place.brand and place.brand.slug, place.root, place.base, place.rest) == (slug, root, base, rest)
    assert brands.ours(host, path)


@pytest.mark.parametrize(
    ("host", "path"),
    [
        (b"localhost", "/"),
        (b"localhost", "/admin/v1/x"),  # a reserved word is no brand, whatever its slug
        (b"localhost", "/v1x/models"),
        (b"localhost", "/dialogix"),
        (b"localhost", "/dialogix/keys"),
        (b"axione.example", "/v1/models"),  # not one of its base paths
        (b"api.dialogix.example", "/axione/api/v1/models"),  # a host decides alone
    ],
)
def test_what_is_under_no_base_path_is_the_portals(brands: Brands, host, path) -> None:
    assert brands.place(host, path) is None
    assert not brands.ours(host, path)


def test_a_slug_nobody_knows_yet_may_be_a_new_brands(brands: Brands) -> None:
    assert brands.place(b"localhost", "/nobody/v1/models") is None
    assert brands.ours(b"localhost", "/nobody/v1/models")


@pytest.mark.parametrize(
    "host",
    [
        *(None, b"", b"evil.example", b"localhost.evil.example", b"localhost:80:80", b"localhost:x", b"local host"),
        *(b"localhost/", b"user@localhost", b"[::1", b"[::1]x", b"l\xc3\xb6calhost", b"notgateway.example"),
    ],
)
def test_a_host_that_is_missing_repeated_or_strange_is_declined(brands: Brands, host) -> None:
    with pytest.raises(Declined) as caught:
        brands.place(host, "/v1/models")
    assert caught.value.problem.status == 400
    for path in ("/v1/models", "/dialogix/v1/models", "/axione/api/v1/models"):
        assert brands.ours(host, path)  # so that the proxy says so
    assert not brands.ours(host, "/admin/v1/models")


def test_an_open_place_belongs_only_to_brands_with_that_base_path(brands: Brands) -> None:
    place = brands.place(b"localhost", "/v1/models")
    assert place is not None
    assert brands.serves(DIALOGIX, place)
    assert not brands.serves(AXIONE, place)
