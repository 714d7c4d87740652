"""The diffusion formulas against their float64 NumPy twins, and against what must hold whatever the code."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from semdis_cli.model import diffusion
from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from tests.reference import fcdm
from tests.reference.fcdm import Array

Sampler = Literal["ddim", "dpmpp_2m"]
Schedule = Literal["linear", "cosine"]
SAMPLERS: tuple[Sampler, ...] = ("ddim", "dpmpp_2m")
SCHEDULES: tuple[Schedule, ...] = ("linear", "cosine")

# One float32 formula: a few roundings of 6e-8.
RTOL, ATOL = 1e-6, 1e-6

quick = settings(max_examples=50, deadline=None)
seeds = st.integers(0, 2**32 - 1)
times = st.floats(0.0, 1.0, width=32)
logsnrs = st.floats(-10.0, 10.0, width=32)


def image(seed: int, *, scale: float = 1.0) -> Array:
    """A batch of two "images" [2,3,5,7], exact in float32."""
    values = scale * np.random.default_rng(seed).standard_normal((2, 3, 5, 7))
    return values.astype(np.float32).astype(np.float64)


def tensor(array: Array | Sequence[float] | float) -> Tensor:
    return torch.tensor(array, dtype=torch.float32)


def assert_close(actual: Tensor, expected: Array, *, rtol: float = RTOL, atol: float = ATOL) -> None:
    assert actual.dtype == torch.float32
    np.testing.assert_allclose(actual.double().numpy(), expected, rtol=rtol, atol=atol)


# --- schedule -------------------------------------------------------------------------------------------------------


@given(t=times, low=st.floats(-10.0, -4.0), high=st.floats(4.0, 14.0))
@quick
def test_the_schedule_is_the_reference_schedule(t: float, low: float, high: float) -> None:
    expected = fcdm.vp_logsnr(np.array([t]), low, high)
    # Close to t=1 the tangent multiplies the roundings of its argument (near 1.6) by 2 exp(5).
    assert_close(diffusion.vp_logsnr(tensor([t]), low, high), expected, atol=6e-5)


def test_the_schedule_has_the_published_constants() -> None:
    t = np.linspace(0.0, 1.0, 33)
    angle = 1.55732063673 * t + 0.00673784503
    logsnr = diffusion.vp_logsnr(tensor(t))
    assert_close(logsnr, -2.0 * np.log(np.tan(angle)), atol=3e-5)
    alpha, sigma = diffusion.vp_alpha_sigma(logsnr)
    assert_close(alpha, np.cos(angle))
    assert_close(sigma, np.sin(angle))


def test_the_schedule_runs_from_plus_ten_through_zero_to_minus_ten() -> None:
    logsnr = diffusion.vp_logsnr(tensor([0.0, 0.5, 1.0]))
    assert_close(logsnr, np.array([10.0, 0.0, -10.0]), atol=2e-5)
    alpha, sigma = diffusion.vp_alpha_sigma(logsnr)
    assert_close(alpha, np.array([0.999977, math.sqrt(0.5), 0.006738]), atol=5e-7)
    assert_close(sigma, np.array([0.006738, math.sqrt(0.5), 0.999977]), atol=5e-7)


@given(t=times, later=times)
@quick
def test_the_logsnr_falls_with_time(t: float, later: float) -> None:
    first, second = diffusion.vp_logsnr(tensor([min(t, later), max(t, later)])).tolist()
    assert second <= first
    if abs(t - later) > 1e-4:
        assert second < first


@given(logsnr=st.floats(-30.0, 30.0, width=32))
@quick
def test_alpha_and_sigma_lie_on_the_unit_circle_at_the_given_logsnr(logsnr: float) -> None:
    alpha, sigma = diffusion.vp_alpha_sigma(tensor([logsnr]))
    assert_close(alpha**2 + sigma**2, np.ones(1))
    assert_close(alpha, fcdm.vp_alpha(np.array([logsnr])), rtol=3e-6, atol=0.0)
    assert_close(sigma, fcdm.vp_sigma(np.array([logsnr])), rtol=3e-6, atol=0.0)


# --- forward process ------------------------------------------------------------------------------------------------


@given(seed=seeds, logsnr=st.tuples(logsnrs, logsnrs))
@quick
def test_noise_is_added_with_each_images_own_logsnr(seed: int, logsnr: tuple[float, float]) -> None:
    x0, noise = image(seed), image(seed + 1, scale=0.558)
    expected = fcdm.add_noise(x0, noise, np.array(logsnr)[:, None, None, None])
    assert_close(diffusion.add_noise(tensor(x0), tensor(noise), torch.tensor(logsnr)), expected)


# --- time grid ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 10, 50, 1000])
def test_the_time_grid_falls_from_exactly_one_to_exactly_zero(num_steps: int, schedule: Schedule) -> None:
    grid = diffusion.time_grid(num_steps, schedule)
    assert grid.shape == (num_steps + 1,)
    assert grid[0].item() == 1.0
    assert grid[-1].item() == 0.0
    assert bool((grid.diff() < 0).all())
    assert_close(grid, fcdm.time_grid(num_steps, schedule), rtol=1e-6, atol=1e-7)


def test_the_cosine_grid_is_dense_at_both_ends() -> None:
    expected = [1.0, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125), 0.0]
    assert_close(diffusion.time_grid(4, "cosine"), np.array(expected), rtol=0.0, atol=1e-7)


def test_the_linear_grid_is_even() -> None:
    assert diffusion.time_grid(4, "linear").tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]


@pytest.mark.parametrize("num_steps", [0, -1])
def test_no_steps_make_no_grid(num_steps: int) -> None:
    with pytest.raises(ValueError, match="num_steps"):
        diffusion.time_grid(num_steps, "linear")


# --- single steps ---------------------------------------------------------------------------------------------------


@given(seed=seeds, low=st.floats(-14.0, -2.0))
@quick
def test_the_first_state_is_the_noise_times_sigma_at_time_one(seed: int, low: float) -> None:
    noise = image(seed, scale=0.558)
    expected = noise * math.sqrt(1.0 / (1.0 + math.exp(low)))
    assert_close(diffusion.initial_state(tensor(noise), low, 10.0), expected)
    assert_close(diffusion.initial_state(tensor(noise), low), fcdm.initial_state(noise, low))


@given(seed=seeds, start=st.floats(-10.0, 4.0, width=32), step=st.floats(0.0, 6.0, width=32))
@quick
def test_a_ddim_step_is_the_reference_step(seed: int, start: float, step: float) -> None:
    x_t, x0_hat = image(seed), image(seed + 1)
    end = float(np.float32(start + step))
    expected = fcdm.ddim_step(x_t, x0_hat, np.array(start), np.array(end))
    assert_close(diffusion.ddim_step(tensor(x_t), tensor(x0_hat), tensor(start), tensor(end)), expected, atol=3e-6)


@given(seed=seeds, start=st.floats(-10.0, 4.0, width=32))
@quick
def test_a_ddim_step_to_time_zero_leaves_a_trace_of_noise(seed: int, start: float) -> None:
    x0_hat, eps_hat = image(seed), image(seed + 1, scale=0.558)
    x_t = fcdm.add_noise(x0_hat, eps_hat, np.array(start))
    end = diffusion.vp_logsnr(tensor(0.0))
    x_0 = diffusion.ddim_step(tensor(x_t), tensor(x0_hat), tensor(start), end)
    assert_close(x_0, 0.99997730 * x0_hat + 0.00673779 * eps_hat, atol=2e-6)


@given(seed=seeds, start=st.floats(-10.0, 4.0, width=32), step=st.floats(0.0, 6.0, width=32))
@quick
def test_the_first_dpmpp_step_is_the_reference_step_and_a_ddim_step(seed: int, start: float, step: float) -> None:
    x_t, x0_hat = image(seed), image(seed + 1)
    end = float(np.float32(start + step))
    actual = diffusion.dpmpp_2m_step(tensor(x_t), tensor(x0_hat), tensor(start), tensor(end))
    assert_close(actual, fcdm.dpmpp_2m_first_step(x_t, x0_hat, np.array(start), np.array(end)), atol=3e-6)
    assert_close(actual, fcdm.ddim_step(x_t, x0_hat, np.array(start), np.array(end)), atol=3e-6)


@given(
    seed=seeds,
    start=st.floats(-6.0, 4.0, width=32),
    step=st.floats(0.125, 6.0, width=32),
    step_before=st.floats(0.125, 4.0, width=32),
)
@quick
def test_a_later_dpmpp_step_is_the_reference_step(seed: int, start: float, step: float, step_before: float) -> None:
    arrays = image(seed), image(seed + 1), image(seed + 2)
    levels = np.array([[start - step_before], [start], [start + step]], dtype=np.float32).astype(np.float64)
    expected = fcdm.dpmpp_2m_later_step(arrays[0], arrays[1], levels[1], levels[2], arrays[2], levels[0])
    x_t, x0_hat, x0_hat_prev = (tensor(x) for x in arrays)
    prev, now, after = (tensor(level[0]) for level in levels)
    actual = diffusion.dpmpp_2m_step(x_t, x0_hat, now, after, x0_hat_prev, prev)
    # 1/r grows to 48, and with it what the rounding of the two logsnr differences does.
    assert_close(actual, expected, rtol=1e-5, atol=3e-6 * max(1.0, step / step_before))


@given(seed=seeds, pdg_strength=st.floats(-1.0, 5.0, width=32))
@quick
def test_path_drop_guidance_is_the_reference_guidance(seed: int, pdg_strength: float) -> None:
    x0_full, x0_drop = image(seed), image(seed + 1)
    actual = diffusion.path_drop_guidance(tensor(x0_full), tensor(x0_drop), pdg_strength)
    assert_close(actual, fcdm.path_drop_guidance(x0_full, x0_drop, pdg_strength), atol=3e-6)


def test_path_drop_guidance_of_strength_two_goes_as_far_again() -> None:
    assert_close(diffusion.path_drop_guidance(tensor([3.0]), tensor([1.0]), 2.0), np.array([5.0]), atol=0.0)


# --- whole trajectories ---------------------------------------------------------------------------------------------


def run_sampler(
    noise: Array, predict: Callable[[Tensor, Tensor], Tensor], num_steps: int, sampler: Sampler, schedule: Schedule
) -> Tensor:
    """`predict(x_t, t)`: from the time, not from its place in the grid."""
    config = FCDMDiffAEInferenceConfig(num_steps=num_steps, sampler=sampler, schedule=schedule)
    times = diffusion.time_grid(num_steps, schedule)
    return diffusion.sample(lambda x_t, step: predict(x_t, times[step]), tensor(noise), config, -10.0, 10.0)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@given(seed=seeds, num_steps=st.integers(1, 12))
@quick
def test_a_constant_prediction_is_reached_exactly_by_any_sampler(
    sampler: Sampler, schedule: Schedule, seed: int, num_steps: int
) -> None:
    x0_hat, noise = image(seed), image(seed + 1, scale=0.558)
    actual = run_sampler(noise, lambda _x_t, _t: tensor(x0_hat), num_steps, sampler, schedule)
    # The path through x_1 = sigma_1 noise towards x0_hat: its noise is (x_1 - alpha_1 x0_hat)/sigma_1 throughout.
    alpha_1, sigma_1 = math.cos(1.55732063673 + 0.00673784503), math.sin(1.55732063673 + 0.00673784503)
    exact = sigma_1 * x0_hat + alpha_1 * (noise - alpha_1 / sigma_1 * x0_hat)
    assert_close(actual, exact, rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 2, 5, 10])
def test_a_changing_prediction_gives_the_reference_trajectory(
    sampler: Sampler, schedule: Schedule, num_steps: int
) -> None:
    target, noise = image(1), image(2, scale=0.558)
    grid = fcdm.time_grid(num_steps, schedule)
    x_1 = fcdm.initial_state(noise)
    expected = fcdm.sample(
        lambda x_t, t: np.sin(x_t) * (1.0 - t) + target * t, x_1, grid, fcdm.vp_logsnr(grid), sampler
    )
    actual = run_sampler(
        noise, lambda x_t, t: torch.sin(x_t) * (1.0 - t) + tensor(target) * t, num_steps, sampler, schedule
    )
    assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def gaussian_error(num_steps: int, sampler: Sampler, *, data_std: float = 0.3, noise_std: float = 0.558) -> float:
    """How far a sampler with the ideal prediction for Gaussian data ends from the exact solution, relatively.

    For x0 ~ N(0, c^2) the ideal x0_hat is alpha c^2 x_t / (alpha^2 c^2 + sigma^2 s^2), and the probability-flow ODE
    only rescales: x_t keeps its ratio to the marginal standard deviation.
    """

    def marginal_var(alpha: Tensor, sigma: Tensor) -> Tensor:
        return (alpha * data_std) ** 2 + (sigma * noise_std) ** 2

    def ideal(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = diffusion.vp_alpha_sigma(diffusion.vp_logsnr(t))
        return alpha * data_std**2 * x_t / marginal_var(alpha, sigma)

    noise = np.full((1, 1, 1, 1), noise_std)
    alpha, sigma = diffusion.vp_alpha_sigma(diffusion.vp_logsnr(tensor([1.0, 0.0])))
    std_1, std_0 = marginal_var(alpha, sigma).sqrt().tolist()
    exact = float(sigma[0]) * noise_std * std_0 / std_1
    (reached,) = run_sampler(noise, ideal, num_steps, sampler, "linear").flatten().tolist()
    error: float = abs(reached / exact - 1.0)
    return error


def test_twice_the_steps_halve_the_error_of_ddim_and_quarter_that_of_dpmpp_2m() -> None:
    ddim, dpmpp = ([gaussian_error(n, sampler) for n in (20, 40)] for sampler in SAMPLERS)
    assert ddim[0] / ddim[1] == pytest.approx(2.0, rel=0.1)
    assert dpmpp[0] / dpmpp[1] == pytest.approx(4.0, rel=0.25)
    assert dpmpp[1] < ddim[1]


@pytest.mark.parametrize("with_previous", [False, True])
def test_steps_take_one_log_snr_per_image(with_previous: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    x_t, x0, previous = (torch.randn(2, 3, 4, 2, generator=generator) for _ in range(3))
    now, then, before = torch.tensor([-3.0, 1.0]), torch.tensor([-1.0, 2.5]), torch.tensor([-4.0, 0.5])
    together = diffusion.dpmpp_2m_step(x_t, x0, now, then, *((previous, before) if with_previous else ()))
    for i in range(2):
        single = (previous[i : i + 1], before[i]) if with_previous else ()
        alone = diffusion.dpmpp_2m_step(x_t[i : i + 1], x0[i : i + 1], now[i], then[i], *single)
        torch.testing.assert_close(together[i : i + 1], alone)
        ddim = diffusion.ddim_step(x_t[i : i + 1], x0[i : i + 1], now[i], then[i])
        torch.testing.assert_close(diffusion.ddim_step(x_t, x0, now, then)[i : i + 1], ddim)
