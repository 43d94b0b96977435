"""That an answer which lacks something is found out."""

from __future__ import annotations

from typing import Any

import httpx

from tests.wire.conformance import differences, unlike


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
