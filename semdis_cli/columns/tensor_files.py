"""Tensors in files of other programs: `.npy`, `.npz` and `.safetensors`. Nothing is unpickled.

What headers say is held against the size of the file before anything is read or allocated.
"""

import os
import re
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from semdis_cli.files.disk import open_at_once
from semdis_cli.files.json_text import parse_json
from semdis_cli.files.zip import ZipMember, data_start, member_at, read_directory, read_member, read_start, walk_zip
from semdis_cli.store.checks import MALFORMED, check_count, check_object
from semdis_cli.store.shard_header import MAX_HEADER_BYTES
from semdis_cli.store.tensors.kinds import BYTES_PER_VALUE, TORCH_NAMES, TensorKind

SUFFIXES = frozenset({".npy", ".npz", ".safetensors"})
MAX_TENSOR_BYTES = 1 << 30
_MAGIC = b"\x93NUMPY"
_START_BYTES = 12 + (1 << 16)  # more than the header of any array of numbers
_NPY_HEADER = re.compile(
    r"\{'descr': '([<>|])([a-zA-Z])([0-9]{1,4})', 'fortran_order': (True|False), "
    r"'shape': \(((?:[0-9]{1,12}, ?)*(?:[0-9]{1,12})?)\),? ?\}[ \n]*"
)
_NPY_DTYPES = {
    **{f"f{size}": f"float{8 * size}" for size in (2, 4, 8)},
    **{f"i{size}": f"int{8 * size}" for size in (1, 2, 4, 8)},
    **{f"u{size}": f"uint{8 * size}" for size in (1, 2, 4, 8)},
    "b1": "bool",
    "c8": "complex64",
}
_NPY_TOO_WIDE = {"c16": "complex128", "f12": "float96", "f16": "float128"}  # f16 is no float16: these are bytes


class ForeignTensor(NamedTuple):
    """One tensor in a file: its kind, its rows, and where it is.

    `start`: of its bytes in a safetensors file, of its entry in the directory of an npz. `name`: there, else empty.
    """

    path: str
    name: str
    kind: TensorKind
    num_rows: int
    start: int

    @property
    def num_bytes(self) -> int:
        """Bytes of its values."""
        return self.num_rows * self.kind.row_bytes

    def __str__(self) -> str:
        return f"{self.path}: {self.name}" if self.name else self.path


class BadTensor(NamedTuple):
    """A tensor in a file that cannot be kept, and why."""

    path: str
    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.name}" if self.name else self.path


class _Npy(NamedTuple):
    """Header of an array, taken apart."""

    kind: TensorKind
    shape: tuple[int, ...]
    dtype: str
    is_fortran: bool
    num_bytes: int


def list_tensors(path: Path) -> Iterator[ForeignTensor | BadTensor]:
    """Give the tensors in a file. Raises `ValueError` and `OSError` for a file that cannot be read."""
    with open(path, "rb", opener=_open_at_once) as file:
        size = os.fstat(file.fileno()).st_size
        if path.suffix == ".npy":
            header = _parse_npy(file.read(_START_BYTES), size)
            yield ForeignTensor(str(path), "", header.kind, _num_rows(header.shape), 0)
        elif path.suffix == ".npz":
            members = walk_zip(file, read_directory(file))
            yield from (_member(path, file, one) for one in members if one.is_file and one.name.endswith(".npy"))
        else:
            yield from _safetensors(path, file, size)


def read_tensor(tensor: ForeignTensor) -> bytes:
    """Return the values of a tensor, little-endian, the last dimension fastest.

    Raises `ValueError` and `OSError`, also where the file has changed since it was listed.
    """
    with open(tensor.path, "rb", opener=_open_at_once) as file:
        if tensor.path.endswith(".safetensors"):
            file.seek(tensor.start)
            data = file.read(tensor.num_bytes)
        elif tensor.path.endswith(".npy"):
            data = _read_npy(tensor, file.read(tensor.num_bytes + _START_BYTES))
        else:
            shift = read_directory(file).shift
            member = member_at(file.fileno(), tensor.start, shift)
            data = _read_npy(tensor, read_member(file.fileno(), member, data_start(file.fileno(), member)))
    if len(data) != tensor.num_bytes:
        raise ValueError("was changed while it was read")
    return data


def _open_at_once(path: str, flags: int) -> int:
    return open_at_once(path, flags)


# ---- Arrays of NumPy ----


def _parse_npy(start: bytes, num_bytes: int) -> _Npy:
    """Parse the header of an array from the first bytes of a file of `num_bytes`. Raises `ValueError`."""
    if not start.startswith(_MAGIC) or len(start) < 12:
        raise ValueError("is no array of NumPy")
    long = start[6] > 1
    first = 12 if long else 10
    end = first + int.from_bytes(start[8:first], "little")
    found = _NPY_HEADER.fullmatch(start[first:end].decode("latin-1")) if end <= len(start) else None
    if found is None:
        raise ValueError("is no array of plain numbers, or damaged")
    order, letter, width, fortran, sizes = found.groups()
    code = f"{letter}{width}"
    dtype = _NPY_DTYPES.get(code) or _NPY_TOO_WIDE.get(code) or f"{code} of NumPy"
    shape = tuple(map(int, filter(str.strip, sizes.split(","))))
    kind = _kind(dtype, shape)
    if (needed := end + prod(shape) * BYTES_PER_VALUE[dtype]) != num_bytes:
        raise ValueError(f"has {num_bytes:,} bytes, but its header describes {needed:,}; truncated or damaged")
    return _Npy(kind, shape, f"{order}{letter}{width}", fortran == "True", end)


def _read_npy(tensor: ForeignTensor, data: bytes) -> bytes:
    header = _parse_npy(data[:_START_BYTES], len(data))
    if (header.kind, _num_rows(header.shape)) != (tensor.kind, tensor.num_rows):
        raise ValueError("was changed while it was read")
    if not tensor.num_bytes or not (header.is_fortran or header.dtype.startswith(">")):
        return data[header.num_bytes :]
    array = np.frombuffer(data, header.dtype, offset=header.num_bytes)
    ordered = array.reshape(header.shape, order="F" if header.is_fortran else "C")
    return ordered.astype(ordered.dtype.newbyteorder("<")).tobytes(order="C")


def _member(path: Path, file: BinaryIO, member: ZipMember) -> ForeignTensor | BadTensor:
    """Return an array of an npz."""
    name = member.name.removesuffix(".npy")
    try:
        if member.why_not is not None:
            raise ValueError(member.why_not)
        header = _parse_npy(read_start(file.fileno(), member, _START_BYTES), member.num_bytes)
    except ValueError as error:
        return BadTensor(str(path), name, str(error))
    return ForeignTensor(str(path), name, header.kind, _num_rows(header.shape), member.place)


# ---- Safetensors ----


def _safetensors(path: Path, file: BinaryIO, size: int) -> Iterator[ForeignTensor | BadTensor]:
    """Give the tensors of a safetensors file in the order of their bytes. Raises `ValueError`."""
    header_bytes = int.from_bytes(file.read(8), "little")
    if size < 8 or header_bytes > min(size - 8, MAX_HEADER_BYTES):
        raise ValueError("is no safetensors file, or truncated")
    try:
        fields = check_object(parse_json(file.read(header_bytes).rstrip(b" ")))
        fields.pop("__metadata__", None)
        listed = sorted((*_offsets(facts), name) for name, facts in fields.items())
    except MALFORMED as error:
        raise ValueError(f"is no safetensors file, or damaged ({error!s:.200})") from error
    end = 0
    for start, stop, _ in listed:
        if start != end:
            raise ValueError("its tensors overlap, or leave holes; damaged")
        end = stop
    if 8 + header_bytes + end != size:
        raise ValueError(f"has {size:,} bytes, but its header describes {8 + header_bytes + end:,}; truncated")
    for start, stop, name in listed:
        yield _tensor(path, name, fields[name], 8 + header_bytes + start, stop - start)


def _offsets(facts: Any) -> tuple[int, int]:
    start, stop = map(check_count, facts["data_offsets"])
    if start > stop:
        raise ValueError("a tensor ends before it begins")
    return start, stop


def _tensor(path: Path, name: str, facts: Any, start: int, num_bytes: int) -> ForeignTensor | BadTensor:
    try:
        shape = tuple(map(check_count, facts["shape"]))
        kind = _kind(TORCH_NAMES.get(facts["dtype"], f"{facts['dtype']!s:.40}"), shape)
        if _num_rows(shape) * kind.row_bytes != num_bytes:
            raise ValueError(f"has {num_bytes:,} bytes, which are not those of its shape")
    except MALFORMED as error:
        return BadTensor(str(path), name, f"{error!s:.200}")
    return ForeignTensor(str(path), name, kind, _num_rows(shape), start)


# ---- Both ----


def _kind(dtype: str, shape: tuple[int, ...]) -> TensorKind:
    """Return the kind of a tensor. Raises `ValueError` for one that cannot be kept."""
    kind = TensorKind.of(dtype, shape)
    if _num_rows(shape) * kind.row_bytes > MAX_TENSOR_BYTES:
        raise ValueError(f"has more than {MAX_TENSOR_BYTES >> 20:,} MiB")
    return kind


def _num_rows(shape: tuple[int, ...]) -> int:
    return shape[0] if shape else 1
