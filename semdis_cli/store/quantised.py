"""Latents in a byte a value: one scale for each image and channel, and a small number for each value.

A value is the product of both, in float32. Where nothing is quantised, values are as they are stored.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from semdis_cli.parts import LATENTS, SCALES
from semdis_cli.tensors import is_finite

_LARGEST = {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}  # of the small numbers
# Below the least normal number scales would lose digits; up to 2**119 any product is finite: 448 * 2**119 < 2**128.
_LEAST_SCALE, MAX_SCALE = torch.finfo(torch.float32).smallest_normal, 2.0**119
_FLOAT8_NAN = 0x7F  # without the sign; float8_e4m3fn has no infinity


def quantise(values: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return `values` [...,Z,h,w] float32 in float8_e4m3fn or int8, and their scales [...,Z,1,1] float32.

    scale = max |value| / 448 or 127, as symmetric quantisation has it. An error is at most half a step: for int8 half
    the scale, for float8_e4m3 the greater of |value| / 16 and scale / 1024. A channel whose scale would be below 2^-126
    is stored as zeros of scale 0. Values that are not finite, or beyond what `are_sound` takes, have a bad scale.
    """
    largest = _LARGEST[dtype]
    scale = values.abs().amax((-2, -1), keepdim=True) / largest
    scale = scale.masked_fill(scale < _LEAST_SCALE, 0.0)
    small = values / scale.masked_fill(scale == 0, 1.0)
    if not dtype.is_floating_point:
        small = small.round()
    return small.clamp(-largest, largest).to(dtype), scale  # the division may round up; not every torch saturates


def dequantise(stored: Tensor, scale: Tensor) -> Tensor:
    """Return stored [...,Z,h,w] * scale [...,Z,1,1], in float32."""
    return stored.float() * scale


def store_as(name: str, values: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the tensors by name that `values`, float32 or `dtype` already, are stored as."""
    if dtype not in _LARGEST:
        return {name: values.to(dtype)}
    stored, scale = quantise(values, dtype)
    return {name: stored, SCALES[name]: scale}


def real_values(tensors: Mapping[str, Tensor], name: str = LATENTS, rows: int | slice = slice(None)) -> Tensor:
    """Return `rows` of latents or their twins: float32 where they are quantised, else as stored.

    `tensors`: of a shard, or of an image.
    """
    values, scale = tensors[name][rows], tensors.get(SCALES[name])
    return values if scale is None else dequantise(values, scale[rows])


def take_rows(tensor: Tensor, rows: Sequence[int]) -> Tensor:
    """Return some rows of a tensor, in memory of their own."""
    return _as_bytes(tensor)[list(rows)].view(tensor.dtype)


def join_rows(tensors: Sequence[Tensor]) -> Tensor:
    """Return the rows of tensors of one dtype, one behind the other."""
    return torch.cat([*map(_as_bytes, tensors)]).view(tensors[0].dtype)


def _as_bytes(tensor: Tensor) -> Tensor:
    """View what has a byte a value as bytes: torch 2.6 to 2.10 cannot pick rows of float8."""
    return tensor.view(torch.uint8) if tensor.dtype.itemsize == 1 else tensor


def are_sound(tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether no value is NaN or infinite, as it is stored or once it is multiplied, and no scale below 0."""
    return all(_is_sound(name, tensor) for name, tensor in tensors.items())


def _is_sound(name: str, values: Tensor) -> bool:
    if name in SCALES.values():
        return bool(((values >= 0) & (values <= MAX_SCALE)).all())
    if values.dtype == torch.float8_e4m3fn:  # of which torch finds no minimum
        return bool(((values.view(torch.uint8) & _FLOAT8_NAN) != _FLOAT8_NAN).all())
    return is_finite(values)
