"""One file of a column of tensors: a safetensors file in which those of many images lie one right after the other.

    places   [N] int64     whose each tensor is, rising: number of the shard x 2^32 + row in it
    starts   [N+1] int64   which rows of `values` are its: from starts[i] to starts[i+1]
    values   [rows, ...]   the tensors, joined along their first dimension; of plain numbers [N]

The manifest says all that its header says, so the header of a good file is known before it is read.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semdis_cli.errors import StoreError
from semdis_cli.files.atomic import publish
from semdis_cli.files.url import Location
from semdis_cli.store.mapped_file import FileIdentity, MappedFile
from semdis_cli.store.shard_header import HEADER_ALIGNMENT, METADATA_KEY, canonical_json, open_regular, size_of_open
from semdis_cli.store.tensors.kinds import SAFETENSORS_NAMES, TensorKind
from semdis_cli.store.tensors.listed import TensorFile, column_of, tensor_file_name

_FORMAT = 1
PLACES_A_SHARD = 1 << 32  # no shard has as many rows

Places = NDArray[np.int64]


def place_of(shard: str, row: int) -> int:
    """Return the place of latents as one number: that of their shard, by whose file name, and their row in it."""
    return int(shard[:8]) * PLACES_A_SHARD + row


def header_of(column: str, kind: TensorKind, num_images: int, num_rows: int) -> bytes:
    """Return all that comes before the places in a file of a column."""
    record = {"column": column, "dtype": kind.dtype, "format": _FORMAT, "shape": kind.shape_json()}
    fields: dict[str, Any] = {"__metadata__": {METADATA_KEY: canonical_json(record)}}
    start = 0
    for name, dtype, shape, num_bytes in (
        ("places", "I64", [num_images], 8 * num_images),
        ("starts", "I64", [num_images + 1], 8 * num_images + 8),
        ("values", SAFETENSORS_NAMES[kind.dtype], [num_rows, *(kind.row_shape or ())], num_rows * kind.row_bytes),
    ):
        fields[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, start + num_bytes]}
        start += num_bytes
    text = canonical_json(fields).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def write_tensor_file(
    folder: Path, number: int, column: str, kind: TensorKind, tensors: Sequence[tuple[int, int, bytes]]
) -> TensorFile:
    """Publish a file of a column: of each tensor its place, rising, its rows, and their bytes.

    Raises `NoSpaceError` and `UsageError` where the disk does not take it.
    """
    places, lengths, values = zip(*tensors, strict=True)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype("<i8")
    name, num_rows = tensor_file_name(number, column), int(starts[-1])
    tables = [np.array(places, "<i8").tobytes(), starts.tobytes()]
    file = publish(folder / name, [header_of(column, kind, len(places), num_rows), *tables, *values])
    shards = places[0] // PLACES_A_SHARD, places[-1] // PLACES_A_SHARD
    return TensorFile(name, len(places), num_rows, (min(lengths), max(lengths)), shards, file)


def open_tables(file: BinaryIO, kind: TensorKind, entry: TensorFile) -> tuple[Places, Places]:
    """Read places and starts from the beginning of a file, and check that they and the header are as listed.

    Raises `StoreError` with the reason alone.
    """
    header = header_of(str(column_of(entry.name)), kind, entry.num_images, entry.num_rows)
    num_bytes = size_of_open(file)
    end = len(header) + 16 * entry.num_images + 8 + entry.num_rows * kind.row_bytes
    if num_bytes != entry.file.num_bytes:
        raise StoreError(f"{num_bytes:,} bytes, but the manifest says {entry.file.num_bytes:,}; damaged")
    if num_bytes != end or file.read(len(header)) != header:
        raise StoreError("its header is not that of the file that the manifest lists; damaged or edited")
    data = file.read(16 * entry.num_images + 8)
    tables = np.frombuffer(data[: len(data) & -8], "<i8")
    places, starts = tables[: entry.num_images], tables[entry.num_images :]
    if len(starts) != entry.num_images + 1 or not _are_as_listed(places, starts, entry):
        raise StoreError("the places of its tensors are not those that were written; damaged or edited")
    return places, starts


def _are_as_listed(places: Places, starts: Places, entry: TensorFile) -> bool:
    lengths = np.diff(starts)
    rise = bool((places[1:] > places[:-1]).all()) and bool((lengths >= 0).all())
    shards = int(places[0]) // PLACES_A_SHARD, int(places[-1]) // PLACES_A_SHARD
    said = (int(lengths.min()), int(lengths.max())), shards
    return rise and (starts[0], starts[-1]) == (0, entry.num_rows) and said == (entry.lengths, entry.shards)


def read_tables(folder: Location, kind: TensorKind, entry: TensorFile) -> tuple[Places, Places]:
    """Read places [N] and starts [N+1] of a file in `folder`. Raises `StoreError` for one that is not as listed."""
    with open_regular(folder / entry.name) as file:
        try:
            return open_tables(file, kind, entry)
        except StoreError as error:
            raise StoreError(error.reason, place=folder / entry.name) from error


class MappedTensors:
    """The tensors of one file, which is mapped into memory. Raises `StoreError` if it is not that of `identity`."""

    def __init__(self, path: Path, identity: FileIdentity, kind: TensorKind, entry: TensorFile) -> None:
        self._kind, self._file = kind, MappedFile(path, identity)
        start = entry.file.num_bytes - entry.num_rows * kind.row_bytes - 16 * entry.num_images - 8
        self._places = self._file.array("<i8", start, entry.num_images)
        self._starts = self._file.array("<i8", start + 8 * entry.num_images, entry.num_images + 1)
        self._values_start = start + 16 * entry.num_images + 8

    def find(self, place: int) -> Tensor | None:
        """Return the tensor of a place, in memory of its own; None if there is none here."""
        found = self.find_bytes(place)
        if found is None:
            return None
        num_rows, data = found
        shape, dtype = self._kind.shape(num_rows), getattr(torch, self._kind.dtype)
        return torch.from_numpy(data.copy()).view(dtype).view(shape) if num_rows else torch.empty(shape, dtype=dtype)

    def find_bytes(self, place: int) -> tuple[int, NDArray[np.uint8]] | None:
        """Return the rows of the tensor of a place and its bytes, not to be written to; None if there is none here."""
        at = int(np.searchsorted(self._places, place))
        if at == len(self._places) or self._places[at] != place:
            return None
        start, stop = int(self._starts[at]), int(self._starts[at + 1])
        row_bytes = self._kind.row_bytes
        return stop - start, self._file.array("u1", self._values_start + start * row_bytes, (stop - start) * row_bytes)


def identify(path: Path, kind: TensorKind, entry: TensorFile) -> FileIdentity:
    """Return the identity of a file of which header and places are as listed. Raises `StoreError`."""
    with open_regular(path) as file:
        try:
            open_tables(file, kind, entry)
        except StoreError as error:
            raise StoreError(error.reason, place=path) from error
        return FileIdentity.of(os.fstat(file.fileno()))
