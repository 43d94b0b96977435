"""A brand that looks like OpenAI's API needs rows only: the file that the README shows, imported and called."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from keys import issuing, organizations
from keys.models import Brand
from portal.brandfile.importing import import_brand
from portal.brandfile.reading import read
from tests.proxy.shop import ACTOR, HELLO, Gateway

README = Path(__file__).parents[2] / "README.md"
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def sixth(gateway: Gateway) -> Iterator[Any]:
    """A customer of the brand that the README's file makes, with the engine's own address and model put in."""
    found = re.search(r"```toml\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    assert found is not None
    text = found[1]
    assert text.count("\n") <= 30
    text = text.replace("http://gpu-1:8000/v1", gateway.shop.inference.base_url)
    text = text.replace("org/small-instruct", "demo-chat")
    import_brand(read(text.encode()), actor=ACTOR)
    brand = Brand.objects.get(slug="acme")
    customer = organizations.create(brand=brand, name="Customer", slug="customer", actor=ACTOR)
    secret = issuing.issue(organization=customer, name="key", actor=ACTOR).secret
    assert secret.startswith("acme-")
    with OpenAI(base_url=f"{gateway.root}/acme/v1", api_key=secret, max_retries=0) as client:
        yield client


def test_it_answers_whole_and_streamed(sixth: Any) -> None:
    whole = sixth.chat.completions.create(model="acme-small", messages=HELLO, max_tokens=24)
    assert whole.choices[0].message.content
    chunks = list(sixth.chat.completions.create(model="acme-small", messages=HELLO, max_tokens=24, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert [model.id for model in sixth.models.list()] == ["acme-small"]


def test_its_rules_hold_and_its_default_is_sent(sixth: Any, gateway: Gateway) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature") as refused:
        sixth.chat.completions.create(model="acme-small", messages=HELLO, temperature=1.6)
    assert refused.value.param == "temperature"
    assert sixth.chat.completions.create(model="acme-small", messages=HELLO, temperature=1.5, max_tokens=4)


def test_its_tier_counts(sixth: Any) -> None:
    """100,000 tokens a day, all included, as the usage says at once."""
    before = json.loads(sixth.get("/usage", cast_to=str))
    answer = sixth.chat.completions.create(model="acme-small", messages=HELLO, max_tokens=24)
    after = json.loads(sixth.get("/usage", cast_to=str))
    assert after["tokens_used"] - before["tokens_used"] == answer.usage.total_tokens
    assert after["tokens_limit"] == 100_000


def test_its_key_is_none_on_anothers_surface(sixth: Any, gateway: Gateway) -> None:
    with (
        OpenAI(base_url=gateway.base_url, api_key=sixth.api_key, max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()
