"""Journals with damaged lines, at both doors: the run that goes on, and `verify`."""

import shutil
from pathlib import Path

import pytest

from semdis_cli.errors import SemdisError, StoreError
from tests.store import NUM_SHARDS, contents, make_plan, write_set
from tests.store.test_verify import told

JOURNAL = Path("journal", "0.jsonl")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "latents"


def journal_lines(root: Path) -> list[bytes]:
    return (root / JOURNAL).read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"{}\n", id="an empty object"),
        pytest.param(b"nonsense\n", id="not JSON"),
        pytest.param(b"\n", id="empty"),
        pytest.param(b"\xff\xff\n", id="not UTF-8"),
        pytest.param(b"[]\n", id="a list"),
        pytest.param(b"[" * 100_000 + b"\n", id="nested without end"),
        pytest.param(bytes(300) + b"\n", id="zeros, as a power failure may leave"),
    ],
)
@pytest.mark.parametrize("number", [0, 1, NUM_SHARDS])
def test_a_damaged_line_of_the_journal_is_refused_and_the_advice_helps(
    root: Path, unfinished_set: Path, finished_set: Path, number: int, line: bytes
) -> None:
    shutil.copytree(unfinished_set, root)
    lines = journal_lines(root)
    (root / JOURNAL).write_bytes(b"".join([*lines[:number], line, *lines[number + 1 :]]))
    offset = sum(map(len, lines[:number]))
    assert told(root).count(("journal/0.jsonl", "journal")) == 1
    with pytest.raises(
        StoreError, match=rf"0\.jsonl: the line at byte {offset} is damaged .*delete {root} and encode the set again"
    ):
        write_set(root)
    shutil.rmtree(root)
    write_set(root)
    assert contents(root) == contents(finished_set)


def test_a_flipped_bit_in_the_journal_s_first_line_is_refused(root: Path, unfinished_set: Path) -> None:
    shutil.copytree(unfinished_set, root)
    first, *others = journal_lines(root)
    unnoticed = []
    for position in range(len(first) - 1):
        damaged = first[:position] + bytes([first[position] ^ 1]) + first[position + 1 :]
        (root / JOURNAL).write_bytes(b"".join([damaged, *others]))
        try:
            with make_plan().open(root):
                unnoticed.append(position)
        except SemdisError:
            pass
    assert unnoticed == []


def test_a_flipped_bit_in_a_line_of_the_journal_changes_nothing_of_the_finished_set(
    root: Path, unfinished_set: Path, finished_set: Path
) -> None:
    lines, as_it_should_be = journal_lines(unfinished_set), contents(finished_set)
    changed = []
    for position in range(0, len(lines[3]) - 1, 3):
        shutil.copytree(unfinished_set, root)
        damaged = lines[3][:position] + bytes([lines[3][position] ^ 1]) + lines[3][position + 1 :]
        (root / JOURNAL).write_bytes(b"".join([*lines[:3], damaged, *lines[4:]]))
        try:
            write_set(root)
        except StoreError:
            pass
        else:
            if contents(root) != as_it_should_be:
                changed.append(damaged[max(0, position - 10) : position + 10])
        shutil.rmtree(root)
    assert changed == []
