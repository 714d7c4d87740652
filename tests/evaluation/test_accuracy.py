"""Intervals of shares and of their differences, against published values and against simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semdis_cli.evaluation.accuracy import Accuracy, AccuracyDifference


def answers(right: int, images: int) -> np.ndarray:
    return np.arange(images) < right


@pytest.mark.parametrize(
    ("right", "images", "low", "high"),
    [  # Newcombe 1998, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_intervals_are_those_published(right: int, images: int, low: float, high: float) -> None:
    found = Accuracy.of(answers(right, images))
    assert (found.low, found.high) == pytest.approx((low, high), abs=6e-5)
    assert found.share == right / images


@given(st.integers(1, 500).flatmap(lambda images: st.tuples(st.integers(0, images), st.just(images))))
def test_an_interval_holds_the_share(case: tuple[int, int]) -> None:
    found = Accuracy.of(answers(*case))
    assert 0 <= found.low <= found.share <= found.high <= 1
    other = Accuracy.of(answers(case[1] - case[0], case[1]))
    assert (1 - other.high, 1 - other.low) == pytest.approx((found.low, found.high))


def test_a_difference_counts_what_only_one_has_right() -> None:
    found = AccuracyDifference.of(np.array([1, 1, 1, 0, 0], bool), np.array([1, 0, 0, 1, 0], bool))
    assert (found.images, found.better, found.worse) == (5, 2, 1)
    assert found.difference == pytest.approx(0.2)
    assert found.low < 0.2 < found.high


def test_equal_answers_do_not_differ() -> None:
    found = AccuracyDifference.of(answers(30, 100), answers(30, 100))
    assert found.difference == 0
    assert found.low == -found.high


@pytest.mark.parametrize(("images", "shares"), [(100, (0.1, 0.05)), (400, (0.2, 0.2)), (60, (0.1, 0.02))])
def test_intervals_of_differences_cover_the_true_one(images: int, shares: tuple[float, float]) -> None:
    generator, true, covered = np.random.default_rng(0), shares[0] - shares[1], 0
    for _ in range(2000):
        draws = generator.random(images)
        better, worse = draws < shares[0], (draws >= shares[0]) & (draws < sum(shares))
        found = AccuracyDifference.of(better, worse)
        covered += found.low <= true <= found.high
    assert 0.93 <= covered / 2000 <= 0.995
