"""What a conversation remembers, and what it forgets first; and what an assistant's answer is remembered as."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from proxy import turns
from proxy.assistant import Listener, of_answer
from proxy.turns import EMPTY, Conversation

Message = dict[str, Any]


def said(role: str, content: str = "x", **more: Any) -> Message:
    return {"role": role, "content": content, **more}


CALLS = said(
    "assistant", "", tool_calls=[{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
)
requests = st.lists(
    st.tuples(st.sampled_from(["user", "tool", "system", "assistant"]), st.text(max_size=20)), min_size=1, max_size=4
).map(lambda items: [said(role, text) for role, text in items])
exchanges = st.lists(st.tuples(requests, st.booleans(), st.text(max_size=30)), max_size=8)


def grown(exchanged: list[tuple[list[Message], bool, str]], bytes_max: int = 10**6) -> Conversation:
    conversation = EMPTY
    for messages, calls, text in exchanged:
        system, new = turns.parted(messages)
        conversation = turns.addressed(conversation, system, "")
        conversation = turns.kept(conversation, new, CALLS if calls else said("assistant", text), "", bytes_max)
    return conversation


@given(exchanges)
def test_everything_is_repeated_in_order_behind_the_newest_system_messages(exchanged):
    conversation = grown(exchanged)
    system: list[Message] = []
    rest: list[Message] = []
    for messages, calls, text in exchanged:
        led, new = turns.parted(messages)
        system = led or system
        rest += [*new, CALLS if calls else said("assistant", text)]
    assert turns.prompt(conversation, []) == system + rest
    assert [turn.number for turn in conversation.turns] == list(range(1, len(exchanged) + 1))
    assert conversation.forgotten == ""


@given(exchanges, st.integers(0, 15))
def test_the_oldest_go_first_and_tool_results_with_their_calls(exchanged, count):
    conversation = grown(exchanged)
    shorter = turns.without_oldest(conversation, count)
    assert shorter.turns == conversation.turns[len(conversation.turns) - len(shorter.turns) :]
    assert shorter.system == conversation.system
    if shorter.turns and shorter.turns[0].number > 1:
        assert not shorter.turns[0].continues
    assert all(not group[0].continues for group in turns.groups(conversation)[1:])
    assert len(turns.groups(shorter)) == max(0, len(turns.groups(conversation)) - count)


@given(exchanges, st.integers(50, 600))
def test_a_conversation_stays_below_its_limit_and_no_turn_is_split(exchanged, bytes_max):
    whole, cut = grown(exchanged), grown(exchanged, bytes_max)
    if cut.turns:
        assert sum(turns.size(turn.messages) for turn in cut.turns) + turns.size(cut.system) <= bytes_max
    by_number = {turn.number: turn.messages for turn in whole.turns}
    assert all(turn.messages == by_number[turn.number] for turn in cut.turns)
    assert all(later.number == earlier.number + 1 for earlier, later in pairwise(cut.turns))
    assert cut.following == whole.following
    if cut.turns:
        assert cut.turns[-1].number == cut.following - 1


@given(exchanges, st.integers(50, 600))
def test_each_forgotten_turn_is_named_once(exchanged, bytes_max):
    conversation = EMPTY
    named: set[int] = set()
    for messages, _, text in exchanged:
        system, new = turns.parted(messages)
        conversation = turns.addressed(conversation, system, "")
        if conversation.forgotten:
            first, _, last = conversation.forgotten.partition("-")
            numbers = set(range(int(first), int(last or first) + 1))
            assert not numbers & named
            named |= numbers
        conversation = turns.kept(conversation, new, said("assistant", text), "", bytes_max)
    assert named == set(range(1, conversation.told + 1))


def test_a_repeated_request_takes_its_own_turns_place():
    first = turns.kept(EMPTY, [said("user", "one")], said("assistant", "a"), "mark-1", 1000)
    second = turns.kept(first, [said("user", "two")], said("assistant", "b"), "mark-2", 1000)
    again = turns.addressed(second, [], "mark-2")
    assert again == msgspec.structs.replace(first, told=again.told)
    assert turns.addressed(second, [], "mark-1") == second
    assert turns.addressed(second, [], "") == second


def test_what_a_request_continues_is_not_forgotten_before_it():
    conversation = turns.kept(EMPTY, [said("user")], CALLS, "", 1000)
    assert turns.forgettable(conversation, [said("user")]) == 1
    assert turns.forgettable(conversation, [said("tool", tool_call_id="1")]) == 0
    longer = turns.kept(conversation, [said("tool", tool_call_id="1")], said("assistant"), "", 1000)
    assert len(longer.turns) == 2
    assert turns.without_oldest(longer, 1).forgotten == "1-2"


def test_a_turn_larger_than_the_limit_is_forgotten_and_named():
    one = turns.kept(EMPTY, [said("user", "one")], said("assistant"), "", 200)
    two = turns.kept(one, [said("user", "x" * 300)], said("assistant"), "", 200)
    assert two.turns == []
    assert (two.following, two.forgotten) == (3, "1-2")


# what the assistant said ----------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
cuts = st.lists(st.integers(0, 40), max_size=6)


def pieces(text: str, at: list[int]) -> list[str]:
    ends = sorted({min(cut, len(text)) for cut in at} | {0, len(text)})
    return [text[a:b] for a, b in pairwise(ends)]


def event(delta: dict[str, Any], index: int = 0) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": delta, "finish_reason": None}]}


@given(texts, cuts, st.lists(st.tuples(texts, cuts), max_size=3))
def test_a_stream_is_remembered_as_the_whole_answer_is(content, at, called):
    calls = [
        {"id": f"call_{number}", "type": "function", "function": {"name": "look", "arguments": arguments}}
        for number, (arguments, _) in enumerate(called)
    ]
    message: Message = {"role": "assistant", "content": content or None}
    if calls:
        message["tool_calls"] = calls
    listener = Listener(10**6)
    listener.hear(event({"role": "assistant", "content": ""}))
    for piece in pieces(content, at):
        listener.hear(event({"content": piece, "reasoning_content": "hm"}))
        listener.hear(event({"content": "of another choice"}, index=1))
    for number, (arguments, ends) in enumerate(called):
        first = {"index": number, "id": f"call_{number}", "type": "function", "function": {"name": "look"}}
        listener.hear(event({"tool_calls": [first]}))
        for piece in pieces(arguments, ends):
            listener.hear(event({"tool_calls": [{"index": number, "function": {"name": None, "arguments": piece}}]}))
    listener.hear({"choices": []})
    whole = of_answer({"choices": [{"index": 0, "message": message | {"reasoning": "hm"}}]}, thinks=False)
    assert listener.message(thinks=False) == whole
    assert whole == message | {"content": content if content or not calls else None}


def test_thought_is_no_part_of_a_conversation():
    for text in ("<think>hm</think>Yes.", "hm</think>Yes.", "Yes."):
        whole = of_answer({"choices": [{"message": {"role": "assistant", "content": text}}]}, thinks=True)
        assert whole == said("assistant", "Yes.")
    whole = of_answer({"choices": [{"message": {"content": "a <think>b</think>"}}]}, thinks=True)
    assert whole == said("assistant", "a <think>b</think>")


def test_what_is_longer_than_a_conversation_may_be_is_not_collected():
    listener = Listener(1000)
    for _ in range(1000):
        listener.hear(event({"content": "x" * 100}))
    heard = listener.message(thinks=False)
    assert heard is not None
    assert 1000 < len(heard["content"]) <= 1100
    calls = Listener(1000)
    for number in range(1000):
        calls.hear(event({"tool_calls": [{"index": number}]}))
    made = calls.message(thinks=False)
    assert made is not None
    assert len(made["tool_calls"]) < 20
    assert turns.size([made]) > 1000


def test_nonsense_is_nothing():
    assert of_answer({"choices": []}, thinks=False) is None
    assert of_answer({"choices": [None]}, thinks=False) is None
    assert of_answer({"choices": [{"message": "text"}]}, thinks=False) is None
    listener = Listener(100)
    listener.hear({"choices": [{"delta": None}, None, 7]})
    listener.hear({"choices": "no"})
    assert listener.message(thinks=False) is None
