"""rFID of a run, from the features that its shards have left."""

from pathlib import Path

import numpy as np
import pytest
import torch

from semdis_cli.events import ImageMeasured
from semdis_cli.metrics.fid import MIN_IMAGES, FeatureSums, frechet_distance
from semdis_cli.pipeline.measuring.figures import FigureSpool
from semdis_cli.pipeline.measuring.measured import Rfid
from semdis_cli.records import PlannedImage, SourceImage
from semdis_cli.sources.files import FilesOnDisk
from semdis_cli.store.writing.plan import PlannedShard

NUM_FEATURES = 4


def spool_of(folder: Path, features: np.ndarray, shard_images: int = 700) -> FigureSpool:
    """Features [N,1+contenders,4] in shards, as a run leaves them."""
    spool, reader = FigureSpool.open(folder, {}, NUM_FEATURES), FilesOnDisk()
    for start in range(0, len(features), shard_images):
        keys = [f"{number:05}" for number in range(start, min(start + shard_images, len(features)))]
        for key in keys:
            spool.take(ImageMeasured(key, ({"psnr_db": 30.0},)))
            spool.take_features(key, features[int(key)])
        images = [PlannedImage(SourceImage(key, reader, key, 1), (16, 16)) for key in keys]
        spool.finish(PlannedShard(f"shard-{start}", images))
    spool.add_others([])
    return spool


def sums(features: np.ndarray) -> FeatureSums:
    found = FeatureSums.nothing(NUM_FEATURES)
    found.add(torch.from_numpy(features))
    return found


def test_it_is_the_distance_of_what_came_back_from_the_originals(tmp_path: Path) -> None:
    features = np.random.default_rng(0).standard_normal((MIN_IMAGES, 3, NUM_FEATURES)).astype(np.float32)
    features[:, 1] += 0.5
    features[:, 2] = features[:, 0]
    found = Rfid.of(spool_of(tmp_path, features), 2)
    expected = frechet_distance(sums(features[:, 0]), sums(features[:, 1]))
    assert found.note is None
    assert found.values[0] == pytest.approx(expected, rel=1e-6)
    assert found.values[0] == pytest.approx(4 * 0.25, rel=0.2)  # four means are 0.5 apart
    assert found.values[1] == pytest.approx(0, abs=1e-6)


def test_of_too_few_images_there_is_none_and_it_says_why(tmp_path: Path) -> None:
    features = np.zeros((MIN_IMAGES - 1, 2, NUM_FEATURES), np.float32)
    found = Rfid.of(spool_of(tmp_path, features), 1)
    assert found.values == ()
    assert found.note is not None
    assert f"{MIN_IMAGES - 1:,}" in found.note
