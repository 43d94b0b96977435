"""What one call used, read from the bytes its engine sends: the same meter for streams and whole answers. Pure.

    meter = Meter(capabilities, bounds)
    for event in meter.feed(chunk): ...        # a stream; meter.finish() when its body has ended
    meter.whole(body)                          # or a whole answer
    measured = meter.result(Ending.COMPLETE)

An event is parsed only when it must be: one that brings nothing but a choice's text and a running count is kept unread
until somebody asks how much has been used.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec
import orjson

from billing.snapshot import Capabilities
from billing.usage import Usage
from proxy.bounds import Bounds, Delivered, Flag, Source, believe
from proxy.events import EVENT_BYTES_MAX, EventReader, EventTooLarge, Frame
from proxy.stream_event import (
    SIGN_OF_LIFE,
    Event,
    Kind,
    content_bytes,
    error_of,
    event_of,
    images_of,
    index_of,
    json_object,
    size_of,
)
from proxy.usage_report import Report, read_timings, read_usage

__all__ = ["Bounds", "Ending", "Event", "Flag", "Kind", "Measured", "Meter", "Source"]


class Ending(StrEnum):
    """How the exchange ended, as its driver saw it; COMPLETE: the body ended in order."""

    COMPLETE = "complete"
    CLIENT_GONE = "client_gone"
    CUT = "upstream_cut"
    ERROR = "upstream_error"
    TIMEOUT = "timeout"
    LAPSED = "lapsed"


class Measured(msgspec.Struct, frozen=True):
    usage: Usage
    source: Source
    end_reason: str
    flags: tuple[str, ...]
    reported_prompt: int | None
    """Unclamped, to learn the model's constants from."""

    @property
    def succeeded(self) -> bool:
        return self.end_reason in _SUCCESSES


_SUCCESSES = frozenset({"stop", "length", "tool_calls", "content_filter"})
_END_REASONS = {
    "length": "length",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "tool_use": "tool_calls",
    "content_filter": "content_filter",
    "abort": "upstream_error",
    "error": "upstream_error",
}
"""The engine's finish reason → ours; every other one is a stop."""
_RESPONSE_ENDS = {
    "response.completed": "stop",
    "response.incomplete": "length",
    "response.failed": "error",
    "completed": "stop",
    "incomplete": "length",
    "failed": "error",
}
"""The responses API: type of a stream's closing event, or status of a whole response → finish reason."""
_CONTENT = Kind.CONTENT
IMAGE_EVENT_BYTES_MAX = 32 * 1024 * 1024
"""An image comes whole in one event."""
_USAGE_OPENS = b'"usage":{'
_TIMINGS_OPENS = b'"timings":{'


class Meter:
    """Counts one call. `error` is what an error frame (or an error body under status 200) held; `content_events` > 0
    means that something has been generated."""

    __slots__ = (
        "_bounds",
        "_broken_off",
        "_capabilities",
        "_choices_seen",
        "_closing_counts",
        "_content_bytes",
        "_events",
        "_final",
        "_finish_reasons",
        "_flags",
        "_images",
        "_images_apart",
        "_reader",
        "_running",
        "_unread",
        "content_events",
        "done",
        "error",
    )

    def __init__(self, capabilities: Capabilities, bounds: Bounds) -> None:
        self._capabilities = capabilities
        self._bounds = bounds
        self._reader = EventReader(IMAGE_EVENT_BYTES_MAX if bounds.images_max else EVENT_BYTES_MAX)
        self._events = 0
        self._content_bytes = 0
        self._final: Report | None = None
        self._running: dict[int, Report] = {}  # the newest of each choice
        self._unread: bytes | None = None  # the newest event with a running count, if not parsed yet
        self._choices_seen: set[int] = set()
        self._closing_counts: set[int] = set()  # choices whose finish came with a count: the last word on them
        self._finish_reasons: dict[int, str] = {}
        self._flags: set[str] = set()
        self._images = self._images_apart = 0  # as parts of the content, and apart from it
        self._broken_off = False
        self.content_events = 0
        self.done = False
        self.error: Any = None

    # bytes in ---------------------------------------------------------------------------------------------------

    def feed(self, chunk: bytes) -> list[Event]:
        """The events of a stream that are complete by now. Nothing follows an ERROR; what follows DONE is dropped."""
        if self.error is not None:
            return []
        data = self._reader.single(chunk)
        if data is not None:
            return [] if self.done else [self._event(data, b"")]
        try:
            frames = self._reader.feed(chunk)
        except EventTooLarge as error:
            return [self._bad(b"", str(error))]
        return self._take(frames)

    def finish(self) -> list[Event]:
        """The body has ended: an event that lacks its closing blank line counts."""
        return self._take(self._reader.finish()) if self.error is None else []

    def absorb(self, rest: bytes) -> list[Event]:
        """What an engine had sent when the exchange was broken off: counted, delivered or not. A stream that only this
        completes has not ended well."""
        self._broken_off = not self.finished
        return self.feed(rest)

    def whole(self, body: bytes) -> dict[str, Any] | None:
        """A whole answer, read; None (and `error` set) when it is no JSON object."""
        parsed = json_object(body)
        if parsed is None:
            self._bad(body, "the answer is not a JSON object")
            return None
        self.error = error_of(parsed)
        if (
            self.error is None
            and self._bounds.generates
            and not parsed.get("choices")
            and parsed.get("object") != "response"
        ):
            self._bad(body, "the answer has no choices")
        if self.error is None:
            self.done = True
            self._read_choices(parsed)
            self._final = self._read_report(parsed)
            if parsed.get("object") == "response":
                self._read_response(parsed)
            elif not self._finish_reasons:
                self._finish_reasons[0] = "stop"
        return parsed

    # the account ------------------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Everything has come: all choices have their finish reasons and the engine has said that it is done (where
        it says so)."""
        if self.error is not None:
            return False
        if self.done:
            return bool(self._finish_reasons) and self._choices_seen <= self._finish_reasons.keys()
        return not self._capabilities.sends_done and len(self._finish_reasons) >= self._bounds.choices

    def running(self) -> Usage:
        """What has been used so far, for progress marks and lapses."""
        return self._account()[0]

    def result(self, ending: Ending) -> Measured:
        """The account of the call. One that was finished before its client left has ended well."""
        finished = self.finished and not self._broken_off
        usage, source, flags, report = self._account()
        if not finished and ending is Ending.COMPLETE and self.error is None:
            flags.add(Flag.NO_DONE if self._finish_reasons else Flag.NO_FINISH_REASON)
        return Measured(usage, source, self._end_reason(ending, finished), tuple(sorted(flags)), report.prompt)

    def _end_reason(self, ending: Ending, finished: bool) -> str:
        if self.error is not None:
            return Ending.ERROR.value
        if finished:
            return _END_REASONS.get(self._finish_reasons[min(self._finish_reasons)], "stop")
        return Ending.CUT.value if ending is Ending.COMPLETE else ending.value

    def _account(self) -> tuple[Usage, Source, set[str], Report]:
        report, source = self._newest()
        if source is Source.NONE:
            return Usage(), source, set(self._flags), report
        delivered = Delivered(self._events, self.content_events, self._content_bytes)
        # vLLM and SGLang, told to report cached tokens, leave the field out when it is 0
        zero = self._capabilities.reports_cached
        usage, source, flags = believe(report, source, self._bounds, delivered, absent_cache_is_zero=zero)
        if report.prompt is None and report.output is None:
            flags.add(Flag.USAGE_MISSING)
        images = max(self._images, self._images_apart)  # an engine that lists an image twice has made it once
        if images > self._bounds.images_max:
            flags.add(Flag.IMAGES_OVER_HOLD)
            images = self._bounds.images_max
        if images:
            usage = msgspec.structs.replace(usage, images=images)
        return usage, source, flags | self._flags, report

    def _newest(self) -> tuple[Report, Source]:
        """The report to go by: the final one, else the running ones of all choices added up (each the newest of its
        choice, so that nothing is counted twice)."""
        self._read_unread()
        final, running = self._final, list(self._running.values())
        counts_all = self._bounds.choices == 1 or self._capabilities.counts_every_choice
        if final is not None and counts_all and final.output is not None and final.prompt is not None:
            return final, Source.FINAL
        if running:
            exact = final is None and self.finished and self._finish_reasons.keys() <= self._closing_counts
            return _added(running, final), Source.FINAL if exact else Source.RUNNING
        if final is not None:
            return final, Source.FINAL if counts_all else Source.ESTIMATED
        return Report(), Source.ESTIMATED if self.content_events or self.finished else Source.NONE

    # events -----------------------------------------------------------------------------------------------------

    def _take(self, frames: list[Frame]) -> list[Event]:
        events: list[Event] = []
        for frame in frames:
            if self.done:
                break
            data, name = frame
            event = SIGN_OF_LIFE if data is None else self._event(data, name)
            events.append(event)
            if event.kind is Kind.ERROR:
                break
        return events

    def _event(self, data: bytes, name: bytes) -> Event:
        self._events += 1
        if (
            (_TIMINGS_OPENS in data or _USAGE_OPENS in data)
            and self._bounds.choices == 1
            and not self._bounds.images_max
            and b'"finish_reason":null' in data
            and b'"error"' not in data
            and self.content_events
            and b'""' not in data
        ):
            # One choice's text with a running count and nothing else to know. Quotes within JSON strings are escaped,
            # so none of these patterns can match text that a model wrote. An event before the first content, or with
            # an empty string in it, may hold no text at all: it is read, as what it counts for may have to be charged.
            self._unread = data
            self.content_events += 1
            return event_of((_CONTENT, data, None, True, name))
        if data == b"[DONE]":
            self.done = True
            return Event(Kind.DONE, data)
        parsed = json_object(data)
        if parsed is None:
            return self._bad(data, "an event that is not a JSON object")
        self.error = error_of(parsed)
        if self.error is not None:
            return Event(Kind.ERROR, data, parsed, False, name)
        if "type" in parsed and str(parsed["type"]).startswith("response."):
            return self._response_event(data, parsed, name)
        return self._choices_event(data, parsed, name)

    def _choices_event(self, data: bytes, parsed: dict[str, Any], name: bytes) -> Event:
        finished = self._read_choices(parsed)
        report = self._read_report(parsed)
        choices = parsed.get("choices")
        if not choices:
            if report is None:
                return Event(Kind.SIGN_OF_LIFE, data, parsed)
            self._final = report
            return Event(Kind.USAGE, data, parsed, True, name)
        self._keep_running(choices, report)
        if finished and report is not None:
            self._closing_counts.add(index_of(choices[0]))
        return event_of((Kind.FINISH if finished else _CONTENT, data, parsed, report is not None, name))

    def _response_event(self, data: bytes, parsed: dict[str, Any], name: bytes) -> Event:
        """The responses API: typed events; the closing one holds the whole response with its usage, no [DONE]."""
        reason = _RESPONSE_ENDS.get(parsed["type"])
        response = parsed.get("response")
        if reason is not None:
            self._finish_reasons[0] = reason
            self._final = self._read_report(response) if type(response) is dict else None
            self.done = True
            return Event(Kind.FINISH, data, parsed, True, name)
        delta = parsed.get("delta")
        if type(delta) is str and delta:
            self.content_events += 1
            self._content_bytes += size_of(delta)
        return Event(Kind.CONTENT, data, parsed, False, name)

    def _read_response(self, parsed: dict[str, Any]) -> None:
        self._finish_reasons[0] = _RESPONSE_ENDS.get(str(parsed.get("status")), "stop")
        if self._final is None:  # to estimate from: every text in it, wherever it stands
            self._content_bytes += len(orjson.dumps(parsed.get("output")))

    def _bad(self, data: bytes, message: str) -> Event:
        self._flags.add(Flag.BAD_EVENT)
        self.error = message
        return Event(Kind.ERROR, data)

    def _read_choices(self, parsed: dict[str, Any]) -> bool:
        """Counts content and remembers finish reasons; True when this one brought a finish reason."""
        choices = parsed.get("choices")
        finished = False
        for choice in choices if type(choices) is list else ():
            if type(choice) is not dict:
                continue
            index = index_of(choice)
            self._choices_seen.add(index)
            size = content_bytes(choice)
            if size:
                self.content_events += 1
                self._content_bytes += size
                apart, within = images_of(choice)
                self._images_apart += apart
                self._images += within
            reason = choice.get("finish_reason")
            if type(reason) is str and reason:
                self._finish_reasons[index] = reason
                finished = True
        return finished

    def _read_report(self, parsed: dict[str, Any]) -> Report | None:
        """Usage as OpenAI has it; where that says nothing, llama.cpp's timings."""
        report = None
        said = parsed.get("usage")
        if said is not None:
            report = read_usage(said)
            self._flags |= report.flags
            if report.prompt is not None or report.output is not None:
                return report
        timings = parsed.get("timings")
        return report if type(timings) is not dict else read_timings(timings)

    def _keep_running(self, choices: Any, report: Report | None) -> None:
        if report is not None:
            self._running[index_of(choices[0]) if type(choices) is list and choices else 0] = report
            self._unread = None

    def _read_unread(self) -> None:
        data, self._unread = self._unread, None
        if data is not None:
            parsed = json_object(data)
            if parsed is None:
                self._flags.add(Flag.BAD_EVENT)
            else:
                self._keep_running(parsed.get("choices"), self._read_report(parsed))


def _added(reports: list[Report], final: Report | None) -> Report:
    """One report from the newest of each choice: the prompt was read once, what was made adds up. What the final one
    says of the prompt goes first."""
    if final is None and len(reports) == 1:
        return reports[0]
    first = reports[0] if final is None or final.prompt is None else final
    outputs = [report.output for report in reports if report.output is not None]
    reasonings = [report.reasoning for report in reports if report.reasoning is not None]
    return Report(
        prompt=first.prompt,
        output=sum(outputs) if outputs else None,
        cache_read=first.cache_read if first.cache_read is not None else reports[0].cache_read,
        cache_write=first.cache_write,
        reasoning=sum(reasonings) if reasonings else None,
    )
