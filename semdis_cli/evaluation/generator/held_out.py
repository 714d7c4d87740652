"""The loss of images that are not learned, by time: of the same images, times and noise in every measurement."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semdis_cli.evaluation.generator import flow
from semdis_cli.evaluation.generator.dit import DiT
from semdis_cli.evaluation.generator.draws import noise_of
from semdis_cli.evaluation.generator.latents import ImageLatents
from semdis_cli.stops import look
from semdis_cli.training.step import generator_for

NUM_BINS = 10  # of time, equally wide


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Images to measure with. `numbers` [M]: of the images in the comparison; `labels`, `buckets` [M]: theirs.

    A measurement has each image in each bin of time: images differ far more than times do.
    """

    latents: ImageLatents
    numbers: NDArray[np.int64]
    labels: Tensor
    buckets: NDArray[np.int32]
    batch_size: int

    @cached_property
    def variance(self) -> Tensor:
        """Return the mean square of each channel, [Z] float32: of the images that are learned it is 1."""
        squares = torch.zeros(len(self.latents.normalisation.mean), dtype=torch.float64)
        for rows in self._batches():
            latents, _ = self.latents.read(self.numbers[rows].tolist())
            squares += latents.double().square().mean(dim=(2, 3)).sum(dim=0)
        return (squares / len(self.numbers)).float()

    @cached_property
    def times(self) -> Tensor:
        """Times of each image in each bin, [10,M] in [0,1)."""
        within = torch.rand((NUM_BINS, len(self.numbers)), generator=generator_for(0, "generator held out", 0))
        return (torch.arange(NUM_BINS)[:, None] + within) / NUM_BINS

    @torch.no_grad()
    def measure(self, model: DiT, autocast: torch.autocast) -> list[float]:
        """Return the mean loss of `model` in each bin of time."""
        device = next(model.parameters()).device
        errors = torch.zeros(self.times.shape)
        for rows in self._batches():
            latents, keys = self.latents.read(self.numbers[rows].tolist())
            latents, labels = latents.to(device), self.labels[rows].to(device)
            for number, times in enumerate(self.times[:, rows]):
                look()
                t, noise = times.to(device), noise_of(f"held out {number}", 0, keys, latents)
                with autocast:
                    v_hat = model(flow.interpolate(latents, noise, t), t, labels)
                errors[number, rows] = flow.squared_error(v_hat, flow.velocity(latents, noise)).cpu()
        return _means(errors)

    def linear_errors(self) -> list[float]:
        """Return what the best linear prediction from single values leaves in each bin, at the times of `measure`."""
        return _means(flow.linear_error(self.times.flatten(), self.variance).view(self.times.shape))

    def constant_error(self) -> float:
        """Return what the best constant leaves, in each bin."""
        return float(flow.constant_error(self.variance))

    def _batches(self) -> Iterator[NDArray[np.int64]]:
        """Yield rows of images that can share a batch."""
        for bucket in np.unique(self.buckets):
            rows = np.flatnonzero(self.buckets == bucket)
            for first in range(0, len(rows), self.batch_size):
                yield rows[first : first + self.batch_size]


def _means(errors: Tensor) -> list[float]:
    """Return the mean of each row of `errors` [10,M]."""
    means: list[float] = errors.double().mean(dim=1).tolist()
    return means
