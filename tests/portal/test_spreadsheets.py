import asyncio
import csv
import io
from collections.abc import Iterator

import pytest

from portal import spreadsheets


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_no_program_runs_a_cell(text):
    assert spreadsheets.cell(text) == "'" + text


@pytest.mark.parametrize("value", ["plain", "a=b", "", None, -5, 7])
def test_other_cells_stay_as_they_are(value):
    assert spreadsheets.cell(value) == value


def test_exact_amounts_are_numbers_below_nothing_too():
    assert spreadsheets.cell(spreadsheets.Number("-0.000000001")) == "-0.000000001"


def test_cells_come_back_as_they_went_in():
    given: list[list[object]] = [["a,b", 'say "x"', "two\nlines"], ["ö", "", 3]]
    text = b"".join(spreadsheets.chunks(("one", "two", "three"), given)).decode()
    assert list(csv.reader(io.StringIO(text))) == [
        ["one", "two", "three"],
        ["a,b", 'say "x"', "two\nlines"],
        ["ö", "", "3"],
    ]


def test_a_long_file_is_sent_while_it_is_read():
    read = 0

    def rows() -> Iterator[list[int]]:
        nonlocal read
        for number in range(10 * spreadsheets.ROWS_PER_CHUNK):
            read = number + 1
            yield [number]

    async def take(chunks: int) -> list[bytes]:
        found = []
        async for chunk in spreadsheets.Download("numbers.csv", ["number"], rows()):
            found.append(chunk)
            if len(found) == chunks:
                break
        return found

    first, second = asyncio.run(take(2))
    assert first.startswith(b"number\r\n0\r\n1\r\n")
    assert second.startswith(b"500\r\n")
    assert read == 2 * spreadsheets.ROWS_PER_CHUNK
