"""Every byte of a shard, read in slices: is it what was written, is it finite, and what does it sum up to?"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from semdis_cli.errors import StoreError
from semdis_cli.files.url import Location
from semdis_cli.parts import BYTES_PER_VALUE, LATENTS, MASK, MASK_FLIP, SCALES
from semdis_cli.records import FileDigest
from semdis_cli.store.quantised import MAX_SCALE
from semdis_cli.store.shard_header import ShardHeader, StoredTensor, open_regular
from semdis_cli.store.statistics import ChannelSums

_SLICE_VALUES = 1 << 20

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Payload:
    """Outcome of reading a shard.

    `file`: of all its bytes. `latents_sha256`: of its tensors alone. `bad_rows`: those with NaN or infinity, rising;
    `bad_scales`: those with a scale that none can be; `bad_masks`: those whose masks leave 0..1. `sums`: of the latents
    in the rows that were asked for, added in their order.
    """

    file: FileDigest
    latents_sha256: str
    bad_rows: tuple[int, ...]
    sums: ChannelSums
    bad_scales: tuple[int, ...] = ()
    bad_masks: tuple[int, ...] = ()


def read_payload(path: Location, header: ShardHeader, rows: Sequence[int] | None = None) -> Payload:
    """Read the whole shard at `path`, a few MiB at a time; sums over `rows` (default: all). Raises `StoreError`."""
    whole, payload = hashlib.sha256(), hashlib.sha256()
    num_bytes = 0
    scales = {tensor.name: _Scales(tensor) for tensor in header.tensors if tensor.name in SCALES.values()}
    sums = {
        tensor.name: _PlaneSums(tensor, rows, scales.get(SCALES.get(tensor.name, "")))
        for tensor in header.tensors
        if tensor.name not in scales
    }
    with open_regular(path) as file:
        start = file.read(header.payload_start)
        whole.update(start)
        num_bytes += len(start)
        for tensor in header.tensors:
            for first_plane, num_planes, data in _slices(file, tensor):
                whole.update(data)
                payload.update(data)
                num_bytes += len(data)
                (scales.get(tensor.name) or sums[tensor.name]).add(first_plane, num_planes, data)
        if num_bytes != header.payload_start + header.payload_bytes or file.read(1):
            raise StoreError("changed its size while it was read", place=path)
    bad_rows, bad_scales = (
        tuple(sorted(set().union(*(each.bad_rows for each in some)))) for some in (sums.values(), scales.values())
    )
    bad_masks = sorted(set().union(*(sums[name].rows_off_range for name in (MASK, MASK_FLIP) if name in sums)))
    digest = FileDigest(num_bytes, whole.hexdigest())
    return Payload(digest, payload.hexdigest(), bad_rows, sums[LATENTS].result(), bad_scales, tuple(bad_masks))


def _slices(file: BinaryIO, tensor: StoredTensor) -> Iterator[tuple[int, int, bytes]]:
    """A tensor as (first plane, number of planes, bytes): whole planes [h,w], or a part of one that is large."""
    N, Z, h, w = tensor.shape
    bytes_per_value, plane = BYTES_PER_VALUE[tensor.dtype], h * w
    group = max(1, _SLICE_VALUES // plane)
    for first in range(0, N * Z, group):
        num_planes = min(group, N * Z - first)
        remaining = num_planes * plane * bytes_per_value
        while remaining:
            data = file.read(min(remaining, _SLICE_VALUES * bytes_per_value))
            if len(data) % bytes_per_value or not data:
                return  # the file became shorter; whoever counts the bytes says so
            yield first, num_planes, data
            remaining -= len(data)


class _Scales:
    """Scales [N,Z,1,1], which come before what they are of; `bad_rows`: those with one that none can be."""

    def __init__(self, tensor: StoredTensor) -> None:
        self._channels = tensor.shape[1]
        self._values = np.empty(0, "<f4")
        self.bad_rows: set[int] = set()

    def add(self, first_plane: int, _num_planes: int, data: bytes) -> None:
        """Add the scales of planes from `first_plane` on."""
        values = np.frombuffer(data, "<f4")
        self._values = np.concatenate([self._values, values])
        bad = first_plane + np.flatnonzero(~((values >= 0) & (values <= MAX_SCALE)))
        self.bad_rows.update((bad // self._channels).tolist())

    def times(self, first_plane: int, values: Values) -> Values:
        """Return `values` of planes from `first_plane` on, [planes,...], as float32 has them times their scale."""
        scale = self._values[first_plane : first_plane + len(values), None]
        return (values.astype(np.float32) * scale).astype(np.float64)


class _PlaneSums:
    """Sums of channels over some rows; `bad_rows`: those that hold NaN or infinity.

    `rows_off_range`: those that hold other numbers than 0..1, as far as they are looked at: of masks.
    """

    def __init__(self, tensor: StoredTensor, rows: Sequence[int] | None, scales: _Scales | None) -> None:
        N, self._channels, h, w = tensor.shape
        self._plane = h * w
        self._to_float64, self._scales = _CONVERSIONS[tensor.dtype], scales
        self._is_wanted = np.full(N, fill_value=rows is None)
        self._is_wanted[list(rows or ())] = True
        self._total, self._squares = np.zeros(self._channels), np.zeros(self._channels)
        self.bad_rows: set[int] = set()
        self.rows_off_range: set[int] = set()
        self._is_mask = tensor.name in {MASK, MASK_FLIP}

    def add(self, first_plane: int, num_planes: int, data: bytes) -> None:
        """Add values of `num_planes` planes from `first_plane` on, whole planes or a part of one."""
        with np.errstate(invalid="ignore", over="ignore"):  # NaN, infinity minus infinity; scales that none can be
            values = self._to_float64(data).reshape(num_planes, -1)
            if self._scales is not None:
                values = self._scales.times(first_plane, values)
            total, squares = values.sum(1), np.square(values).sum(1)
        row, channel = np.divmod(np.arange(first_plane, first_plane + num_planes), self._channels)
        is_finite = np.isfinite(squares)
        self.bad_rows.update(row[~is_finite].tolist())
        if self._is_mask:
            self.rows_off_range.update(row[is_finite & ((values < 0) | (values > 1)).any(1)].tolist())
        wanted = is_finite & self._is_wanted[row]
        np.add.at(self._total, channel[wanted], total[wanted])
        np.add.at(self._squares, channel[wanted], squares[wanted])

    def result(self) -> ChannelSums:
        count = int(self._is_wanted.sum()) * self._plane
        return ChannelSums(count, tuple(self._total.tolist()), tuple(self._squares.tolist()))


def _bfloat16(data: bytes) -> Values:
    high_bits = np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16
    return high_bits.view(np.float32).astype(np.float64)


def _float16(data: bytes) -> Values:
    return np.frombuffer(data, dtype="<f2").astype(np.float64)


def _float32(data: bytes) -> Values:
    return np.frombuffer(data, dtype="<f4").astype(np.float64)


def _float8(data: bytes) -> Values:
    return _FLOAT8_VALUES.take(np.frombuffer(data, dtype="u1"))


def _int8(data: bytes) -> Values:
    return np.frombuffer(data, dtype="i1").astype(np.float64)


_FLOAT8_VALUES: Values = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).double().numpy()
_CONVERSIONS: dict[str, Callable[[bytes], Values]] = {
    "bfloat16": _bfloat16,
    "float16": _float16,
    "float32": _float32,
    "float8_e4m3": _float8,
    "int8": _int8,
}
