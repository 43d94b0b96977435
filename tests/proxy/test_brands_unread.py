"""A worker whose Redis lost what it knows of brands, while PostgreSQL is away too: it can say nothing of any key."""

import pytest

from billing import catalogue
from keys import records

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def nothing_is_published_again(gateway, monkeypatch):
    """As when neither store can be asked; what the worker forgets here it has again afterwards."""
    monkeypatch.setattr(catalogue, "publish_missing", lambda *_: None)
    kept = gateway.worker.catalogue
    store = gateway.shop.store
    brands, policy = store.hgetall(records.BRANDS), store.hgetall(records.brand_name(gateway.shop.brand.id))
    yield kept
    store.hset(records.BRANDS, mapping=brands)
    store.hset(records.brand_name(gateway.shop.brand.id), mapping=policy)


def says_wait(response):
    assert (response.status_code, response.headers["x-should-retry"]) == (503, "true"), response.text
    assert response.json()["error"]["code"] == "service_unavailable"


@pytest.mark.parametrize("path", ["/v1", "/dialogix/v1"])
def test_before_the_list_of_brands_was_read_nobodys_key_is_called_wrong(
    gateway, nothing_is_published_again, monkeypatch, path
):
    monkeypatch.setattr(nothing_is_published_again, "_brands", ())
    monkeypatch.setattr(nothing_is_published_again, "_brands_version", b"")
    gateway.shop.store.delete(records.BRANDS)
    body = {"model": "aion-v3", "messages": [{"role": "user", "content": "Hello"}]}
    says_wait(gateway.client.post(f"{gateway.root}{path}/chat/completions", json=body))


def test_without_a_brands_snapshot_nobodys_key_is_called_wrong(gateway, nothing_is_published_again, monkeypatch):
    assert gateway.chat(max_tokens=5).status_code == 200
    monkeypatch.setattr(nothing_is_published_again, "_snapshots", {})
    gateway.shop.store.delete(records.brand_name(gateway.shop.brand.id))
    says_wait(gateway.chat(max_tokens=5))
