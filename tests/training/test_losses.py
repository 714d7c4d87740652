"""Loss terms: numbers worked by hand, the weighting from its definition, and which way the gradients point."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from semdis_cli.training.losses import balanced, latent_scale_loss, sid2_weight, squared_error, variance_expansion_loss

Array = npt.NDArray[np.float64]

limits = pytest.mark.parametrize("limits", [(-10.0, 10.0), (-6.0, 12.0)])
biases = pytest.mark.parametrize("bias", [-2.0, 0.0, 3.0])


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def cosine_logsnr(t: Array, least: float, most: float) -> Array:
    """The truncated cosine schedule (Hoogeboom et al. 2023): alpha / sigma = 1 / tan of an angle that grows with t."""
    first, last = (np.arctan(np.exp(-limit / 2)) for limit in (most, least))
    angle: Array = first + (last - first) * t
    return -2 * np.log(np.tan(angle))


def eps_weight_as_x0_weight(logsnr: Array, bias: float) -> Array:
    """SiD2's sigmoid(bias - logsnr) of the error of eps, for an error of x0, which is alpha^2 / sigma^2 of it."""
    weight: Array = np.exp(logsnr) * sigmoid(bias - logsnr)
    return weight


def integral(values: Array, over: Array) -> float:
    """By the trapezoidal rule."""
    return float(((values[1:] + values[:-1]) / 2 * np.diff(over)).sum())


def gradient_of(loss: Tensor, of: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, of)
    return gradient


# --- SiD2 weighting -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("t", "weight", "rounding"),
    [
        (0.0, 31.3, 0.05),
        (0.1, 1.316, 0.0005),
        (0.25, 0.578, 0.0005),
        (0.5, 0.371, 0.0005),
        (0.75, 0.334, 0.0005),
        (0.9, 0.219, 0.0005),
        (1.0, 0.0105, 0.00005),
    ],
)
def test_the_weights_are_those_of_the_published_recipe(t: float, weight: float, rounding: float) -> None:
    assert sid2_weight(torch.tensor([t])).item() == pytest.approx(weight, abs=rounding)


@limits
@biases
def test_the_weight_is_its_definition_with_the_slope_measured(limits: tuple[float, float], bias: float) -> None:
    t = np.linspace(0, 1, 257)  # exact in float32
    h = 1e-6
    slope = (cosine_logsnr(t + h, *limits) - cosine_logsnr(t - h, *limits)) / (2 * h)
    expected = -0.5 * slope * eps_weight_as_x0_weight(cosine_logsnr(t, *limits), bias)
    weight = sid2_weight(torch.from_numpy(t), bias, *limits)
    assert weight.shape == (257,)
    assert weight.dtype == torch.float32
    np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-4)


@limits
@biases
def test_the_expected_loss_does_not_depend_on_the_schedule(limits: tuple[float, float], bias: float) -> None:
    def error(logsnr: Array) -> Array:  # of a decoder: large where there is noise, and uneven in between
        return sigmoid(-logsnr / 3) + np.exp(-((logsnr - 1) ** 2) / 8)

    t = torch.linspace(0, 1, 200_001)
    times = t.double().numpy()
    on_cosine = integral(sid2_weight(t, bias, *limits).double().numpy() * error(cosine_logsnr(times, *limits)), times)
    least, most = limits
    s = np.linspace(0, 1, 20_001)
    logsnr = most - (most - least) * s  # another schedule, of slope least - most
    on_a_line = integral(-0.5 * (least - most) * eps_weight_as_x0_weight(logsnr, bias) * error(logsnr), s)
    assert on_cosine == pytest.approx(on_a_line, rel=1e-4)


# --- the error of the reconstruction --------------------------------------------------------------------------------


def test_the_squared_error_is_averaged_over_each_image_by_itself() -> None:
    x0, x0_hat = torch.zeros(2, 3, 2, 2), torch.zeros(2, 3, 2, 2)
    x0[0] = 0.5
    x0_hat[1, 2, 0, 1] = -1.2
    errors = squared_error(x0_hat, x0)
    assert errors.tolist() == pytest.approx([0.25, 1.44 / 12])


def test_a_bfloat16_prediction_is_compared_in_float32() -> None:
    x0 = torch.full((1, 3, 2, 2), 1.001)  # bfloat16 would round it to 1
    errors = squared_error(torch.ones(1, 3, 2, 2, dtype=torch.bfloat16), x0)
    assert errors.dtype == torch.float32
    assert errors.item() == pytest.approx(1e-6, rel=1e-3)


# --- balance --------------------------------------------------------------------------------------------------------


def test_balance_0_leaves_the_errors() -> None:
    errors = torch.tensor([0.1, 3.0, 1e-9, 0.0])
    assert torch.equal(balanced(errors, 0.0), errors)


@pytest.mark.parametrize(
    ("power", "expected"),
    [(0.5, [math.sqrt(2.5), 4 * math.sqrt(0.625)]), (1.0, [2.5, 2.5])],  # the mean is 2.5
)
def test_balance_evens_out_errors_by_hand(power: float, expected: list[float]) -> None:
    assert balanced(torch.tensor([1.0, 4.0]), power).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("power", [0.0, 0.3, 0.5, 1.0])
def test_no_gradient_flows_through_the_factor(power: float) -> None:
    errors = torch.tensor([0.01, 0.5, 2.0], requires_grad=True)
    gradient = gradient_of(balanced(errors, power).sum(), errors)
    mean = 2.51 / 3
    assert gradient.tolist() == pytest.approx([(mean / error) ** power for error in (0.01, 0.5, 2.0)], rel=1e-5)


def test_balance_1_has_the_gradient_of_the_mean_log_error() -> None:
    x = torch.tensor([0.3, -1.0, 0.02, 4.0], requires_grad=True)
    mixing = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    errors = (mixing @ x).square() + 0.01  # every error depends on all that is learned
    gradient = gradient_of(balanced(errors, 1.0).mean(), x)
    of_log = gradient_of(((mixing @ x).square() + 0.01).log().mean(), x)
    torch.testing.assert_close(gradient, of_log * errors.detach().mean())


@pytest.mark.parametrize("errors", [[0.0, 0.0], [0.0, 1.0], [0.0, 1e-20, 4.0]])
def test_errors_of_zero_stay_finite_and_add_nothing(errors: list[float]) -> None:
    predicted = torch.tensor(errors, dtype=torch.float64).sqrt().float().requires_grad_()  # of a target of 0
    values = balanced(predicted.square(), 1.0)
    assert values.isfinite().all()
    assert values[0] == 0
    gradient = gradient_of(values.sum(), predicted)
    assert gradient.isfinite().all()
    assert gradient[0] == 0


# --- variance expansion ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("logsnr", [-4.0, 0.0, 2.5, 8.0])
def test_variance_expansion_is_the_negative_log_variance_of_the_posterior(logsnr: float) -> None:
    variance = 1 / (1 + math.exp(logsnr))  # sigma^2 = sigmoid(-logsnr)
    loss = variance_expansion_loss(torch.full((2, 3, 1, 2), logsnr))
    assert loss.shape == ()
    assert loss.item() == pytest.approx(-math.log(variance), rel=1e-6)


def test_variance_expansion_is_averaged_zero_for_noise_and_linear_for_certainty() -> None:
    loss = variance_expansion_loss(torch.tensor([-200.0, 0.0, 200.0, 0.0]).view(1, 2, 1, 2))
    assert loss.item() == pytest.approx((0 + math.log(2) + 200 + math.log(2)) / 4)


def test_variance_expansion_pushes_the_logsnr_down_everywhere() -> None:
    logsnr = torch.tensor([-3.0, 0.0, 3.0, 30.0]).view(1, 4, 1, 1).requires_grad_()
    gradient = gradient_of(variance_expansion_loss(logsnr), logsnr).flatten()
    assert (gradient > 0).all()
    assert gradient.tolist() == pytest.approx([1 / (1 + math.exp(-x)) / 4 for x in (-3.0, 0.0, 3.0, 30.0)], rel=1e-5)


# --- latent scale ---------------------------------------------------------------------------------------------------


def test_the_latent_scale_loss_by_hand() -> None:
    mode = torch.empty(2, 3, 1, 2)
    mode[:, 0] = torch.tensor([[[1.0, -1.0]], [[-1.0, 1.0]]])  # mean square 1: nothing to pay
    mode[:, 1] = math.e  # e^2: log is 2
    mode[:, 2] = torch.tensor([[[0.0, 0.0]], [[0.0, 2 / math.e]]])  # e^-2, in one place out of four
    loss = latent_scale_loss(mode)
    assert loss.shape == ()
    assert loss.item() == pytest.approx((0 + 4 + 4) / 3, rel=1e-4)


def test_the_latent_scale_loss_pulls_small_and_large_channels_towards_1() -> None:
    scales = torch.tensor([0.01, 0.5, 1.0, 2.0, 100.0])
    signs = torch.tensor([1.0, -1.0, 1.0, 1.0]).view(2, 1, 1, 2)
    mode = (signs * scales[None, :, None, None]).requires_grad_()
    outwards = (gradient_of(latent_scale_loss(mode), mode) * mode.detach().sign()).sum(dim=(0, 2, 3))
    assert (outwards[:2] < 0).all()  # descent makes them larger
    assert abs(outwards[2]) < 1e-4
    assert (outwards[3:] > 0).all()


def test_a_channel_of_zeros_has_a_finite_loss_and_gradient() -> None:
    mode = torch.zeros(1, 2, 2, 2, requires_grad=True)
    loss = latent_scale_loss(mode)
    assert loss.isfinite()
    assert gradient_of(loss, mode).isfinite().all()


def test_all_terms_are_float32_for_bfloat16_inputs() -> None:
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)).bfloat16()
    exact = x.float()
    for term in (variance_expansion_loss, latent_scale_loss):
        assert term(x).dtype == torch.float32
        assert torch.equal(term(x), term(exact))
    t = torch.tensor([0.5], dtype=torch.bfloat16)
    assert torch.equal(sid2_weight(t), sid2_weight(t.float()))
