"""Every documented example of the five pages, over the real proxy, all five brands at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from portal.tour import Proof
from portal.tour.demo import Demo
from portal.tour.surfaces import ROWS, five_brands_answer_as_their_pages_say
from tests.wire.conformance import PAGES, differences, send, unlike
from tests.wire.conftest import Served
from tests.wire.mall import OPENAI_LIKE, SLUGS

pytestmark = pytest.mark.django_db(transaction=True)
Tell = Callable[[str, str, str], None]
EXAMPLES = [
    pytest.param(slug, example, id=f"{slug}: {example['name']}") for slug in SLUGS for example in PAGES[slug]["example"]
]


def behaviour_of(example: dict[str, Any]) -> str:
    if example["status"] >= 400:
        return f"{example['status']} as documented"
    return "streams" if "stream" in example else f"{example['method']} {example['path']}"


@pytest.mark.parametrize(("slug", "example"), EXAMPLES)
def test_an_example_gets_what_its_page_promises(served: Served, slug: str, example: dict[str, Any], tell: Tell) -> None:
    tell(slug, behaviour_of(example), "yes")
    answer = send(served.client, served.stall(slug), example)
    assert differences(example, answer, PAGES[slug].get("every_answer_but_401", {})) == []


ENVELOPES = {slug: {"error": {"message": "…", "type": "authentication_error"}} for slug in OPENAI_LIKE}
ENVELOPES["aimichat"] = {"error": "Unauthorized", "message": "…"}  # type: ignore[dict-item]


@pytest.mark.parametrize("surface", SLUGS)
def test_a_key_of_another_brand_is_401_in_this_surfaces_envelope(served: Served, surface: str, tell: Tell) -> None:
    tell(surface, "other brands' keys", "4 × 401")
    here = served.stall(surface)
    for slug in SLUGS:
        if slug != surface:
            headers = {"authorization": f"Bearer {served.stall(slug).keys['api_key']}"}
            body = {"model": here.model, "messages": [{"role": "user", "content": "Hello"}]}
            for answer in (
                served.client.post(here.path + "/chat/completions", json=body, headers=headers),
                served.client.get(here.path + "/usage", headers=headers),
            ):
                assert answer.status_code == 401, f"{slug} on {surface}: {answer.text}"
                assert list(unlike(ENVELOPES[surface], answer.json())) == []


def test_by_host_the_same_surface_answers(served: Served) -> None:
    for slug in SLUGS:
        stall = served.stall(slug)
        headers = {"host": stall.brand.hosts[0], "authorization": f"Bearer {stall.keys['api_key']}"}
        body = {"model": stall.model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 16}
        answer = served.client.post(f"{stall.brand.base_paths[0]}/chat/completions", json=body, headers=headers)
        assert answer.status_code == 200, answer.text


def brands_of(served: Served) -> dict[str, Any]:
    """As demo.json tells of them."""
    return {
        slug: {
            "base_url": served.base_url(slug),
            "model": stall.model,
            "api_key": stall.keys["api_key"],
            "keys": stall.keys,
            "models": stall.models,
        }
        for slug, stall in served.mall.stalls.items()
    }


async def shown(brands: dict[str, Any]) -> Proof:
    demo = Demo(brands["dialogix"], brands=brands)
    try:
        return await five_brands_answer_as_their_pages_say(demo)
    finally:
        await demo.pool.close()


def test_the_tour_shows_the_table_of_brands(served: Served) -> None:
    proof = asyncio.run(shown(brands_of(served)))
    print("\n".join(proof.lines))
    assert proof.holds, "\n".join(proof.lines)
    assert proof.lines[0].split() == list(SLUGS)
    assert len(proof.lines) == len(ROWS) + 2


def test_the_tour_says_where_an_answer_differs(served: Served) -> None:
    brands = brands_of(served)
    brands["axione"]["keys"] = {**brands["axione"]["keys"], "revoked": brands["axione"]["api_key"]}
    proof = asyncio.run(shown(brands))
    assert not proof.holds
    assert any("200 (not 401)" in line for line in proof.lines)
