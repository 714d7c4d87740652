"""Sets of latents made ready to be compared: the same images, labels, batches and tokens for each."""

from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semdis_cli.dataset.latent_dataset import LatentDataset
from semdis_cli.errors import UsageError
from semdis_cli.evaluation.generator.held_out import HeldOut
from semdis_cli.evaluation.generator.latents import ImageLatents, measure_channels, open_set
from semdis_cli.evaluation.generator.pairing import (
    Buckets,
    CommonImages,
    Labels,
    common_buckets,
    common_labels,
    find_common,
    is_held_out,
)
from semdis_cli.evaluation.generator.settings import GeneratorSettings
from semdis_cli.evaluation.generator.train import CurveImages, LearnedImages
from semdis_cli.events import Planning
from semdis_cli.store.random_access import NO_LABEL
from semdis_cli.wording import count

_MAX_MEASURED = 16_384  # images that channels are measured on


@dataclass(frozen=True, eq=False)
class MatchedSets:
    """Sets, and the images that they have in common. `learned` [L] and `held_out` [M]: numbers of these images."""

    sets: tuple[LatentDataset, ...]
    titles: tuple[str, ...]
    common: CommonImages
    labels: Labels
    buckets: Buckets
    learned: NDArray[np.int64]
    held_out: NDArray[np.int64]

    @property
    def num_classes(self) -> int:
        """Classes that a generator is told of."""
        return len(self.labels.names)

    @property
    def patches(self) -> tuple[int, ...]:
        """The side of a token in each set."""
        return self.buckets.patches

    def num_usable(self, batch_size: int) -> int:
        """Count the images to learn from that can ever be in a whole batch."""
        sizes = Counter(self.buckets.numbers[self.learned].tolist()).values()
        return sum(size for size in sizes if size >= batch_size)

    def check(self, batch_size: int) -> None:
        """Raise `UsageError` if tokens cannot be equally many, or no batch is ever full."""
        assert self.patches
        if not self.num_usable(batch_size):
            sizes = " of one size" if len(self.buckets.grids) > 1 else ""
            raise UsageError(
                f"{count(len(self.learned), 'image')} to learn from: not enough{sizes} for a batch of {batch_size}; "
                "give more, or a smaller --generator-batch-size"
            )

    def images_of(self, number: int, settings: GeneratorSettings) -> Generator[Planning, None, CurveImages]:
        """Measure the channels of a set, and return its images as a curve gets them. Raises `StoreError`."""
        items = self.common.items[number]
        sample, measured = self._sample(self.learned, _MAX_MEASURED), self.measured(settings)
        normalisation = yield from measure_channels(self.sets[number], items[sample])
        latents, labels = ImageLatents(self.sets[number], items, normalisation), self._labels()
        learned = LearnedImages(
            self.common.sha256, self.learned, labels[self.learned], self.buckets.numbers[self.learned]
        )
        held_out = HeldOut(
            latents,
            measured,
            labels[measured],
            self.buckets.numbers[measured],
            settings.batch_size,
        )
        return CurveImages(latents, learned, held_out)

    def measured(self, settings: GeneratorSettings) -> NDArray[np.int64]:
        """Choose those of the held-out images that are measured."""
        return self._sample(self.held_out, settings.num_measured)

    def _sample(self, numbers: NDArray[np.int64], most: int) -> NDArray[np.int64]:
        """Return `most` of the images, chosen by their keys."""
        return np.sort(numbers[np.argsort(self.common.words[numbers], kind="stable")[:most]])

    def notes(self) -> Iterator[str]:
        """Say what is left out, and what the comparison is not, a line each."""
        for title, one in zip(self.titles, self.sets, strict=True):
            if others := len(one) - len(self.common):
                yield f"{title}: {count(others, 'image')} left out, which not all sets have"
            if one.versions:
                yield f"{title}: latents of several versions"
            if one.provenance.get("posterior", {}).get("kind") == "moments":
                yield f"{title}: of its posteriors the modes are learned"
        if not self.num_classes:
            yield "no labels: the generator learns without classes"
        elif unlabelled := int((self.labels.numbers == NO_LABEL).sum()):
            yield f"{count(unlabelled, 'image')} without a label, learned without a class"
        sizes = {
            tuple(one[int(items[0])].image_size.tolist())
            for one, items in zip(self.sets, self.common.items, strict=True)
        }
        if len(sizes) > 1:
            told = " and ".join(f"{height}x{width}" for height, width in sorted(sizes))
            yield f"the sets show the same images at different sizes ({told} px)"

    def _labels(self) -> Tensor:
        """Labels of all images, those without one as the generator calls it."""
        numbers = self.labels.numbers
        return torch.from_numpy(np.where(numbers == NO_LABEL, self.num_classes, numbers))


def match_sets(paths: Sequence[Path]) -> Generator[Planning, None, MatchedSets]:
    """Open sets and find the images to compare them by. Raises `UsageError` and `StoreError`."""
    sets = tuple(map(open_set, paths))
    common = yield from find_common(sets)
    if not len(common):
        named = ", ".join(map(str, paths))
        raise UsageError("no image is in all of them; encode the same images, under the same keys", place=named)
    held_out = is_held_out(common.words)
    buckets = common_buckets(sets, common)
    learned, measured = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    return MatchedSets(sets, titles_of(paths), common, common_labels(sets, common), buckets, learned, measured)


def titles_of(paths: Sequence[Path]) -> tuple[str, ...]:
    """Name each set: by its folder, or by its path where that is not enough; the same one twice gets numbers."""
    for titles in (tuple(path.resolve().name for path in paths), tuple(map(str, paths))):
        if len(set(titles)) == len(paths):
            return titles
    return tuple(f"{path} ({number})" for number, path in enumerate(paths, start=1))
