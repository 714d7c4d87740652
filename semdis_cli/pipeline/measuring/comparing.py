"""Reconstructions compared with what was given: figures, features and pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semdis_cli.events import ImageMeasured
from semdis_cli.metrics.measure import Measurer
from semdis_cli.metrics.registry import BITS_PER_PIXEL, PSNR_DB
from semdis_cli.pipeline.contenders.contender import Version
from semdis_cli.pipeline.measuring.kept_pictures import PictureKeeper, Trial

TakeFeatures = Callable[[str, NDArray[np.float32]], object]


@dataclass(frozen=True)
class Measuring:
    """Compares what contenders have made of images. Safe to use in several threads.

    `take_features`: is given those of each image, float32 [1+contenders,N], for rFID; `keeper`: keeps pictures.
    """

    measurer: Measurer
    take_features: TakeFeatures | None = None
    keeper: PictureKeeper | None = None

    def measure(self, trials: Sequence[Trial]) -> list[ImageMeasured]:
        """Return the figures of images, all of one size."""
        given = [torch.from_numpy(trial.given) for trial in trials]
        columns = zip(*(trial.versions for trial in trials), strict=True)
        by_contender = [self._figures(versions, given) for versions in columns]
        figures = [*zip(*by_contender, strict=True)]
        if self.take_features is not None:
            self._take_features(trials, given, self.take_features)
        if self.keeper is not None:
            self.keeper.take(trials, [one[0][PSNR_DB] for one in figures])
        return [ImageMeasured(trial.key, one) for trial, one in zip(trials, figures, strict=True)]

    def settle(self) -> None:
        """Wait until no power cut can take what was kept of images measured so far."""
        if self.keeper is not None:
            self.keeper.settle()

    def _figures(self, versions: Sequence[Version], given: Sequence[Tensor]) -> list[dict[str, float]]:
        """Return the figures of one contender."""
        figures = self.measurer.measure([*zip(map(_pixels, versions), given, strict=True)])
        return [
            one | {BITS_PER_PIXEL: 8 * version.num_bytes / version.pixels[0].size}
            for one, version in zip(figures, versions, strict=True)
        ]

    def _take_features(self, trials: Sequence[Trial], given: Sequence[Tensor], take: TakeFeatures) -> None:
        pictures = [
            picture
            for one, trial in zip(given, trials, strict=True)
            for picture in (one, *map(_pixels, trial.versions))
        ]
        features = self.measurer.features(pictures)
        rows = features.reshape(len(trials), -1, features.shape[-1]).numpy()
        for trial, row in zip(trials, rows, strict=True):
            take(trial.key, row)


def _pixels(version: Version) -> Tensor:
    return torch.from_numpy(version.pixels)
