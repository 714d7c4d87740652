"""Arrays that grow: the same numbers in memory and in a file, and in memory where there can be no file."""

from array import array
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semdis_cli.files import growing
from semdis_cli.files.growing import GrowingArray

quick = settings(deadline=None)

additions = st.lists(st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=5), max_size=8)


def grown(some: list[list[int]], folder: Path | None = None) -> GrowingArray:
    numbers = GrowingArray("q", folder)
    for each in some:
        if len(each) == 1:
            numbers.append(each[0])
        else:
            numbers.extend(each)
    return numbers


@pytest.fixture(params=[8, 24, 1 << 20], autouse=True)
def _held_in_memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes from which on numbers go to the file: at once, after three, and never."""
    monkeypatch.setattr(growing, "_MOST_BYTES", request.param)


@quick
@given(some=additions, first=st.integers(0, 20), number=st.integers(0, 20))
def test_what_is_added_is_there_at_every_place(some: list[list[int]], first: int, number: int) -> None:
    numbers, all_numbers = grown(some), [each for group in some for each in group]
    assert len(numbers) == len(all_numbers)
    assert [numbers[place] for place in range(len(all_numbers))] == all_numbers
    assert numbers.part(first, first + number) == array("q", all_numbers[first : first + number])
    assert numbers.values().tolist() == all_numbers


@quick
@given(st.lists(st.binary().map(lambda line: line.replace(b"\n", b"") + b"\n"), max_size=20))
def test_lines_come_out_as_they_were_added(lines: list[bytes]) -> None:
    text = GrowingArray("B")
    for line in lines:
        text.add_bytes(line)
    assert list(text.lines()) == lines


def test_where_there_can_be_no_file_memory_holds_all(tmp_path: Path) -> None:
    numbers = grown([[number, -number] for number in range(100)], tmp_path / "missing")
    assert numbers.values().tolist() == [each for number in range(100) for each in (number, -number)]
    assert numbers[199] == -99


def test_a_number_beyond_the_type_is_refused_and_changes_nothing() -> None:
    numbers = grown([[1, 2]])
    with pytest.raises(OverflowError):
        numbers.append(1 << 63)
    assert numbers.values().tolist() == [1, 2]
