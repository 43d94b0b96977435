"""`reasoning_split`: answers whose thought stands in a field of its own. What a request asks, and its answers. Pure.

Only calls that split come here; all others keep the engine's bytes (`proxy.rewriting`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import orjson

from billing.snapshot import BrandRecord, ModelRecord
from proxy.dialects.protocol import Dialect, Stamp
from proxy.fields import boolean, one_of
from proxy.reasoning import Parted, Splitter, split
from proxy.rewriting import StreamRewriter

MARKED_THOUGHT = "marked_thought"
"""The feature of a model whose thought is always marked, by a `<think>` that it writes itself or by a field of its
engine's: a text without a mark is its answer."""
SWITCHES = ("enable_thinking", "thinking")
"""Entries of chat_template_kwargs that switch thought off, as templates call them."""
OWN_FIELDS = ("reasoning", "reasoning_content")
"""What engines call thought that they split themselves, and what clients read."""
FIELD_HEADER = b"x-reasoning-field"
_NAMES = {"reasoning": ("reasoning",), "reasoning_content": ("reasoning_content",), "both": OWN_FIELDS}
_CUT_SHORT = frozenset({"length", "max_tokens", "content_filter", "abort", "error"})


class Split(NamedTuple):
    """`opened`: text that does not begin with `<think>` is thought, too, until `</think>`. `names`: the fields of a
    message that hold thought."""

    opened: bool
    names: tuple[str, ...] = ("reasoning",)


def taken_from(
    body: dict[str, Any], brand: BrandRecord, model: ModelRecord, extras: Collection[str], header: bytes | None
) -> Split | None:
    """What a request asks of it; None: the text stays as the engine gives it. Takes its fields out of the body.
    `header`: x-reasoning-field, for clients that cannot add fields to a body. Declined where a value is wrong."""
    if not brand.splits_reasoning:
        return None
    wish, name = body.pop("reasoning_split", None), body.pop("reasoning_field", None)
    if wish is not None:
        boolean("reasoning_split", wish)
    if name is None and header is not None:
        name = header.decode("latin-1").strip().lower()
    if name is not None:
        one_of(*_NAMES)("reasoning_field", name)
    if not (model.is_reasoning if wish is None else wish):
        return None
    return Split(_is_opened(body, model, extras), _NAMES[name or "reasoning"])


def _is_opened(body: dict[str, Any], model: ModelRecord, extras: Collection[str]) -> bool:
    """Whether the template opens the thought: so with models that reason, unless their row or this request says
    otherwise."""
    if not model.is_reasoning or MARKED_THOUGHT in model.features:
        return False
    switches = body.get("chat_template_kwargs") if "chat_template_kwargs" in extras else None
    return type(switches) is not dict or all(switches.get(name) is not False for name in SWITCHES)


def answer_split(answer: dict[str, Any], asked: Split) -> dict[str, Any]:
    """A whole chat completion with its messages' thought apart."""
    choices = answer.get("choices")
    if type(choices) is not list:
        return answer
    return answer | {"choices": [_choice_split(choice, asked) for choice in choices]}


def _choice_split(choice: Any, asked: Split) -> Any:
    message = choice.get("message") if type(choice) is dict else None
    if type(message) is not dict:
        return choice
    thought, content = message_split(choice, asked)
    ours = {"role": "assistant"} | _without_text(message) | dict.fromkeys(asked.names, thought)
    return choice | {"message": ours | {"content": content if _is_text(message) else message.get("content")}}


def message_split(choice: dict[str, Any], asked: Split) -> Parted:
    """Thought and answer of a whole choice."""
    message = choice.get("message")
    found: dict[str, Any] = message if type(message) is dict else {}
    thought, content = _own_thought(found), found.get("content")
    text = content if type(content) is str else ""
    return Parted(thought, text) if thought else split(text, opened=asked.opened, by_itself=_by_itself(choice))


class SplitRewriter(StreamRewriter):
    """Pieces of a stream, each choice's thought apart. What has nothing for the client yet is not sent."""

    def __init__(self, dialect: Dialect, stamp: Stamp, asked: Split, *, include_usage: bool) -> None:
        super().__init__(dialect, stamp, include_usage=include_usage)
        self._asked = asked
        self._splitters: dict[int, Splitter] = {}

    def rewrite(self, piece: bytes, parsed: dict[str, Any] | None = None) -> bytes:
        chunk = orjson.loads(piece) if parsed is None else parsed
        choices = [self._choice(choice) for choice in chunk.get("choices") or () if type(choice) is dict]
        there = [choice for choice in choices if choice is not None]
        if not there:
            return b""
        ours = self._dialect.chunk(chunk | {"choices": there}, self._stamp, self._include_usage)
        self._object = ours.get("object") or self._object
        return b"data: %b\n\n" % orjson.dumps(ours)

    def _choice(self, choice: dict[str, Any]) -> dict[str, Any] | None:
        """The choice with its delta split; None where all of it is held back."""
        delta = choice.get("delta")
        theirs: dict[str, Any] = delta if type(delta) is dict else {}
        index = choice.get("index")
        index = index if type(index) is int else 0
        splitter = self._splitters.get(index)
        is_first = splitter is None
        ours = _without_text(theirs)
        if splitter is None:
            splitter = self._splitters[index] = Splitter(opened=self._asked.opened)
            ours = {"role": "assistant"} | ours
        if "content" in theirs and not _is_text(theirs) and (is_first or theirs["content"]):
            ours["content"] = theirs["content"]  # parts with images pass as they are
        thought, content = split_delta(splitter, choice)
        if thought:
            ours |= dict.fromkeys(self._asked.names, thought)
        if content:
            ours["content"] = content
        if ours or choice.get("finish_reason") or choice.get("logprobs"):
            return choice | {"delta": ours}
        return None


def split_delta(splitter: Splitter, choice: dict[str, Any]) -> tuple[str, str]:
    """Thought and answer of one choice's piece; with its finish also what was held back."""
    delta = choice.get("delta")
    theirs: dict[str, Any] = delta if type(delta) is dict else {}
    thought, content = _own_thought(theirs), ""
    if thought:
        content = splitter.thought_apart()
    text = theirs.get("content")
    if type(text) is str and text:
        parted = splitter.feed(text)
        thought, content = thought + parted.reasoning, content + parted.content
    if choice.get("finish_reason"):
        parted = splitter.finish(by_itself=_by_itself(choice))
        thought, content = thought + parted.reasoning, content + parted.content
    return thought, content


def _own_thought(message: dict[str, Any]) -> str:
    """Thought that the engine has split itself, under whichever name."""
    return next((text for name in OWN_FIELDS if type(text := message.get(name)) is str and text), "")


def _is_text(message: dict[str, Any]) -> bool:
    return type(message.get("content")) is str and message["content"] != ""


def _without_text(message: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in message.items() if name != "content" and name not in OWN_FIELDS}


def _by_itself(choice: dict[str, Any]) -> bool:
    return choice.get("finish_reason") not in _CUT_SHORT
