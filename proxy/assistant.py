"""What the assistant said, as the next request has to repeat it: from a whole answer, or from a stream's pieces. Pure.

Text and tool calls; what the model thought is no part of a conversation. Only the first choice is looked at.
"""

from __future__ import annotations

from typing import Any

from proxy.reasoning import CLOSE, OPEN, split

CALL_BYTES = 64
"""What a tool call takes in JSON, besides its name and arguments."""

Message = dict[str, Any]


def of_answer(answer: dict[str, Any], *, thinks: bool) -> Message | None:
    """The message of a whole answer; None where there is none."""
    choices = answer.get("choices")
    if type(choices) is not list or not choices or type(choices[0]) is not dict:
        return None
    said = choices[0].get("message")
    if type(said) is not dict:
        return None
    calls = said.get("tool_calls")
    return _message(
        _text_of(said.get("content")),
        [call for call in calls if type(call) is dict] if type(calls) is list else [],
        said.get("function_call"),
        _text_of(said.get("refusal")),
        thinks=thinks,
    )


class _Called:
    """One tool call on its way. Arguments come in pieces; a name may, but engines that repeat it whole are not taken at
    their word."""

    __slots__ = ("arguments", "id", "kind", "name")

    def __init__(self) -> None:
        self.id = ""
        self.kind = "function"
        self.name = ""
        self.arguments: list[str] = []

    def add(self, function: Any) -> int:
        """Bytes that were new."""
        if type(function) is not dict:
            return 0
        name, arguments = function.get("name"), function.get("arguments")
        size = 0
        if type(name) is str and name != self.name:
            self.name += name
            size += _size(name)
        if type(arguments) is str and arguments:
            self.arguments.append(arguments)
            size += _size(arguments)
        return size

    @property
    def function(self) -> Message:
        return {"name": self.name, "arguments": "".join(self.arguments)}

    @property
    def whole(self) -> Message:
        return {"id": self.id, "type": self.kind, "function": self.function}


class Listener:
    """Listens to a stream, until it has heard more than `bytes_max`: nobody will remember what is longer."""

    __slots__ = ("_bytes_left", "_calls", "_function_call", "_heard", "_refusal", "_texts")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_left = bytes_max
        self._texts: list[str] = []
        self._refusal: list[str] = []
        self._calls: dict[int, _Called] = {}
        self._function_call: _Called | None = None
        self._heard = False

    def hear(self, event: dict[str, Any]) -> None:
        choices = event.get("choices")
        if self._bytes_left < 0 or type(choices) is not list:
            return
        for choice in choices:
            delta = choice.get("delta") if type(choice) is dict and not choice.get("index") else None
            if type(delta) is dict:
                self._heard = True
                self._add(delta)

    def message(self, *, thinks: bool) -> Message | None:
        """None where nothing was heard; larger than `bytes_max` where it was too much."""
        if not self._heard:
            return None
        calls = [call.whole for _, call in sorted(self._calls.items())]
        old = None if self._function_call is None else self._function_call.function
        return _message("".join(self._texts), calls, old, "".join(self._refusal), thinks=thinks)

    def _add(self, delta: dict[str, Any]) -> None:
        for name, texts in (("content", self._texts), ("refusal", self._refusal)):
            value = delta.get(name)
            if value:
                text = _text_of(value)
                texts.append(text)
                self._bytes_left -= _size(text)
        calls = delta.get("tool_calls")
        if type(calls) is list:
            for position, piece in enumerate(calls):
                if type(piece) is dict:
                    self._add_call(position, piece)
        if type(delta.get("function_call")) is dict:
            self._function_call = self._function_call or _Called()
            self._bytes_left -= self._function_call.add(delta["function_call"])

    def _add_call(self, position: int, piece: dict[str, Any]) -> None:
        index = piece.get("index")
        index = index if type(index) is int else position
        if index not in self._calls:
            self._calls[index] = _Called()
            self._bytes_left -= CALL_BYTES
        call = self._calls[index]
        given, kind = piece.get("id"), piece.get("type")
        if type(given) is str and given:
            call.id = given
        if type(kind) is str and kind:
            call.kind = kind
        self._bytes_left -= call.add(piece.get("function"))


def _message(text: str, calls: list[Message], function_call: Any, refusal: str, *, thinks: bool) -> Message:
    """As the public schema has it: content null only beside calls."""
    if thinks:
        before, closed, _ = text.partition(CLOSE)
        text = split(text, opened=bool(closed) and OPEN not in before).content
    message: Message = {"role": "assistant", "content": text}
    if refusal:
        message["refusal"] = refusal
    if calls:
        message["tool_calls"] = calls
    if type(function_call) is dict and function_call:
        message["function_call"] = function_call
    if not text and (calls or "function_call" in message):
        message["content"] = None
    return message


def _text_of(content: Any) -> str:
    """Text, or the text of content parts."""
    if type(content) is str:
        return content
    if type(content) is not list:
        return ""
    parts = [part.get("text") for part in content if type(part) is dict]
    return "".join([text for text in parts if type(text) is str])


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="replace"))
