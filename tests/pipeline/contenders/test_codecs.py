"""JPEG and WebP at the bytes of the first contender."""

from typing import Literal

import numpy as np
import pytest
from hypothesis import given as with_
from hypothesis import strategies as st

from semdis_cli.events import Failure
from semdis_cli.images.images import write_image
from semdis_cli.pipeline.contenders.codecs import CodecContender, best_within
from semdis_cli.pipeline.contenders.given import Given
from tests.pipeline.contenders.worlds import image_of, noise, opened, photograph, versions

FORMATS = ["jpg", "webp"]


@with_(st.lists(st.integers(0, 1000), min_size=100, max_size=100), st.integers(0, 1000))
def test_the_best_that_fits_is_found_with_eight_files_at_most(sizes: list[int], budget: int) -> None:
    sizes.sort()
    tried = []

    def write(quality: int) -> bytes:
        tried.append(quality)
        return bytes(sizes[quality - 1])

    found = best_within(write, budget)
    fitting = [size for size in sizes if size <= budget]
    assert len(found) == (fitting[-1] if fitting else sizes[0])
    assert len(tried) <= 8
    assert set(tried) <= set(range(1, 101))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("bits_per_pixel", [0.5, 2, 8])
def test_a_file_has_no_more_bytes_and_the_next_quality_would(
    name: Literal["jpg", "webp"], bits_per_pixel: float
) -> None:
    pixels = photograph((120, 150))
    budget = int(bits_per_pixel * 120 * 150 / 8)
    [back] = versions(CodecContender(name, name, None), Given([image_of("a", pixels)], [budget]))
    files = [write_image(pixels.transpose(1, 2, 0), name, quality) for quality in range(1, 101)]
    [(quality, data)] = [(at, one) for at, one in enumerate(files, 1) if len(one) == back.num_bytes][-1:]
    assert len(data) <= budget
    assert quality == 100 or len(files[quality]) > budget
    np.testing.assert_array_equal(back.pixels, opened(data))


@pytest.mark.parametrize("name", FORMATS)
def test_where_nothing_fits_it_is_the_least_quality_and_says_its_bytes(name: Literal["jpg", "webp"]) -> None:
    pixels = noise(0, (40, 50))
    [back] = versions(CodecContender(name, name, None), Given([image_of("a", pixels)], [10]))
    assert back.num_bytes == len(write_image(pixels.transpose(1, 2, 0), name, 1)) > 10


def test_each_image_has_a_budget_of_its_own() -> None:
    images = [image_of(f"{number}.png", noise(number, (64, 64))) for number in range(2)]
    small, large = versions(CodecContender("jpg", "jpg", None), Given(images, [3000, 9000]))
    assert small.num_bytes <= 3000 < large.num_bytes <= 9000


@pytest.mark.parametrize("name", FORMATS)
def test_a_quality_that_is_given_is_taken_whatever_the_bytes(name: Literal["jpg", "webp"]) -> None:
    pixels = photograph((50, 70))
    data = write_image(pixels.transpose(1, 2, 0), name, 80)
    [back] = versions(CodecContender(name, name, 80), Given([image_of("a", pixels)], [10]))
    assert back.num_bytes == len(data)
    np.testing.assert_array_equal(back.pixels, opened(data))


def test_an_image_that_a_format_cannot_hold_is_a_failure() -> None:
    given = Given([image_of("a", noise(0, (1, 16_384)), 1)], [10**6])
    [back] = CodecContender("WebP", "webp", None).reconstruct(given)
    assert back == Failure("a", "webp files hold at most 16383 px a side")
    assert versions(CodecContender("JPEG", "jpg", None), given)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (20, 30)])
def test_pixels_of_every_size_are_ones_that_torch_takes_without_a_warning(size: tuple[int, int]) -> None:
    [back] = versions(CodecContender("JPEG", "jpg", 90), Given([image_of("a", noise(0, size), 1)], [0]))
    assert back.pixels.flags.writeable
    assert back.pixels.flags.c_contiguous


def test_the_record_says_whose_files_they_are() -> None:
    record = CodecContender("JPEG", "jpg", None).record()
    assert record["quality"] == "the best within the bytes of the first contender"
    assert "4:2:0" in record["sampling"]
    assert record["pillow"]
    assert CodecContender("JPEG", "jpg", 90).record()["quality"] == 90
