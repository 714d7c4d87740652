"""SSIM and MS-SSIM against scikit-image, a slow reference in float64, and cases worked out by hand."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity
from torch import Tensor

from semdis_cli.metrics.ssim import MIN_MULTISCALE_PX, SCALE_WEIGHTS, Structure, halved, structure

C1, C2 = 6.5025, 58.5225
quick = settings(max_examples=25, deadline=None)


def flat(value: int, height: int = 16, width: int = 16) -> Tensor:
    return torch.full((3, height, width), value, dtype=torch.uint8)


def noisy(seed: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def picture(seed: int, height: int, width: int) -> Tensor:
    """Something smooth, with an edge, and white and black areas."""
    generator = torch.Generator().manual_seed(seed)
    rough = torch.rand(1, 3, max(2, height // 8), max(2, width // 8), generator=generator) * 1.6 - 0.3
    smooth = torch.nn.functional.interpolate(rough, size=(height, width), mode="bicubic")[0]
    smooth[:, height // 3 :, : width // 4] = 0
    return (smooth.clamp(0, 1) * 255).to(torch.uint8)


def degraded(image: Tensor, seed: int, strength: float) -> Tensor:
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    return (image + strength * noise).round().clamp(0, 255).to(torch.uint8)


def ssim(image: Tensor, reference: Tensor) -> float:
    return structure(image, reference, multiscale=False).ssim


def ms_ssim(image: Tensor, reference: Tensor) -> float:
    found = structure(image, reference, multiscale=True).ms_ssim
    assert found is not None
    return found


def of_skimage(image: Tensor, reference: Tensor) -> float:
    """The same from scikit-image, whose mean leaves out the five pixels at each edge where the window is cut off."""
    return float(
        structural_similarity(
            image.numpy(),
            reference.numpy(),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
            channel_axis=0,
        )
    )


def slow_factors(image: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Luminance, and contrast with structure, at each window of one channel, as they stand in the paper."""
    axis = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(axis, axis) / axis.sum() ** 2
    views = [np.lib.stride_tricks.sliding_window_view(one, (11, 11)) for one in (image, reference)]
    means = [(view * window).sum((2, 3)) for view in views]
    centred = [view - mean[:, :, None, None] for view, mean in zip(views, means, strict=True)]
    variances = [(one**2 * window).sum((2, 3)) for one in centred]
    covariance = (centred[0] * centred[1] * window).sum((2, 3))
    luminance = (2 * means[0] * means[1] + C1) / (means[0] ** 2 + means[1] ** 2 + C1)
    return luminance, (2 * covariance + C2) / (variances[0] + variances[1] + C2)


def slow_ms_ssim(image: np.ndarray, reference: np.ndarray) -> float:
    """The same of one channel."""
    product = 1.0
    for scale, weight in enumerate(SCALE_WEIGHTS):
        luminance, contrast = slow_factors(image, reference)
        factor = (luminance * contrast).mean() if scale == len(SCALE_WEIGHTS) - 1 else contrast.mean()
        product *= max(factor, 0.0) ** weight
        image, reference = (slow_half(one) for one in (image, reference))
    return float(product)


def slow_half(image: np.ndarray) -> np.ndarray:
    whole = np.pad(image, [(0, side % 2) for side in image.shape], mode="edge")
    height, width = whole.shape
    return np.asarray(whole.reshape(height // 2, 2, width // 2, 2).mean((1, 3)))


def in_doubles(image: Tensor) -> np.ndarray:
    return image.numpy().astype(np.float64)


@pytest.mark.parametrize("size", [(256, 256), (64, 300), (139, 11), (11, 267), (200, 530), (33, 47)])
@pytest.mark.parametrize("strength", [0.5, 10, 80])
def test_ssim_is_that_of_scikit_image(size: tuple[int, int], strength: float) -> None:
    reference = picture(1, *size)
    image = degraded(reference, 2, strength)
    assert ssim(image, reference) == pytest.approx(of_skimage(image, reference), abs=1e-6)


@pytest.mark.parametrize("strength", [2, 40])
def test_ssim_is_that_of_the_paper_in_float64(strength: float) -> None:
    reference = picture(3, 60, 71)
    image = degraded(reference, 4, strength)
    channels = zip(in_doubles(image), in_doubles(reference), strict=True)
    expected = np.mean([np.multiply(*slow_factors(*pair)).mean() for pair in channels])
    assert ssim(image, reference) == pytest.approx(expected, abs=1e-6)


@given(seed=st.integers(0, 2**32 - 1), dark=st.integers(0, 255), light=st.integers(0, 255), step=st.integers(0, 3))
@quick
def test_float32_is_enough_for_large_areas_of_extreme_values(seed: int, dark: int, light: int, step: int) -> None:
    reference = flat(dark, 40, 60)
    reference[:, :, 30:] = light
    image = reference.clamp(step, 255 - step)
    image[:, ::7, ::5] += torch.randint(0, 2, (6, 12), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    assert ssim(image, reference) == pytest.approx(of_skimage(image, reference), abs=1e-5)


@pytest.mark.parametrize(("size", "strength"), [((161, 161), 60), ((176, 203), 2)])
def test_ms_ssim_is_that_of_a_slow_reference_in_float64(size: tuple[int, int], strength: float) -> None:
    reference = picture(5, *size)
    image = degraded(reference, 6, strength)
    channels = zip(in_doubles(image), in_doubles(reference), strict=True)
    expected = np.mean([slow_ms_ssim(*pair) for pair in channels])
    assert ms_ssim(image, reference) == pytest.approx(expected, abs=1e-5)


def test_equal_images_have_exactly_one() -> None:
    for image in (picture(1, 170, 180), noisy(1, 170, 180), flat(255, 170, 180)):
        assert structure(image, image.clone(), multiscale=True) == Structure(1.0, 1.0)


@pytest.mark.parametrize(("image", "reference"), [(0, 255), (100, 101), (10, 200), (255, 254)])
def test_flat_images_differ_in_luminance_alone(image: int, reference: int) -> None:
    expected = (2 * image * reference + C1) / (image**2 + reference**2 + C1)
    assert ssim(flat(image), flat(reference)) == pytest.approx(expected, abs=1e-6)


def test_flat_images_keep_the_luminance_of_the_last_scale_alone() -> None:
    luminance = (2 * 50 * 100 + C1) / (50**2 + 100**2 + C1)
    sides = (3, 161, 161)
    found = ms_ssim(flat(50, *sides[1:]), flat(100, *sides[1:]))
    assert found == pytest.approx(luminance ** SCALE_WEIGHTS[-1], abs=1e-6)


def test_a_shift_of_luminance_leaves_structure_alone() -> None:
    reference = noisy(7, 40, 40) // 2
    luminance = np.mean(
        [slow_factors(*pair)[0] for pair in zip(*map(in_doubles, (reference + 100, reference)), strict=True)]
    )
    assert ssim(reference + 100, reference) == pytest.approx(luminance, abs=1e-5)


def test_an_inverted_image_has_negative_ssim_and_no_ms_ssim_below_nought() -> None:
    reference = noisy(8, 170, 170)
    found = structure(255 - reference, reference, multiscale=True)
    assert found.ssim < -0.9
    assert found.ms_ssim == 0.0


def test_noise_is_like_nothing() -> None:
    assert abs(ssim(noisy(1, 200, 200), noisy(2, 200, 200))) < 0.02


@given(seed=st.integers(0, 2**32 - 1), strength=st.floats(0, 100))
@quick
def test_both_are_symmetric(seed: int, strength: float) -> None:
    reference = picture(seed, 161, 170)
    image = degraded(reference, seed, strength)
    there, back = structure(image, reference, multiscale=True), structure(reference, image, multiscale=True)
    assert there.ssim == pytest.approx(back.ssim, abs=1e-7)
    assert there.ms_ssim == pytest.approx(back.ms_ssim, abs=1e-7)
    assert there.ssim <= 1


def test_more_noise_is_worse() -> None:
    reference = picture(9, 200, 200)
    found = [structure(degraded(reference, 1, strength), reference, multiscale=True) for strength in (1, 4, 16, 64)]
    assert [one.ssim for one in found] == sorted((one.ssim for one in found), reverse=True)
    assert [one.ms_ssim or 0 for one in found] == sorted((one.ms_ssim or 0 for one in found), reverse=True)


def test_the_smallest_images_have_one_window() -> None:
    reference = noisy(10, 11, 11)
    expected = np.mean(
        [np.multiply(*slow_factors(*pair)) for pair in zip(*map(in_doubles, (reference // 2, reference)), strict=True)]
    )
    assert ssim(reference // 2, reference) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(AssertionError, match="no window"):
        ssim(noisy(1, 10, 500), noisy(2, 10, 500))


def test_ms_ssim_is_left_out_where_the_coarsest_scale_holds_no_window() -> None:
    assert MIN_MULTISCALE_PX == 161
    assert structure(noisy(1, 160, 400), noisy(2, 160, 400), multiscale=True).ms_ssim is None
    assert structure(noisy(1, 161, 400), noisy(2, 161, 400), multiscale=True).ms_ssim is not None
    assert structure(noisy(1, 200, 400), noisy(2, 200, 400), multiscale=False).ms_ssim is None


def test_halving_repeats_the_last_row_and_column_of_odd_sizes() -> None:
    pixels = torch.tensor([[[0, 4, 10], [8, 12, 30], [100, 102, 7]]], dtype=torch.uint8)
    assert halved(pixels).tolist() == [[[6.0, 20.0], [101.0, 7.0]]]


@pytest.mark.parametrize("size", [(2, 2), (257, 300), (513, 31)])
def test_halving_by_strips_is_halving(size: tuple[int, int]) -> None:
    pixels = noisy(11, *size)
    expected = np.stack([slow_half(channel) for channel in in_doubles(pixels)])
    assert np.abs(halved(pixels).numpy() - expected).max() < 1e-4


def test_images_of_two_shapes_are_not_compared() -> None:
    with pytest.raises(AssertionError, match="against"):
        ssim(noisy(0, 20, 20), noisy(0, 20, 21))


def test_views_of_larger_tensors_are_measured_as_they_look() -> None:
    whole, other = noisy(12, 60, 70), noisy(13, 60, 70)
    part = (slice(None), slice(5, 50), slice(3, 61))
    assert ssim(whole[part], other[part]) == ssim(whole[part].clone(), other[part].clone())
    swapped = whole.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert math.isclose(ssim(swapped, other), ssim(whole, other), abs_tol=1e-9)


MEASURE_SIX_MEGAPIXELS = """
import resource, torch
from semdis_cli.metrics.ssim import structure
def most_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
small, large = (torch.zeros(3, *size, dtype=torch.uint8) for size in ((256, 256), (2000, 3000)))
other = large.clone()
structure(small, small, multiscale=True)
before = most_mib()
structure(large, other, multiscale=False)
alone = most_mib()
structure(large, other, multiscale=True)
print(alone - before, most_mib() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is told in other units there")
def test_large_images_take_little_more_memory_than_small_ones() -> None:
    run = subprocess.run(
        [sys.executable, "-c", MEASURE_SIX_MEGAPIXELS],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    ssim_mib, both_mib = map(float, run.stdout.split())
    assert ssim_mib < 30  # a map of floats would be 69 MiB, and there are a dozen
    assert both_mib < 80
