"""Files of columns of tensors while they are written: what a set has is kept, joined with what is new."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semdis_cli.errors import StoreError
from semdis_cli.files.atomic import explain_write_error, make_folder, move
from semdis_cli.files.claim import list_folder
from semdis_cli.files.set_names import COLUMN_FOLDER
from semdis_cli.files.url import Location
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.tensors.file import Places, read_tables, write_tensor_file
from semdis_cli.store.tensors.kinds import TensorKind
from semdis_cli.store.tensors.listed import TensorColumn, TensorColumns, TensorFile, tensor_files
from semdis_cli.store.tensors.reader import TensorReader

_FILE_BYTES = 128 << 20

Rows = tuple[int, bytes | NDArray[np.uint8]]  # of a tensor: how many, and their bytes


@dataclass(frozen=True)
class NewTensors:
    """Tensors for a column: those of the images at `places` [N], rising.

    `read` gives rows and bytes of the n-th of them, or None where it cannot be read.
    """

    name: str
    kind: TensorKind
    places: Places
    read: Callable[[int], Rows | None]


@dataclass
class _Files:
    """Files of a column, each written as soon as there is enough for it."""

    folder: Path
    column: str
    kind: TensorKind
    first_number: int
    file_bytes: int
    done: list[TensorFile] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    _pending: list[tuple[int, int, bytes]] = field(default_factory=list)
    _num_bytes: int = 0

    def add(self, place: int, rows: Rows) -> None:
        num_rows, data = rows
        if self._pending and self._num_bytes + len(data) > self.file_bytes:
            self.finish()
        self._pending.append((place, num_rows, bytes(data)))
        self._num_bytes += len(data)
        self.places.append(place)

    def finish(self) -> None:
        if self._pending:
            number = self.first_number + len(self.done)
            self.done.append(write_tensor_file(self.folder, number, self.column, self.kind, self._pending))
            self._pending, self._num_bytes = [], 0


@dataclass(frozen=True)
class ColumnWriter:
    """Writes files of columns of the set in `root` to `folder`.

    `places` [N]: of all latents that the index knows, rising; `served`: of those that are to be used. `file_bytes`: of
    the tensors in a file at most, unless one alone is larger; they are in memory until it is written.
    """

    root: Path
    folder: Path
    places: Places
    served: Places
    file_bytes: int = _FILE_BYTES

    def write(self, new: NewTensors, before: TensorColumn | None, first_number: int) -> TensorColumn | None:
        """Return the column `before` with `new` tensors, which replace those that it has; None if it has none.

        Files in which nothing is replaced stay. Of the others those tensors are kept whose images the index knows.
        `first_number`: of the files that are written. Raises `StoreError` for a damaged file of before, `NoSpaceError`
        and `UsageError`.
        """
        make_folder(self.folder)
        tables = _places(self.root, new.name, before) if before else []
        listed = list(zip(before.files if before else (), tables, strict=True))
        is_kept = [not np.isin(places, new.places, assume_unique=True).any() for places in tables]
        kept = [file for (file, _), stays in zip(listed, is_kept, strict=True) if stays]
        renewed = [(file, places) for (file, places), stays in zip(listed, is_kept, strict=True) if not stays]

        files = _Files(self.folder, new.name, new.kind, first_number, self.file_bytes)
        left = [places[np.isin(places, self.places, assume_unique=True)] for _, places in renewed]
        old = replace(before, files=tuple(file for file, _ in renewed)) if before and renewed else None
        for place, rows in self._joined(new, old, np.concatenate([new.places[:0], *left])):
            files.add(place, rows)
        files.finish()

        written = files.done
        if old is not None and [file.file for file in written] == [file.file for file in old.files]:  # all as it was
            for file in written:
                (self.folder / file.name).unlink()
            written = list(old.files)
        found = sorted([*kept, *written], key=lambda file: (file.shards, file.name))
        stays = [places for places, is_there in zip(tables, is_kept, strict=True) if is_there]
        places = np.concatenate([np.array(files.places, np.int64), *stays])
        return TensorColumn(new.kind, _count(places, self.served), tuple(found)) if found else None

    def _joined(self, new: NewTensors, old: TensorColumn | None, left: Places) -> Iterator[tuple[int, Rows]]:
        """Give new tensors and those of `old` at the places `left`, by their places."""
        with _telling_remedy(self.root, new.name):
            # Every byte is checked: what is damaged would be hashed anew, and count as whole.
            reader = TensorReader(self.root, old, verify=True) if old is not None else None
        places = np.union1d(new.places, left)
        numbers = np.searchsorted(new.places, places)
        is_new = np.isin(places, new.places, assume_unique=True)
        for place, number, comes in zip(places.tolist(), numbers.tolist(), is_new.tolist(), strict=True):
            rows = new.read(number) if comes else None
            if rows is None and reader is not None:
                rows = reader.find_bytes(place)
            if rows is not None:
                yield place, rows


def recounted(root: Location, columns: TensorColumns, served: Places) -> dict[str, TensorColumn]:
    """Return columns with the number of the images that have them now; `served`: the places of those, rising.

    Raises `StoreError` for a file that is missing or damaged.
    """
    return {
        name: replace(column, num_images=_count(np.concatenate(_places(root, name, column)), served))
        for name, column in columns.items()
    }


def _places(root: Location, name: str, column: TensorColumn) -> list[Places]:
    """Return the places in each file of a column. Raises `StoreError` for one that is not as listed."""
    with _telling_remedy(root, name):
        return [read_tables(root / COLUMN_FOLDER, column.kind, file)[0] for file in column.files]


@contextmanager
def _telling_remedy(root: Location, name: str) -> Iterator[None]:
    """Say in a `StoreError` what to do about a damaged file of a column."""
    try:
        yield
    except StoreError as error:
        what = f"; restore it, or take the column away: semdis attach {root} --remove {name}"
        raise error.adding(what) from error


def _count(places: Places, served: Places) -> int:
    return int(np.isin(places, served, assume_unique=True).sum())


def next_number(columns: TensorColumns) -> int:
    """Return the number of the next file, which none of `columns` has."""
    return max((file.number + 1 for _, _, file in tensor_files(columns)), default=0)


def move_tensors(folder: Path, root: Path) -> None:
    """Put files of columns that are safely on disk in `folder` into their places in the set's folder."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    if paths:
        make_folder(root / COLUMN_FOLDER)
    for path in paths:
        move(path, root / COLUMN_FOLDER)


def sweep_tensors(root: Path, manifest: Manifest | None) -> None:
    """Remove files that `manifest` does not list: of a run that was stopped, or of columns that were replaced."""
    folder = root / COLUMN_FOLDER
    names = {file.name for _, _, file in tensor_files(manifest.tensors)} if manifest is not None else set()
    try:
        for path in list_folder(folder):
            if path.name not in names:
                path.unlink()
        if not names and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    except OSError as error:
        raise explain_write_error(folder, error) from error


def check_tensors(root: Location, manifest: Manifest) -> None:
    """Refuse a set whose files of tensors are not all there, or not as listed. Raises `StoreError`."""
    for name, column in manifest.tensors.items():
        _places(root, name, column)
