"""What came back of images, compared with what was given: figures, features and pictures."""

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
from semdis_cli.pipeline.kept_pictures import PictureKeeper, Trial

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

    def _figures(self, versions: Sequence[Version | None], given: Sequence[Tensor]) -> list[dict[str, float]]:
        """Return the figures of a contender; none for images that it could not keep."""
        known = [row for row, version in enumerate(versions) if version is not None]
        back = [version for version in versions if version is not None]
        measured = self.measurer.measure([(_pixels(one), given[row]) for one, row in zip(back, known, strict=True)])
        figures: list[dict[str, float]] = [{} for _ in versions]
        for row, one, found in zip(known, back, measured, strict=True):
            figures[row] = found | {BITS_PER_PIXEL: 8 * one.num_bytes / one.pixels[0].size}
        return figures

    def _take_features(self, trials: Sequence[Trial], given: Sequence[Tensor], take: TakeFeatures) -> None:
        """Hand on the features of images that every contender could keep."""
        whole = [
            (trial.key, [one, *map(_pixels, kept)])
            for one, trial in zip(given, trials, strict=True)
            if len(kept := [back for back in trial.versions if back is not None]) == len(trial.versions)
        ]
        features = self.measurer.features([one for _, pictures in whole for one in pictures])
        rows = features.reshape(len(whole), -1, features.shape[-1]).numpy()
        for (key, _), row in zip(whole, rows, strict=True):
            take(key, row)


def _pixels(version: Version) -> Tensor:
    return torch.from_numpy(version.pixels)
