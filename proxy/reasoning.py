"""What a model thinks, apart from what it answers: `<think>…</think>` in a text that may be cut anywhere. Pure.

A text that begins with `<think>` (after blanks) is thought up to the first `</think>`; after that every byte is the
answer's, later tags too. Only the two tags themselves are taken out. A splitter holds back no more than a possible
beginning of the tag that it waits for.

Chat templates of some models open the thought in the prompt, so that their text begins inside it and no `<think>` ever
comes. A stream cannot wait to see: `opened` says it beforehand, and then text that does not begin with the tag is
thought until `</think>`. When such a text ends by itself without any tag, nobody had thought: all of it is the answer,
said at the end (a stream has then shown it as thought, too).
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

OPEN = "<think>"
CLOSE = "</think>"


class Parted(NamedTuple):
    """A piece of text, or all of it, in its two parts: thought comes first."""

    reasoning: str = ""
    content: str = ""


NOTHING = Parted()


class _At(Enum):
    START = "before anything but blanks has come"
    THOUGHT = "after <think>"
    SUPPOSED = "in what must be thought, because the template opens it"
    ANSWER = "after </think>, or in a text that does not think"


class Splitter:
    """The text of one choice, piece by piece."""

    __slots__ = ("_at", "_held", "_opened", "_supposed")

    def __init__(self, *, opened: bool) -> None:
        self._opened = opened
        self._at = _At.START
        self._held = ""  # a possible beginning of the tag that is waited for
        self._supposed: list[str] = []

    @property
    def is_done(self) -> bool:
        """Whatever comes now is the answer's."""
        return self._at is _At.ANSWER

    def feed(self, piece: str) -> Parted:
        if self._at is _At.ANSWER:
            return Parted("", piece)
        text, self._held = self._held + piece, ""
        if self._at is not _At.START:
            return self._go_on(text)
        before, rest = self._begin(text)
        after = self._go_on(rest)
        return Parted(before.reasoning + after.reasoning, before.content + after.content)

    def thought_apart(self) -> str:
        """The engine gives thought in a field of its own: the text is the answer's, whatever is in it. What had been
        held back of it."""
        if self._at is _At.THOUGHT:
            return ""
        held, self._held = self._held, ""
        self._supposed.clear()
        self._at = _At.ANSWER
        return held

    def finish(self, *, by_itself: bool) -> Parted:
        """The text is complete. `by_itself`: it ended where the model ended it, not at a limit."""
        at, self._at = self._at, _At.ANSWER
        held, self._held = self._held, ""
        supposed, self._supposed = self._supposed, []
        if at is _At.THOUGHT:
            return Parted(held, "")
        if at is _At.ANSWER or not self._opened:
            return Parted("", held)
        return Parted(held, "".join([*supposed, held]) if by_itself else "")

    def _begin(self, text: str) -> tuple[Parted, str]:
        """Blanks in front pass; then the tag, a beginning of it, or what says that there is none. The rest of the text
        after the blanks or the tag."""
        bare = text.lstrip()
        blanks = text[: len(text) - len(bare)]
        if OPEN.startswith(bare) and bare != OPEN:
            self._held, rest = bare, ""
        elif bare.startswith(OPEN):
            self._at, rest = _At.THOUGHT, bare[len(OPEN) :]
        else:
            self._at, rest = _At.SUPPOSED if self._opened else _At.ANSWER, bare
        if not self._opened:
            return Parted("", blanks), rest
        if self._at is _At.THOUGHT:
            self._supposed.clear()
        elif blanks:
            self._supposed.append(blanks)
        return Parted(blanks, ""), rest

    def _go_on(self, text: str) -> Parted:
        if self._at is _At.START:
            return NOTHING
        if self._at is _At.ANSWER:
            return Parted("", text)
        at = text.find(CLOSE)
        if at >= 0:
            self._at = _At.ANSWER
            self._supposed.clear()
            return Parted(text[:at], text[at + len(CLOSE) :])
        end = len(text) - _begun(text)
        self._held = text[end:]
        if self._at is _At.SUPPOSED:
            self._supposed.append(text[:end])
        return Parted(text[:end], "")


def split(text: str, *, opened: bool, by_itself: bool = True) -> Parted:
    """A whole text, with hindsight: what ended by itself without a tag is the answer and no thought."""
    splitter = Splitter(opened=opened)
    first = splitter.feed(text)
    last = splitter.finish(by_itself=by_itself)
    if last.content and first.reasoning + last.reasoning == last.content:
        return Parted("", last.content)
    return Parted(first.reasoning + last.reasoning, first.content + last.content)


def _begun(text: str) -> int:
    """How many characters at the end of `text` could begin CLOSE."""
    at = text.rfind("<", max(0, len(text) - len(CLOSE) + 1))
    return len(text) - at if at >= 0 and CLOSE.startswith(text[at:]) else 0
