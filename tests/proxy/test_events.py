"""Server-sent events survive any cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.events import EventReader, EventTooLarge, Frame

STREAM = (
    b"\xef\xbb\xbf: hello\n\n"
    b'data: {"a": 1}\n\n'
    b"data:{}\n\n\n\n"
    b"event: error\r\ndata: {\r\ndata: }\r\n\r\n"
    b"id: 4\nretry: 30\n\n"
    b": ping\ndata: x\n\n"
    b"data\rdata: \xc3\xa9\r\r"
    b"data: [DONE]\n\n"
    b"data: unfinished"
)
FRAMES = [
    Frame(None),
    Frame(b'{"a": 1}'),
    Frame(b"{}"),
    Frame(b"{\n}", b"error"),
    Frame(b"x"),
    Frame(b"\n\xc3\xa9"),
    Frame(b"[DONE]"),
    Frame(b"unfinished"),
]


def read(pieces: list[bytes]) -> list[Frame]:
    reader = EventReader()
    frames: list[Frame] = []
    for piece in pieces:
        data = reader.single(piece)
        frames += reader.feed(piece) if data is None else [Frame(data)]
    return frames + reader.finish()


def cut(text: bytes, borders: list[int]) -> list[bytes]:
    ends = sorted({border % (len(text) + 1) for border in borders} | {0, len(text)})
    return [text[a:b] for a, b in pairwise(ends)]


def test_every_form_of_event_is_read():
    assert read([STREAM]) == FRAMES


@pytest.mark.parametrize("size", range(1, 40))
def test_every_even_cut_reads_the_same(size):
    assert read([STREAM[i : i + size] for i in range(0, len(STREAM), size)]) == FRAMES


@given(st.lists(st.integers(0, 10_000), max_size=30))
def test_any_cut_reads_the_same(borders):
    assert read(cut(STREAM, borders)) == FRAMES


LINES = st.sampled_from([b"data: a", b"data:", b": c", b"event: e", b"", b"", b"x: y", b"data: {}", b"\xef\xbb\xbf"])


@given(st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r\n", b"\r"])), max_size=25), st.lists(st.integers(0, 500)))
def test_any_text_reads_the_same_however_it_is_cut(lines, borders):
    text = b"".join(line + end for line, end in lines)
    assert read(cut(text, borders)) == read([text])


def test_event_without_end_is_bounded():
    reader = EventReader(bytes_max=1000)
    for _ in range(10):
        reader.feed(b"data: " + b"x" * 94)
    with pytest.raises(EventTooLarge):
        reader.feed(b"x")
    with pytest.raises(EventTooLarge):
        EventReader(bytes_max=1000).feed(b"data: a\n\ndata: " + b"x" * 2000 + b"\n\n")


def test_large_event_in_small_pieces_is_linear():
    """A megabyte in pieces of 16 bytes: 65,536 pieces, joined once."""
    text = b"data: " + b"x" * (1 << 20) + b"\n\n"
    assert read([text[i : i + 16] for i in range(0, len(text), 16)]) == [Frame(text[6:-2])]
