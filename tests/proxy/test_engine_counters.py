"""Engines' own counters: read of each kind, and held against what calls through the real proxy were charged for."""

from __future__ import annotations

import itertools
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from billing import engine_counters
from billing.engine_counters import AT_REST, Reading
from billing.journal import Journal
from billing.models import EngineFinding, EngineReading, UsageEvent
from portal import engine_audit, tasks
from proxy.engine_counters import read_all, understood
from tests.billing.draining import drain
from tests.inference import Inference, demo_engine
from tests.llamacpp import llamacpp
from tests.proxy.shop import Gateway

VLLM = """# HELP vllm:prompt_tokens_total Number of prefill tokens processed.
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="a b"} 12.0
vllm:prompt_tokens_total{engine="1",model_name="a b"} 1.5e+03
vllm:generation_tokens_total{engine="0",model_name="a } 9"} 7.0 1760000000000
vllm:num_requests_running{engine="0"} 2.0
vllm:num_requests_waiting{engine="0"} 3.0
process_start_time_seconds 1.76e+09
"""


@pytest.mark.parametrize(
    ("kind", "text", "reading"),
    [
        ("vllm", VLLM, Reading(1_512, 7, True, 5, 1.76e9)),
        ("vllm", "vllm:prompt_tokens_total 3\nvllm:generation_tokens_total 4", Reading(3, 4, True, None, None)),
        ("vllm", "vllm:prompt_tokens_total 3\n", None),
        ("sglang", VLLM, None),
        (
            "sglang",
            "sglang:prompt_tokens_total 3\nsglang:generation_tokens_total 4\nsglang:num_running_reqs 0",
            Reading(3, 4, True, 0, None),
        ),
        (
            "llamacpp",
            "llamacpp:prompt_tokens_total 3\nllamacpp:tokens_predicted_total 4\nllamacpp:requests_processing 1",
            Reading(3, 4, False, 1, None),
        ),
        (
            "llamacpp",
            "llamacpp:prompt_tokens_total 3\nllamacpp:prompt_tokens_cached_total 9\nllamacpp:tokens_predicted_total 4",
            Reading(12, 4, True, None, None),
        ),
        ("vllm", "vllm:prompt_tokens_total what\nvllm:generation_tokens_total 4", None),
    ],
)
def test_expositions_are_understood_by_kind(kind: str, text: str, reading: Reading | None) -> None:
    assert understood(kind, text) == reading


async def test_only_engines_that_count_and_answer_are_read(tmp_path) -> None:
    with demo_engine() as inference, demo_engine(api_key="secret") as closed, llamacpp(tmp_path) as llama:
        found = await read_all(
            {
                "demo": inference.record(id=1),
                "closed": closed.record(id=2),
                "away": inference.record(id=3, base_url="http://127.0.0.1:9/v1"),
                "tgi": inference.record(id=4, kind="tgi"),
                "llama": inference.record(id=5, kind="llamacpp", base_url=llama.base_url),
            }
        )
    assert found["demo"] == Reading(0, 0, True, 0, None)
    assert found["llama"].is_prompt_whole
    assert found.keys() == {"demo", "llama"}


@pytest.fixture
def audited(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    """The shop's engine read a first time; clocks are one here, so seconds of skew need not be allowed."""
    monkeypatch.setattr(engine_counters, "SKEW", timedelta())
    gateway.shop.inference.engine.log.clear()
    EngineReading.objects.all().delete()
    EngineFinding.objects.all().delete()
    assert engine_audit.compare(now=datetime.now(UTC)) == 0
    return gateway


def twelve_calls(gateway: Gateway) -> None:
    for number in range(6):
        words = f"Story {number}: " + f"a long tale of number {number} " * 250 + " demo:fill"
        assert gateway.chat(words, max_tokens=1_000).status_code == 200
        gateway.stream(words + " again", max_tokens=1_000)


def judged(gateway: Gateway) -> dict[str, Any]:
    """Reads again when engine and books are at rest, and judges as if the time for that had passed."""
    journal = Journal(gateway.shop.store, name="tests", notify=lambda _line: None)
    deadline = time.monotonic() + 10
    before = (-1, -1)
    while (now := (len(gateway.shop.inference.engine.log), UsageEvent.objects.count())) != before:
        assert time.monotonic() < deadline
        before = now
        time.sleep(0.3)
        drain(journal)
    engine_audit.compare(now=datetime.now(UTC))
    findings = engine_counters.compare(gateway.shop.store, datetime.now(UTC) + AT_REST)
    return {found.kind: (found.counted, found.metered) for found in findings}


@pytest.mark.django_db(transaction=True)
def test_the_task_reads_the_engines(audited: Gateway) -> None:
    before = EngineReading.objects.count()
    tasks.compare_engine_counters(unknown="argument")
    assert EngineReading.objects.count() > before


def broken_off(gateway: Gateway, number: int) -> None:
    """Streams whose client leaves after a few pieces."""
    for one in range(number):
        messages = [{"role": "user", "content": f"Gone {one} demo:fill demo:rate=100"}]
        body = {"model": "aion-v3", "messages": messages, "max_tokens": 400, "stream": True}
        url, headers = f"{gateway.base_url}/chat/completions", gateway.client.headers
        with httpx.stream("POST", url, json=body, headers=headers) as answer:
            for _line in itertools.islice(answer.iter_lines(), 10):
                pass


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("cancelled", [6, 12])
def test_a_tenth_too_few_is_found_among_calls_broken_off(audited: Gateway, cancelled: int) -> None:
    audited.shop.inference.engine.control.update({"rules": [{"do": "short=10"}]})
    try:
        for _ in range(2):
            twelve_calls(audited)
        broken_off(audited, cancelled)
        assert judged(audited).keys() == {"prompt", "output"}
    finally:
        audited.shop.inference.engine.control.update({"rules": []})


def given_up(gateway: Gateway, number: int) -> None:
    """Whole calls whose client leaves before an answer."""
    for one in range(number):
        messages = [{"role": "user", "content": f"Given up {one} demo:fill demo:rate=100"}]
        body = {"model": "aion-v3", "messages": messages, "max_tokens": 400}
        with suppress(httpx.ReadTimeout):
            httpx.post(f"{gateway.base_url}/chat/completions", json=body, headers=gateway.client.headers, timeout=0.5)


@pytest.mark.django_db(transaction=True)
def test_calls_of_which_nothing_was_heard_hide_no_more_than_their_grant(audited: Gateway) -> None:
    audited.shop.inference.engine.control.update({"rules": [{"do": "short=10"}]})
    try:
        for _ in range(2):
            twelve_calls(audited)
        given_up(audited, 2)
        assert judged(audited).keys() == {"prompt", "output"}
    finally:
        audited.shop.inference.engine.control.update({"rules": []})
    unheard = UsageEvent.objects.filter(usage_source="none")
    assert [(row.granted_tokens, row.choices, row.end_reason) for row in unheard] == [(400, 1, "client_gone")] * 2


@pytest.mark.django_db(transaction=True)
def test_an_honest_engine_is_not_accused_for_calls_given_up(audited: Gateway) -> None:
    twelve_calls(audited)
    given_up(audited, 4)
    assert judged(audited) == {}


@pytest.mark.django_db(transaction=True)
def test_an_honest_engine_is_not_accused_for_calls_broken_off(audited: Gateway) -> None:
    twelve_calls(audited)
    broken_off(audited, 12)
    assert judged(audited) == {}


@pytest.mark.django_db(transaction=True)
def test_an_honest_engine_agrees_to_the_token(audited: Gateway) -> None:
    twelve_calls(audited)
    assert judged(audited) == {}
    first, last = EngineReading.objects.order_by("at").first(), EngineReading.objects.order_by("at").last()
    assert first is not None
    assert last is not None
    counted = last.prompt_tokens - first.prompt_tokens, last.output_tokens - first.output_tokens
    metered = [engine_counters._metered(kind, first, last).tokens for kind in ("prompt", "output")]
    assert counted == tuple(metered)
    assert min(counted) > 10_000
    assert list(engine_audit.logs_that_differ(now=datetime.now(UTC))) == []


@pytest.mark.django_db(transaction=True)
def test_an_engine_that_reports_a_tenth_too_little_is_found(audited: Gateway, inference: Inference) -> None:
    inference.engine.control.update({"rules": [{"do": "short=10"}]})
    twelve_calls(audited)
    found = judged(audited)
    assert found.keys() == {"prompt", "output"}
    for counted, metered in found.values():
        assert 0.89 < metered / counted < 0.91
    calls = list(engine_audit.logs_that_differ(now=datetime.now(UTC)))
    assert len(calls) == 12, "and call by call in the engine's own log"
    engine_counters.tell_metrics(audited.shop.store)
    assert "gateway_engine_findings 2.0" in httpx.get(f"{audited.root}/metrics").text
