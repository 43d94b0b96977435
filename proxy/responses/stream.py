"""An engine's chat stream as the events of a streamed response, in the order that both openai SDKs accept. Pure.

Thought is shown as it comes in an item of its own, as the SDKs know it (`response.reasoning_text.delta`). The message
then holds it as its first part, and the closing response has the message alone, as whole responses have it.
"""

from __future__ import annotations

from typing import Any

import orjson

from billing.snapshot import BrandRecord
from proxy.dialects.protocol import Dialect, Stamp
from proxy.meter import Measured
from proxy.reasoning import Splitter
from proxy.refusals import Problem
from proxy.responses import answer
from proxy.responses.answer import Object
from proxy.responses.request import Echo
from proxy.rewriting import StreamRewriter
from proxy.splitting import Split, split_delta


class ResponseRewriter(StreamRewriter):
    """One per streamed response. Items stay open until the end: an engine may go back from calls to text."""

    def __init__(self, dialect: Dialect, stamp: Stamp, echo: Echo, asked: Split | None) -> None:
        super().__init__(dialect, stamp, include_usage=False)
        self._echo = echo
        self._splitter = None if asked is None else Splitter(opened=asked.opened)
        self._said = 0
        self._items: list[_Thought | _Message | _Call | _Image] = []  # an item's place is its output_index
        self._thought: _Thought | None = None
        self._message: _Message | None = None
        self._calls: dict[int, _Call] = {}
        self._images = 0

    def rewrite(self, piece: bytes, parsed: dict[str, Any] | None = None) -> bytes:
        events = self._begin()
        chunk = orjson.loads(piece) if parsed is None else parsed
        for choice in chunk.get("choices") or ():
            if type(choice) is dict and not choice.get("index"):
                events += self._choice(choice)
        return self._framed(events)

    def last(self, measured: Measured) -> bytes:
        events = self._begin()
        status = answer.status_of(measured)
        if self._message is None and self._is_last:
            events += self._message_opened()
        for item in self._items:
            if not item.done:
                events += item.closed(status, is_last=self._is_last)
        closing = answer.response(
            self._stamp, self._echo, status=status, output=self._output(status), measured=measured
        )
        if self.cost is not None:
            closing["usage"]["cost"] = self.cost
        return self._framed([*events, {"type": f"response.{status}", "response": closing}])

    def trouble(self, trouble: Problem, brand: BrandRecord | None) -> bytes:
        """response.failed, and an `error` event: SDKs raise what stands under `error`."""
        events: list[Object] = []
        worded = self._dialect.error_event(trouble, brand)
        if self._said:
            error = {"code": "server_error", "message": trouble.message}
            failed = answer.response(
                self._stamp, self._echo, status="failed", output=self._output("incomplete"), error=error
            )
            events.append({"type": "response.failed", "response": failed})
        plain = {"code": trouble.code, "message": trouble.message, "param": trouble.param}
        inner = worded.get("error")
        worded["error"] = inner if type(inner) is dict else plain | {"type": trouble.type}
        return self._framed([*events, {"type": "error"} | plain | worded])

    # events -----------------------------------------------------------------------------------------------------

    def _framed(self, events: list[Object]) -> bytes:
        frames = []
        for event in events:
            event["sequence_number"] = self._said
            self._said += 1
            frames.append(b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event)))
        return b"".join(frames)

    def _begin(self) -> list[Object]:
        if self._said:
            return []
        begun = answer.response(self._stamp, self._echo, status="in_progress", output=[])
        return [{"type": f"response.{name}", "response": begun} for name in ("created", "in_progress")]

    def _choice(self, choice: Object) -> list[Object]:
        delta = choice.get("delta")
        theirs: Object = delta if type(delta) is dict else {}
        thought, text = "", answer.text_in(theirs)
        if self._splitter is not None and type(theirs.get("content")) is not list:
            thought, text = split_delta(self._splitter, choice)
        events = self._think(thought) if thought else []
        if text:
            events += self._message_opened()
            assert self._message is not None
            events += self._message.says(text)
        for call in theirs.get("tool_calls") or ():
            if type(call) is dict:
                events += self._thought_closed() + self._call(call)
        for image in answer.images_in(theirs):
            events += self._thought_closed() + self._image(image)
        return events

    def _think(self, text: str) -> list[Object]:
        """Thought that comes after its item was closed is only kept: it stands in the closing response."""
        events: list[Object] = []
        if self._thought is None:
            self._thought = _Thought(f"rs_{answer.own_id(self._stamp)}", len(self._items))
            self._items.append(self._thought)
            events += self._thought.opened()
            if self._message is not None:
                self._message.thought = self._thought
        self._thought.text.append(text)
        if self._thought.done:
            return events
        return [*events, self._thought.event("reasoning_text.delta", delta=text)]

    def _thought_closed(self) -> list[Object]:
        if self._thought is None or self._thought.done:
            return []
        return self._thought.closed("completed", is_last=True)

    def _message_opened(self) -> list[Object]:
        if self._message is not None:
            return []
        events = self._thought_closed()
        self._message = _Message(answer.message_id(self._stamp), len(self._items), self._thought)
        self._items.append(self._message)
        return events + self._message.opened()

    def _call(self, fragment: Object) -> list[Object]:
        number = fragment.get("index")
        number = number if type(number) is int else 0
        function = fragment.get("function")
        function = function if type(function) is dict else {}
        events: list[Object] = []
        call = self._calls.get(number)
        if call is None:
            made = answer.call_item(
                self._stamp,
                number,
                call_id=str(fragment.get("id") or ""),
                name=str(function.get("name") or ""),
                arguments="",
                status="in_progress",
            )
            call = self._calls[number] = _Call(made, len(self._items))
            self._items.append(call)
            events += call.opened()
        arguments = function.get("arguments")
        return events + call.says(arguments) if type(arguments) is str and arguments else events

    def _image(self, image: str) -> list[Object]:
        drawn = _Image(answer.image_item(self._stamp, self._images, image), len(self._items))
        self._images += 1
        self._items.append(drawn)
        return drawn.opened()

    @property
    def _is_last(self) -> bool:
        """Whether the message is all there is."""
        return not self._calls and not self._images

    def _output(self, status: str) -> list[Object]:
        """Items as a whole response has them."""
        return [item.item(status, is_last=self._is_last) for item in self._items if not isinstance(item, _Thought)]


class _Item:
    """An item under way."""

    def __init__(self, item_id: str, place: int) -> None:
        self.id = item_id
        self.place = place
        self.text: list[str] = []
        self.done = False

    def event(self, name: str, index: int = 0, **fields: Any) -> Object:
        where = {"item_id": self.id, "output_index": self.place, "content_index": index}
        return {"type": f"response.{name}"} | where | fields

    def item_event(self, name: str, item: Object) -> Object:
        return {"type": f"response.output_item.{name}", "output_index": self.place, "item": item}

    @property
    def said(self) -> str:
        return "".join(self.text)


class _Thought(_Item):
    def opened(self) -> list[Object]:
        empty = {"type": "reasoning_text", "text": ""}
        return [
            self.item_event("added", self._made("in_progress", [])),
            self.event("content_part.added", part=empty),
        ]

    def closed(self, status: str, *, is_last: bool) -> list[Object]:
        self.done = True
        part = {"type": "reasoning_text", "text": self.said}
        return [
            self.event("reasoning_text.done", text=self.said),
            self.event("content_part.done", part=part),
            self.item_event("done", self._made("completed", [part])),
        ]

    def _made(self, status: str, content: list[Object]) -> Object:
        return {"id": self.id, "type": "reasoning", "status": status, "summary": [], "content": content}


class _Message(_Item):
    def __init__(self, item_id: str, place: int, thought: _Thought | None) -> None:
        super().__init__(item_id, place)
        self.thought = thought
        self._text_at: int | None = None  # content_index of the text, once it is open

    def opened(self) -> list[Object]:
        events = [self.item_event("added", answer.message_item(self.id, [], "in_progress"))]
        if self.thought is not None:
            part = answer.thought_part(self.thought.said)
            events += [self.event("content_part.added", part=part), self.event("content_part.done", part=part)]
        return events

    def says(self, text: str) -> list[Object]:
        events = self._text_opened()
        assert self._text_at is not None
        self.text.append(text)
        return [*events, self.event("output_text.delta", self._text_at, delta=text, logprobs=[])]

    def closed(self, status: str, *, is_last: bool) -> list[Object]:
        self.done = True
        events = self._text_opened() if is_last else []
        if self._text_at is not None:
            events.append(self.event("output_text.done", self._text_at, text=self.said, logprobs=[]))
            events.append(self.event("content_part.done", self._text_at, part=answer.text_part(self.said)))
        return [*events, self.item_event("done", self.item(status, is_last=is_last))]

    def item(self, status: str, *, is_last: bool) -> Object:
        thought = "" if self.thought is None else self.thought.said
        return answer.message_item(self.id, answer.parts_of(thought, self.said, is_last=is_last), status)

    def _text_opened(self) -> list[Object]:
        if self._text_at is not None:
            return []
        self._text_at = 0 if self.thought is None else 1
        return [self.event("content_part.added", self._text_at, part=answer.text_part(""))]


class _Call(_Item):
    def __init__(self, made: Object, place: int) -> None:
        super().__init__(made["id"], place)
        self._made = made

    def opened(self) -> list[Object]:
        return [self.item_event("added", dict(self._made))]

    def says(self, arguments: str) -> list[Object]:
        self.text.append(arguments)
        return [self._arguments("delta", delta=arguments)]

    def closed(self, status: str, *, is_last: bool) -> list[Object]:
        self.done = True
        done = self._arguments("done", arguments=self.said, name=self._made["name"])
        return [done, self.item_event("done", self.item(status, is_last=is_last))]

    def item(self, status: str, *, is_last: bool) -> Object:
        return self._made | {"status": status, "arguments": self.said}

    def _arguments(self, event: str, **fields: Any) -> Object:
        where = {"item_id": self.id, "output_index": self.place}
        return {"type": f"response.function_call_arguments.{event}"} | where | fields


class _Image(_Item):
    """It comes at once."""

    def __init__(self, made: Object, place: int) -> None:
        super().__init__(made["id"], place)
        self._made = made
        self.done = True

    def opened(self) -> list[Object]:
        return [self.item_event("added", self._made), self.item_event("done", self._made)]

    def closed(self, status: str, *, is_last: bool) -> list[Object]:
        return []

    def item(self, status: str, *, is_last: bool) -> Object:
        return self._made
