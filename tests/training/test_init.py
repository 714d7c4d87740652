"""The model in closed form: the numbers of a principal component analysis, inside the published architecture."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from semdis_cli.errors import UsageError
from semdis_cli.events import RunFinished
from semdis_cli.images.loader import Loader
from semdis_cli.model import diffusion
from semdis_cli.model.autoencoder import FCDMDiffAE
from semdis_cli.model.config import FCDMDiffAEConfig, FCDMDiffAEInferenceConfig
from semdis_cli.model.layers import FCDMBlock
from semdis_cli.model.pixels import images_to_float
from semdis_cli.settings import LoadSettings
from semdis_cli.sources.find import find_images
from semdis_cli.training.init import PatchMoments, closed_form_model, init_model
from semdis_cli.training.settings import InitSettings, StoredDtype
from tests.worlds import tiny_config

Array = npt.NDArray[np.float64]
PATCH_PX = 8  # 192 values a patch: quick, and more than the model is wide
TEN_GUIDED_STEPS = FCDMDiffAEInferenceConfig(10, pdg=True, pdg_strength=2.0, seed=1)


def config_of(**changes: Any) -> FCDMDiffAEConfig:
    return tiny_config(patch_size=PATCH_PX, **changes)


def smooth_images(count: int = 8, *, seed: int = 0) -> Tensor:
    """Random images [B,3,96,96] uint8, uneven on three scales, as photographs are."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.zeros(count, 3, 96, 96)
    for side, amplitude in ((6, 60.0), (24, 25.0), (96, 4.0)):
        noise = amplitude * torch.randn(count, 3, side, side, generator=generator)
        x += functional.interpolate(noise, (96, 96), mode="bicubic", antialias=False)
    return (x + 118).round().clamp(0, 255).to(torch.uint8)


def moments_of(images: Tensor, patch_px: int = PATCH_PX) -> PatchMoments:
    moments = PatchMoments(patch_px)
    for image in images:
        moments.add(image)
    return moments


def patches_of(images: Array, patch_px: int = PATCH_PX) -> Array:
    """[B,3,H,W] -> [n, 3*P*P]."""
    b, c, height, width = images.shape
    grid = images.reshape(b, c, height // patch_px, patch_px, width // patch_px, patch_px)
    return grid.transpose(0, 2, 4, 1, 3, 5).reshape(-1, c * patch_px**2)


def images_of(patches: Array, like: Array, patch_px: int = PATCH_PX) -> Array:
    b, c, height, width = like.shape
    grid = patches.reshape(b, height // patch_px, width // patch_px, c, patch_px, patch_px)
    return grid.transpose(0, 3, 1, 4, 2, 5).reshape(like.shape)


def project(images: Array, num_components: int) -> Array:
    """Each patch onto the leading components of all of them, by singular values and not by moments."""
    patches = patches_of(images)
    mean = patches.mean(0)
    components = np.linalg.svd(patches - mean, full_matrices=False)[2][:num_components]
    return images_of(mean + (patches - mean) @ components.T @ components, images)


def psnr_db(a: Array, b: Array) -> float:
    """Of images in [-1,1]."""
    return 10 * math.log10(4 / float(np.mean((a - b) ** 2)))


@pytest.fixture(scope="module")
def images() -> Tensor:
    """[8,3,96,96] in [-1,1]: 1152 patches."""
    return images_to_float(smooth_images())


@pytest.fixture(scope="module")
def model() -> FCDMDiffAE:
    return closed_form_model(config_of(), moments_of(smooth_images())).eval()


# --- moments --------------------------------------------------------------------------------------------------------


def test_the_moments_are_the_mean_and_covariance_of_all_patches(images: Tensor) -> None:
    mean, std, components = moments_of(smooth_images()).components()
    patches = patches_of(images.double().numpy())
    np.testing.assert_allclose(mean.numpy(), patches.mean(0), rtol=0, atol=1e-6)
    covariance = (components.T * std.square() @ components).numpy()
    np.testing.assert_allclose(covariance, np.cov(patches.T, bias=True), rtol=0, atol=1e-5)
    assert bool((std.diff() <= 0).all())
    np.testing.assert_allclose((components @ components.T).numpy(), np.eye(192), rtol=0, atol=1e-9)


def test_moments_of_images_one_by_one_or_in_another_order_are_the_same() -> None:
    forwards, backwards = moments_of(smooth_images()), moments_of(smooth_images().flip(0))
    assert forwards.count == backwards.count == 8 * 12 * 12
    for one, other in zip(forwards.components()[:2], backwards.components()[:2], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_only_whole_patches_count() -> None:
    image = smooth_images(1)[0]
    moments, whole = PatchMoments(PATCH_PX), PatchMoments(PATCH_PX)
    moments.add(image[:, :31, :23])
    whole.add(image[:, :24, :16])
    assert moments.count == whole.count == 6
    assert torch.equal(moments.components()[0], whole.components()[0])
    moments.add(image[:, :7, :])
    moments.add(image[:, :, :5])
    assert moments.count == 6


def test_a_large_image_does_not_outweigh_the_others() -> None:
    moments = PatchMoments(PATCH_PX)
    moments.add(smooth_images(1)[0].repeat(1, 11, 11))  # 132 x 132 patches
    assert 2048 < moments.count <= 4096


# --- the function ---------------------------------------------------------------------------------------------------


def test_one_step_is_the_projection_onto_the_components(model: FCDMDiffAE, images: Tensor) -> None:
    expected = project(images.double().numpy(), 8)
    decoded = model.decode(model.encode(images).detach(), 96, 96, noise=torch.zeros_like(images)).double().numpy()
    # Without noise, the sampler returns alpha_0 - sigma_0 alpha_1 / sigma_1 of what the decoder predicts.
    np.testing.assert_allclose(decoded, 0.999932 * expected, rtol=0, atol=5e-5)
    x = images.double().numpy()
    assert psnr_db(decoded, x) == pytest.approx(psnr_db(expected, x), abs=0.01)
    assert 20 < psnr_db(expected, x) < 40  # neither hopeless nor without loss


def test_the_starting_noise_costs_next_to_nothing(model: FCDMDiffAE, images: Tensor) -> None:
    x = images.double().numpy()
    with_noise = model.reconstruct(images, inference_config=FCDMDiffAEInferenceConfig(seed=1)).double().numpy()
    assert psnr_db(with_noise, project(x, 8)) > 53  # 0.0038 of noise is left in [-1,1]
    assert psnr_db(with_noise, x) == pytest.approx(psnr_db(project(x, 8), x), abs=0.05)


def test_ten_guided_steps_give_about_the_same_images(model: FCDMDiffAE, images: Tensor) -> None:
    one = model.reconstruct(images, inference_config=FCDMDiffAEInferenceConfig(seed=1)).double().numpy()
    ten = model.reconstruct(images, inference_config=TEN_GUIDED_STEPS).double().numpy()
    assert np.abs(ten - one).max() < 1e-3  # what is left of the same noise is the same
    x = images.double().numpy()
    assert psnr_db(ten, x) == pytest.approx(psnr_db(one, x), abs=0.01)


def test_the_middle_blocks_make_no_difference_yet(model: FCDMDiffAE, images: Tensor) -> None:
    z, t = torch.randn(8, 8, 12, 12, generator=torch.Generator().manual_seed(0)), torch.full((8,), 0.5)
    with torch.no_grad():
        full = model.decoder(images, t, z)
        assert torch.equal(model.decoder(images, t, z, drop_middle_blocks=True), full)
        assert torch.equal(model.decoder(images.flip(0), t.square(), z), full)  # nor does the noisy image, nor the time


def test_the_latents_of_the_fitting_images_are_white(model: FCDMDiffAE, images: Tensor) -> None:
    latents = model.encode(images).detach().double().transpose(0, 1).flatten(1)  # [Z,n]
    np.testing.assert_allclose(latents.mean(1), 0, atol=5e-5)
    np.testing.assert_allclose(torch.cov(latents, correction=0), 0.9999 * np.eye(8), atol=5e-5)  # eps is 1e-4


def test_the_posterior_is_narrow_everywhere(model: FCDMDiffAE, images: Tensor) -> None:
    posterior = model.encode_posterior(images)
    assert torch.equal(posterior.logsnr, torch.full_like(posterior.logsnr, 8.0))


@pytest.mark.parametrize(
    "changes",
    [
        {"bottleneck_posterior_kind": "deterministic"},
        {"bottleneck_patchify_mode": "patch_2x2"},
        {"decoder_depth": 2},
        {"encoder_depth": 0, "decoder_depth": 0, "decoder_start_blocks": 0, "decoder_end_blocks": 0},
        {"bottleneck_dim": 32},
        {"model_dim": 200},
        {"latent_running_stats_eps": 0.1},
    ],
    ids=["deterministic", "folded 2x2", "no middle", "no blocks", "all features", "wider than a patch", "large eps"],
)
def test_every_architecture_with_a_closed_form_is_the_projection(changes: dict[str, Any], images: Tensor) -> None:
    config = config_of(**changes)
    model = closed_form_model(config, moments_of(smooth_images())).eval()
    settings = FCDMDiffAEInferenceConfig(seed=1)
    decoded = model.reconstruct(images, inference_config=settings).double().numpy()
    assert psnr_db(decoded, project(images.double().numpy(), config.bottleneck_dim)) > 53


def test_a_model_in_bfloat16_keeps_the_picture(images: Tensor) -> None:
    model = closed_form_model(config_of(), moments_of(smooth_images())).to(torch.bfloat16).eval()
    decoded = model.reconstruct(images, inference_config=FCDMDiffAEInferenceConfig(seed=1)).double().numpy()
    assert psnr_db(decoded, project(images.double().numpy(), 8)) > 43


# --- ready to be trained --------------------------------------------------------------------------------------------


def prediction(model: FCDMDiffAE, images: Tensor) -> Tensor:
    """What the decoder makes of noisy images at a middle time and their latents; with a graph behind it."""
    t = torch.full((len(images),), 0.4)
    noise = 0.558 * torch.randn(images.shape, generator=torch.Generator().manual_seed(5))
    x_t = diffusion.add_noise(images, noise, diffusion.vp_logsnr(t))
    predicted: Tensor = model.decoder(x_t, t, model.encode_posterior(images).mode())
    return predicted


def gradients_of(loss: Tensor, model: FCDMDiffAE) -> dict[str, float]:
    """Root mean square of each parameter's gradient; parameters that took no part are left out."""
    model.zero_grad()
    loss.backward()
    return {name: float(p.grad.square().mean().sqrt()) for name, p in model.named_parameters() if p.grad is not None}


def probed(predicted: Tensor) -> Tensor:
    """A loss that pulls each pixel somewhere else: its gradient goes wherever there is a way."""
    probe = torch.randn(predicted.shape, generator=torch.Generator().manual_seed(6))
    return (predicted * probe).sum() / 100


def test_every_block_puts_out_zero_behind_an_open_gate(model: FCDMDiffAE) -> None:
    blocks = [module for module in model.modules() if isinstance(module, FCDMBlock)]
    assert len(blocks) == 2 + 4
    for block in blocks:
        assert not block.pwconv2.weight.any()
        assert not block.pwconv2.bias.any()  # type: ignore[union-attr]
        assert block.pwconv1.weight.std() > 0.01
        assert block.layer_scale is None or torch.equal(block.layer_scale, torch.full((32,), 0.3))
    scale, gate = model.decoder.adaln_base.proj.bias.chunk(2)
    assert not scale.any()
    assert torch.equal(gate, torch.full((32,), 0.3))


def test_gradients_reach_every_block_but_the_by_passed_ones(model: FCDMDiffAE, images: Tensor) -> None:
    gradients = gradients_of(probed(prediction(model, images)), model)
    outputs = {name: size for name, size in gradients.items() if name.endswith("pwconv2.weight")}
    by_passed = {name for name in outputs if name.startswith("decoder.middle_blocks")}
    assert len(outputs) == 6
    assert len(by_passed) == 2
    assert all(outputs[name] == 0 for name in by_passed)
    assert all(size > 1e-3 for name, size in outputs.items() if name not in by_passed)
    for name in (
        "encoder.patchify",
        "encoder.to_bottleneck",
        "decoder.latent_up",
        "decoder.fuse_in",
        "decoder.out_proj",
    ):
        suffix = "proj.weight" if name.endswith("patchify") else "weight"
        assert gradients[f"{name}.{suffix}"] > 1e-3, name


def test_the_weights_that_do_not_listen_yet_are_the_first_to_learn(model: FCDMDiffAE, images: Tensor) -> None:
    gradients_of(probed(prediction(model, images)), model)
    for layer, columns in ((model.decoder.fuse_in, slice(0, 32)), (model.decoder.fuse_skip, slice(32, 64))):
        assert not layer.weight[:, columns].any()
        assert layer.weight.grad is not None
        assert float(layer.weight.grad[:, columns].abs().max()) > 1e-2


def test_the_reconstruction_error_cannot_better_the_encoder_before_the_decoder_moves(
    model: FCDMDiffAE, images: Tensor
) -> None:
    """The error of each patch is orthogonal to all that other latents could add: the encoder's gradient is rounding."""
    gradients = gradients_of((prediction(model, images) - images).square().mean(), model)
    encoder = [size for name, size in gradients.items() if name.startswith("encoder.")]
    assert max(encoder) < 1e-5 * gradients["decoder.fuse_in.weight"]
    assert gradients["decoder.start_blocks.0.pwconv2.weight"] > 1e-5 * gradients["decoder.fuse_in.weight"]


def test_within_four_steps_of_training_gradients_reach_everything(images: Tensor) -> None:
    model = closed_form_model(config_of(), moments_of(smooth_images()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(4):  # fuse_skip, then pwconv2 of the middle blocks, then their AdaLN up, then down
        gradients_of(probed(prediction(model, images)), model)
        optimizer.step()
    gradients = gradients_of(probed(prediction(model, images)), model)
    assert min(gradients.values()) > 0
    unused = {name for name, _ in model.named_parameters()} - gradients.keys()
    assert unused == {"decoder.path_drop_mask_feature"}  # seen only when the path is dropped


# --- seeds and refusals ---------------------------------------------------------------------------------------------


def test_the_seed_draws_inner_weights_and_leaves_the_function(images: Tensor) -> None:
    one, same, other = (closed_form_model(config_of(), moments_of(smooth_images()), seed=seed) for seed in (0, 0, 1))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, same.state_dict()[name]), name
    assert not torch.equal(one.encoder.blocks[0].pwconv1.weight, other.encoder.blocks[0].pwconv1.weight)  # type: ignore[union-attr, arg-type]
    settings = FCDMDiffAEInferenceConfig(seed=1)
    expected = one.reconstruct(images, inference_config=settings)
    torch.testing.assert_close(other.reconstruct(images, inference_config=settings), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_images", [0, 1])
def test_too_few_patches_are_refused_with_what_would_help(num_images: int) -> None:
    moments = moments_of(smooth_images(num_images)[..., :56, :56])  # 7 x 7 patches; 32 components want 64
    with pytest.raises(
        UsageError, match=rf"{49 * num_images} patches of 8 px are too few for 32 components; give more"
    ):
        closed_form_model(config_of(), moments)


@pytest.mark.parametrize(
    "changes",
    [{"bottleneck_dim": 33}, {"bottleneck_norm_mode": "channel_wise"}, {"model_dim": 500, "bottleneck_dim": 193}],
)
def test_an_architecture_without_a_closed_form_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="no closed form"):
        closed_form_model(config_of(**changes), moments_of(smooth_images()))


def test_pictures_all_of_one_colour_make_a_model_of_that_colour() -> None:
    flat = torch.full((8, 3, 96, 96), 200, dtype=torch.uint8)
    model = closed_form_model(config_of(), moments_of(flat)).eval()
    decoded = model.reconstruct(images_to_float(flat), inference_config=FCDMDiffAEInferenceConfig(seed=1))
    assert (decoded - images_to_float(flat)).abs().max() < 0.05


# --- from files to a checkpoint -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight PNGs, one of them cut to odd sides, and a file that is none."""
    folder = tmp_path_factory.mktemp("pictures")
    for i, image in enumerate(smooth_images()):
        array = image.permute(1, 2, 0).numpy()
        Image.fromarray(array[:93, :50] if i == 0 else array).save(folder / f"{i}.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def init(
    pictures: Path, output: Path, *, seed: int = 0, num_workers: int = 2, dtype: StoredDtype = "float32"
) -> RunFinished:
    found = find_images([pictures])
    with Loader(LoadSettings(), PATCH_PX, num_workers) as loader:
        images, failures = loader.plan(found.images)
        *_, last = init_model(images, failures, loader, config_of(), output, InitSettings(seed=seed, dtype=dtype))
    assert isinstance(last, RunFinished)
    return last


def test_pictures_become_a_checkpoint_that_reconstructs_them(pictures: Path, tmp_path: Path, images: Tensor) -> None:
    finished = init(pictures, tmp_path / "model")
    assert (finished.num_ok, finished.num_failed) == (8, 1)
    assert finished.report["patches"] == 7 * 144 + 11 * 6
    model = FCDMDiffAE.from_pretrained(tmp_path / "model")
    assert model.config == config_of()
    assert model.has_latent_stats
    reconstructed = model.reconstruct(images, inference_config=FCDMDiffAEInferenceConfig(seed=1)).double().numpy()
    x = images.double().numpy()
    assert psnr_db(reconstructed, x) == pytest.approx(psnr_db(project(x, 8), x), abs=0.3)


def test_the_same_pictures_and_seed_give_the_same_bytes(pictures: Path, tmp_path: Path) -> None:
    init(pictures, tmp_path / "a")
    init(pictures, tmp_path / "b", num_workers=1)
    init(pictures, tmp_path / "c", seed=1)
    first, same, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert first == same
    assert first != other
    assert (tmp_path / "a" / "config.json").read_text() == config_of().to_json()


def test_weights_are_stored_in_the_dtype_asked_for(pictures: Path, tmp_path: Path) -> None:
    init(pictures, tmp_path / "half", dtype="bfloat16")
    model = FCDMDiffAE.from_pretrained(tmp_path / "half")
    assert model.dtype == torch.bfloat16
    assert model.latent_norm_running_var.dtype == torch.float32


def test_too_few_pictures_leave_no_checkpoint(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "broken.png").write_bytes((pictures / "broken.png").read_bytes())
    with pytest.raises(UsageError, match="0 patches"):
        init(tmp_path / "few", tmp_path / "model")
    assert not (tmp_path / "model").exists()
