"""Synthetic JPEGs: the sizes that they say, files as long as those of photographs, the same every time."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semdis_cli.images.synthetic import SYNTHETIC_SIZES, jpeg_of, write_synthetic_jpegs


@pytest.mark.slow
def test_four_sizes_come_in_turn_with_as_many_bits_a_pixel_as_photographs(tmp_path: Path) -> None:
    paths = write_synthetic_jpegs(tmp_path, 5)
    sizes, bits = [], []
    for path in paths:
        with Image.open(path) as image:
            assert image.format == "JPEG"
            sizes.append((image.height, image.width))
        bits.append(8 * path.stat().st_size / (sizes[-1][0] * sizes[-1][1]))
    assert sizes == [*SYNTHETIC_SIZES, SYNTHETIC_SIZES[0]]
    assert all(1.5 < one < 3.5 for one in bits)
    assert [path.name for path in paths[:4]] == [
        "0000-1-megapixels.jpg",
        "0001-2-megapixels.jpg",
        "0002-6-megapixels.jpg",
        "0003-12-megapixels.jpg",
    ]
    assert paths[0].read_bytes() != paths[4].read_bytes()


def test_the_same_seed_gives_the_same_file_and_another_one_another() -> None:
    assert jpeg_of((64, 96)) == jpeg_of((64, 96))
    assert jpeg_of((64, 96)) != jpeg_of((64, 96), seed=1)


def test_its_spectrum_falls_like_that_of_photographs() -> None:
    with Image.open(io.BytesIO(jpeg_of((512, 512)))) as image:
        pixels = np.asarray(image.convert("L"), np.float64)
    power = np.abs(np.fft.fft2(pixels - pixels.mean())) ** 2
    rings = np.rint(np.hypot(*np.meshgrid(*[512 * np.fft.fftfreq(512)] * 2))).astype(int)
    low, high = (power[rings == ring].mean() for ring in (8, 64))
    fall = np.log(low / high) / np.log(64 / 8) / 2  # of the amplitude
    assert 1.1 < fall < 1.5
