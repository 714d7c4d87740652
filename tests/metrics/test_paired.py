"""Paired differences: hand-worked cases, and how often intervals hold what they say."""

import json
import tracemalloc

import numpy as np
import pytest

from semdis_cli.metrics.paired import MAX_BOOTSTRAPPED, PairedDifference, paired_difference


def noise(seed: int, number: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(number)


NUM_INTERVALS = 1000


def share_covered(number: int, level: float, draw: str = "standard_normal") -> float:
    """Share of intervals that hold the true mean, 0 of `standard_normal` and 1 of `standard_exponential`."""
    truth = {"standard_normal": 0.0, "standard_exponential": 1.0}[draw]
    generator, held = np.random.default_rng(1), 0
    for seed in range(NUM_INTERVALS):
        values = getattr(generator, draw)(number)
        found = paired_difference(values, np.zeros(number), seed=seed, level=level)
        held += found.low <= truth <= found.high
    return held / NUM_INTERVALS


def test_a_constant_difference_is_certain() -> None:
    baseline = np.arange(8.0)
    assert paired_difference(baseline + 0.5, baseline) == PairedDifference(8, 0.5, 0.5, 0.5, 0.95, 8, 0)


def test_better_and_worse_are_counted_and_equal_ones_are_neither() -> None:
    values, baseline = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 2.0, 9.0, 3.0])
    high = paired_difference(values, baseline)
    low = paired_difference(values, baseline, is_better_high=False)
    assert (high.num_better, high.num_worse) == (2, 1)
    assert (low.num_better, low.num_worse) == (1, 2)
    assert high.mean == low.mean == -1.0


def test_what_images_have_in_common_does_not_widen_the_interval() -> None:
    hardness, change = noise(1, 200) * 5, noise(2, 200) * 0.1 + 0.05
    found = paired_difference(hardness + change, hardness)
    assert 0 < found.low < found.mean < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.1 / 200**0.5, rel=0.15)


def test_equal_seeds_give_equal_intervals_and_others_do_not() -> None:
    values, baseline = noise(3, 50), noise(4, 50)
    first = paired_difference(values, baseline, seed=5)
    assert first == paired_difference(values, baseline, seed=5)
    assert first.low != paired_difference(values, baseline, seed=6).low


@pytest.mark.parametrize(("number", "level"), [(30, 0.8), pytest.param(100, 0.95, marks=pytest.mark.slow)])
def test_intervals_hold_the_true_mean_as_often_as_they_say(number: int, level: float) -> None:
    by_chance = 3 * (level * (1 - level) / NUM_INTERVALS) ** 0.5
    assert share_covered(number, level) == pytest.approx(level, abs=by_chance)


@pytest.mark.slow
def test_of_skewed_and_few_values_intervals_are_a_little_short() -> None:
    assert 0.88 <= share_covered(30, 0.95, "standard_exponential") < 0.95
    assert 0.89 <= share_covered(10, 0.95) < 0.95


def test_the_bootstrap_goes_over_into_the_normal_interval() -> None:
    values = np.random.default_rng(7).standard_exponential(MAX_BOOTSTRAPPED + 1)
    few = paired_difference(values[:-1], np.zeros(MAX_BOOTSTRAPPED))
    many = paired_difference(values, np.zeros(len(values)))
    width = many.high - many.low
    assert few.low == pytest.approx(many.low, abs=0.05 * width)
    assert few.high == pytest.approx(many.high, abs=0.05 * width)


def test_a_million_differences_take_little_memory() -> None:
    values, baseline = noise(1, 10**6), noise(2, 10**6)
    tracemalloc.start()
    found = paired_difference(values, baseline)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 64e6
    assert found.high - found.low == pytest.approx(2 * 1.96 * 2**0.5 / 1000, rel=0.01)


def test_ten_thousand_differences_are_drawn_in_parts() -> None:
    tracemalloc.start()
    paired_difference(noise(1, MAX_BOOTSTRAPPED), noise(2, MAX_BOOTSTRAPPED))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 64e6


def test_a_difference_is_plain_json() -> None:
    record = json.loads(json.dumps(paired_difference(noise(1, 5), noise(2, 5)).to_json()))
    assert sorted(record) == ["high", "level", "low", "mean", "num", "num_better", "num_worse"]


def test_one_pair_has_no_interval() -> None:
    with pytest.raises(AssertionError, match="one difference"):
        paired_difference(np.array([1.0]), np.array([0.0]))
