"""`Tokenizer`: the one rounding, images that do not feel their neighbours, noise by key, devices that are not there."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from semdis_cli.errors import CheckpointError, UsageError
from semdis_cli.images.images import read_image
from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.model.noise import noise_of_images
from semdis_cli.model.pixels import float_to_images, images_to_float
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.provenance import ModelIdentity
from semdis_cli.settings import DtypeName, NoiseKind, TokenizerSettings
from tests.worlds import save_tiny_model, tiny_model

PHOTOS = Path(__file__).parents[1] / "photos"
DTYPES: tuple[DtypeName, ...] = ("float32", "bfloat16")
KEYS = ("a/1.jpg", "a/1.png", "b.webp", "c \udcff.jpg", "ü.png")
BATCH_SIZE = 4
NOISE_KINDS: tuple[NoiseKind, ...] = ("philox", "torch")
GUIDED = FCDMDiffAEInferenceConfig(3, "dpmpp_2m", "cosine", pdg=True, pdg_strength=1.5, seed=7)
DECODINGS = {"one step": FCDMDiffAEInferenceConfig(seed=7), "three guided steps": GUIDED}

every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_decoding = pytest.mark.parametrize("decoding", DECODINGS.values(), ids=DECODINGS.keys())
every_sample_seed = pytest.mark.parametrize("sample_seed", [None, 3], ids=["mode", "sample"])


def tiny_tokenizer(dtype: DtypeName = "float32", batch_size: int | None = BATCH_SIZE, **changes: Any) -> Tokenizer:
    settings_ = TokenizerSettings("cpu", dtype, batch_size)
    return Tokenizer(tiny_model(**changes), ModelIdentity("tiny", "folder", None, "0" * 64, "1" * 64), settings_)


def random_images(count: int, height: int = 32, width: int = 48, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


# --- pixels ---------------------------------------------------------------------------------------------------------


def test_all_256_values_come_back_from_floats() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(float_to_images(images_to_float(values)), values)


def test_black_is_minus_one_and_white_is_one_exactly() -> None:
    floats = images_to_float(torch.tensor([0, 255], dtype=torch.uint8))
    assert floats.dtype == torch.float32
    assert floats.tolist() == [-1.0, 1.0]


def test_floats_are_rounded_to_the_nearest_value_not_truncated() -> None:
    levels = torch.arange(255, dtype=torch.float64)
    for offset, expected in ((0.49, levels), (0.51, levels + 1)):
        x = ((levels + offset) / 127.5 - 1).float()
        assert torch.equal(float_to_images(x).double(), expected)


def test_values_half_way_go_to_a_neighbour() -> None:
    levels = torch.arange(255)
    x = ((levels + 0.5).double() / 127.5 - 1).float()
    up = float_to_images(x).int() - levels
    assert set(up.tolist()) == {0, 1}


def test_the_whole_range_of_each_value_comes_out_of_ten_thousand_floats() -> None:
    x = torch.linspace(-1.2, 1.2, 10_000, dtype=torch.float64)
    exact = ((x + 1) * 127.5).clamp(0, 255)
    assert (float_to_images(x.float()).double() - exact).abs().max() <= 0.5 + 1e-4


def test_the_conversion_by_way_of_16_bits_is_the_direct_one_for_floats_of_every_size() -> None:
    bits = torch.arange(-(2**31), 2**31, 4093, dtype=torch.int64).to(torch.int32)  # a million floats, NaN among them
    x = torch.cat([bits.view(torch.float32), torch.linspace(-1.01, 1.01, 1_000_001)])
    direct = ((x + 1.0) * 127.5).round().clamp(0, 255).nan_to_num(0.0).to(torch.uint8)
    assert torch.equal(float_to_images(x), direct)


def test_floats_beyond_the_range_are_clamped() -> None:
    x = torch.tensor([-math.inf, -1e30, -2.0, -1.001, 1.001, 2.0, 1e30, math.inf])
    assert float_to_images(x).tolist() == [0, 0, 0, 0, 255, 255, 255, 255]


# --- neighbours -----------------------------------------------------------------------------------------------------


@every_dtype
@every_sample_seed
def test_an_images_latents_are_the_same_bytes_in_any_company(dtype: DtypeName, sample_seed: int | None) -> None:
    tokenizer, images = tiny_tokenizer(dtype), random_images(len(KEYS))
    alone = [tokenizer.encode(images[i : i + 1], [KEYS[i]], sample_seed=sample_seed) for i in range(len(KEYS))]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [4, 0], [2, 4, 1], [1, 1, 1, 1]):
        latents = tokenizer.encode(images[order], [KEYS[i] for i in order], sample_seed=sample_seed)
        assert latents.shape == (len(order), 8, 2, 3)
        assert latents.dtype == torch.float32
        for row, i in enumerate(order):
            assert torch.equal(latents[row], alone[i][0])


@every_dtype
@every_decoding
def test_an_images_reconstruction_is_the_same_bytes_in_any_company(
    dtype: DtypeName, decoding: FCDMDiffAEInferenceConfig
) -> None:
    tokenizer = tiny_tokenizer(dtype)
    latents = torch.randn(len(KEYS), 8, 2, 3, generator=torch.Generator().manual_seed(1))
    alone = [tokenizer.decode(latents[i : i + 1], [KEYS[i]], decoding) for i in range(len(KEYS))]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [4, 0], [2, 4, 1], [1, 1, 1, 1]):
        images = tokenizer.decode(latents[order], [KEYS[i] for i in order], decoding)
        assert images.shape == (len(order), 3, 32, 48)
        assert images.dtype == torch.uint8
        for row, i in enumerate(order):
            assert torch.equal(images[row], alone[i][0])


@every_dtype
def test_the_bundled_models_latents_and_images_do_not_depend_on_neighbours(dtype: DtypeName) -> None:
    tokenizer = Tokenizer.load("semdis-small", TokenizerSettings("cpu", dtype, batch_size=3))
    images = random_images(3, 64, 64)
    latents = tokenizer.encode(images, KEYS[:3])
    decoded = tokenizer.decode(latents, KEYS[:3])
    assert torch.equal(tokenizer.encode(images[2:], KEYS[2:3]), latents[2:])
    assert torch.equal(tokenizer.decode(latents[2:], KEYS[2:3]), decoded[2:])


def test_a_batch_of_more_images_than_a_call_takes_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="5 images in a call for 4"):
        tiny_tokenizer().encode(random_images(5), KEYS)


# --- noise ----------------------------------------------------------------------------------------------------------


def test_an_images_noise_decides_its_reconstruction() -> None:
    tokenizer, latents = tiny_tokenizer(), torch.zeros(1, 8, 2, 3)

    def decode(key: str, seed: int | None) -> Tensor:
        return tokenizer.decode(latents, [key], FCDMDiffAEInferenceConfig(seed=seed))

    first = decode("a.jpg", 1)
    assert torch.equal(first, decode("a.jpg", 1))
    assert not torch.equal(first, decode("b.jpg", 1))
    assert not torch.equal(first, decode("a.jpg", 2))
    assert torch.equal(decode("a.jpg", None), decode("a.jpg", 0))
    assert torch.equal(decode("a.jpg", 0), tokenizer.decode(latents, ["a.jpg"]))


@every_decoding
def test_decoding_is_the_models_decoding_from_the_noise_of_the_key(decoding: FCDMDiffAEInferenceConfig) -> None:
    tokenizer, keys = tiny_tokenizer(batch_size=2), KEYS[:2]
    latents = torch.randn(2, 8, 2, 3, generator=torch.Generator().manual_seed(2))
    for kind in NOISE_KINDS:
        noise = 0.558 * noise_of_images("pixels", 7, keys, (3, 32, 48), kind=kind)
        expected = tokenizer.model.decode(latents, 32, 48, inference_config=decoding, noise=noise)
        decoded = tokenizer.decode(latents, keys, replace(decoding, noise=kind))
        difference = (decoded.int() - float_to_images(expected).int()).abs()  # packed weights round at other places
        assert difference.max() <= 1
        assert difference.float().mean() < 1e-3


# --- batches --------------------------------------------------------------------------------------------------------


def test_the_images_of_a_call_depend_on_size_and_settings_only() -> None:
    tokenizer = tiny_tokenizer(batch_size=None)
    sizes = [(16, 16), (256, 256), (256, 512), (512, 512), (1024, 1024), (4096, 4096)]
    counts = [tokenizer.images_per_call(*size) for size in sizes]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 1
    assert tokenizer.images_per_call(256, 512) == tokenizer.images_per_call(512, 256)
    for num_images in (1, 2):
        tokenizer.encode(random_images(num_images, 256, 256), KEYS[:num_images])
        assert [tokenizer.images_per_call(*size) for size in sizes] == counts
    assert [tiny_tokenizer("bfloat16", None).images_per_call(*size) for size in sizes] == counts
    assert {tiny_tokenizer(batch_size=3).images_per_call(*size) for size in sizes} == {3}


def test_encoding_and_decoding_agree_on_the_images_of_a_call_for_folded_latents_too() -> None:
    tokenizer = tiny_tokenizer(batch_size=None, bottleneck_patchify_mode="patch_2x2")
    assert tokenizer.patch_size == 32
    assert tokenizer.latent_channels == 32
    images = random_images(2, 64, 96)
    latents = tokenizer.encode(images, KEYS[:2])
    assert latents.shape == (2, 32, 2, 3)
    assert tokenizer.decode(latents, KEYS[:2]).shape == images.shape


# --- latents --------------------------------------------------------------------------------------------------------


def test_the_mode_is_the_models_whitened_encoding() -> None:
    tokenizer, images = tiny_tokenizer(batch_size=2), random_images(2)
    with torch.inference_mode():
        expected = tokenizer.model.encode(images_to_float(images))
    torch.testing.assert_close(tokenizer.encode(images, KEYS[:2]), expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("rounded", [torch.bfloat16, torch.float16])
def test_latents_can_come_back_rounded(rounded: torch.dtype) -> None:
    tokenizer, images = tiny_tokenizer(), random_images(3)
    latents = tokenizer.encode(images, KEYS[:3], dtype=rounded)
    assert latents.dtype == rounded
    assert torch.equal(latents, tokenizer.encode(images, KEYS[:3]).to(rounded))


def test_a_sample_is_the_mode_plus_sigma_times_the_noise_of_the_key() -> None:
    tokenizer, images = tiny_tokenizer(batch_size=2), random_images(2)
    model = tokenizer.model
    with torch.inference_mode():
        posterior = model.encode_posterior(images_to_float(images))
        for kind in NOISE_KINDS:
            eps = noise_of_images("posterior", 5, KEYS[:2], (8, 2, 3), kind=kind)
            expected = model.whiten(posterior.mode() + posterior.sigma * eps)
            samples = tokenizer.encode(images, KEYS[:2], sample_seed=5, noise=kind)
            torch.testing.assert_close(samples, expected, rtol=0, atol=1e-5)


def test_samples_scatter_around_the_mode_by_sigma() -> None:
    tokenizer, image = tiny_tokenizer(batch_size=1), random_images(1)
    mode = tokenizer.encode(image, ["a"])
    samples = torch.cat([tokenizer.encode(image, ["a"], sample_seed=seed) for seed in range(400)])
    variance = tokenizer.model.latent_norm_running_var + tokenizer.model.config.latent_running_stats_eps
    with torch.inference_mode():
        sigma = tokenizer.model.encode_posterior(images_to_float(image)).sigma / variance.sqrt()[:, None, None]
    z = (samples - mode) / sigma  # [400,8,2,3], standard normal
    assert float(z.mean(0).abs().max()) < 5 / math.sqrt(400)
    assert abs(float(z.mean())) < 5 / math.sqrt(z.numel())
    assert float(z.std()) == pytest.approx(1.0, abs=0.03)


def test_a_deterministic_models_samples_are_its_mode() -> None:
    tokenizer, images = tiny_tokenizer(bottleneck_posterior_kind="deterministic"), random_images(2)
    mode = tokenizer.encode(images, KEYS[:2])
    assert torch.equal(tokenizer.encode(images, KEYS[:2], sample_seed=1), mode)


def test_latents_of_a_model_without_statistics_are_raw_and_say_so(tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path) / "model.safetensors"
    save_file({name: t.clone() for name, t in load_file(path).items() if not name.startswith("latent_norm")}, path)
    whitened, raw = tiny_tokenizer(), Tokenizer.load(str(tmp_path), TokenizerSettings("cpu", "float32", BATCH_SIZE))
    assert whitened.is_whitened
    assert not raw.is_whitened
    images = random_images(2)
    expected = whitened.model.dewhiten(whitened.encode(images, KEYS[:2]))
    torch.testing.assert_close(raw.encode(images, KEYS[:2]), expected, rtol=0, atol=1e-5)
    difference = raw.decode(expected, KEYS[:2]).int() - whitened.decode(whitened.model.whiten(expected), KEYS[:2]).int()
    assert difference.abs().max() <= 1


def photo(name: str) -> Tensor:
    """A sample photograph [1,3,H,W], cut to whole patches on the right and below."""
    pixels = np.array(read_image((PHOTOS / name).read_bytes()).pixels)
    height, width = (length // 16 * 16 for length in pixels.shape[:2])
    return torch.from_numpy(pixels[:height, :width]).permute(2, 0, 1)[None]


@every_dtype
def test_a_photograph_survives_the_bundled_model(dtype: DtypeName) -> None:
    tokenizer = Tokenizer.load("semdis-small", TokenizerSettings("cpu", dtype, 1))
    image = photo("birds/canyon-wren.jpg")[..., 128:384, 256:512]
    decoded = tokenizer.decode(tokenizer.encode(image, ["wren"]), ["wren"])
    mse = (decoded.double() - image.double()).square().mean().item()
    assert 10 * math.log10(255**2 / mse) > 35  # dB; the picture is blurred for the most part


def test_the_bundled_models_latents_of_photographs_are_about_white() -> None:
    """Not exactly: its statistics are those of other photographs, and these are few."""
    tokenizer = Tokenizer.load("semdis-small", TokenizerSettings("cpu", batch_size=1))
    names = sorted(str(path.relative_to(PHOTOS)) for path in PHOTOS.rglob("*.jpg"))
    latents = torch.cat([tokenizer.encode(photo(name), [name])[0].flatten(1) for name in names], dim=1)
    means, stds = latents.mean(1), latents.std(1)  # of each channel
    assert float(means.abs().mean()) < 0.05
    assert float(means.abs().max()) < 0.5
    assert 0.8 < float(stds.median()) < 1.25
    assert float(stds.min()) > 0.3
    assert float(stds.max()) < 2.5


# --- settings -------------------------------------------------------------------------------------------------------


def test_a_loaded_tokenizer_knows_which_model_it_is(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "one")
    same, other = save_tiny_model(tmp_path / "same"), save_tiny_model(tmp_path / "other", seed=1)
    identities = [Tokenizer.load(str(path), TokenizerSettings("cpu")).identity for path in (folder, same, other)]
    assert identities[0].name == str(folder)
    assert identities[0].revision is None
    assert identities[0].weights_sha256 == identities[1].weights_sha256 != identities[2].weights_sha256
    assert len({identity.config_sha256 for identity in identities}) == 1


def test_a_config_that_only_looks_different_is_the_same_model(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path)
    before = Tokenizer.load(str(folder)).identity
    (folder / "config.json").write_text((folder / "config.json").read_text().replace("\n", "").replace(" ", ""))
    assert Tokenizer.load(str(folder)).identity == before


@every_dtype
def test_a_tokenizer_computes_in_the_dtype_it_was_asked_for(dtype: DtypeName) -> None:
    tokenizer = tiny_tokenizer(dtype)
    assert tokenizer.dtype_name == dtype
    assert tokenizer.device_name == "cpu"
    assert tokenizer.model.latent_norm_running_mean.dtype == torch.float32


def test_left_to_itself_a_tokenizer_finds_a_device_and_a_dtype() -> None:
    tokenizer = Tokenizer(tiny_model(), ModelIdentity("tiny", "folder", None, "", ""), TokenizerSettings())
    assert tokenizer.dtype_name in DTYPES
    assert (tokenizer.device_name == "cpu") == (not torch.cuda.is_available())


def test_the_number_of_threads_is_the_one_asked_for() -> None:
    before = torch.get_num_threads()
    try:
        for num_threads in (1, 2):
            Tokenizer(
                tiny_model(), ModelIdentity("tiny", "folder", None, "", ""), TokenizerSettings(num_threads=num_threads)
            )
            assert torch.get_num_threads() == num_threads
    finally:
        torch.set_num_threads(before)


NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
ABSENT = ["nope", "", "cuda:99", "cuda:x", "meta", "mps:7", "hpu", "privateuseone", "vulkan"]


@pytest.mark.parametrize("name", [*ABSENT, pytest.param("cuda", marks=NO_CUDA)])
def test_a_device_that_is_not_there_is_one_line(name: str) -> None:
    with pytest.raises(UsageError, match="--device") as caught:
        Tokenizer(tiny_model(), ModelIdentity("tiny", "folder", None, "", ""), TokenizerSettings(device=name))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 400


def test_a_model_of_grey_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="takes 1 channels, but images have 3"):
        Tokenizer.load(str(save_tiny_model(tmp_path, in_channels=1)))


def test_a_name_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such model"):
        Tokenizer.load(str(tmp_path / "nope"))
