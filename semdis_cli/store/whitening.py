"""Stored latents -> raw ones: what whitening took out, put back in."""

from os import PathLike

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semdis_cli.errors import StoreError, UsageError
from semdis_cli.provenance import Provenance
from semdis_cli.store.statistics import ChannelSums

Statistics = tuple[NDArray[np.float32], NDArray[np.float32]]  # mean and standard deviation of raw latents, [Z,1,1]


def is_whitened(provenance: Provenance, place: PathLike[str] | str) -> bool:
    """Tell whether latents of these settings are whitened. Raises `StoreError` if that is not on record."""
    try:
        return provenance.is_whitened
    except ValueError as error:
        raise StoreError("does not say whether its latents are whitened", place=place) from error


def whitening_to_undo(provenance: Provenance, place: PathLike[str] | str) -> Statistics | None:
    """Return what makes stored latents raw; None if they are. `place`: what to call them.

    Raises `StoreError` for a record that is damaged, and `UsageError` for one that does not say it.
    """
    if not is_whitened(provenance, place):
        return None
    try:
        statistics = provenance.whitening
    except ValueError as error:
        what = f"its mean and standard deviation of raw latents are damaged ({error})"
        raise StoreError(what, place=place) from error
    if statistics is None:
        raise UsageError("does not say how its latents were whitened; encode again to have raw ones", place=place)
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (statistics.mean, statistics.std))
    return mean, std


def to_raw(latents: Tensor, whitening: Statistics | None) -> Tensor:
    """Stored latents [...,Z,h,w] -> raw ones, in float32: whitened * std + mean, or as they are."""
    if whitening is None:
        return latents.float()
    mean, std = map(torch.from_numpy, whitening)
    return latents.float() * std + mean


def raw_moments(sums: ChannelSums, whitening: Statistics | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of raw latents, [Z], of which `sums` are those as they are stored."""
    mean, std = sums.moments()
    if whitening is None:
        return mean, std
    shift, scale = (values.reshape(-1).astype(np.float64) for values in whitening)
    return mean * scale + shift, std * scale
