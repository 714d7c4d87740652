"""The equations of the loss, against values worked by hand, against simulation, and against each other."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from semdis_cli.evaluation.generator import flow


def test_the_path_goes_straight_from_latents_to_noise() -> None:
    latents, noise = torch.full((3, 1, 1, 2), 2.0), torch.full((3, 1, 1, 2), -6.0)
    x_t = flow.interpolate(latents, noise, torch.tensor([0.0, 0.25, 1.0]))
    assert x_t[:, 0, 0, 0].tolist() == [2.0, 0.0, -6.0]  # 0.75 * 2 - 0.25 * 6 = 0


def test_velocity_is_the_derivative_of_the_path() -> None:
    latents, noise = torch.randn((2, 4, 3, 3, 3), generator=torch.Generator().manual_seed(0)).double()
    before, after = (flow.interpolate(latents, noise, torch.full((4,), t).double()) for t in (0.25, 0.75))
    torch.testing.assert_close((after - before) / 0.5, flow.velocity(latents, noise))


def test_the_error_is_a_mean_of_squares_of_each_image() -> None:
    predicted, target = torch.zeros(2, 1, 1, 2), torch.tensor([[[[1.0, 3.0]]], [[[0.0, 2.0]]]])
    assert flow.squared_error(predicted, target).tolist() == [5.0, 2.0]  # (1 + 9) / 2, (0 + 4) / 2
    assert flow.squared_error(predicted.bfloat16(), target).dtype == torch.float32


def test_trivial_errors_are_those_worked_by_hand() -> None:
    t = torch.tensor([0.0, 0.5, 1.0, 0.2])
    # s^2 = 1: 1 / ((1 - t)^2 + t^2), so 1, 2, 1 and 1 / (0.64 + 0.04)
    assert flow.linear_error(t, torch.ones(3)).tolist() == pytest.approx([1, 2, 1, 1 / 0.68])
    # s^2 = 4 at t = 0.5: 4 / (0.25 * 4 + 0.25) = 3.2; with the channel before, (2 + 3.2) / 2
    assert flow.linear_error(t[1:2], torch.tensor([1.0, 4.0])).tolist() == pytest.approx([2.6])
    assert float(flow.constant_error(torch.tensor([1.0, 4.0]))) == pytest.approx(3.5)  # 1 + (1 + 4) / 2


def test_of_a_channel_that_never_changes_nothing_is_left() -> None:
    assert flow.linear_error(torch.tensor([0.0, 0.3, 1.0]), torch.zeros(2)).tolist() == [0, 0, 0]


@given(t=st.floats(0.02, 0.98), variance=st.floats(0.1, 9))
def test_no_linear_prediction_does_better_than_the_formula(t: float, variance: float) -> None:
    generator = torch.Generator().manual_seed(1)
    noise, x = torch.randn((2, 200_000), generator=generator, dtype=torch.float64)
    # Moments exactly those of the formula: mean 0, variance s^2 and 1, no correlation
    noise, x = noise - noise.mean(), x - x.mean()
    noise /= noise.std(correction=0)
    x -= (x * noise).mean() * noise
    x *= variance**0.5 / x.std(correction=0)
    x_t, v = (1 - t) * x + t * noise, noise - x
    fit = torch.linalg.lstsq(x_t[:, None], v[:, None])
    left = float((x_t * fit.solution[0, 0] - v).square().mean())
    formula = flow.linear_error(torch.tensor([t], dtype=torch.float64), torch.tensor([variance], dtype=torch.float64))
    assert float(formula[0]) == pytest.approx(left, rel=1e-6)
    assert left <= float(flow.constant_error(torch.tensor([variance]))) * (1 + 1e-6)
