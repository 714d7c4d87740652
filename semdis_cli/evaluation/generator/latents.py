"""The latents of a set as a generator gets them: every channel of mean 0 and variance 1."""

import warnings
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semdis_cli.dataset.latent_dataset import LatentDataset, MixedVersionsWarning
from semdis_cli.errors import StoreError
from semdis_cli.evaluation.generator.pairing import Grid
from semdis_cli.events import Planning
from semdis_cli.stops import look
from semdis_cli.store.statistics import ChannelSums
from semdis_cli.tensors import is_finite

_IMAGES_AT_ONCE = 64
_DEAD_STD = 1e-6  # of a channel that says nothing


def open_set(path: Path) -> LatentDataset:
    """Open the latents at `path`, as they are stored; those of several versions too. Raises `StoreError`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MixedVersionsWarning)  # it is in the report
        return LatentDataset(path, dtype=torch.float32, columns=())


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation [Z] float32 of each channel; one that is dead is divided by 1."""

    mean: Tensor
    std: Tensor
    num_dead: int

    @classmethod
    def of(cls, sums: ChannelSums) -> "Normalisation":
        """Make that of sums over latents."""
        mean, std = (torch.from_numpy(values).float() for values in sums.moments())
        is_dead = std < _DEAD_STD
        return cls(mean, torch.where(is_dead, 1.0, std), int(is_dead.sum()))


@dataclass(frozen=True, eq=False)
class ImageLatents:
    """Latents of the images of a comparison, by their numbers there. `items` [N]: which items of the set they are."""

    dataset: LatentDataset
    items: NDArray[np.int64]
    normalisation: Normalisation

    def read(self, numbers: Sequence[int]) -> tuple[Tensor, list[str]]:
        """Return latents of images of one grid, [B,Z,h,w] float32, and their keys."""
        latents, keys = read_items(self.dataset, self.items[list(numbers)])
        mean, std = (values[:, None, None] for values in (self.normalisation.mean, self.normalisation.std))
        return (latents - mean) / std, keys


def read_items(dataset: LatentDataset, items: NDArray[np.int64]) -> tuple[Tensor, list[str]]:
    """Return the latents of items of one grid, [B,Z,h,w] float32, and their keys. Raises `StoreError` for NaN."""
    found = dataset.__getitems__(items.tolist())
    latents, keys = torch.stack([item.latents for item in found]), [item.key for item in found]
    if not is_finite(latents):
        bad = next(item.key for item in found if not is_finite(item.latents))
        raise StoreError(f"the latents of {bad!r:.80} have NaN or infinite values", place=dataset.path)
    return latents, keys


def measure_channels(dataset: LatentDataset, items: NDArray[np.int64]) -> Generator[Planning, None, Normalisation]:
    """Measure the channels over the latents of `items`, of any grids. Yields how far it is; raises `StoreError`."""
    sums = None
    by_grid = items[np.argsort(dataset.bucket_numbers[items], kind="stable")]
    for first in range(0, len(items), _IMAGES_AT_ONCE):
        look()
        latents = [item.latents for item in dataset.__getitems__(by_grid[first : first + _IMAGES_AT_ONCE].tolist())]
        for one in latents:
            sums = ChannelSums.of(one) if sums is None else sums + ChannelSums.of(one)
        yield Planning("measuring the latents", first + len(latents), len(items))
    assert sums is not None
    if not sums.are_finite:
        raise StoreError("latents with NaN or infinite values; semdis verify says which", place=dataset.path)
    return Normalisation.of(sums)


def grid_text(grids: Sequence[Grid]) -> str:
    """Write grids as `16x16, 16x24`."""
    return ", ".join(f"{h}x{w}" for h, w in grids)
