"""Fréchet distances against SciPy's root of a matrix, and against what formulas say of Gaussians."""

from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from semdis_cli.metrics.fid import MIN_IMAGES, FeatureSums, frechet_distance, why_none
from semdis_cli.metrics.inception import NUM_FEATURES


def drawn(seed: int, number: int, size: int) -> Tensor:
    """Features with correlations, not negative, as the last pool gives them."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(size, size, generator=generator) / size**0.5
    return torch.relu(torch.randn(number, size, generator=generator) @ mixing + 0.5)


def sums(features: Tensor) -> FeatureSums:
    found = FeatureSums.nothing(features.shape[1])
    found.add(features)
    return found


def of_scipy(one: Tensor, other: Tensor) -> float:
    """The distance as it is usually computed."""
    a, b = one.double().numpy(), other.double().numpy()
    covariances = [np.cov(values, rowvar=False) for values in (a, b)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    apart = np.square(a.mean(0) - b.mean(0)).sum()
    return float(apart + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * np.trace(root))


@pytest.mark.parametrize("size", [2, 17, 64])
def test_the_distance_is_that_of_scipy(size: int) -> None:
    one, other = drawn(1, 5 * size + 3, size), drawn(2, 7 * size, size)
    assert frechet_distance(sums(one), sums(other)) == pytest.approx(of_scipy(one, other), rel=1e-8)


def gaussian(mean: list[float], variances: list[float]) -> FeatureSums:
    """Sums of points that have exactly this mean, and these variances along the axes."""
    size = len(mean)
    points = torch.cat([torch.eye(size), -torch.eye(size)]).double()
    points *= torch.tensor([(variance * (2 * size - 1) / 2) ** 0.5 for variance in variances], dtype=torch.float64)
    return sums(points + torch.tensor(mean))


def test_of_gaussians_along_the_axes_it_is_the_closed_form() -> None:
    one, other = gaussian([1.0, 2.0, 0.0], [4.0, 1.0, 9.0]), gaussian([0.0, 2.0, 2.0], [1.0, 1.0, 16.0])
    expected = 1 + 4 + (2 - 1) ** 2 + 0 + (3 - 4) ** 2
    assert frechet_distance(one, other) == pytest.approx(expected, abs=1e-9)


def test_a_shift_costs_its_square() -> None:
    features = drawn(3, 100, 10)
    assert frechet_distance(sums(features), sums(features + 0.25)) == pytest.approx(10 * 0.25**2, rel=1e-6)


def test_equal_sets_have_no_distance() -> None:
    features = drawn(4, 200, 30)
    assert frechet_distance(sums(features), sums(features.flip(0))) == pytest.approx(0, abs=1e-6)


def test_features_that_never_change_are_no_obstacle() -> None:
    one, other = drawn(5, 80, 12), drawn(6, 80, 12)
    expected = of_scipy(one[:, 2:], other[:, 2:])
    one[:, :2] = other[:, :2] = 0.5
    assert frechet_distance(sums(one), sums(other)) == pytest.approx(expected, rel=1e-6)


@given(cuts=st.lists(st.integers(0, 60), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_sums_do_not_depend_on_how_the_images_come(cuts: list[int]) -> None:
    features = drawn(7, 60, 8)
    ends = [0, *sorted(cuts), 60]
    merged = FeatureSums.nothing(8)
    for begin, end in pairwise(ends):
        merged.merge(sums(features[begin:end]))
    whole = sums(features)
    assert merged.num == whole.num
    assert np.allclose(merged.covariance, whole.covariance, atol=1e-12)
    assert np.allclose(merged.covariance, np.cov(features.double().numpy(), rowvar=False), atol=1e-12)


def test_float64_keeps_what_many_images_of_large_features_have_in_common() -> None:
    features = drawn(8, 4000, 6) * 1e-3 + 20
    found = FeatureSums.nothing(6)
    for part in features.split(37):
        found.add(part)
    assert np.allclose(found.covariance, np.cov(features.double().numpy(), rowvar=False), rtol=1e-4, atol=1e-12)


def test_too_few_images_are_said_and_not_computed() -> None:
    assert MIN_IMAGES == NUM_FEATURES + 1
    assert why_none(MIN_IMAGES) is None
    assert why_none(39) == "rFID needs 2,049 images or more, not 39: of fewer it tells their number, not quality"
    with pytest.raises(AssertionError, match="tell nothing"):
        frechet_distance(sums(drawn(1, 10, 10)), sums(drawn(2, 11, 10)))
