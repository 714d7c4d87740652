"""Tensors of different lengths in one batch."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from semdis_cli.errors import UsageError


class PaddedTensors(NamedTuple):
    """Tensors of B images, `values` [B,L,...] with zeros after the last row of each; `lengths` [B] int64, at most L."""

    values: Tensor
    lengths: Tensor

    @property
    def mask(self) -> Tensor:
        """True where there is a row of the image's own, [B,L] bool: a mask for attention."""
        return torch.arange(self.values.shape[1], device=self.lengths.device) < self.lengths[:, None]


def pad(values: Sequence[Any], name: str) -> PaddedTensors:
    """Join tensors [l,...] that differ in their first dimension alone. Raises `UsageError` for others.

    `name`: of their column.
    """
    tensors: list[Tensor] = [value for value in values if isinstance(value, Tensor) and value.ndim]
    kinds = {(tensor.dtype, tensor.shape[1:]) for tensor in tensors}
    if len(tensors) < len(values) or len(kinds) > 1:
        what = "cannot be in one batch: it needs tensors that differ in their first dimension alone"
        raise UsageError(f"{name!r:.60} {what}; is missing={{{name!r:.60}: ...}} one?")
    first = tensors[0]
    lengths = torch.tensor([len(tensor) for tensor in tensors])
    padded = first.new_zeros((len(tensors), int(lengths.max()), *first.shape[1:]))
    for row, tensor in zip(padded, tensors, strict=True):
        row[: len(tensor)] = tensor
    return PaddedTensors(padded, lengths)
