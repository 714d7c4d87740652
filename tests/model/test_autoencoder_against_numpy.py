"""The whole model, at tiny sizes with weights of which none is negligible, against its float64 NumPy twin.

The state dict's names and shapes are compared at the published sizes too, on the `meta` device: no memory, no values.
"""

import dataclasses
import math
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from semdis_cli.model import diffusion
from semdis_cli.model.autoencoder import FCDMDiffAE
from semdis_cli.model.config import FCDMDiffAEConfig, FCDMDiffAEInferenceConfig
from semdis_cli.model.decoder import DecoderGrid, DecoderSteps
from semdis_cli.settings import Sampler, Schedule
from tests.reference import fcdm
from tests.reference.fcdm import Array, Weights

# Largest error allowed, in units of the root mean square of what is compared. A handful of float32 blocks in a row
# costs 2e-6 to 5e-6. Decoding begins at t=1 with sines of angles up to 1000, which float32 knows to 3e-5: that
# alone costs up to 4e-5, and the error is gone where t is small.
MODEL_TOLERANCE = 1e-5
DECODE_TOLERANCE = 1e-4

# Numbers of blocks that are all different, no two widths equal, an eps that shows.
TINY = FCDMDiffAEConfig(
    patch_size=4,
    model_dim=32,
    encoder_depth=2,
    decoder_depth=6,
    decoder_start_blocks=1,
    decoder_end_blocks=2,
    bottleneck_dim=8,
    adaln_low_rank_rank=5,
    latent_running_stats_eps=1e-3,
)
CONFIGS = {
    "patch 4, kernel 7": TINY,
    "patch 16, kernel 3": dataclasses.replace(
        TINY, patch_size=16, depthwise_kernel_size=3, mlp_ratio=2.3, logsnr_min=-7.0, logsnr_max=9.0
    ),
    "patch 4, folded 2x2": dataclasses.replace(TINY, bottleneck_patchify_mode="patch_2x2"),
    "normed bottleneck": dataclasses.replace(TINY, bottleneck_norm_mode="channel_wise"),
    "deterministic": dataclasses.replace(TINY, bottleneck_posterior_kind="deterministic"),
}
PUBLISHED = FCDMDiffAEConfig()
P32 = dataclasses.replace(PUBLISHED, bottleneck_patchify_mode="patch_2x2")
P32_V2 = dataclasses.replace(PUBLISHED, patch_size=32, model_dim=1024, encoder_depth=8, bottleneck_dim=384)

every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def as_mapping(config: FCDMDiffAEConfig) -> fcdm.Config:
    return cast(fcdm.Config, dataclasses.asdict(config))


def tensor(array: Array) -> Tensor:
    return torch.tensor(array, dtype=torch.float32)


def array(values: Tensor) -> Array:
    result: Array = values.detach().double().numpy()
    return result


def random_array(*shape: int, seed: int, scale: float = 1.0) -> Array:
    """Normal values, exact in float32."""
    values = scale * np.random.default_rng(seed).standard_normal(shape)
    return values.astype(np.float32).astype(np.float64)


def random_images(config: FCDMDiffAEConfig, *, seed: int = 3) -> Array:
    """Two images in [-1,1], wider than high: 6x8 patches."""
    height, width = 6 * config.patch_size, 8 * config.patch_size
    return np.tanh(random_array(2, 3, height, width, seed=seed)).astype(np.float32).astype(np.float64)


def random_latents(*, seed: int = 5) -> Array:
    """For two images of `random_images`' size."""
    return random_array(2, TINY.bottleneck_dim, 6, 8, seed=seed)


def starting_noise(config: FCDMDiffAEConfig) -> Array:
    return random_array(*random_images(config).shape, seed=6, scale=config.pixel_noise_std)


def model_and_weights(config: FCDMDiffAEConfig, seed: int = 0) -> tuple[FCDMDiffAE, Weights]:
    weights = fcdm.random_weights(as_mapping(config), seed)
    model = FCDMDiffAE(config).eval()
    model.load_state_dict({name: tensor(value) for name, value in weights.items()}, strict=True)
    return model, weights


def assert_close(actual: Tensor, expected: Array, *, rtol: float = 1e-6, atol: float = 1e-6) -> None:
    """For single formulas."""
    assert actual.dtype == torch.float32
    np.testing.assert_allclose(array(actual), expected, rtol=rtol, atol=atol)


def assert_same_function(actual: Tensor, expected: Array, tolerance: float = MODEL_TOLERANCE) -> None:
    """For outputs of the model: the largest error against their root mean square."""
    assert_close(actual, expected, rtol=0.0, atol=tolerance * float(np.sqrt(np.mean(expected**2))))


def reference_images(
    latents: Array, noise: Array, weights: Weights, config: FCDMDiffAEConfig, settings: FCDMDiffAEInferenceConfig
) -> Array:
    return fcdm.decode(
        latents,
        noise,
        weights,
        as_mapping(config),
        num_steps=settings.num_steps,
        sampler=settings.sampler,
        schedule=settings.schedule,
        pdg=settings.pdg,
        pdg_strength=settings.pdg_strength,
    )


def psnr_db(a: Tensor, b: Tensor) -> float:
    """Of two images in [-1,1]."""
    return 10.0 * math.log10(4.0 / (a.double() - b.double()).square().mean().item())


# --- names, shapes, sizes -------------------------------------------------------------------------------------------


def test_the_default_config_is_the_published_one() -> None:
    assert as_mapping(PUBLISHED) == fcdm.PUBLISHED_CONFIG


@pytest.mark.parametrize(
    ("config", "num_parameters", "num_tensors"),
    [
        (PUBLISHED, 88_771_328, 140),
        (P32, 88_771_328, 140),
        (P32_V2, 156_636_928, 176),
        (dataclasses.replace(PUBLISHED, bottleneck_posterior_kind="deterministic"), 88_656_512, 140),
    ],
    ids=["semdisdiffae", "p32", "p32_v2", "deterministic"],
)
def test_the_state_dict_has_the_published_names_shapes_and_size(
    config: FCDMDiffAEConfig, num_parameters: int, num_tensors: int
) -> None:
    expected = fcdm.expected_parameter_shapes(as_mapping(config))
    assert len(expected) == num_tensors
    assert fcdm.expected_num_parameters(as_mapping(config)) == num_parameters
    with torch.device("meta"):
        model = FCDMDiffAE(config)
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == expected
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters


def test_the_published_model_stores_128_channels_and_p32_512_of_them() -> None:
    for config, channels in ((PUBLISHED, 128), (P32, 512), (P32_V2, 384)):
        shapes = fcdm.expected_parameter_shapes(as_mapping(config))
        assert shapes["latent_norm_running_mean"] == shapes["latent_norm_running_var"] == (channels,)


def test_a_new_model_whitens_by_almost_nothing_and_knows_its_time_frequencies() -> None:
    state = FCDMDiffAE(TINY).state_dict()
    assert_close(state["latent_norm_running_mean"], np.zeros(8), atol=0.0)
    assert_close(state["latent_norm_running_var"], np.ones(8), atol=0.0)
    assert_close(state["decoder.path_drop_mask_feature"], np.zeros((1, 32, 1, 1)), atol=0.0)
    assert_close(state["decoder.time_embed.freqs"], fcdm.time_frequencies(), rtol=3e-6, atol=0.0)


# --- encoder and decoder --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["patch 4, kernel 7", "patch 16, kernel 3", "normed bottleneck"])
def test_the_raw_posterior_is_the_reference_posterior(name: str) -> None:
    config = CONFIGS[name]
    model, weights = model_and_weights(config)
    images = random_images(config)
    posterior = model.encode_posterior(tensor(images))
    mean, logsnr = fcdm.encoder(images, weights, as_mapping(config))
    assert_same_function(posterior.mean, mean)
    assert_same_function(posterior.logsnr, logsnr)


@every_config
def test_encoding_gives_the_reference_latents(config: FCDMDiffAEConfig) -> None:
    model, weights = model_and_weights(config)
    images = random_images(config)
    assert_same_function(model.encode(tensor(images)), fcdm.encode(images, weights, as_mapping(config)))


def test_the_folded_latents_keep_four_neighbours_of_a_channel_together_row_by_row() -> None:
    config = CONFIGS["patch 4, folded 2x2"]
    model, weights = model_and_weights(config)
    images = random_images(config)
    raw = fcdm.posterior_mode(*fcdm.encoder(images, weights, as_mapping(config)))
    stored = model.dewhiten(model.encode(tensor(images)))
    for channel, dy, dx in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (5, 1, 1)):
        assert_same_function(stored[:, channel * 4 + dy * 2 + dx], raw[:, channel, dy::2, dx::2])


@pytest.mark.parametrize("drop_middle_blocks", [False, True])
@pytest.mark.parametrize("name", ["patch 4, kernel 7", "patch 16, kernel 3"])
@pytest.mark.parametrize(
    ("times", "tolerance"),
    [((1.0, 0.8), DECODE_TOLERANCE), ((0.1875, 0.015625), MODEL_TOLERANCE), ((2.0**-10, 0.0), MODEL_TOLERANCE)],
)
def test_the_decoder_gives_the_reference_prediction_for_each_images_own_time(
    name: str, drop_middle_blocks: bool, times: tuple[float, float], tolerance: float
) -> None:
    config = CONFIGS[name]
    model, weights = model_and_weights(config)
    x_t, latents = random_array(*random_images(config).shape, seed=4), random_latents()
    t = np.array(times, dtype=np.float32).astype(np.float64)
    expected = fcdm.decoder(x_t, t, latents, weights, as_mapping(config), drop_middle_blocks=drop_middle_blocks)
    actual = model.decoder(tensor(x_t), tensor(t), tensor(latents), drop_middle_blocks=drop_middle_blocks)
    assert_same_function(actual, expected, tolerance)


def test_every_weight_moves_the_output_well_beyond_the_tolerances() -> None:
    model, weights = model_and_weights(TINY)
    images, t, latents = tensor(random_images(TINY)), torch.tensor([1.0, 0.1875]), random_latents()
    posterior = model.encoder(images)
    outputs = [posterior.mode()]
    outputs += [model.decoder(images, t, tensor(latents), drop_middle_blocks=drop) for drop in (False, True)]
    generator = torch.Generator().manual_seed(1)
    probes = [(output * torch.randn(output.shape, generator=generator)).sum() for output in outputs]
    torch.stack(probes).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        effect = array(parameter.grad) * weights[name]
        assert np.sqrt(np.square(effect).sum()) > 0.1, name


# --- decoding -------------------------------------------------------------------------------------------------------


@every_config
@pytest.mark.parametrize("pdg", [False, True])
@pytest.mark.parametrize(
    ("num_steps", "sampler", "schedule"),
    [(1, "ddim", "linear"), (1, "dpmpp_2m", "cosine"), (3, "ddim", "cosine"), (4, "dpmpp_2m", "linear")],
)
def test_decoding_gives_the_reference_images(
    config: FCDMDiffAEConfig, pdg: bool, num_steps: int, sampler: Sampler, schedule: Schedule
) -> None:
    model, weights = model_and_weights(config)
    images = random_images(config)
    settings = FCDMDiffAEInferenceConfig(num_steps, sampler, schedule, pdg, pdg_strength=1.7)
    latents = tensor(fcdm.encode(images, weights, as_mapping(config)))
    noise = starting_noise(config)
    actual = model.decode(latents, *images.shape[-2:], inference_config=settings, noise=tensor(noise))
    expected = reference_images(array(latents), noise, weights, config, settings)
    assert_same_function(actual, expected, DECODE_TOLERANCE)


def test_decoding_without_settings_is_one_ddim_step_without_guidance() -> None:
    model, weights = model_and_weights(TINY)
    latents, noise = random_latents(), starting_noise(TINY)
    actual = model.decode(tensor(latents), *noise.shape[-2:], noise=tensor(noise))
    assert_same_function(actual, fcdm.decode(latents, noise, weights, as_mapping(TINY)), DECODE_TOLERANCE)


def test_reconstructing_is_encoding_and_decoding_with_the_seeded_noise() -> None:
    model, weights = model_and_weights(TINY)
    images = random_images(TINY)
    settings = FCDMDiffAEInferenceConfig(num_steps=2, seed=42)
    latents = fcdm.encode(images, weights, as_mapping(TINY))
    expected = reference_images(latents, seeded_noise(images.shape, seed=42), weights, TINY, settings)
    actual = model.reconstruct(tensor(images), inference_config=settings)
    assert_same_function(actual, expected, DECODE_TOLERANCE)


def seeded_noise(shape: tuple[int, ...], seed: int) -> Array:
    """The noise that a seed stands for, read off a model that predicts black: what it returns is sigma(0) noise."""
    model = FCDMDiffAE(dataclasses.replace(TINY, patch_size=1))
    model.load_state_dict({name: torch.zeros_like(value) for name, value in model.state_dict().items()})
    latents = torch.zeros(shape[0], TINY.bottleneck_dim, *shape[-2:])
    images = model.decode(latents, *shape[-2:], inference_config=FCDMDiffAEInferenceConfig(seed=seed))
    return array(images) / 0.006737794


def test_the_starting_noise_is_normal_with_the_published_deviation() -> None:
    noise = seeded_noise((2, 3, 96, 64), seed=0)
    assert noise.mean() == pytest.approx(0.0, abs=0.01)
    assert noise.std() == pytest.approx(0.558, rel=0.02)
    assert np.mean(noise**4) / np.mean(noise**2) ** 2 == pytest.approx(3.0, rel=0.05)
    assert not np.allclose(noise, seeded_noise((2, 3, 96, 64), seed=1))
    assert not np.allclose(noise[0], noise[1])


# --- whitening ------------------------------------------------------------------------------------------------------


@every_config
def test_whitening_is_the_reference_whitening_and_dewhitening_undoes_it(config: FCDMDiffAEConfig) -> None:
    model, weights = model_and_weights(config)
    z = random_array(2, config.latent_channels, 3, 2, seed=7)
    stats = weights["latent_norm_running_mean"], weights["latent_norm_running_var"], config.latent_running_stats_eps
    assert_close(model.whiten(tensor(z)), fcdm.whiten(z, *stats))
    assert_close(model.dewhiten(tensor(z)), fcdm.dewhiten(z, *stats))
    assert_close(model.dewhiten(model.whiten(tensor(z))), z)


# --- bfloat16 -------------------------------------------------------------------------------------------------------


def test_whitening_in_a_bfloat16_model_is_done_in_float32_with_exact_statistics() -> None:
    model, weights = model_and_weights(TINY)
    model.to(torch.bfloat16)
    z = torch.tensor(random_latents(seed=7)).bfloat16()
    stats = weights["latent_norm_running_mean"], weights["latent_norm_running_var"], TINY.latent_running_stats_eps
    assert_close(model.whiten(z), fcdm.whiten(array(z), *stats))
    assert_close(model.dewhiten(z), fcdm.dewhiten(array(z), *stats))


def test_the_posterior_of_a_bfloat16_model_is_float32_from_the_head_on() -> None:
    model, weights = model_and_weights(TINY)
    model.to(torch.bfloat16)
    images = tensor(random_images(TINY))
    posterior = model.encode_posterior(images)
    mode = fcdm.posterior_mode(array(posterior.mean), array(posterior.logsnr))
    assert_close(posterior.mode(), mode)
    stats = weights["latent_norm_running_mean"], weights["latent_norm_running_var"], TINY.latent_running_stats_eps
    assert_close(model.encode(images), fcdm.whiten(mode, *stats), rtol=1e-6, atol=5e-6)


def test_the_time_embedding_of_a_bfloat16_model_knows_its_angles_in_float32() -> None:
    model, weights = model_and_weights(TINY)
    model.to(torch.bfloat16)
    t = np.array([1.0, 0.7, 0.1])
    expected = fcdm.time_embedding(t.astype(np.float32).astype(np.float64), fcdm.below(weights, "decoder.time_embed"))
    actual = array(model.decoder.time_embed(tensor(t)))
    # bfloat16 frequencies would shift most of the phases by whole radians: an error of the order of the values.
    assert np.abs(actual - expected).max() < 0.02 * np.abs(expected).max()


def test_a_bfloat16_decoder_is_told_the_time_in_float32() -> None:
    model, weights = model_and_weights(TINY)
    model.to(torch.bfloat16)
    x_t, latents = (tensor(x).bfloat16() for x in (starting_noise(TINY), random_latents()))
    t = np.array([0.7, 0.1], dtype=np.float32).astype(np.float64)
    expected = fcdm.decoder(array(x_t), t, array(latents), weights, as_mapping(TINY))
    error = array(model.decoder(x_t, tensor(t), latents)) - expected
    # The blocks' roundings cost 0.01; bfloat16 would move t by up to 0.002, which costs 0.06 to 0.09.
    assert np.sqrt(np.mean(error**2)) < 0.025 * np.sqrt(np.mean(expected**2))


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
@pytest.mark.parametrize("pdg", [False, True])
def test_a_bfloat16_decoder_is_guided_and_sampled_in_float32(sampler: Sampler, pdg: bool) -> None:
    model, _ = model_and_weights(TINY)
    model.to(torch.bfloat16)
    latents, noise = tensor(random_latents()), starting_noise(TINY)
    # One step only: in a second one the last bit of x_t could fall on the other side of a rounding to bfloat16.
    x_1 = diffusion.initial_state(tensor(noise)).bfloat16()
    raw = model.dewhiten(latents).bfloat16()
    full, drop = map(array, DecoderSteps(DecoderGrid(model.decoder, torch.ones(1)), raw).predict_both(x_1, 0))
    x0_hat = fcdm.path_drop_guidance(full, drop, 1.7) if pdg else full
    ends = fcdm.vp_logsnr(np.array([1.0, 0.0]))
    expected = fcdm.ddim_step(fcdm.initial_state(noise), x0_hat, ends[0], ends[1])
    settings = FCDMDiffAEInferenceConfig(1, sampler, pdg=pdg, pdg_strength=1.7)
    actual = model.decode(latents, *noise.shape[-2:], inference_config=settings, noise=tensor(noise))
    assert_close(actual, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_the_sampler_takes_bfloat16_predictions_into_float32(sampler: Sampler) -> None:
    target = tensor(random_array(1, 3, 8, 8, seed=1))
    noise = tensor(random_array(1, 3, 8, 8, seed=2, scale=0.558))

    def predict(_x_t: Tensor, t: Tensor) -> Tensor:
        return (target * (0.5 + t)).bfloat16()

    settings = FCDMDiffAEInferenceConfig(5, sampler)
    times = diffusion.time_grid(5, "linear")
    x_0 = diffusion.sample(lambda x_t, step: predict(x_t, times[step]), noise, settings, -10.0, 10.0)
    grid = fcdm.time_grid(5, "linear")
    x_1 = fcdm.initial_state(array(noise))
    expected = fcdm.sample(
        lambda x_t, t: array(predict(tensor(x_t), tensor(t))), x_1, grid, fcdm.vp_logsnr(grid), sampler
    )
    assert_close(x_0, expected, rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize(("num_steps", "floor_db"), [(1, 35.0), (4, 32.0)])
def test_bfloat16_reconstructions_stay_close_to_float32_ones(num_steps: int, floor_db: float) -> None:
    images = tensor(random_images(TINY))
    settings = FCDMDiffAEInferenceConfig(num_steps=num_steps, seed=1)
    full = model_and_weights(TINY)[0].reconstruct(images, inference_config=settings)
    half = model_and_weights(TINY)[0].to(torch.bfloat16).reconstruct(images, inference_config=settings)
    assert half.dtype == torch.float32
    # Eight blocks rounded to eight bits: about 37 dB after one step, 34 dB after four, on outputs of deviation two.
    assert psnr_db(half, full) > floor_db
