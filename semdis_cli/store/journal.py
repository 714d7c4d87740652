"""The journal of a running encode: one synced line per published shard, so that a killed run continues where it was."""

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Self

from semdis_cli.atomic import PublishedFile, explain_write_error, make_folder, open_locked, sync_folder
from semdis_cli.errors import StoreError
from semdis_cli.store.checks import MALFORMED, check_count, check_sha256, check_shard_name, parse_json
from semdis_cli.store.index import IndexRow, to_line
from semdis_cli.store.statistics import ChannelSums

# One writer today; the folder has room for one journal per writer.
_WRITER = "0.jsonl"
JOURNAL_FOLDER = "journal"


@dataclass(frozen=True)
class JournalEntry:
    """What one planned shard came to: its file (None if every image failed), rows in key order, channel sums."""

    name: str
    file: PublishedFile | None
    rows: tuple[IndexRow, ...]
    sums: ChannelSums

    def to_json(self) -> dict[str, Any]:
        """The journal line."""
        return {
            "shard": self.name,
            "num_bytes": self.file and self.file.num_bytes,
            "sha256": self.file and self.file.sha256,
            "rows": [row.to_json() for row in self.rows],
            "sums": self.sums.to_json(),
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """Inverse of `to_json`. Raises one of `MALFORMED`, or `StoreError`, on anything else."""
        file = None
        if fields["sha256"] is not None:
            file = PublishedFile(check_count(fields["num_bytes"]), check_sha256(fields["sha256"]))
        rows = tuple(IndexRow.from_json(row) for row in fields["rows"])
        return cls(check_shard_name(fields["shard"]), file, rows, ChannelSums.from_json(fields["sums"]))


class Journal:
    """An append-only file whose first line is the plan. Holding it open also keeps other runs off the folder.

    Each line carries the sha256 of its content: what a resumed run takes from it ends up in the finished set.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root / JOURNAL_FOLDER
        self.path = self.folder / _WRITER
        self._file: BinaryIO | None = None  # unbuffered: a write that failed is not tried again on closing

    def lock(self) -> None:
        """Open (make) the journal for this run alone. Raises `UsageError` if another run has it."""
        make_folder(self.folder)
        self._file = open_locked(self.path, self.folder.parent)
        sync_folder(self.folder)

    def read(self) -> tuple[dict[str, Any] | None, dict[int, JournalEntry]]:
        """The plan line (None in a new journal) and, by offset, the entries so far, their rows left out to save memory.

        A line torn by a crash is cut off. Raises `StoreError` if a whole line is not what a journal holds.
        """
        plan: dict[str, Any] | None = None
        entries: dict[int, JournalEntry] = {}
        offset = 0
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                if offset == 0:
                    plan = self._parse(line, offset)
                else:
                    entries[offset] = replace(self._parse_entry(line, offset), rows=())
                offset += len(line)
        self._locked.truncate(offset)
        return plan, entries

    def clear(self) -> None:
        """Begin anew."""
        self._locked.truncate(0)

    def read_entry(self, offset: int) -> JournalEntry:
        """The whole entry whose line begins at `offset`."""
        with self.path.open("rb") as file:
            file.seek(offset)
            return self._parse_entry(file.readline(), offset)

    def append(self, fields: dict[str, Any]) -> int:
        """Add one line, sync it, and return its offset. Raises `NoSpaceError` or `UsageError`.

        A line torn by a full disk or a crash is cut off by the next run.
        """
        try:
            offset = self._locked.seek(0, os.SEEK_END)
            line = memoryview(to_line({"content": fields, "sha256": _digest(fields)}))
            while line:
                line = line[self._locked.write(line) :]
            os.fsync(self._locked.fileno())
        except OSError as error:
            raise explain_write_error(self.path, error) from error
        return offset

    def remove(self) -> None:
        """Delete the journal: the manifest has taken its place."""
        self.path.unlink(missing_ok=True)
        self.close()
        with suppress(OSError):  # other writers' journals keep the folder
            self.folder.rmdir()
        sync_folder(self.folder.parent)

    def close(self) -> None:
        """Let go of the lock."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def _locked(self) -> BinaryIO:
        assert self._file is not None, "the journal is used under its lock"
        return self._file

    def _parse_entry(self, line: bytes, offset: int) -> JournalEntry:
        try:
            return JournalEntry.from_json(self._parse(line, offset))
        except MALFORMED as error:
            raise self._damaged(offset, error) from error

    def _parse(self, line: bytes, offset: int) -> dict[str, Any]:
        """The content of one line, after it has been held against its sha256."""
        try:
            fields = parse_json(line)
            content = dict(fields["content"])
            if fields != {"content": content, "sha256": _digest(content)}:
                raise ValueError("it does not match its sha256")
        except MALFORMED as error:
            raise self._damaged(offset, error) from error
        return content

    def _damaged(self, offset: int, error: Exception) -> StoreError:
        return StoreError(
            f"{self.path}: the line at byte {offset} is damaged ({error}); delete {self.folder.parent} and encode "
            "the set again: it gets the same bytes"
        )


def _digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(to_line(fields)).hexdigest()
