"""The journal of a running encode: one synced line per published shard, so that a killed run continues where it was."""

import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import starmap
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self, TypeVar

from semdis_cli.errors import StoreError
from semdis_cli.files import disk
from semdis_cli.files.atomic import explaining, make_folder, publish, sweep_temporaries, sync_folder
from semdis_cli.files.json_text import parse_json, to_line
from semdis_cli.files.set_names import JOURNAL_FOLDER, PLAN_FILE
from semdis_cli.provenance import Provenance
from semdis_cli.records import FileDigest
from semdis_cli.store.checks import MALFORMED, check_count, check_shard_name
from semdis_cli.store.index import IndexRow
from semdis_cli.store.latent_set import LatentSet
from semdis_cli.store.record import parse_digest
from semdis_cli.store.statistics import ChannelSums
from semdis_cli.store.writing.entry_text import NewLine, split_entry
from semdis_cli.store.writing.seen import SeenFile

_JOURNAL_FILE = "0.jsonl"  # one writer today; the folder has room for one journal per writer
LATER_VERSIONS = "later_versions"  # in a plan
CLASSES = "classes"
_LINE_START = b'{"content":'
_BASE_FOLDER = re.compile(r"base-[0-9a-f]{16}")


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

    `version`: which of the plan's records it was made under.
    """

    name: str
    file: FileDigest | None
    rows: tuple[JournalRow, ...]
    sums: ChannelSums
    version: int = 0

    @property
    def first_key(self) -> str:
        """The first of its keys."""
        return self.rows[0].row.key

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """Parse what `render_entry` gave. Raises one of `MALFORMED`, or `StoreError`, on anything else."""
        file = None if fields["sha256"] is None else parse_digest(fields)
        rows = tuple(starmap(JournalRow.from_json, zip(fields["rows"], fields["seen"], strict=True)))
        sums, version = ChannelSums.from_json(fields["sums"]), check_count(fields.get("version", 0))
        return cls(check_shard_name(fields["shard"]), file, rows, sums, version)


_Content = TypeVar("_Content")


class Journal:
    """An append-only file whose first line is the plan; used under the folder's lock.

    Each line carries the sha256 of its content: what a resumed run takes from it ends up in the finished set. Beside it
    lies, as `base-*`, a copy of what a growing set was before.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root / JOURNAL_FOLDER
        self.path = self.folder / _JOURNAL_FILE
        self._file: BinaryIO | None = None  # unbuffered: a write that failed is not tried again on closing
        self._own: dict[int, str] = {}  # sha256 of the entries that were added here, by offset

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
                    entries[offset] = replace(self._parse(line, offset, JournalEntry.from_json), rows=())
                offset += len(line)
            is_torn = offset < os.fstat(file.fileno()).st_size
        if is_torn:
            self._cut_off(offset)
        return plan, entries

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
        if not self.path.is_file():
            return None
        with self.path.open("rb") as file:
            line = file.readline()
        return self._parse(line, 0, dict) if line.endswith(b"\n") else None

    def begin(self, plan: dict[str, Any]) -> None:
        """Begin anew with `plan` as the first line. Raises `NoSpaceError` or `UsageError`."""
        self.close()
        self._own.clear()
        make_folder(self.folder)
        publish(self.path, [_to_line(plan)])

    def sweep(self, base: str | None) -> None:
        """Remove what killed runs left in the folder: temporary files, and copies of sets other than `base`."""
        if not self.folder.is_dir():
            return
        sweep_temporaries(self.folder)
        for path in disk.list_names(self.folder):
            if is_base_name(path.name) and path.name != base:
                disk.remove_folder(path)

    def new_base_folder(self) -> Path:
        """Name a folder for a copy of a set, which is not made."""
        return self.folder / f"base-{secrets.token_hex(8)}"

    def read_entry(self, offset: int) -> JournalEntry:
        """The whole entry whose line begins at `offset`."""
        with self.path.open("rb") as file:
            file.seek(offset)
            return self._parse(file.readline(), offset, JournalEntry.from_json)

    def read_lines(self, offset: int) -> tuple[JournalEntry, Iterable[NewLine]]:
        """The entry whose line begins at `offset`, and its lines for the index.

        Of one that was added here the lines are copied, and it has no rows. Raises `StoreError` if it is damaged.
        """
        if offset not in self._own:
            entry = self.read_entry(offset)
            return entry, starmap(NewLine.of_row, entry.rows)
        with self.path.open("rb") as file:
            file.seek(offset)
            line = file.readline()
        digest = self._own[offset]
        content = line.removeprefix(_LINE_START).removesuffix(_line_end(digest))
        if hashlib.sha256(content + b"\n").hexdigest() != digest:
            raise StoreError(f"the line at byte {offset} was changed; {self.remedy()}", place=self.path)
        fields, lines = split_entry(content)
        return JournalEntry.from_json(fields), lines

    def append(self, content: bytes) -> int:
        """Add what `render_entry` gave, sync it, and return its offset. Raises `NoSpaceError` or `UsageError`.

        A line torn by a full disk or a crash is cut off by the next run.
        """
        digest = hashlib.sha256(content + b"\n").hexdigest()
        with explaining(self.path):
            if self._file is None:
                self._file = disk.open_to_append(self.path)
            offset = self._file.seek(0, os.SEEK_END)
            line = memoryview(_LINE_START + content + _line_end(digest))
            while line:
                line = line[self._file.write(line) :]
            disk.sync_file(self._file.fileno())
        self._own[offset] = digest
        return offset

    def keep(self, places: Mapping[str, int]) -> dict[str, int]:
        """Drop all entries but those at `places` (shard name -> offset), and return where these are now."""
        moved: dict[str, int] = {}

        def lines() -> Iterator[bytes]:
            with self.path.open("rb") as file:
                yield (line := file.readline())
                end = len(line)
                for name, offset in sorted(places.items(), key=lambda place: place[1]):
                    moved[name] = end
                    file.seek(offset)
                    yield (line := file.readline())
                    end += len(line)

        self.close()
        self._own.clear()
        publish(self.path, lines())
        return moved

    def remove(self) -> None:
        """Delete the journal: the manifest has taken its place. One that cannot be deleted says nothing new."""
        self.close()
        for path in (self.path, self.folder / PLAN_FILE):
            with suppress(OSError):
                path.unlink()
        self.sweep(None)
        with suppress(OSError):  # other writers' journals keep the folder
            self.folder.rmdir()
        sync_folder(self.folder.parent)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _parse(self, line: bytes, offset: int, content: Callable[[dict[str, Any]], _Content]) -> _Content:
        try:
            return parse_journal_line(line, content)
        except StoreError as error:
            what = f"the line at byte {offset} is damaged ({error.reason}); {self.remedy()}"
            raise StoreError(what, place=self.path) from error

    def remedy(self) -> str:
        """Return what to do about a journal that cannot be used."""
        root = self.folder.parent
        try:
            LatentSet.read(root).check_index(is_locked=True)
        except StoreError:
            return f"delete {root} and encode the set again: it gets the same bytes"
        return f"delete {self.folder}: the set is what it was before, and the same command adds to it again"


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


def is_base_name(name: object) -> bool:
    """Tell whether `name` is that of a folder with a copy of a set."""
    return isinstance(name, str) and _BASE_FOLDER.fullmatch(name) is not None


def _to_line(fields: dict[str, Any]) -> bytes:
    return _LINE_START + to_line(fields)[:-1] + _line_end(_digest(fields))


def _line_end(digest: str) -> bytes:
    return f',"sha256":"{digest}"}}\n'.encode()


def _digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(to_line(fields)).hexdigest()
