"""Kinds of tensors: a dtype, and all sizes but the first one, which may be another for each image."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Self

from semdis_cli.store.checks import check_count, check_text
from semdis_cli.store.columns import CAPTION, LABEL

# By the names that torch has for them: what safetensors calls each, and its bytes.
_DTYPES = {
    "float64": ("F64", 8),
    "float32": ("F32", 4),
    "float16": ("F16", 2),
    "bfloat16": ("BF16", 2),
    "float8_e4m3fn": ("F8_E4M3", 1),
    "float8_e5m2": ("F8_E5M2", 1),
    "complex64": ("C64", 8),
    "int64": ("I64", 8),
    "int32": ("I32", 4),
    "int16": ("I16", 2),
    "int8": ("I8", 1),
    "uint64": ("U64", 8),
    "uint32": ("U32", 4),
    "uint16": ("U16", 2),
    "uint8": ("U8", 1),
    "bool": ("BOOL", 1),
}
BYTES_PER_VALUE = {name: num_bytes for name, (_, num_bytes) in _DTYPES.items()}
SAFETENSORS_NAMES = {name: theirs for name, (theirs, _) in _DTYPES.items()}
TORCH_NAMES = {theirs: name for name, theirs in SAFETENSORS_NAMES.items()}

TENSOR_NAMES = "letters, digits, _ . + and -, 64 at most, and neither caption nor label"
_COLUMN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}")
_MAX_SIZE = 1 << 31
_MAX_DIMENSIONS = 16


@dataclass(frozen=True, slots=True)
class TensorKind:
    """Kind of the tensors in one column: `dtype`, and `row_shape`, all sizes but the first; None: plain numbers."""

    dtype: str
    row_shape: tuple[int, ...] | None

    @classmethod
    def of(cls, dtype: str, shape: Sequence[int]) -> Self:
        """Return the kind of a tensor. Raises `ValueError` for one that cannot be kept."""
        if dtype not in BYTES_PER_VALUE:
            raise ValueError(f"its dtype is {dtype:.40}, which cannot be kept")
        if len(shape) > _MAX_DIMENSIONS or any(not 0 <= size < _MAX_SIZE for size in shape) or 0 in shape[1:]:
            raise ValueError(f"its shape is {list(shape)!s:.60}, which cannot be kept")
        return cls(dtype, tuple(shape[1:]) if shape else None)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, that is of each step along the first dimension."""
        return prod(self.row_shape or ()) * BYTES_PER_VALUE[self.dtype]

    def shape(self, num_rows: int) -> tuple[int, ...]:
        """Return the shape of a tensor that has so many rows."""
        return () if self.row_shape is None else (num_rows, *self.row_shape)

    def shape_json(self) -> list[int | None]:
        """Return the shape as JSON, with null for the first size."""
        return [] if self.row_shape is None else [None, *self.row_shape]

    @classmethod
    def from_json(cls, dtype: object, shape: Any) -> Self:
        """Parse a dtype and what `shape_json` gave. Raises one of `MALFORMED`."""
        if shape and shape[0] is not None:
            raise ValueError(f"{shape!s:.60} is no shape of a column")
        return cls.of(check_text(dtype), [0, *map(check_count, shape[1:])] if shape else [])

    def __str__(self) -> str:
        return describe_tensor(self.dtype, ["*", *(self.row_shape or ())] if self.row_shape is not None else [])


def describe_tensor(dtype: str, shape: Sequence[object]) -> str:
    """Return `float16 [77, 768]`."""
    return f"{dtype} [{', '.join(map(str, shape))}]"


def is_tensor_name(name: str) -> bool:
    """Tell whether a column of tensors can have this name, which is in the names of its files.

    Captions and labels are no tensors.
    """
    return _COLUMN_NAME.fullmatch(name) is not None and name not in {CAPTION, LABEL}


def check_tensor_name(name: object) -> str:
    """Return `name` if a column of tensors can have it. Raises `ValueError`."""
    if not isinstance(name, str) or not is_tensor_name(name):
        raise ValueError(f"{name!r:.80} is no name of a column of tensors: {TENSOR_NAMES}")
    return name
