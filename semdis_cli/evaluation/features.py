"""Features of images that are made of their latents, and the statistics of these, in one reading of a set."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from semdis_cli.evaluation.channels import ChannelMoments
from semdis_cli.evaluation.labelled import ChosenImages, hash_key
from semdis_cli.evaluation.spectrum import CovarianceSums, positions_of
from semdis_cli.evaluation.stored import read_checked
from semdis_cli.events import Planning, Tell
from semdis_cli.store.reader import LatentSource, recorded_layout

MOST_POSITIONS = 16  # of an image
_MOST_ROWS = 1 << 17  # positions of all images together
_VALUES_AT_ONCE = 1 << 18  # they stay in a core's cache: ten times as fast


@dataclass(frozen=True, eq=False)
class Features:
    """Features of N images in their order: `mean` and `std` [N,Z] over positions, and P `positions` [N,P,Z], float32.

    `moments` and `covariance`: of all positions of these images.
    """

    mean: Tensor
    std: Tensor
    positions: Tensor
    moments: ChannelMoments
    covariance: CovarianceSums


def positions_per_image(num_images: int) -> int:
    """Return how many positions of each image are kept: 16, fewer of more than 8,192 images."""
    return max(1, min(MOST_POSITIONS, _MOST_ROWS // num_images))


def read_features(source: LatentSource, chosen: ChosenImages, seed: int, tell: Tell) -> Features:
    """Read the latents of the chosen images; `tell` hears how far it is. Raises `StoreError` for a damaged shard."""
    channels, num_images = recorded_layout(source.provenance, str(source.path)).channels, len(chosen.keys)
    features = Features(
        torch.zeros(num_images, channels),
        torch.zeros(num_images, channels),
        torch.zeros(num_images, positions_per_image(num_images), channels),
        ChannelMoments(channels),
        CovarianceSums(channels),
    )
    places = {key: place for place, key in enumerate(chosen.keys)}
    for number, stored in enumerate(source.shards):
        tell(Planning(f"reading shards of {source.path}", number, len(source.shards)))
        if places.keys().isdisjoint(stored.rows):
            continue
        shard, latents = read_checked(source, stored)
        wanted = [(row, places[key]) for row, key in enumerate(shard.keys) if key in places]
        for part in _parts(wanted, latents[0].numel()):
            _take(features, latents[[row for row, _ in part]].float(), [place for _, place in part], chosen, seed)
    return features


def _parts(wanted: Sequence[tuple[int, int]], num_values: int) -> Iterator[Sequence[tuple[int, int]]]:
    """Cut rows so that there are not many values at once."""
    size = max(1, _VALUES_AT_ONCE // num_values)
    for start in range(0, len(wanted), size):
        yield wanted[start : start + size]


def _take(features: Features, latents: Tensor, places: Sequence[int], chosen: ChosenImages, seed: int) -> None:
    """Put the features of latents [N,Z,h,w] float32 at their places, and count them."""
    features.moments.add(latents)
    for positions in positions_of(latents):
        features.covariance.add(positions)
    flat = latents.flatten(2)
    features.mean[places], features.std[places] = flat.mean(2), flat.std(2, correction=0)
    for values, place in zip(flat, places, strict=True):
        drawn = draw_positions(chosen.keys[place], seed, values.shape[1], features.positions.shape[1])
        features.positions[place] = values[:, drawn].T


def draw_positions(key: str, seed: int, num_there: int, num_wanted: int) -> Tensor:
    """Draw positions of an image, no one twice unless there are too few; they depend on seed and key alone."""
    order = np.random.default_rng(hash_key(f"{key} positions", seed)).permutation(num_there)
    return torch.from_numpy(np.resize(order, num_wanted))
