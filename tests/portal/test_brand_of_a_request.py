import ipaddress

import pytest
from django.http import HttpResponse

from keys.reserved import RESERVED_SLUGS
from portal.middleware import BrandMiddleware
from portal.urls import urlpatterns
from tests import cast as casting


def test_the_default_brand_answers_where_nothing_names_another(client, house):
    assert "The Dialogix API" in client.get("/").content.decode()


def test_the_first_path_segment_names_a_brand_and_stays_in_every_link(client, house):
    other = casting.brand(name="Axione")
    page = client.get(f"/{other.slug}/").content.decode()
    assert "The Axione API" in page
    assert f'href="/{other.slug}/accounts/login/"' in page
    assert f"http://testserver/{other.slug}/v1/chat/completions" in page
    assert 'href="/accounts/login/"' in client.get("/").content.decode()


def test_a_brands_own_host_names_it_and_is_allowed(client, house, settings):
    settings.ALLOWED_HOSTS = ["localhost"]
    casting.brand(name="Axione", hosts=["api.axione.example"])
    page = client.get("/", headers={"host": "api.axione.example:8443"})
    assert "The Axione API" in page.content.decode()
    assert "http://api.axione.example:8443/v1/chat/completions" in page.content.decode()


def test_on_a_brands_host_no_path_names_another_brand(client, house):
    casting.brand(name="Axione", hosts=["api.axione.example"])
    assert client.get(f"/{house.slug}/", headers={"host": "api.axione.example"}).status_code == 404


@pytest.mark.parametrize("host", ["evil.example", "", "local host", "localhost,evil.example", "[::1", "localhost:x"])
def test_a_host_that_nobody_named_is_refused(client, house, settings, host):
    settings.ALLOWED_HOSTS = ["localhost"]
    answer = client.get("/", headers={"host": host})
    assert answer.status_code == 400
    assert "default-src 'none'" in answer["Content-Security-Policy"]


def test_links_in_mails_use_the_checked_host_only(client, house, settings):
    settings.ALLOWED_HOSTS = ["localhost"]
    answer = client.get("/accounts/login/", headers={"host": "localhost", "x-forwarded-host": "evil.example"})
    assert "evil" not in answer.content.decode()


def test_without_any_brand_the_page_says_what_to_do(client, db):
    answer = client.get("/")
    assert answer.status_code == 503
    assert "manage.py brand new" in answer.content.decode()


@pytest.mark.parametrize(
    ("remote", "forwarded", "found"),
    [
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
        ("10.0.0.2", "1.2.3.4, 198.51.100.1, 10.0.0.7", "198.51.100.1"),
        ("10.0.0.2", "198.51.100.1, nonsense", "10.0.0.2"),
        ("10.0.0.2", "", "10.0.0.2"),
    ],
)
def test_only_trusted_proxies_may_say_where_a_reader_is(rf, house, settings, remote, forwarded, found):
    settings.TRUSTED_PROXIES = [ipaddress.ip_network("10.0.0.0/8")]
    request = rf.get("/", REMOTE_ADDR=remote, headers={"x-forwarded-for": forwarded})
    BrandMiddleware(lambda _request: HttpResponse())(request)
    assert request.client_address == found


def test_no_brand_may_take_a_first_segment_of_ours():
    segments = {str(pattern.pattern).partition("/")[0] for pattern in urlpatterns}
    plain = {segment for segment in segments if segment.isalpha()}
    assert plain <= RESERVED_SLUGS
