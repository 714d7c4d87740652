"""One file of a journal: a plan, and a synced line per published shard, so that a killed run goes on where it was."""

import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import starmap
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self, TypeVar

from semdis_cli.errors import StoreError
from semdis_cli.files import disk
from semdis_cli.files.atomic import explaining, publish
from semdis_cli.files.json_text import parse_json, to_line
from semdis_cli.provenance import Provenance
from semdis_cli.records import FileDigest
from semdis_cli.store.checks import MALFORMED, check_count, check_shard_name
from semdis_cli.store.index import IndexRow
from semdis_cli.store.record import parse_digest
from semdis_cli.store.shard_records import ShardRecords
from semdis_cli.store.statistics import ChannelSums
from semdis_cli.store.writing.entry_text import NewLine, check_rows, count_rows, entry_lines, row_identity, split_entry
from semdis_cli.store.writing.seen import SeenFile

LATER_VERSIONS = "later_versions"  # in a plan
CLASSES = "classes"
_LINE_START = b'{"content":'
_LINE_END = re.compile(rb',"sha256":"([0-9a-f]{64})"\}\n')
_LINE_END_BYTES = 78


class JournalRow(NamedTuple):
    """Row of an image, and the file that it is about; None for failures that another attempt may not have."""

    row: IndexRow
    seen: SeenFile | None

    @classmethod
    def from_json(cls, fields: Any, seen: Any) -> "JournalRow":
        """Parse a row, and what stands for its file. Raises one of `MALFORMED`, or `StoreError`."""
        row = IndexRow.from_json(fields)
        return cls(row, None if seen is None else SeenFile.from_facts(row.key, seen))


@dataclass(frozen=True)
class JournalEntry:
    """Outcome of one planned shard: its file (None if every image failed), rows in key order, channel sums.

    `version`: which of the plan's records it was made under. The `first_key` of its rows, and the number of those that
    failed, are known without them too.
    """

    name: str
    file: FileDigest | None
    rows: tuple[JournalRow, ...]
    sums: ChannelSums
    version: int = 0
    first_key: str = ""
    num_images: int = 0
    num_failed: int = 0

    def without_rows(self) -> Self:
        """Return the same in little memory."""
        return replace(self, rows=())

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """Parse what `render_entry` gave. Raises one of `MALFORMED`, or `StoreError`, on anything else."""
        file = None if fields["sha256"] is None else parse_digest(fields)
        rows = tuple(starmap(JournalRow.from_json, zip(fields["rows"], fields["seen"], strict=True)))
        sums, version = ChannelSums.from_json(fields["sums"]), check_count(fields.get("version", 0))
        first_key = rows[0].row.key if rows else ""
        numbers = len(rows), sum(row.error is not None for row, _ in rows)
        return cls(check_shard_name(fields["shard"]), file, rows, sums, version, first_key, *numbers)


_Content = TypeVar("_Content")


class JournalFile:
    """An append-only file whose first line is the plan.

    Each line carries the sha256 of its content: what a resumed run takes from it ends up in the finished set. `remedy`
    says what to do about one that cannot be used.
    """

    def __init__(self, path: Path, remedy: Callable[[], str]) -> None:
        self.path = path
        self._remedy = remedy
        self._file: BinaryIO | None = None  # unbuffered: a write that failed is not tried again on closing
        self._own: dict[int, str] = {}  # sha256 of the entries that were added here, by offset
        self._reading: BinaryIO | None = None

    def read(self) -> tuple[dict[str, Any] | None, dict[int, JournalEntry]]:
        """The plan line (None without a journal) and, by offset, the entries so far, without their rows to save memory.

        A line torn by a crash is cut off. Raises `StoreError` if a whole line is not what a journal holds.
        """
        plan: dict[str, Any] | None = None
        entries: dict[int, JournalEntry] = {}
        offset = 0
        if not self.path.exists():
            return None, {}
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                if offset == 0:
                    plan = self._parse(line, offset, dict)
                else:
                    entries[offset] = self._summary(line, offset)
                offset += len(line)
            is_torn = offset < os.fstat(file.fileno()).st_size
        if is_torn:
            self._cut_off(offset)
        return plan, entries

    def read_whole_lines(self) -> dict[int, JournalEntry]:
        """The entries of a file that another process may be adding to, or remove, without their rows.

        Raises as `read`.
        """
        entries: dict[int, JournalEntry] = {}
        offset = 0
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return {}
        with file:
            while (line := file.readline()).endswith(b"\n"):  # what follows the first torn line is the rest of that
                if offset:
                    entries[offset] = self._summary(line, offset)
                offset += len(line)
        return entries

    def _cut_off(self, num_bytes: int) -> None:
        try:
            with self.path.open("rb+") as file:
                file.truncate(num_bytes)
        except OSError as error:
            if not disk.is_unsupported(error):
                raise
            with self.path.open("rb") as file:
                publish(self.path, [file.read(num_bytes)])

    def read_plan(self) -> dict[str, Any] | None:
        """The plan line alone, None without a whole one; changes nothing, so no lock is needed. Raises `StoreError`."""
        return self.look()[0]

    def look(self) -> tuple[dict[str, Any] | None, bool]:
        """Return what `read_plan` does, and whether anything follows."""
        try:
            with self.path.open("rb") as file:
                line = file.readline()
                has_more = bool(file.read(1))
        except (FileNotFoundError, IsADirectoryError):
            return None, False
        return (self._parse(line, 0, dict), has_more) if line.endswith(b"\n") else (None, False)

    def begin(self, plan: dict[str, Any]) -> None:
        """Begin anew with `plan` as the first line. Raises `NoSpaceError` or `UsageError`."""
        self.close()
        self._own.clear()
        publish(self.path, [_to_line(plan)])

    def read_entry(self, offset: int) -> JournalEntry:
        """The whole entry whose line begins at `offset`."""
        with self.path.open("rb") as file:
            file.seek(offset)
            return self._parse(file.readline(), offset, JournalEntry.from_json)

    def read_lines(self, offset: int) -> tuple[JournalEntry, Iterable[NewLine], bytes]:
        """The entry whose line begins at `offset`, without its rows, its lines for the index, and `row_identity`.

        Lines are read as they are asked for. Of one that was added here they are copied, and there is no identity.
        Raises `StoreError` if it is damaged.
        """
        with self.path.open("rb") as file:
            file.seek(offset)
            line = file.readline()
        if (digest := self._own.get(offset)) is None:
            return self._checked(line, offset)
        content = line.removeprefix(_LINE_START).removesuffix(_line_end(digest))
        if hashlib.sha256(content + b"\n").hexdigest() != digest:
            raise StoreError(f"the line at byte {offset} was changed; {self._remedy()}", place=self.path)
        fields = split_entry(content)
        entry = JournalEntry.from_json({**fields, "seen": []})
        return entry, self._lines(offset, content, len(fields["seen"])), b""

    def _checked(self, line: bytes, offset: int) -> tuple[JournalEntry, Iterable[NewLine], bytes]:
        content = proved_content(line)
        with suppress(*MALFORMED, StoreError):  # then the parser says what is wrong, if anything is
            if content is not None:
                fields, num_rows, identity = check_rows(content)
                return JournalEntry.from_json(fields), self._lines(offset, content, num_rows), identity
        entry = self._parse(line, offset, JournalEntry.from_json)
        records = ShardRecords.of([row.record for row, _ in entry.rows if row.record is not None])
        identity = row_identity(records.keys, records.geometries)
        return entry.without_rows(), starmap(NewLine.of_row, entry.rows), identity

    def _lines(self, offset: int, content: bytes, num_rows: int) -> Iterator[NewLine]:
        return entry_lines(self._read, offset + len(_LINE_START), content, num_rows)

    def _read(self, place: int, num_bytes: int) -> bytes:
        """Read bytes of the file, fewer only at its end."""
        if self._reading is None:
            self._reading = self.path.open("rb", buffering=0)
        return os.pread(self._reading.fileno(), num_bytes, place)

    def _summary(self, line: bytes, offset: int) -> JournalEntry:
        """Return an entry without its rows, which are looked at when they are used."""
        content = proved_content(line)
        with suppress(*MALFORMED, StoreError):
            if content is not None:
                fields, first_key, num_images, num_failed = count_rows(content)
                entry = JournalEntry.from_json(fields)
                return replace(entry, first_key=first_key, num_images=num_images, num_failed=num_failed)
        return self._parse(line, offset, JournalEntry.from_json).without_rows()

    def append(self, content: bytes) -> int:
        """Add what `render_entry` gave, sync it, and return its offset. Raises `NoSpaceError` or `UsageError`.

        A line torn by a full disk or a crash is cut off by the next run.
        """
        digest = hashlib.sha256(content + b"\n").hexdigest()
        with explaining(self.path):
            if self._file is None:
                self.path.stat()  # it has begun: without a plan before it an entry would say nothing
                self._file = disk.open_to_append(self.path)
            offset = self._file.seek(0, os.SEEK_END)
            line = memoryview(_LINE_START + content + _line_end(digest))
            while line:
                line = line[self._file.write(line) :]
            disk.sync_file(self._file.fileno())
        self._own[offset] = digest
        return offset

    def keep(self, offsets: Collection[int]) -> dict[int, int]:
        """Drop all entries but those at `offsets`, and return where each of these is now."""
        moved: dict[int, int] = {}

        def lines() -> Iterator[bytes]:
            with self.path.open("rb") as file:
                yield (line := file.readline())
                end = len(line)
                for offset in sorted(offsets):
                    moved[offset] = end
                    file.seek(offset)
                    yield (line := file.readline())
                    end += len(line)

        self.close()
        self._own.clear()
        publish(self.path, lines())
        return moved

    def remove(self) -> None:
        """Delete the file, if it can be."""
        self.close()
        with suppress(OSError):
            self.path.unlink()

    def close(self) -> None:
        """Let go of the file."""
        if self._reading is not None:
            self._reading.close()
            self._reading = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def _parse(self, line: bytes, offset: int, content: Callable[[dict[str, Any]], _Content]) -> _Content:
        try:
            return parse_journal_line(line, content)
        except StoreError as error:
            what = f"the line at byte {offset} is damaged ({error.reason}); {self._remedy()}"
            raise StoreError(what, place=self.path) from error


def proved_content(line: bytes) -> bytes | None:
    """Return the content of a line as it is written, if that matches its sha256; None of any other line."""
    end = _LINE_END.fullmatch(line[-_LINE_END_BYTES:])
    content = line[len(_LINE_START) : -_LINE_END_BYTES]
    is_proved = end is not None and hashlib.sha256(content + b"\n").hexdigest() == end[1].decode()
    return content if is_proved and line.startswith(_LINE_START) else None


def parse_journal_line(
    line: bytes, content: Callable[[dict[str, Any]], _Content], *, is_proved: bool = True
) -> _Content:
    """Parse a line whose content is parsed by `content`: `dict` for the plan, else `JournalEntry.from_json`.

    `is_proved`: hold it against its sha256. Raises `StoreError` with the reason alone.
    """
    try:
        fields = parse_json(line)
        inner = dict(fields["content"])
        if is_proved and fields != {"content": inner, "sha256": _digest(inner)}:
            raise ValueError("it does not match its sha256")
        return content(inner)
    except MALFORMED as error:
        raise StoreError(str(error)) from error


def records_of(begun: dict[str, Any]) -> list[Provenance]:
    """The settings under which a run has begun, by version. Raises `StoreError` for what no run notes."""
    try:
        return [Provenance.from_json(record) for record in (begun.get("provenance"), *begun.get(LATER_VERSIONS, ()))]
    except (TypeError, ValueError) as error:
        raise StoreError(f"the plan of the run that was stopped does not say its settings ({error})") from error


def _to_line(fields: dict[str, Any]) -> bytes:
    return _LINE_START + to_line(fields)[:-1] + _line_end(_digest(fields))


def _line_end(digest: str) -> bytes:
    return f',"sha256":"{digest}"}}\n'.encode()


def _digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(to_line(fields)).hexdigest()
