"""A conversation as it is remembered: a system message and whole turns, the oldest of which are forgotten first. Pure.

A turn is what one request added: its messages as sent, and the answer. Turns are numbered from 1 in the order in which
they were kept. One that begins with results of tools continues the turn that called them: the two are forgotten
together, so that no result stands without its call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import orjson

Message = dict[str, Any]

_SYSTEM = frozenset({"system", "developer"})
_RESULTS = frozenset({"tool", "function"})


class Turn(msgspec.Struct, frozen=True):
    """`mark`: what a repetition of the same request is known by, "" where nothing says so."""

    number: int
    messages: list[Message]
    mark: str = ""

    @property
    def continues(self) -> bool:
        return continues(self.messages)


class Conversation(msgspec.Struct, frozen=True):
    """`following`: the number of the next turn. `told`: turns up to this number are forgotten, and were named."""

    system: list[Message] = []
    turns: list[Turn] = []
    following: int = 1
    told: int = 0

    @property
    def first(self) -> int:
        """The oldest turn that is remembered; all before it are forgotten."""
        return self.turns[0].number if self.turns else self.following

    @property
    def forgotten(self) -> str:
        """The turns that were forgotten and not named yet: "", "3" or "1-3"."""
        begin, end = self.told + 1, self.first - 1
        if begin > end:
            return ""
        return str(end) if begin == end else f"{begin}-{end}"


EMPTY = Conversation()


def continues(messages: Sequence[Message]) -> bool:
    """Whether messages begin with results of tools that an earlier turn called."""
    return bool(messages) and messages[0].get("role") in _RESULTS


def parted(messages: Sequence[Message]) -> tuple[list[Message], list[Message]]:
    """(the system messages that lead, the rest)"""
    led = 0
    while led < len(messages) and messages[led].get("role") in _SYSTEM:
        led += 1
    return list(messages[:led]), list(messages[led:])


def addressed(conversation: Conversation, system: list[Message], mark: str) -> Conversation:
    """What a request finds: its own system messages, if it has any, in place of the former ones; and not its own turn,
    if it has run before."""
    turns, following = conversation.turns, conversation.following
    if mark and turns and turns[-1].mark == mark:
        turns, following = turns[:-1], turns[-1].number
    return msgspec.structs.replace(conversation, system=system or conversation.system, turns=turns, following=following)


def prompt(conversation: Conversation, new: Sequence[Message]) -> list[Message]:
    messages = list(conversation.system)
    for turn in conversation.turns:
        messages += turn.messages
    messages += new
    return messages


def groups(conversation: Conversation) -> list[list[Turn]]:
    """The turns, together where they are forgotten together."""
    found: list[list[Turn]] = []
    for turn in conversation.turns:
        if turn.continues and found:
            found[-1].append(turn)
        else:
            found.append([turn])
    return found


def without_oldest(conversation: Conversation, count: int) -> Conversation:
    """The conversation without its `count` oldest groups."""
    turns = [turn for group in groups(conversation)[count:] for turn in group]
    return msgspec.structs.replace(conversation, turns=turns)


def forgettable(conversation: Conversation, new: Sequence[Message]) -> int:
    """How many groups may be forgotten before a request: all but the one that its messages continue."""
    return max(0, len(groups(conversation)) - continues(new))


def enough(sizes: Sequence[int], excess: int) -> int:
    """How many of `sizes`, from the first on, are at least `excess` together; all when they are not."""
    total = 0
    for count, size in enumerate(sizes, 1):
        total += size
        if total >= excess:
            return count
    return len(sizes)


def kept(conversation: Conversation, new: list[Message], answer: Message, mark: str, bytes_max: int) -> Conversation:
    """The conversation with one turn more, cut down to `bytes_max` from its oldest turn on: to nothing but the system
    messages, where the new turn alone is larger. What was forgotten until now has been named with this answer."""
    turn = Turn(conversation.following, [*new, answer], mark)
    longer = Conversation(
        conversation.system, [*conversation.turns, turn], conversation.following + 1, conversation.first - 1
    )
    sizes = [sum([size(turn.messages) for turn in group]) for group in groups(longer)]
    excess = size(longer.system) + sum(sizes) - bytes_max
    return without_oldest(longer, enough(sizes, excess)) if excess > 0 else longer


def size(messages: list[Message]) -> int:
    """Bytes of messages as they are counted against a conversation's limit."""
    return len(orjson.dumps(messages)) if messages else 0
