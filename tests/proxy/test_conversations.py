"""`session_id`: a conversation that goes on over requests. What the engine was given to read is known by its tokens."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import msgspec
import pytest
from django.conf import settings
from django.utils import timezone

from keys import brands
from keys.caller import shard_of
from keys.sealing import open_text
from portal.demo import speech
from proxy import conversation_leases, conversation_rows
from proxy.conversation_rows import digest_of
from proxy.models import Conversation
from proxy.tasks import forget_expired_conversations
from tests.inference import CAPABILITIES
from tests.proxy.shop import Gateway, Streamed, read_events

pytestmark = pytest.mark.django_db(transaction=True)

Message = dict[str, Any]
CONTEXT = 1_000


class Customer:
    """One organization of a brand that keeps conversations. `say` goes on with session `s` unless told."""

    def __init__(self, gateway: Gateway, brand: Any, number: int) -> None:
        self.gateway = gateway
        self.organization = gateway.shop.new_organization(f"talker-{number}", brand=brand, credit="10")
        self.clients: list[httpx.Client] = []
        self.client = self.with_new_key()

    def with_new_key(self, **fields: Any) -> httpx.Client:
        secret = self.gateway.shop.new_key(self.organization, **fields).secret
        headers = {"authorization": f"Bearer {secret}"}
        self.clients.append(httpx.Client(base_url=f"{self.gateway.root}/talky/v1", headers=headers, timeout=40))
        return self.clients[-1]

    def close(self) -> None:
        for client in self.clients:
            client.close()

    def say(self, *messages: Message | str, **fields: Any) -> httpx.Response:
        client = fields.pop("client", self.client)
        headers = fields.pop("headers", None)
        said = [user(message) if isinstance(message, str) else message for message in messages]
        body = {"model": "aion-v3", "messages": said, "max_tokens": 40, "session_id": "s"} | fields
        response: httpx.Response = client.post("/chat/completions", json=body, headers=headers)
        return response

    def row(self, session_id: str = "s") -> Conversation | None:
        return Conversation.objects.filter(digest=digest_of(self.organization.id, session_id)).first()


@pytest.fixture(scope="module")
def talky(gateway: Gateway) -> Any:
    shop = gateway.shop
    brand = shop.new_brand("talky", "ta-", conversation_days=30)
    shop.new_model("aion-v3", "demo-chat", brand=brand)
    shop.new_model("small", "demo-chat", brand=brand, context_length=CONTEXT, max_completion_tokens=400)
    shop.new_model("thinker", "demo-reasoning", brand=brand, is_reasoning=True)
    return brand


_numbers = iter(range(1000))


@pytest.fixture
def customer(gateway: Gateway, talky: Any) -> Iterator[Customer]:
    made = Customer(gateway, talky, next(_numbers))
    yield made
    made.close()


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def answer_of(response: httpx.Response) -> Message:
    assert response.status_code == 200, response.text
    message: Message = response.json()["choices"][0]["message"]
    return message


def streamed(response: httpx.Response) -> Streamed:
    assert response.status_code == 200, response.text
    return Streamed(response.headers["x-request-id"], read_events(response.content))


def tokens(*messages: Message) -> int:
    """What the demo engine reads for these messages."""
    return len(speech.chat_prompt(messages))


def read_by_the_engine(customer: Customer, response: httpx.Response) -> int:
    found: int = customer.gateway.shop.inference.entry(response.headers["x-request-id"])["prompt_tokens"]
    return found


def test_it_remembers_over_requests_and_history_is_charged_as_prompt(customer: Customer) -> None:
    history: list[Message] = []
    for text in ("My name is Duck.", "Who am I?", "Really?"):
        response = customer.say(text)
        history.append(user(text))
        expected = tokens(*history)
        assert response.json()["usage"]["prompt_tokens"] == read_by_the_engine(customer, response) == expected
        event = customer.gateway.event_of(response)
        assert event.uncached_input_tokens + (event.cache_read_tokens or 0) == expected
        history.append(answer_of(response))
    fresh = customer.say("Really?", session_id="another")
    assert fresh.json()["usage"]["prompt_tokens"] == tokens(user("Really?"))
    assert customer.say("Really?", session_id=None).json()["usage"]["prompt_tokens"] == tokens(user("Really?"))
    assert Conversation.objects.filter(organization=customer.organization).count() == 2


def test_a_stream_goes_on_and_is_gone_on_with(customer: Customer) -> None:
    first = streamed(customer.say("One.", stream=True))
    second = customer.say("Two.")
    history = [user("One."), {"role": "assistant", "content": first.text}, user("Two.")]
    assert second.json()["usage"]["prompt_tokens"] == tokens(*history)
    third = streamed(customer.say("Three.", stream=True, stream_options={"include_usage": True}))
    usage = third.events[-2]["usage"]
    assert usage["prompt_tokens"] == tokens(*history, answer_of(second), user("Three."))


def test_it_belongs_to_the_organization_and_to_nobody_else(customer: Customer, gateway: Gateway, talky: Any) -> None:
    first = answer_of(customer.say("My secret."))
    other_key = customer.with_new_key()
    went_on = customer.say("Go on.", client=other_key)
    assert went_on.json()["usage"]["prompt_tokens"] == tokens(user("My secret."), first, user("Go on."))
    stranger = Customer(gateway, talky, next(_numbers))
    fresh = stranger.say("Go on.")
    assert fresh.json()["usage"]["prompt_tokens"] == tokens(user("Go on."))
    assert stranger.client.get("/sessions/s").json()["turns"] == [1]
    assert stranger.client.delete("/sessions/s").status_code == 204
    assert customer.client.get("/sessions/s").json()["turns"] == [1, 2]
    stranger.close()


def test_the_newest_system_message_stands_first(customer: Customer) -> None:
    old, new = ({"role": "system", "content": text} for text in ("Be kind.", "Be short and quick."))
    first = answer_of(customer.say(old, "One."))
    second = customer.say("Two.")
    history = [user("One."), first, user("Two.")]
    assert second.json()["usage"]["prompt_tokens"] == tokens(old, *history)
    third = customer.say(new, "Three.")
    assert third.json()["usage"]["prompt_tokens"] == tokens(new, *history, answer_of(second), user("Three."))
    shown = customer.client.get("/sessions/s").json()
    assert shown["messages"][0] == new
    assert [message["role"] for message in shown["messages"]].count("system") == 1


def test_tool_calls_and_their_results_are_turns_like_others(customer: Customer) -> None:
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    for stream in (False, True):
        session = {"session_id": f"tools-{stream}"}
        asked = customer.say("demo:tool", tools=tools, stream=stream, **session)
        assert asked.status_code == 200
        shown = customer.client.get(f"/sessions/tools-{stream}").json()["messages"]
        assert shown[1]["content"] is None
        assert shown[1]["tool_calls"][0]["function"]["name"] == "demo_tool"
        if not stream:
            assert shown[1]["tool_calls"] == answer_of(asked)["tool_calls"]
        result = {"role": "tool", "tool_call_id": "call_demo", "content": "42"}
        answered = customer.say(result, **session)
        assert answered.json()["usage"]["prompt_tokens"] == tokens(*shown, result)
        assert customer.client.get(f"/sessions/tools-{stream}").json()["turns"] == [1, 2]
    first, second = (customer.client.get(f"/sessions/tools-{stream}").json()["messages"] for stream in (False, True))
    assert first == second


def test_what_a_model_thinks_is_not_remembered(customer: Customer) -> None:
    for stream in (False, True):
        session = f"thought-{stream}"
        assert customer.say("Hello.", model="thinker", session_id=session, stream=stream).status_code == 200
        content = customer.client.get(f"/sessions/{session}").json()["messages"][1]["content"]
        assert speech.OPENING[:20] in content
        assert "think>" not in content


def test_the_oldest_turns_make_room_and_are_named(customer: Customer) -> None:
    history: list[list[Message]] = []
    named: list[str] = []
    for number in range(16):
        said = user(f"Number {number}: " + "word " * 60)
        response = customer.say(said, model="small", max_tokens=100)
        answer = answer_of(response)
        read = response.json()["usage"]["prompt_tokens"]
        header = response.headers.get("x-session-dropped-turns", "")
        if header:
            named.append(header)
            first, _, last = header.partition("-")
            history = history[int(last or first) - int(first) + 1 :]
        assert read == tokens(*itertools.chain(*history), said), number
        assert read + 100 <= CONTEXT
        history.append([said, answer])
    numbers = [range(int(name.partition("-")[0]), int(name.rpartition("-")[2]) + 1) for name in named]
    assert [number for each in numbers for number in each] == list(range(1, 17 - len(history)))
    assert len(history) >= 4, "no more is forgotten than has to be"
    system = {"role": "system", "content": "Be kind."}
    response = customer.say(system, user("word " * 60), model="small", max_tokens=100)
    assert response.status_code == 200
    assert customer.client.get("/sessions/s").json()["messages"][0] == system


def test_the_same_without_a_tokenizer(customer: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nobody_counts(*_: Any) -> None:
        return None

    monkeypatch.setattr("proxy.reservation.count", nobody_counts)
    forgotten = 0
    for number in range(12):
        response = customer.say(f"Number {number}: " + "word " * 60, model="small", max_tokens=100)
        assert response.status_code == 200, response.text
        forgotten += "x-session-dropped-turns" in response.headers
    assert forgotten > 3


def test_results_of_tools_are_never_left_without_their_calls(customer: Customer) -> None:
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    result = {"role": "tool", "tool_call_id": "call_demo", "content": "word " * 100}
    customer.say("demo:tool " + "word " * 100, tools=tools, model="small", max_tokens=100)
    customer.say(result, model="small", max_tokens=100)
    dropped = ""
    for _ in range(6):
        response = customer.say("word " * 120, model="small", max_tokens=100)
        assert response.status_code == 200
        dropped = dropped or response.headers.get("x-session-dropped-turns", "")
    assert dropped.startswith("1-2")


@pytest.mark.parametrize(
    ("what", "stream"),
    [("die=5", True), ("die=5", False), ("error=5", True), ("nodone=5", True), ("status=500", True)],
)
def test_what_ended_badly_is_not_remembered(customer: Customer, what: str, stream: bool) -> None:
    customer.say("One.")
    failed = customer.say(f"demo:{what}", stream=stream)
    assert failed.status_code != 200 or b"[DONE]" not in failed.content
    assert customer.client.get("/sessions/s").json()["turns"] == [1]
    assert customer.say("Two.").status_code == 200
    assert len(customer.client.get("/sessions/s").json()["messages"]) == 4


def test_a_cut_stream_keeps_no_turn(customer: Customer) -> None:
    first = answer_of(customer.say("One."))
    body = {"model": "aion-v3", "messages": [user("demo:rate=20 demo:fill")], "max_tokens": 200, "session_id": "s"}
    with customer.client.stream("POST", "/chat/completions", json=body | {"stream": True}) as response:
        next(response.iter_raw())
    second = customer.say("Two.")
    assert second.json()["usage"]["prompt_tokens"] == tokens(user("One."), first, user("Two."))
    assert customer.gateway.shop.event(response.headers["x-request-id"]).end_reason == "client_gone"


def test_an_answer_that_nobody_waited_for_is_no_turn(customer: Customer, talky: Any) -> None:
    """The engine reads to its end, so the call is charged; but its client has not seen the answer."""
    shop = customer.gateway.shop
    capabilities = msgspec.structs.replace(CAPABILITIES, stops_on_close=False)
    engine = shop.new_engine("patient", shop.inference.base_url, capabilities=capabilities)
    shop.new_model("patient", "demo-chat", brand=talky, engine=engine)
    customer.say("One.", model="patient")
    body = {"model": "patient", "messages": [user("demo:delay=900")], "max_tokens": 9, "session_id": "s"}
    with pytest.raises(httpx.ReadTimeout):
        customer.client.post("/chat/completions", json=body, timeout=0.4)
    assert customer.say("Two.", model="patient").status_code == 200
    contents = [message["content"] for message in customer.client.get("/sessions/s").json()["messages"]]
    assert "demo:delay=900" not in contents
    assert customer.client.get("/sessions/s").json()["turns"] == [1, 2]


def test_twenty_at_once_are_answered_one_after_the_other(customer: Customer) -> None:
    answers: list[tuple[Message, httpx.Response]] = []

    def call(number: int) -> None:
        said = user(f"demo:delay=20 I am caller number {number}.")
        answers.append((said, customer.say(said, client=clients[number])))

    clients = [customer.with_new_key() for _ in range(20)]
    threads = [threading.Thread(target=call, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    history: list[Message] = []
    for said, response in sorted(answers, key=lambda pair: pair[1].json()["usage"]["prompt_tokens"]):
        read = response.json()["usage"]["prompt_tokens"]
        assert read == tokens(*history, said), "each sees all turns that were before it"
        event = customer.gateway.event_of(response)
        assert event.uncached_input_tokens + (event.cache_read_tokens or 0) == read
        history += [said, answer_of(response)]
    shown = customer.client.get("/sessions/s").json()
    assert shown["turns"] == list(range(1, 21))
    assert [message["content"] for message in shown["messages"]] == [message["content"] for message in history]


def test_many_conversations_at_once_do_not_meet(customer: Customer) -> None:
    """More of them than the worker has connections to PostgreSQL."""
    read: dict[int, list[int]] = {}

    def talk(number: int) -> None:
        answers = [customer.say("Go on.", session_id=f"many-{number}") for _ in range(3)]
        read[number] = [answer.json()["usage"]["prompt_tokens"] for answer in answers]

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answer = customer.client.get("/sessions/many-0").json()["messages"][1]
    asked = user("Go on.")
    expected = [tokens(*[asked, answer] * turns, asked) for turns in range(3)]
    assert all(counts == expected for counts in read.values())
    assert len(read) == 30


def hold(customer: Customer, seconds: float) -> threading.Thread:
    """A call that has the conversation for a while, once it has it."""
    said = f"demo:delay={int(seconds * 1000)}"
    client = customer.with_new_key()
    thread = threading.Thread(target=lambda: customer.say(said, client=client))
    thread.start()
    until_there_are(customer, 1)
    return thread


def until_there_are(customer: Customer, users: int) -> None:
    """Of the customer's only conversation that is used now: the one that has it, and those who wait."""
    store, until = customer.gateway.shop.store, time.monotonic() + 5
    while True:
        names = list(store.scan_iter(f"*:talk:{customer.organization.id}:*"))
        if names and store.hlen(names[0]) >= users:
            return
        assert time.monotonic() < until
        time.sleep(0.005)


def test_whoever_waits_too_long_is_told_to_come_again(customer: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation_leases, "WAIT_SECONDS_MAX", 0.3)
    thread = hold(customer, 2)
    for refused in (customer.say("Me, too."), customer.client.delete("/sessions/s")):
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "session_in_use")
        assert refused.headers["x-should-retry"] == "true"
        assert refused.headers["retry-after"] == "1"
    thread.join()
    assert customer.say("Now?").status_code == 200
    assert customer.client.get("/sessions/s").json()["turns"] == [1, 2]


def test_who_waits_holds_nothing_and_too_many_do_not_wait(customer: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    thread = hold(customer, 1.0)
    client = customer.with_new_key()
    waiter = threading.Thread(target=lambda: customer.say("I wait.", client=client))
    waiter.start()
    until_there_are(customer, 2)
    worker = customer.gateway.worker
    for _ in range(100):
        if sum(worker.slots.in_flight().values()):
            break
        time.sleep(0.005)
    assert customer.gateway.shop.holds() == worker.admission.running == 1
    assert sum(worker.slots.in_flight().values()) == 1
    monkeypatch.setattr(conversation_leases, "WAITERS_MAX", 1)
    assert customer.say("No room.", client=customer.with_new_key()).status_code == 409
    thread.join()
    waiter.join()
    assert customer.client.get("/sessions/s").json()["turns"] == [1, 2]


def test_a_client_that_leaves_while_it_waits_gives_up_its_place(customer: Customer) -> None:
    thread = hold(customer, 0.8)
    with pytest.raises(httpx.ReadTimeout):
        customer.client.post(
            "/chat/completions",
            json={"model": "aion-v3", "messages": [user("I left.")], "session_id": "s"},
            timeout=0.2,
        )
    thread.join()
    assert customer.say("I stayed.").status_code == 200
    contents = [message["content"] for message in customer.client.get("/sessions/s").json()["messages"]]
    assert "I left." not in contents
    assert "I stayed." in contents


def test_who_waits_where_the_server_stops_is_told_to_come_again(customer: Customer) -> None:
    thread = hold(customer, 1.5)
    answers: list[httpx.Response] = []
    client = customer.with_new_key()
    waiter = threading.Thread(target=lambda: answers.append(customer.say("I wait.", client=client)))
    waiter.start()
    until_there_are(customer, 2)
    customer.gateway.worker.draining = True
    try:
        waiter.join(5)
        assert not waiter.is_alive()
        assert (answers[0].status_code, answers[0].headers["x-should-retry"]) == (503, "true")
    finally:
        customer.gateway.worker.draining = False
    thread.join()
    assert customer.client.get("/sessions/s").json()["turns"] == [1]


def test_the_place_of_a_dead_worker_is_free_again_soon(customer: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation_leases, "USING_MS", 600)
    store = customer.gateway.shop.store
    owner = customer.organization.id
    name = f"{{s{shard_of(owner)}}}:talk:{owner}:{digest_of(owner, 's')}"
    until_ms = int(time.time() * 1000) + 600
    store.hset(name, "a call of a dead worker", f"1 {until_ms}")
    response = customer.say("Anybody?")
    assert response.status_code == 200
    assert time.time() * 1000 >= until_ms
    assert not store.exists(name)


def test_a_lost_lease_mixes_nothing(customer: Customer) -> None:
    """Redis forgot who has the conversation: two calls have it. One turn is kept, no turn is kept halfway."""
    customer.say("One.")
    thread = hold(customer, 1.2)
    for name in customer.gateway.shop.store.scan_iter(f"*:talk:{customer.organization.id}:*"):
        customer.gateway.shop.store.delete(name)
    second = customer.say("Overtaking.")
    assert second.status_code == 200
    thread.join()
    shown = customer.client.get("/sessions/s").json()
    assert [message["content"] for message in shown["messages"]][2] == "Overtaking."
    assert shown["turns"] == [1, 2]
    assert 'gateway_session_turns_total{outcome="lost"}' in httpx.get(f"{customer.gateway.root}/metrics").text


def test_a_turn_that_cannot_be_kept_costs_nobody_their_answer(
    customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer.say("One.")
    monkeypatch.setattr(conversation_rows, "_UPDATE", "UPDATE nowhere SET sealed = %s, days = %s, id = %s, v = %s")
    response = customer.say("Two.")
    assert response.status_code == 200
    assert customer.gateway.event_of(response).cost_nanos > 0
    monkeypatch.undo()
    assert customer.client.get("/sessions/s").json()["turns"] == [1]
    assert customer.say("Three.").status_code == 200


def test_what_cannot_be_read_is_503_before_anything_is_held(
    customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation_rows, "_LOAD", "SELECT nothing FROM nowhere WHERE a = %s AND b = %s")
    refused = customer.say("One.")
    assert (refused.status_code, refused.headers["x-should-retry"]) == (503, "true")
    assert customer.gateway.shop.holds() == 0
    monkeypatch.undo()
    assert customer.say("One.").status_code == 200


def test_deleting(customer: Customer) -> None:
    customer.say("One.")
    assert customer.client.get("/sessions/s").json()["turns"] == [1]
    assert customer.client.head("/sessions/s").status_code == 200
    deleted = customer.client.delete("/sessions/s")
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert customer.row() is None
    missing = customer.client.get("/sessions/s")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "session_not_found")
    assert customer.client.delete("/sessions/s").status_code == 204
    assert customer.say("Two.").json()["usage"]["prompt_tokens"] == tokens(user("Two."))
    assert customer.client.get("/sessions/s").json()["turns"] == [1]
    no_chat = customer.with_new_key(scopes=["models"])
    assert no_chat.delete("/sessions/s").status_code == 403
    assert httpx.delete(f"{customer.gateway.root}/talky/v1/sessions/s").status_code == 401
    assert customer.client.post("/sessions/s").status_code == 405


def test_what_may_name_a_session(customer: Customer) -> None:
    for good in ("a", "x" * 128, "chat 7/ä·猫 %?#"):
        assert customer.say("Hi.", session_id=good).status_code == 200
        path = "/sessions/" + "".join(f"%{byte:02X}" for byte in good.encode())
        assert customer.client.get(path).json()["id"] == good
        assert customer.client.delete(path).status_code == 204
    for bad in ("", "x" * 129, "a\nb", "a\u200bb", 7, ["s"]):
        refused = customer.say("Hi.", session_id=bad)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "session_id"), bad
    assert customer.client.get("/sessions/" + "x" * 129).status_code == 400
    two = customer.say("Hi.", n=2)
    assert (two.status_code, two.json()["error"]["param"]) == (400, "n")


def test_conversations_end_some_days_after_their_last_use(customer: Customer) -> None:
    customer.say("One.")
    customer.say("Kept.", session_id="kept")
    row = customer.row()
    assert row is not None
    left = row.expires_at - timezone.now()
    assert timedelta(days=29, hours=23) < left <= timedelta(days=30)
    Conversation.objects.filter(pk=row.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    assert customer.client.get("/sessions/s").status_code == 404
    assert customer.say("Two.").json()["usage"]["prompt_tokens"] == tokens(user("Two."))
    assert customer.client.get("/sessions/s").json()["turns"] == [1]
    Conversation.objects.filter(pk=row.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    forget_expired_conversations(of_a="later release")
    assert customer.row() is None
    assert customer.row("kept") is not None


def test_nothing_of_it_can_be_read_where_it_lies(customer: Customer) -> None:
    said = "The duck is called Erwin."
    answer = answer_of(customer.say(said, session_id="erwin-and-me"))
    row = customer.row("erwin-and-me")
    assert row is not None
    everything = " ".join(str(value) for value in Conversation.objects.filter(pk=row.pk).values_list()[0])
    for text in (said, "Erwin", answer["content"][:20], "erwin-and-me"):
        assert text not in everything
    assert said in open_text(row.sealed)
    store = customer.gateway.shop.store
    assert not any(b"erwin" in name.lower() for name in store.scan_iter("*talk*"))
    # A row that somebody put in another's place does not open there.
    customer.say("Mine.", session_id="mine")
    Conversation.objects.filter(digest=digest_of(customer.organization.id, "mine")).update(sealed=row.sealed)
    refused = customer.say("Whose?", session_id="mine")
    assert (refused.status_code, refused.json()["error"]["code"]) == (500, "session_unreadable")
    assert refused.headers["x-should-retry"] == "false"
    assert customer.client.delete("/sessions/mine").status_code == 204
    assert customer.say("Whose?", session_id="mine").status_code == 200


def test_the_oldest_turns_go_where_a_conversation_becomes_too_large(customer: Customer, talky: Any) -> None:
    brands.change(brand=talky, actor="tests", conversation_bytes_max=3_000)
    try:
        told: list[str] = []
        for number in range(8):
            response = customer.say(f"Number {number}: " + "word " * 100)
            assert response.status_code == 200
            told.append(response.headers.get("x-session-dropped-turns", ""))
        assert told[0] == ""
        assert any(told)
        shown = customer.client.get("/sessions/s").json()
        assert len(str(shown["messages"])) < 3_300
        assert shown["turns"][-1] == 8
        large = customer.say("word " * 1000)
        assert large.status_code == 200
        assert customer.client.get("/sessions/s").json()["turns"] == []
        named = customer.say("And?").headers["x-session-dropped-turns"]
        assert named.endswith("-9")
        refused = customer.say({"role": "system", "content": "word " * 1000}, "Hi.")
        assert refused.status_code == 400
    finally:
        brands.change(brand=talky, actor="tests", conversation_bytes_max=1_048_576)


def test_an_answer_from_record_adds_no_turn(customer: Customer, gateway: Gateway) -> None:
    store = gateway.shop.store
    headers = {"idempotency-key": "order-1"}
    first = customer.say("One.", headers=headers)
    again = customer.say("One.", headers=headers)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.content == first.content
    assert customer.client.get("/sessions/s").json()["turns"] == [1]
    # Where it runs again, because its worker died before the answer was kept, it takes the place of its own turn.
    headers, runs = {"idempotency-key": "order-2"}, []
    for _ in range(2):
        runs.append(customer.say("Two.", stream=True, headers=headers))
        store.delete(*store.scan_iter("*:idem:*"))
    expected = tokens(user("One."), answer_of(first), user("Two."))
    assert [read_by_the_engine(customer, run) for run in runs] == [expected, expected]
    assert customer.client.get("/sessions/s").json()["turns"] == [1, 2]


def test_without_conversations_it_is_an_unknown_field(gateway: Gateway) -> None:
    before = Conversation.objects.count()
    for session_id in ("s", 7):
        response = gateway.chat("One.", session_id=session_id)
        assert response.status_code == 200
        assert response.headers["x-dropped-fields"] == "session_id"
    assert Conversation.objects.count() == before
    missing = gateway.client.delete("/sessions/s")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "unknown_url")


def test_other_endpoints_do_not_know_it(customer: Customer) -> None:
    response = customer.client.post(
        "/completions", json={"model": "aion-v3", "prompt": "Hi", "max_tokens": 9, "session_id": "s"}
    )
    assert response.headers["x-dropped-fields"] == "session_id"
    assert customer.row() is None


def test_nothing_is_left_behind(customer: Customer) -> None:
    assert list(customer.gateway.shop.store.scan_iter("*:talk:*")) == []
    assert customer.gateway.shop.holds() == 0
    assert settings.SEALING_KEYS
