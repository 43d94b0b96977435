"""The splitter of `<think>` text: what it makes of a text, and that no cut in it makes a difference."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.reasoning import CLOSE, OPEN, Parted, Splitter, split

pieces = st.sampled_from(
    [OPEN, CLOSE, "<", "</", "<th", "</thi", "ink>", "think>", ">", " ", "\n", "a", "ü", "Answer.", "<b>", "<<think>"]
)
texts = st.lists(pieces, max_size=12).map("".join)


@st.composite
def cut_texts(draw: st.DrawFn) -> list[str]:
    """A text in pieces, cut anywhere, some of them empty."""
    text = draw(texts)
    borders = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[a:b] for a, b in zip([0, *borders], [*borders, len(text)], strict=True)]


def streamed(cut: list[str], *, opened: bool, by_itself: bool = True) -> Parted:
    splitter = Splitter(opened=opened)
    parts = [splitter.feed(piece) for piece in cut]
    parts.append(splitter.finish(by_itself=by_itself))
    return Parted("".join(part.reasoning for part in parts), "".join(part.content for part in parts))


def oracle(text: str, opened: bool) -> Parted:
    """The rule, said once more and otherwise."""
    bare = text.lstrip()
    blanks = text[: len(text) - len(bare)]
    if bare.startswith(OPEN):
        thought, _, answer = bare.removeprefix(OPEN).partition(CLOSE)
        return Parted(blanks + thought, answer) if opened else Parted(thought, blanks + answer)
    if opened and CLOSE in text:
        thought, _, answer = text.partition(CLOSE)
        return Parted(thought, answer)
    return Parted("", text)


@pytest.mark.parametrize(
    ("text", "opened", "reasoning", "content"),
    [
        ("<think>Let me see.</think>42", False, "Let me see.", "42"),
        ("<think>Let me see.</think>42", True, "Let me see.", "42"),
        ("Let me see.\n</think>\n\n42", True, "Let me see.\n", "\n\n42"),
        ("Let me see.</think>42", False, "", "Let me see.</think>42"),
        ("<think>never closed", True, "never closed", ""),
        ("<think>never closed", False, "never closed", ""),
        ("<think>a</thin", True, "a</thin", ""),
        ("<think>a</think>b<think>c</think>d", True, "a", "b<think>c</think>d"),
        ("a</think>b</think><think>c", True, "a", "b</think><think>c"),
        ("\n<think>a</think>b", True, "\na", "b"),
        ("\n<think>a</think>b", False, "a", "\nb"),
        ("<think></think>b", True, "", "b"),
        ("<think><think>a</think>b", True, "<think>a", "b"),
        ("no tag at all", True, "", "no tag at all"),
        ("no tag at all", False, "", "no tag at all"),
        ("<thin", True, "", "<thin"),
        ("<thin", False, "", "<thin"),
        ("an answer with <think>in it</think>", False, "", "an answer with <think>in it</think>"),
        ("", True, "", ""),
    ],
)
def test_a_text_and_its_parts(text: str, opened: bool, reasoning: str, content: str) -> None:
    assert split(text, opened=opened) == (reasoning, content)


@given(texts, st.booleans())
def test_a_whole_text_is_split_by_the_rule(text: str, opened: bool) -> None:
    assert split(text, opened=opened) == oracle(text, opened)


@given(cut_texts(), st.booleans(), st.booleans())
def test_no_cut_makes_a_difference(cut: list[str], opened: bool, by_itself: bool) -> None:
    found = streamed(cut, opened=opened, by_itself=by_itself)
    assert found == streamed(["".join(cut)], opened=opened, by_itself=by_itself)
    assert found.content == split("".join(cut), opened=opened, by_itself=by_itself).content


@given(cut_texts(), st.booleans())
def test_no_more_is_held_back_than_a_beginning_of_a_tag(cut: list[str], opened: bool) -> None:
    splitter = Splitter(opened=opened)
    come, gone = "", 0
    for piece in cut:
        come += piece
        gone += sum(map(len, splitter.feed(piece)))
        tags = sum(len(tag) for tag in tags_in(come, opened))
        held = come[gone + tags :] if gone + tags < len(come) else ""
        assert OPEN.startswith(held) or CLOSE.startswith(held)
        assert len(held) < len(CLOSE)


def tags_in(text: str, opened: bool) -> list[str]:
    """The tags that are taken out of a text."""
    inside = text.lstrip().startswith(OPEN)
    return [OPEN] * inside + [CLOSE] * ((inside or opened) and CLOSE in text)


def test_a_text_cut_short_in_its_thought_is_thought() -> None:
    assert split("Let me see", opened=True, by_itself=False) == ("Let me see", "")
    assert streamed(["Let me", " see</"], opened=True, by_itself=False) == ("Let me see</", "")


def test_a_stream_without_any_tag_ends_with_all_of_it_as_the_answer() -> None:
    assert streamed(["Just ", "this."], opened=True) == ("Just this.", "Just this.")
    assert streamed(["Just ", "this."], opened=False) == ("", "Just this.")


def test_text_beside_an_engines_own_field_is_the_answer_as_it_stands() -> None:
    splitter = Splitter(opened=True)
    assert splitter.feed("<th") == ("", "")
    assert splitter.thought_apart() == "<th"
    assert splitter.feed("a</think>b") == ("", "a</think>b")
    assert splitter.finish(by_itself=True) == ("", "")


def test_two_texts_have_nothing_to_do_with_each_other() -> None:
    first, second = Splitter(opened=False), Splitter(opened=False)
    assert first.feed("<think>a</th") == ("a", "")
    assert second.feed("ink>b") == ("", "ink>b")
    assert first.feed("ink>c") == ("", "c")
