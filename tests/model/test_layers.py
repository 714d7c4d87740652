"""Each layer against its float64 NumPy twin, and its parameters as they are when new."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from semdis_cli.model.layers import (
    GRN,
    AdaLNScaleGateZeroLowRankDelta,
    AdaLNScaleGateZeroProjector,
    ChannelWiseRMSNorm,
    FCDMBlock,
    Patchify,
    SinusoidalTimeEmbeddingMLP,
)
from semdis_cli.model.posterior import EncoderPosterior
from tests.reference import fcdm
from tests.reference.fcdm import Array

# A layer is a few float32 sums of up to some hundred terms of the order of one.
RTOL, ATOL = 2e-6, 2e-6

quick = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 9)


def random_array(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    """Normal values, exact in float32."""
    values = scale * np.random.default_rng(seed).standard_normal(shape)
    return values.astype(np.float32).astype(np.float64)


def tensor(array: Array) -> Tensor:
    return torch.tensor(array, dtype=torch.float32)


def assert_close(actual: Tensor, expected: Array, *, rtol: float = RTOL, atol: float = ATOL) -> None:
    assert actual.dtype == torch.float32
    np.testing.assert_allclose(actual.detach().double().numpy(), expected, rtol=rtol, atol=atol)


def randomise(module: nn.Module, seed: int = 0) -> dict[str, Array]:
    """Give every parameter values far from zero (matrices scaled by their fan-in), and return the state dict."""
    rng = np.random.default_rng(seed)
    for parameter in module.parameters():
        scale = 1.0 / math.sqrt(math.prod(parameter.shape[1:])) if parameter.squeeze().ndim > 1 else 0.7
        parameter.data = tensor(scale * rng.standard_normal(tuple(parameter.shape)))
    return {name: value.detach().double().numpy() for name, value in module.state_dict().items()}


# --- patchify -------------------------------------------------------------------------------------------------------


@given(seed=seeds, height=st.integers(1, 4), width=st.integers(1, 4), patch_size=st.sampled_from([1, 2, 4]))
@quick
def test_patchify_is_the_reference_patchify(seed: int, height: int, width: int, patch_size: int) -> None:
    layer = Patchify(3, patch_size, 8)
    weights = randomise(layer, seed)
    images = random_array(2, 3, height * patch_size, width * patch_size, seed=seed)
    assert_close(layer(tensor(images)), fcdm.patchify(images, weights, patch_size))


def test_patchify_takes_colour_first_then_row_then_column_of_the_patch() -> None:
    layer = Patchify(3, 16, 768)
    layer.proj.load_state_dict({"weight": torch.eye(768)[:, :, None, None], "bias": torch.zeros(768)})
    images = tensor(random_array(1, 3, 32, 48))
    features = layer(images)
    for colour, y, x in ((0, 0, 0), (0, 0, 15), (0, 15, 0), (1, 3, 7), (2, 15, 15)):
        assert torch.equal(features[:, colour * 256 + y * 16 + x], images[:, colour, y::16, x::16])


@given(seed=seeds, height=st.integers(1, 4), width=st.integers(1, 4), patch_size=st.sampled_from([1, 2, 4]))
@quick
def test_unpatchify_with_identity_weights_undoes_patchify(seed: int, height: int, width: int, patch_size: int) -> None:
    width_of_features = 3 * patch_size**2
    identity = {"weight": np.eye(width_of_features)[:, :, None, None], "bias": np.zeros(width_of_features)}
    layer = Patchify(3, patch_size, width_of_features)
    layer.proj.load_state_dict({name: tensor(value) for name, value in identity.items()})
    images = random_array(2, 3, height * patch_size, width * patch_size, seed=seed)
    features = layer(tensor(images))
    assert_close(nn.PixelShuffle(patch_size)(features), images, rtol=0.0, atol=0.0)
    assert_close(features, fcdm.pixel_unshuffle(images, patch_size), rtol=0.0, atol=0.0)
    np.testing.assert_array_equal(fcdm.unpatchify(features.detach().numpy(), identity, patch_size), images)


# --- norms ----------------------------------------------------------------------------------------------------------


@given(seed=seeds, channels=st.integers(1, 40), height=sides, width=sides, scale=st.sampled_from([1e-3, 1.0, 50.0]))
@quick
def test_rms_norm_is_the_reference_norm(seed: int, channels: int, height: int, width: int, scale: float) -> None:
    x = random_array(2, channels, height, width, seed=seed, scale=scale)  # at 1e-3 the mean square is as small as eps
    assert_close(ChannelWiseRMSNorm(channels, affine=False)(tensor(x)), fcdm.channel_wise_rms_norm(x))
    layer = ChannelWiseRMSNorm(channels)
    weights = randomise(layer, seed)
    assert_close(layer(tensor(x)), fcdm.channel_wise_rms_norm(x, weights))


@given(seed=seeds, channels=st.integers(1, 40), height=sides, width=sides, scale=st.sampled_from([1e-3, 1.0, 50.0]))
@quick
def test_the_mean_square_that_cuda_computes_is_the_same(
    seed: int, channels: int, height: int, width: int, scale: float
) -> None:
    x = tensor(random_array(2, channels, height, width, seed=seed, scale=scale))
    found = ChannelWiseRMSNorm(channels, affine=False)._by_norm(x)
    assert found.dtype == torch.float32
    assert_close(found, x.double().square().mean(dim=1, keepdim=True).numpy())


def test_where_all_is_zero_the_mean_square_that_cuda_computes_has_a_gradient() -> None:
    x = torch.zeros(1, 4, 2, 2, requires_grad=True)
    layer = ChannelWiseRMSNorm(4, affine=False)
    (x * torch.rsqrt(layer._by_norm(x) + layer.eps)).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.full_like(x, 1e3))  # 1 / sqrt(eps), and not NaN


def test_a_new_rms_norm_has_weight_one_and_bias_zero_or_no_tensors() -> None:
    layer = ChannelWiseRMSNorm(5)
    assert layer.weight is not None
    assert layer.bias is not None
    assert layer.weight.tolist() == [1.0] * 5
    assert layer.bias.tolist() == [0.0] * 5
    assert not ChannelWiseRMSNorm(5, affine=False).state_dict()


def test_rms_norm_of_large_bfloat16_values_stays_close_to_the_exact_norm() -> None:
    x = torch.tensor(random_array(1, 512, 3, 2, scale=1000.0)).bfloat16()
    y = ChannelWiseRMSNorm(512, affine=False)(x)
    assert y.dtype == torch.bfloat16
    # One rounding to bfloat16 (2^-8 relative) of the factor, one of the product.
    np.testing.assert_allclose(y.double().numpy(), fcdm.channel_wise_rms_norm(x.double().numpy()), rtol=2.01 * 2**-8)


@given(seed=seeds, channels=st.integers(1, 24), height=sides, width=sides)
@quick
def test_grn_is_the_reference_grn(seed: int, channels: int, height: int, width: int) -> None:
    layer = GRN(channels)
    weights = randomise(layer, seed)
    x = random_array(2, channels, height, width, seed=seed)
    assert_close(layer(tensor(x)), fcdm.grn(x, weights))


@given(seed=seeds, channels=st.integers(1, 24), height=sides, width=sides)
@quick
def test_what_cuda_computes_of_grn_is_the_reference_too(seed: int, channels: int, height: int, width: int) -> None:
    layer = GRN(channels)
    weights = randomise(layer, seed)
    x = random_array(2, channels, height, width, seed=seed)
    assert_close(layer._scaled(tensor(x)), fcdm.grn(x, weights))


def test_what_cuda_computes_of_grn_in_bfloat16_is_nearer_to_the_reference() -> None:
    layer = GRN(32)
    weights = randomise(layer)
    x = tensor(random_array(2, 32, 8, 8)).bfloat16()
    expected = torch.from_numpy(fcdm.grn(x.double().numpy(), weights))
    plain, scaled = ((y.double() - expected).square().mean() for y in (layer(x), layer._scaled(x)))
    assert scaled < plain


def test_grn_of_a_nearly_black_input_shows_where_eps_is_added() -> None:
    layer = GRN(6)
    weights = randomise(layer)
    layer.beta.data.zero_()
    weights["beta"] = np.zeros((1, 6, 1, 1))
    x = random_array(2, 6, 3, 5, scale=1e-7)
    assert_close(layer(tensor(x)), fcdm.grn(x, weights), rtol=5e-6, atol=1e-14)


def test_a_new_grn_is_the_identity() -> None:
    x = tensor(random_array(2, 6, 3, 5))
    assert torch.equal(GRN(6)(x), x)


# --- block ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel_size", [3, 7])
@pytest.mark.parametrize("mlp_ratio", [4.0, 2.3])
@given(seed=seeds, height=sides, width=sides)
@quick
def test_an_encoder_block_is_the_reference_block(
    kernel_size: int, mlp_ratio: float, seed: int, height: int, width: int
) -> None:
    block = FCDMBlock(12, mlp_ratio, depthwise_kernel_size=kernel_size)
    weights = randomise(block, seed)
    assert weights["pwconv1.weight"].shape == (int(12 * mlp_ratio), 12, 1, 1)
    x = random_array(2, 12, height, width, seed=seed)
    assert_close(block(tensor(x)), fcdm.fcdm_block(x, weights), rtol=5e-6, atol=5e-6)


@pytest.mark.parametrize("kernel_size", [3, 7])
@given(seed=seeds, height=sides, width=sides)
@quick
def test_a_decoder_block_is_the_reference_block(kernel_size: int, seed: int, height: int, width: int) -> None:
    block = FCDMBlock(12, 4.0, depthwise_kernel_size=kernel_size, use_external_adaln=True)
    weights = randomise(block, seed)
    x, adaln_m = random_array(2, 12, height, width, seed=seed), random_array(2, 24, seed=seed + 1)
    expected = fcdm.fcdm_block(x, weights, adaln_m)
    assert_close(block(tensor(x), adaln_m=tensor(adaln_m)), expected, rtol=5e-6, atol=1e-5)


def test_a_block_with_a_norm_eps_of_its_own_uses_it() -> None:
    block = FCDMBlock(12, 4.0, norm_eps=0.5)
    weights = randomise(block)
    x = random_array(1, 12, 4, 5)
    assert not np.allclose(block(tensor(x)).detach().numpy(), fcdm.fcdm_block(x, weights), atol=1e-2)


def test_a_new_encoder_block_has_the_published_tensors_and_a_small_layer_scale() -> None:
    block = FCDMBlock(12, 4.0)
    names = ["dwconv.weight", "dwconv.bias", "pwconv1.weight", "pwconv1.bias", "grn.gamma", "grn.beta"]
    assert sorted(block.state_dict()) == sorted([*names, "pwconv2.weight", "pwconv2.bias", "layer_scale"])
    assert_close(block.state_dict()["layer_scale"], np.full(12, 1e-3))


def test_a_decoder_block_has_no_layer_scale_and_is_closed_by_a_zero_gate() -> None:
    block = FCDMBlock(12, 4.0, use_external_adaln=True)
    assert "layer_scale" not in block.state_dict()
    x = tensor(random_array(2, 12, 4, 5))
    assert torch.equal(block(x, adaln_m=torch.zeros(2, 24)), x)


# --- time and modulation --------------------------------------------------------------------------------------------


def test_the_time_frequencies_fall_from_one_to_one_ten_thousandth() -> None:
    freqs = SinusoidalTimeEmbeddingMLP(8).freqs
    assert freqs.shape == (128,)
    assert freqs[0].item() == 1.0
    assert freqs[-1].item() == pytest.approx(1e-4, rel=1e-5)
    assert_close(freqs, fcdm.time_frequencies(), atol=0.0, rtol=3e-6)


@given(seed=seeds, t=st.lists(st.floats(0.0, 1.0, width=32), min_size=1, max_size=4))
@quick
def test_the_time_embedding_is_the_reference_embedding(seed: int, t: list[float]) -> None:
    layer = SinusoidalTimeEmbeddingMLP(8)
    weights = randomise(layer, seed)
    expected = fcdm.time_embedding(np.array(t), weights)
    # An angle near 1000 is rounded by 3e-5, and so are the sines and cosines of it.
    assert_close(layer(torch.tensor(t)), expected, atol=2e-5)


def test_the_time_embedding_of_small_times_is_exact() -> None:
    layer = SinusoidalTimeEmbeddingMLP(8)
    weights = randomise(layer)
    t = np.array([0.0, 0.0009765625, 0.00390625])  # below t = 0.004 the angles are too small to be rounded much
    assert_close(layer(tensor(t)), fcdm.time_embedding(t, weights))


@given(seed=seeds)
@quick
def test_the_shared_and_the_low_rank_modulation_are_the_reference_ones(seed: int) -> None:
    base = AdaLNScaleGateZeroProjector(8, 8)
    delta = AdaLNScaleGateZeroLowRankDelta(d_model=8, d_cond=8, rank=3)
    base_weights, delta_weights = randomise(base, seed), randomise(delta, seed + 1)
    act_cond = random_array(2, 8, seed=seed)
    assert_close(base.forward_activated(tensor(act_cond)), fcdm.adaln_base(act_cond, base_weights))
    assert_close(delta.forward_activated(tensor(act_cond)), fcdm.adaln_low_rank_delta(act_cond, delta_weights))


def test_a_new_modulation_is_zero_and_has_the_published_tensors() -> None:
    base = AdaLNScaleGateZeroProjector(8, 6)
    delta = AdaLNScaleGateZeroLowRankDelta(d_model=8, d_cond=6, rank=3)
    act_cond = tensor(random_array(2, 6))
    assert torch.equal(base.forward_activated(act_cond), torch.zeros(2, 16))
    assert torch.equal(delta.forward_activated(act_cond), torch.zeros(2, 16))
    assert {name: tuple(value.shape) for name, value in base.state_dict().items()} == {
        "proj.weight": (16, 6),
        "proj.bias": (16,),
    }
    assert {name: tuple(value.shape) for name, value in delta.state_dict().items()} == {
        "down.weight": (3, 6),
        "up.weight": (16, 3),
    }


def test_a_new_low_rank_delta_can_learn_because_its_down_projection_is_not_zero() -> None:
    down = AdaLNScaleGateZeroLowRankDelta(d_model=64, d_cond=64, rank=64).down.weight
    assert down.std().item() == pytest.approx(0.02, rel=0.1)


# --- posterior ------------------------------------------------------------------------------------------------------


def posterior_arrays(seed: int) -> tuple[Array, Array]:
    return random_array(2, 4, 3, 5, seed=seed), random_array(2, 4, 3, 5, seed=seed + 1, scale=5.0)


@given(seed=seeds)
@quick
def test_the_posterior_mode_is_the_reference_mode(seed: int) -> None:
    mean, logsnr = posterior_arrays(seed)
    posterior = EncoderPosterior(tensor(mean), tensor(logsnr))
    assert_close(posterior.mode(), fcdm.posterior_mode(mean, logsnr))
    assert_close(posterior.alpha, fcdm.vp_alpha(logsnr), rtol=3e-6, atol=0.0)
    assert_close(posterior.sigma, fcdm.vp_sigma(logsnr), rtol=3e-6, atol=0.0)


@given(seed=st.integers(0, 2**31))
@quick
def test_a_posterior_sample_is_the_mode_plus_sigma_times_seeded_noise(seed: int) -> None:
    mean, logsnr = posterior_arrays(seed)

    def sample(mean: Array, logsnr: Array) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return EncoderPosterior(tensor(mean), tensor(logsnr)).sample(generator=generator)

    eps = sample(np.zeros_like(mean), np.full_like(logsnr, -80.0)).double().numpy()  # sigma = 1: nothing but the noise
    assert_close(sample(mean, logsnr), fcdm.posterior_sample(mean, logsnr, eps))


def test_the_noise_of_a_posterior_sample_is_standard_normal() -> None:
    zeros = torch.zeros(1, 8, 64, 64)
    eps = EncoderPosterior(zeros, zeros - 80.0).sample(generator=torch.Generator().manual_seed(0))
    assert eps.mean().item() == pytest.approx(0.0, abs=0.02)
    assert eps.std().item() == pytest.approx(1.0, abs=0.02)


def test_bfloat16_posteriors_are_evaluated_in_float32_and_rounded_once() -> None:
    shape = (1, 16, 32, 32)
    mean, logsnr = (torch.tensor(random_array(*shape, seed=s, scale=2.0)).bfloat16() for s in (1, 2))
    posterior = EncoderPosterior(mean, logsnr)
    expected = torch.tensor(fcdm.posterior_mode(mean.double().numpy(), logsnr.double().numpy())).bfloat16()
    assert posterior.alpha.dtype == posterior.sigma.dtype == torch.float32
    assert posterior.mode().dtype == torch.bfloat16
    # Arithmetic in bfloat16 would round three times and miss about half of the values by one place.
    assert (posterior.mode() == expected).double().mean().item() > 0.999


def test_the_posterior_of_an_extreme_logsnr_is_finite() -> None:
    mean, logsnr = torch.ones(3), torch.tensor([-1e4, 0.0, 1e4])
    posterior = EncoderPosterior(mean, logsnr)
    assert_close(posterior.mode(), np.array([0.0, math.sqrt(0.5), 1.0]))
    assert_close(posterior.sigma, np.array([1.0, math.sqrt(0.5), 0.0]))
