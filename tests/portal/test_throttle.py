import pytest
from django.core.cache import caches
from redis.exceptions import ConnectionError as RedisGone

from portal import throttle
from portal.urls import urlpatterns
from tests import cast as casting


def try_signing_in(client, email="ada@example.com", **more):
    return client.post("/accounts/login/", {"login": email, "password": "wrong"}, **more)


def test_the_eleventh_try_at_an_account_waits_whatever_the_address(client, house):
    for number in range(10):
        assert try_signing_in(client, REMOTE_ADDR=f"203.0.113.{number}").status_code == 200
    refused = try_signing_in(client, " Ada@Example.com", REMOTE_ADDR="203.0.113.99")
    assert refused.status_code == 429
    assert 1 <= int(refused["Retry-After"]) <= 300
    assert "Too many sign-ins" in refused.content.decode()
    assert try_signing_in(client, "grace@example.com", REMOTE_ADDR="203.0.113.99").status_code == 200


def test_one_address_cannot_try_many_accounts(client, house):
    statuses = [try_signing_in(client, f"person-{number}@example.com").status_code for number in range(31)]
    assert statuses == [200] * 30 + [429]
    assert try_signing_in(client, "other@example.com", REMOTE_ADDR="203.0.113.1").status_code == 200


def test_the_right_password_waits_too(client, house):
    known = casting.person("known")
    for _ in range(10):
        try_signing_in(client, known.email)
    answer = client.post("/accounts/login/", {"login": known.email, "password": casting.PASSWORD})
    assert answer.status_code == 429
    assert "_auth_user_id" not in client.session


def test_a_forwarded_address_counts_only_behind_a_trusted_proxy(client, house):
    for number in range(30):
        try_signing_in(client, f"person-{number}@example.com", headers={"x-forwarded-for": f"198.51.100.{number}"})
    assert try_signing_in(client, "x@example.com", headers={"x-forwarded-for": "198.51.100.77"}).status_code == 429


@pytest.mark.parametrize(
    ("path", "data", "allowed"),
    [
        ("/accounts/signup/", {"email": "ada@example.com", "password1": "password"}, 5),
        ("/accounts/password/reset/", {"email": "ada@example.com"}, 5),
    ],
)
def test_mails_cannot_be_poured_on_an_address(client, house, path, data, allowed):
    statuses = [client.post(path, data, REMOTE_ADDR=f"203.0.113.{n}").status_code for n in range(allowed + 1)]
    assert statuses[-1] == 429
    assert 429 not in statuses[:-1]


def test_reading_a_form_is_never_throttled(client, house):
    assert {client.get("/accounts/login/").status_code for _ in range(40)} == {200}


def test_while_redis_is_away_tries_are_still_counted(client, house, monkeypatch):
    def gone(*_args, **_kwargs):
        raise RedisGone("no Redis")

    cache = caches[throttle.CACHE]
    assert isinstance(cache, throttle.SteadyCache)
    monkeypatch.setattr(type(cache._cache), "get_client", gone)
    statuses = [try_signing_in(client, "redis-is-away@example.com").status_code for _ in range(11)]
    assert statuses == [200] * 10 + [429]


def test_every_rule_belongs_to_a_page():
    def names(patterns):
        for pattern in patterns:
            if hasattr(pattern, "url_patterns"):
                yield from names(pattern.url_patterns)
            else:
                yield pattern.name

    assert set(throttle.RULES) <= set(names(urlpatterns))
