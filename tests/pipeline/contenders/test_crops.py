"""Crops: every tile is coded as an image by itself."""

from pathlib import Path

import numpy as np
import pytest

from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.pipeline.contenders.crops import CroppedContender
from semdis_cli.pipeline.contenders.given import Given
from semdis_cli.pipeline.contenders.tokenized import TokenizedContender
from semdis_cli.settings import LatentSettings
from tests.pipeline.contenders.worlds import CountingTokenizer, image_of, load, noise, versions


@pytest.fixture
def tokenizer(tiny: Path) -> CountingTokenizer:
    return load(tiny)


def whole(tokenizer: CountingTokenizer, num_steps: int = 1) -> TokenizedContender:
    sampling = FCDMDiffAEInferenceConfig(num_steps=num_steps, seed=0)
    return TokenizedContender("whole", tokenizer, LatentSettings(), sampling)


def test_a_tile_comes_back_as_it_does_alone(tokenizer: CountingTokenizer) -> None:
    pictures = [noise(0, (40, 72)), noise(1, (48, 65))]
    images = [image_of(f"{number}.png", one) for number, one in enumerate(pictures)]
    back = versions(CroppedContender("crops", whole(tokenizer), 32), Given(images))
    for image, pixels, version in zip(images, pictures, back, strict=True):
        assert version.pixels.shape == pixels.shape
        num_bytes = 0
        for top in range(0, pixels.shape[1], 32):
            for left in range(0, pixels.shape[2], 32):
                box = np.s_[:, top : top + 32, left : left + 32]
                tile = image_of(f"{image.record.key} {top},{left}", pixels[box])
                [alone] = versions(whole(tokenizer), Given([tile]))
                np.testing.assert_array_equal(version.pixels[box], alone.pixels)
                num_bytes += alone.num_bytes
        assert version.num_bytes == num_bytes
        [uncut] = versions(whole(tokenizer), Given([image]))
        assert version.num_bytes == uncut.num_bytes, "tiles of whole positions take no more of them"
        assert not np.array_equal(version.pixels, uncut.pixels), "a tile sees nothing beyond its seams"


def test_tiles_are_cut_and_encoded_once_for_all_that_crop_alike(tokenizer: CountingTokenizer) -> None:
    given = Given([image_of("a", noise(0, (64, 64)))])
    for num_steps in (1, 2):
        versions(CroppedContender("crops", whole(tokenizer, num_steps), 32), given)
    assert tokenizer.num_encoded == 4


def test_the_record_says_how_large_tiles_are(tokenizer: CountingTokenizer) -> None:
    inner = whole(tokenizer)
    assert CroppedContender("crops", inner, 32).record() == inner.record() | {"crops_px": 32}
