"""Every documented example of the five pages, over the real proxy, all five brands at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

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


def test_a_page_is_held_against_its_answer_field_by_field() -> None:
    shown = {"a": 1, "b": [{"c": "x"}], "d": None, "e": 0.5, "f": True}
    assert list(unlike(shown, {"a": 2, "b": [{"c": "y", "more": 1}], "d": "z", "e": 1, "f": False, "g": 0})) == []
    assert len(list(unlike(shown, {"a": "2", "b": [{}], "e": "1", "f": 1}))) == 5
    assert list(unlike({"b": [1]}, {"b": []})) != []
    answer = httpx.Response(200, json={"a": 1}, headers={"x-request-id": "x"})
    fine: dict[str, Any] = {"status": 200, "shape": '{"a": 5}', "equal": {"a": 1}, "match": {"a": "1"}, "absent": ["b"]}
    assert differences(fine, answer, {}) == []
    for wrong in (
        {"status": 201},
        {"equal": {"a": 2}},
        {"match": {"a": "2"}},
        {"absent": ["a"]},
        {"shape": '{"b": 1}'},
    ):
        assert differences({**fine, **wrong}, answer, {}) != []
    assert differences(fine, answer, {"x-ratelimit-limit": "."}) != []
