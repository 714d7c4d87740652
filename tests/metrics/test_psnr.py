"""Image quality figures against numbers worked out by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from semdis_cli.metrics.psnr import psnr_db

quick = settings(max_examples=50, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def random_image(seed: int, side: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=generator)


def flat(value: int, side: int = 16) -> Tensor:
    return torch.full((3, side, side), value, dtype=torch.uint8)


def test_equal_images_have_infinite_psnr() -> None:
    assert psnr_db(random_image(0), random_image(0)) == math.inf


@pytest.mark.parametrize(
    ("image", "reference", "expected_db"),
    [
        (0, 255, 0.0),
        (255, 0, 0.0),
        (100, 101, 48.1308036),
        (101, 100, 48.1308036),
        (0, 16, 24.0484040),
        (7, 17, 28.1308036),
    ],
)
def test_psnr_of_flat_images_is_that_of_their_difference(image: int, reference: int, expected_db: float) -> None:
    assert psnr_db(flat(image), flat(reference)) == pytest.approx(expected_db, abs=1e-6)


def test_one_wrong_value_among_a_million_is_seen() -> None:
    image, reference = flat(0, 1000), flat(0, 1000)
    image[1, 500, 500] = 1
    assert psnr_db(image, reference) == pytest.approx(10 * math.log10(255**2 * 3e6), abs=1e-9)


def test_psnr_takes_the_mean_over_all_pixels_and_channels() -> None:
    image = flat(10)
    image[0] += 3  # a third of the values is off by three: a mean square error of three
    assert psnr_db(image, flat(10)) == pytest.approx(10 * math.log10(255**2 / 3), abs=1e-9)


@given(seed=seeds)
@quick
def test_psnr_is_symmetric(seed: int) -> None:
    assert psnr_db(random_image(seed), random_image(seed + 1)) == psnr_db(random_image(seed + 1), random_image(seed))


@given(seed=seeds, shift=st.integers(1, 100))
@quick
def test_psnr_falls_as_the_error_grows(seed: int, shift: int) -> None:
    reference = random_image(seed) // 4
    nearer, further = reference + shift, reference + shift + 1
    assert psnr_db(nearer, reference) > psnr_db(further, reference)


def test_psnr_ten_times_the_error_costs_twenty_db() -> None:
    assert psnr_db(flat(1), flat(0)) - psnr_db(flat(10), flat(0)) == pytest.approx(20.0, abs=1e-9)


def test_psnr_of_a_batch_is_that_of_all_its_values() -> None:
    batch, reference = torch.stack([flat(10), flat(12)]), torch.stack([flat(10), flat(10)])
    assert psnr_db(batch, reference) == pytest.approx(10 * math.log10(255**2 / 2), abs=1e-9)


def test_images_of_two_shapes_are_not_compared() -> None:
    with pytest.raises((AssertionError, ValueError)):
        psnr_db(random_image(0), random_image(0)[:1])
