"""One conversation on two workers, one of which is killed: while it streams, and between its charge and its turn."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from billing.models import UsageEvent
from keys import brands
from portal.demo import speech
from proxy import conversation_leases
from tests.chaos.processes import Processes, Proxy, wait_for
from tests.proxy.shop import Shop

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow, pytest.mark.timeout(120)]

Message = dict[str, Any]


@pytest.fixture
def talky(shop: Shop) -> Shop:
    brands.change(brand=shop.brand, actor="tests", conversation_days=1)
    return shop


def say(proxy: Proxy, text: str, history: list[Message]) -> None:
    """Goes on with the conversation, which must be as `history` says."""
    said = {"role": "user", "content": text}
    response = proxy.chat(messages=[said], session_id="s")
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["usage"]["prompt_tokens"] == len(speech.chat_prompt([*history, said]))
    history += [said, body["choices"][0]["message"]]


def test_any_worker_goes_on_with_it_and_a_killed_one_stands_in_nobodys_way(talky: Shop, processes: Processes) -> None:
    first, second = processes.worker(), processes.worker()
    history: list[Message] = []
    for proxy in (first, second, first, second):
        say(proxy, "Go on.", history)
    cut = {"messages": [{"role": "user", "content": "demo:rate=20 demo:fill"}], "stream": True, "session_id": "s"}
    streaming = threading.Thread(target=lambda: first.cut(max_tokens=400, **cut))
    streaming.start()
    wait_for(lambda: talky.inference.engine.running, what="the stream")
    first.process.kill()
    streaming.join()
    began = time.monotonic()
    say(second, "Are you there?", history)
    waited = time.monotonic() - began
    assert waited < conversation_leases.USING_MS / 1000 + 2 < conversation_leases.WAIT_SECONDS_MAX
    print(f"a killed worker kept its conversation for {waited:.1f} s")
    say(second, "Still?", history)


def test_killed_between_charge_and_turn_leaves_the_state_before_it(talky: Shop, processes: Processes) -> None:
    processes.journal()
    doomed, other = processes.worker("after_settle_line"), processes.worker()
    history: list[Message] = []
    say(other, "One.", history)
    assert doomed.cut(messages=[{"role": "user", "content": "Two."}], session_id="s") == b""
    assert doomed.process.wait(10) != 0
    for name in talky.store.scan_iter("*:talk:*"):  # as if its lease had run out
        talky.store.delete(name)
    say(other, "Three.", history)
    assert other.client.get("/sessions/s").json()["turns"] == [1, 2]
    wait_for(lambda: UsageEvent.objects.count() == 3, what="three charges")
