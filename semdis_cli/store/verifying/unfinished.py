"""Unfinished sets: the shards in their journals, which are read without touching them."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from semdis_cli.errors import StoreError
from semdis_cli.events import Problem
from semdis_cli.files.set_names import JOURNAL_FOLDER
from semdis_cli.files.url import Location
from semdis_cli.records import FileDigest
from semdis_cli.store.shard_header import open_regular
from semdis_cli.store.verifying.index_table import ShardRows
from semdis_cli.store.writing.journal_file import JournalEntry, parse_journal_line

_Content = TypeVar("_Content")


@dataclass(frozen=True, slots=True)
class PendingShard:
    """A shard in a journal: its file, the number of its latents, and where its line is."""

    file: FileDigest
    num_images: int
    journal: Location
    offset: int
    line_bytes: int

    def rows(self) -> ShardRows:
        """The rows that the journal names. Raises `StoreError` if the line has changed since."""
        with open_regular(self.journal) as file:
            file.seek(self.offset)
            entry = _parse_entry(file.read(self.line_bytes), self.journal, self.offset)
        rows = ShardRows(lambda number: entry.rows[number].row)
        for number, (row, _) in enumerate(entry.rows):
            if row.row is not None:
                rows.add(row, number)
        return rows


def has_journal(root: Location) -> bool:
    """Tell whether a run has begun in `root`, and not ended."""
    return bool(_journals(root))


def _journals(root: Location) -> list[Location]:
    folder = root / JOURNAL_FOLDER
    try:
        return sorted(folder.glob("*.jsonl"), key=str)
    except OSError as error:
        raise StoreError(f"cannot be looked into ({error.strerror or error})", place=folder) from error


def read_journals(root: Location) -> Generator[Problem, None, dict[str, PendingShard]]:
    """The shards that the journals in `root` know, by name; lines that are damaged are problems.

    A line that was torn by a crash is none: the next run cuts it off.
    """
    found: dict[str, PendingShard] = {}
    for path in _journals(root):
        try:
            yield from _read_journal(path, f"{JOURNAL_FOLDER}/{path.name}", found)
        except StoreError as error:
            yield Problem(f"{JOURNAL_FOLDER}/{path.name}", "journal", str(error))
    return found


def _read_journal(path: Location, name: str, found: dict[str, PendingShard]) -> Generator[Problem, None, None]:
    offset = 0
    with open_regular(path) as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                _add_line(found, path, offset, line)
            except StoreError as error:
                yield Problem(name, "journal", error.beside(path))
            offset += len(line)


def _add_line(found: dict[str, PendingShard], path: Location, offset: int, line: bytes) -> None:
    if offset == 0:
        _parse(line, path, "the plan", dict)
        return
    entry = _parse_entry(line, path, offset)
    if entry.file is not None:
        num_images = sum(row.row is not None for row, _ in entry.rows)
        found[entry.name] = PendingShard(entry.file, num_images, path, offset, len(line))


def _parse_entry(line: bytes, path: Location, offset: int) -> JournalEntry:
    return _parse(line, path, f"the line at byte {offset}", JournalEntry.from_json)


def _parse(line: bytes, path: Location, what: str, content: Callable[[dict[str, Any]], _Content]) -> _Content:
    try:
        return parse_journal_line(line, content)
    except StoreError as error:
        raise StoreError(f"{what} is damaged ({error.reason:.200})", place=path) from error
