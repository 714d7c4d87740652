"""Columns of tensors as the manifest of a set lists them: the kind of each, and its files."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from semdis_cli.records import FileDigest
from semdis_cli.store.checks import check_count, check_object
from semdis_cli.store.record import parse_digest
from semdis_cli.store.tensors.kinds import TensorKind, check_tensor_name, is_tensor_name

_FILE_NAME = re.compile(r"([0-9]{8})-(.+)\.safetensors")


@dataclass(frozen=True, slots=True)
class TensorFile:
    """One file of a column: its name in `columns/`, size and sha256.

    It has the tensors of `num_images` images, `num_rows` rows in all, each between `lengths` (least, most) of them; the
    images' latents are in shards with numbers from `shards[0]` to `shards[1]`.
    """

    name: str
    num_images: int
    num_rows: int
    lengths: tuple[int, int]
    shards: tuple[int, int]
    file: FileDigest

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "name": self.name,
            "images": self.num_images,
            "rows": self.num_rows,
            "lengths": list(self.lengths),
            "shards": list(self.shards),
            **self.file.to_json(),
        }

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Parse what `to_json` gave. Raises one of `MALFORMED`."""
        fields = check_object(value)
        counts = check_count(fields["images"]), check_count(fields["rows"])
        return cls(fields["name"], *counts, _pair(fields["lengths"]), _pair(fields["shards"]), parse_digest(fields))

    @property
    def number(self) -> int:
        """The number with which its name begins: no two files of a set have the same."""
        return int(self.name[:8])


@dataclass(frozen=True, slots=True)
class TensorColumn:
    """One column: `kind` of its tensors, `num_images`, how many of the images that are to be used have it, and files.

    The files may hold tensors of more images: of such as are gone.
    """

    kind: TensorKind
    num_images: int
    files: tuple[TensorFile, ...]

    @property
    def lengths(self) -> tuple[int, int]:
        """The least and the most rows that a tensor has."""
        return min(file.lengths[0] for file in self.files), max(file.lengths[1] for file in self.files)

    @property
    def is_ragged(self) -> bool:
        """Tell whether its tensors have different shapes."""
        return self.lengths[0] != self.lengths[1]

    @property
    def num_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.file.num_bytes for file in self.files)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "dtype": self.kind.dtype,
            "shape": self.kind.shape_json(),
            "images": self.num_images,
            "files": [file.to_json() for file in self.files],
        }

    @classmethod
    def from_json(cls, name: str, value: object) -> Self:
        """Parse what `to_json` gave of the column `name`. Raises one of `MALFORMED`."""
        fields = check_object(value)
        kind = TensorKind.from_json(fields["dtype"], fields["shape"])
        files = tuple(map(TensorFile.from_json, fields["files"]))
        for file in files:
            if column_of(file.name) != name:
                raise ValueError(f"{file.name!r:.80} is no file of the column {name}")
            if not file.num_images or file.shards[1] >= 10**8:
                raise ValueError(f"{file.name} is of no images, or of shards that cannot be")
        if not files or len({file.number for file in files}) != len(files):
            raise ValueError(f"the column {name} has no files, or two of one number")
        return cls(kind, check_count(fields["images"]), files)


TensorColumns = Mapping[str, TensorColumn]


def tensors_to_json(columns: TensorColumns) -> dict[str, Any]:
    """Return columns by their names as plain values."""
    return {name: columns[name].to_json() for name in sorted(columns)}


def tensors_from_json(value: object) -> dict[str, TensorColumn]:
    """Parse what `tensors_to_json` gave. Raises one of `MALFORMED`."""
    fields = check_object(value)
    return {check_tensor_name(name): TensorColumn.from_json(name, fields[name]) for name in sorted(fields)}


def tensor_files(columns: TensorColumns) -> Iterator[tuple[str, TensorKind, TensorFile]]:
    """Give all files, each with the name and the kind of its column."""
    for name, column in columns.items():
        yield from ((name, column.kind, file) for file in column.files)


def tensor_file_name(number: int, column: str) -> str:
    """Return the name of a file of a column."""
    return f"{number:08d}-{column}.safetensors"


def column_of(name: object) -> str | None:
    """Return the column of which `name` is the name of a file, and no path; None for all else."""
    found = _FILE_NAME.fullmatch(name) if isinstance(name, str) else None
    return found[2] if found is not None and is_tensor_name(found[2]) else None


def _pair(value: Any) -> tuple[int, int]:
    least, most = map(check_count, value)
    if least > most:
        raise ValueError(f"{value!s:.60} is no range")
    return least, most
