"""Rows of a set as they are found without its lock, by which sources find their keys again.

Nothing in them is proved: what cannot be read counts as not there, and whoever writes the set says what is wrong.
"""

import mmap
from collections.abc import Generator, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from semdis_cli.errors import StoreError
from semdis_cli.files.set_names import INDEX_FILE, MANIFEST_FILE
from semdis_cli.records import WHOLE, HeldImage
from semdis_cli.store.index import IndexRow, parse_line, parse_row
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.views import first_view
from semdis_cli.store.writing.finished import recorded_settings
from semdis_cli.store.writing.journal import Journal, is_base_name
from semdis_cli.store.writing.journal_file import JournalFile, parse_journal_line


class HeldRows:
    """The files of the set in a folder, and of what an unfinished run has published there.

    A file of which there are several views is found by one of them.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        recorded = recorded_settings(root)
        self._view = WHOLE if recorded is None else first_view(recorded)
        self._journal = Journal(root)
        self._is_unfinished = bool(self._journal.files())

    @property
    def is_set(self) -> bool:
        """Tell whether there is anything."""
        return self._is_unfinished or (self._root / MANIFEST_FILE).is_file()

    def find(self, key: str) -> HeldImage | None:
        """The row of an image, by the key of its file, in a finished set."""
        if self._is_unfinished:
            return None
        key = self._view.key_of(key)
        try:
            with (
                self._file_of(key).open("rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
            ):
                return _search(data, key)
        except (OSError, ValueError, StoreError):  # ValueError: an empty file
            return None

    @cached_property
    def _manifest(self) -> Manifest | None:
        return _read_manifest(self._root)

    def _file_of(self, key: str) -> Path:
        """Return the file of the index that has the row of a key, if there is one."""
        number = 0 if self._manifest is None else self._manifest.index_files.number_of(key)
        return _index_paths(self._manifest, self._root)[number]

    def images(self) -> Iterator[HeldImage]:
        """All files, those of the journal first."""
        for row in self._rows():
            file_key = self._view.file_of(row.key)
            if file_key is not None:
                yield row._replace(key=file_key)

    def _rows(self) -> Iterator[HeldImage]:
        base = (yield from self._published()) if self._is_unfinished else None
        folder = self._journal.folder / str(base) if is_base_name(base) else self._root
        try:
            for path in _index_paths(_read_manifest(folder), folder):
                with path.open("rb") as file:
                    yield from map(_row, file)
        except (OSError, StoreError):
            return

    def _published(self) -> Generator[HeldImage, None, object]:
        """Rows of shards that are on disk; returns what the plan says of the set that the run started from."""
        base: object = None
        for file in self._journal.files():
            base = (yield from _published_in(file)) or base
        return base


def _read_manifest(folder: Path) -> Manifest | None:
    try:
        return Manifest.read(folder)
    except StoreError:
        return None


def _index_paths(manifest: Manifest | None, folder: Path) -> list[Path]:
    """Return the files of the index in `folder`, by rising keys."""
    if manifest is None:
        return [folder / INDEX_FILE]
    return [folder / piece.name for piece in manifest.index_files.pieces]


def _published_in(journal: JournalFile) -> Generator[HeldImage, None, object]:
    base: object = None
    try:
        with journal.path.open("rb") as file:
            base = parse_journal_line(file.readline(), dict, is_proved=False).get("base")
            for line in file:
                yield from parse_journal_line(line, _published_rows, is_proved=False)
    except (OSError, StoreError):  # a torn line is the last one
        return base
    return base


def _published_rows(content: dict[str, Any]) -> list[HeldImage]:
    rows = map(IndexRow.from_json, content["rows"])
    return [HeldImage(row.key, row.source) for row in rows]


def _search(data: mmap.mmap, key: str) -> HeldImage | None:
    """The row with that key in lines that are sorted by key."""
    first, end = 0, len(data)  # the line looked for, if there is one, begins in here
    while first < end:
        middle = (first + end) // 2
        start = data.rfind(b"\n", first, middle) + 1 or first
        stop = data.find(b"\n", start) + 1 or len(data)
        row = _row(data[start:stop])
        if row.key == key:
            return row
        first, end = (stop, end) if row.key < key else (first, start)
    return None


def _row(data: bytes) -> HeldImage:
    line = parse_row(parse_line, data)
    return HeldImage(line.key, line.source)
