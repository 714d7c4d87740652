"""Figures of curves, against values worked by hand and SciPy's."""

import pytest
import torch

from semdis_cli.evaluation.generator.settings import GeneratorSettings
from semdis_cli.evaluation.generator.summary import Interval, SetCurves, difference, over_seeds, steps_to
from semdis_cli.evaluation.generator.train import Point


def curve(*losses: float, step: int = 10) -> tuple[Point, ...]:
    """Points 10 steps from each other, of which the second half of time has twice the loss of the first."""
    return tuple(
        Point(number * step, None if number == 0 else loss, (loss * 2 / 3, loss * 4 / 3))
        for number, loss in enumerate(losses)
    )


def test_an_interval_is_students() -> None:
    found = Interval.of([1.0, 2.0, 6.0])  # mean 3, s^2 = (4 + 1 + 9) / 2 = 7, t = 4.3027, s / sqrt 3 = 1.5275
    assert (found.mean, found.low, found.high) == pytest.approx((3, 3 - 6.5724, 3 + 6.5724), abs=1e-3)
    assert Interval.of([2.0]) == Interval(2.0, None, None)
    assert Interval.of([2.0] * 10) == Interval(2.0, 2.0, 2.0)


@pytest.mark.parametrize("number", range(2, 11))
def test_quantiles_are_those_of_the_t_distribution(number: int) -> None:
    """The quantile is where the density's integral from 0, by 20,000 steps, is 0.475."""
    found = Interval.of([*[0.0] * (number - 1), float(number)])
    assert found.high is not None
    standard_error = (sum([(0.0 - 1) ** 2] * (number - 1), (number - 1) ** 2) / (number - 1) / number) ** 0.5
    t, degrees = (found.high - 1) / standard_error, number - 1
    x = torch.linspace(0, t, 20_001, dtype=torch.float64)
    half = torch.tensor([degrees / 2, (degrees + 1) / 2], dtype=torch.float64).lgamma()
    density = (half[1] - half[0]).exp() / (degrees * torch.pi) ** 0.5 * (1 + x**2 / degrees) ** (-(degrees + 1) / 2)
    assert float(torch.trapezoid(density, x)) == pytest.approx(0.475, abs=1e-4)


def test_losses_are_relative_to_what_the_linear_prediction_leaves() -> None:
    one = SetCurves("a", (curve(3.0, 1.5), curve(3.0, 0.75)), linear=(1.0, 2.0), constant=3.0)
    assert one.relative() == [[2.0, 1.0], [2.0, 0.5]]
    assert one.relative_at(1).mean == 0.75
    by_time = [interval.mean for interval in one.last_by_time()]
    assert by_time == pytest.approx([0.75, 0.75])  # (1 + 0.5) / 2 / 1 and (2 + 1) / 2 / 2
    fields = one.to_json(batch_size=8)
    assert [point["images_seen"] for point in fields["points"]] == [0, 80]
    assert fields["points"][0]["train_loss"] is None
    assert fields["points"][1]["share_of_variance"]["mean"] == pytest.approx(1.125 / 3)
    assert [bin_["t"] for bin_ in fields["by_time"]] == [[0.0, 0.5], [0.5, 1.0]]


def test_steps_to_a_loss_lie_on_the_straight_line_between_points() -> None:
    assert steps_to([0, 10, 30], [4.0, 3.0, 1.0], 2.0) == 20
    assert steps_to([0, 10, 30], [4.0, 3.0, 1.0], 1.0) == 30
    assert steps_to([0, 10, 30], [4.0, 3.0, 1.0], 5.0) == 0
    assert steps_to([0, 10, 30], [4.0, 3.0, 1.0], 0.5) is None
    assert steps_to([0, 10, 30, 40], [4.0, 1.0, 3.0, 0.0], 2.0) == pytest.approx(20 / 3)  # the first time


def test_a_drop_is_a_share_of_the_curves_own_way() -> None:
    one = SetCurves("a", (curve(3.0, 2.0, 1.0, 1.5),), linear=(1.0, 1.0), constant=2.0)
    drops = one.to_json(1)["steps_to_share_of_own_drop"]
    assert {share: found["mean"] for share, found in drops.items()} == pytest.approx({"0.5": 10, "0.8": 16, "0.95": 19})


def test_sets_are_compared_seed_by_seed() -> None:
    slow = SetCurves("slow", (curve(4.0, 3.0, 2.0), curve(5.0, 4.0, 3.0)), (1.0, 1.0), 2.0)
    fast = SetCurves("fast", (curve(4.0, 2.0, 1.0), curve(5.0, 3.0, 2.0)), (1.0, 1.0), 2.0)
    found = difference(fast, slow)
    assert found["relative_loss"] == {"mean": -1.0, "low": -1.0, "high": -1.0}  # of both seeds
    assert found["relative_loss_at_first"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert found["steps_to_its_last_loss"]["mean"] == 10
    assert difference(slow, fast)["steps_to_its_last_loss"] is None
    assert over_seeds([1.0, None]) is None


def test_points_are_dense_at_first_and_end_at_the_last_step() -> None:
    def steps(num_steps: int, num_points: int) -> tuple[int, ...]:
        return GeneratorSettings(num_steps=num_steps, num_points=num_points).point_steps

    assert steps(100, 5) == (0, 4, 16, 36, 64, 100)
    assert steps(3, 24) == (0, 1, 2, 3)
    assert steps(1, 1) == (0, 1)
