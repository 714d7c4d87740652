"""Refusals of the public calls: one clear line each, before any arithmetic and before anything is fetched."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from semdis_cli.errors import CheckpointError, UsageError
from semdis_cli.model import diffusion
from semdis_cli.model.autoencoder import FCDMDiffAE
from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.provenance import ModelIdentity
from semdis_cli.settings import TokenizerSettings
from tests.worlds import tiny_model

NAN = float("nan")
UNKNOWN_TO_THE_HUB = "nobody/there"

IMAGES = torch.linspace(-1, 1, 3 * 32 * 48).reshape(1, 3, 32, 48)
LATENTS = torch.zeros(1, 8, 2, 3)
PIXELS = torch.zeros(2, 3, 32, 48, dtype=torch.uint8)
KEYS = ["a", "b"]


@pytest.fixture(scope="module")
def model() -> FCDMDiffAE:
    return tiny_model()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    identity = ModelIdentity("tiny", "folder", None, "0" * 64, "1" * 64)
    return Tokenizer(tiny_model(), identity, TokenizerSettings("cpu", "float32", 4))


def refusal(call: Callable[..., object], *arguments: Any, **options: Any) -> str:
    with pytest.raises((ValueError, TypeError)) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 200
    return message


WRONG_IMAGES = [
    (PIXELS, "images are torch.uint8, not floats in [-1, 1]; of uint8 0..255 that is images / 127.5 - 1"),
    (IMAGES.long(), "images are torch.int64, not floats in [-1, 1]"),
    (IMAGES > 0, "images are torch.bool, not floats in [-1, 1]"),
    (IMAGES.to(torch.complex64), "images are torch.complex64, not floats in [-1, 1]"),
    (IMAGES[0], "images are [3, 32, 48], not [B, 3, H, W]"),
    (IMAGES[None], "images are [1, 1, 3, 32, 48], not [B, 3, H, W]"),
    (torch.zeros(1, 4, 32, 48), "images are [1, 4, 32, 48], not [B, 3, H, W]"),
    (torch.zeros(1, 1, 32, 48), "images are [1, 1, 32, 48], not [B, 3, H, W]"),
    (IMAGES.permute(0, 2, 3, 1), "images are [1, 32, 48, 3], not [B, 3, H, W]"),
    (IMAGES[:0], "images are [0, 3, 32, 48]: none in the batch"),
    (IMAGES[..., :47], "image size 32x47 is not a multiple of 16 pixels on both sides"),
    (IMAGES[..., :0, :], "image size 0x48 is not a multiple of 16 pixels on both sides"),
    (IMAGES * NAN, "images hold NaN; give them in [-1, 1]"),
    (IMAGES / 0, "images go from -inf to inf; give them in [-1, 1]"),
    (IMAGES * 127.5 + 127.5, "images go from 0 to 255; give them in [-1, 1]"),
    (IMAGES.numpy(), "images must be a torch.Tensor, not ndarray"),
    ([[1.0]], "images must be a torch.Tensor, not list"),
    (None, "images must be a torch.Tensor, not NoneType"),
]


@pytest.mark.parametrize(("images", "message"), WRONG_IMAGES, ids=[message for _, message in WRONG_IMAGES])
def test_images_that_are_none_are_refused_by_every_call(model: FCDMDiffAE, images: Any, message: str) -> None:
    for call in (model.encode, model.encode_posterior, model.reconstruct):
        assert refusal(call, images) == message


def test_images_of_any_float_and_a_little_beyond_the_range_are_taken(model: FCDMDiffAE) -> None:
    for images in (IMAGES.double(), IMAGES.half(), IMAGES.bfloat16(), IMAGES * 1.5, IMAGES.requires_grad_()):
        assert model.encode(images).shape == LATENTS.shape


WRONG_LATENTS = [
    (LATENTS[0], "latents are [8, 2, 3], not [B, 8, h, w]"),
    (LATENTS[:, :4], "latents are [1, 4, 2, 3], not [B, 8, h, w]"),
    (LATENTS[:, :1], "latents are [1, 1, 2, 3], not [B, 8, h, w]"),
    (LATENTS[:0], "latents are [0, 8, 2, 3]: none in the batch"),
    (LATENTS.int(), "latents are torch.int32, not of a dtype of floating point"),
    (LATENTS * NAN, "latents hold NaN or infinity"),
    (LATENTS.numpy(), "latents must be a torch.Tensor, not ndarray"),
]


@pytest.mark.parametrize(("latents", "message"), WRONG_LATENTS, ids=[message for _, message in WRONG_LATENTS])
def test_latents_that_are_none_are_refused(model: FCDMDiffAE, tokenizer: Tokenizer, latents: Any, message: str) -> None:
    assert refusal(model.decode, latents, 32, 48) == message
    assert refusal(tokenizer.decode, latents, ["a"]) == message


def test_sizes_and_noise_that_do_not_fit_are_refused(model: FCDMDiffAE) -> None:
    shape = (1, 3, 32, 48)
    assert refusal(model.decode, LATENTS, 32, 32) == "latents are [1, 8, 2, 3]; 32x32 needs [B, 8, 2, 2]"
    assert refusal(model.decode, LATENTS, 33, 48) == "image size 33x48 is not a multiple of 16 pixels on both sides"
    assert refusal(model.decode, LATENTS, 32.0, 48) == "height must be a whole number of pixels, not 32.0"
    assert refusal(model.decode, LATENTS, 32, "48") == "width must be a whole number of pixels, not '48'"
    for noise, message in (
        (torch.zeros(1, 3, 32, 32), "noise is [1, 3, 32, 32], but the images are [1, 3, 32, 48]"),
        (torch.zeros(shape, dtype=torch.int8), "noise values are torch.int8, not of a dtype of floating point"),
        (torch.full(shape, NAN), "noise values hold NaN or infinity"),
        (np.zeros(shape), "noise must be a torch.Tensor, not ndarray"),
    ):
        assert refusal(model.decode, LATENTS, 32, 48, noise=noise) == message
    assert model.decode(LATENTS.half(), np.int64(32), torch.tensor(48)).shape == shape  # type: ignore[arg-type]


@pytest.mark.parametrize("latents", [LATENTS[:, :1], LATENTS[0, 0], LATENTS.int(), [1.0], None], ids=str)
def test_whitening_takes_latents_of_the_models_channels_alone(model: FCDMDiffAE, latents: Any) -> None:
    for call in (model.whiten, model.dewhiten):
        assert refusal(call, latents).startswith("latents ")
    for good in (LATENTS, LATENTS[0], LATENTS[None], LATENTS.half()):
        assert model.dewhiten(model.whiten(good)).shape == good.shape


WRONG_PIXELS = [
    (PIXELS.float(), KEYS, "images are torch.float32, not uint8 0..255"),
    (PIXELS[0], KEYS, "images are [3, 32, 48], not [B, 3, H, W]"),
    (torch.zeros(2, 4, 32, 48, dtype=torch.uint8), KEYS, "images are [2, 4, 32, 48], not [B, 3, H, W]"),
    (PIXELS[:0], [], "images are [0, 3, 32, 48]: none in the batch"),
    (PIXELS[..., :31, :], KEYS, "image size 31x48 is not a multiple of 16 pixels on both sides"),
    (PIXELS, ["a"], "2 images need a key each, not 1"),
    (PIXELS, "ab", "2 images need a key each, not one text"),
    (PIXELS.numpy(), KEYS, "images must be a torch.Tensor, not ndarray"),
]


@pytest.mark.parametrize(("images", "keys", "message"), WRONG_PIXELS, ids=[message for *_, message in WRONG_PIXELS])
def test_a_tokenizer_refuses_what_are_no_images_or_keys(
    tokenizer: Tokenizer, images: Any, keys: Any, message: str
) -> None:
    assert refusal(tokenizer.encode, images, keys) == message


def test_a_tokenizer_wants_a_key_for_each_of_its_latents(tokenizer: Tokenizer) -> None:
    assert refusal(tokenizer.decode, LATENTS, KEYS) == "1 latents need a key each, not 2"


CHANGES = [
    ("sampler", "euler", "sampler must be one of ('ddim', 'dpmpp_2m'), not 'euler'"),
    ("schedule", "karras", "schedule must be one of ('linear', 'cosine'), not 'karras'"),
    ("num_steps", 0, "num_steps must be a whole number of at least 1, not 0"),
    ("num_steps", 1.5, "num_steps must be a whole number of at least 1, not 1.5"),
    ("num_steps", True, "num_steps must be a whole number of at least 1, not True"),
    ("pdg_strength", NAN, "pdg_strength must be a finite number, not nan"),
    ("pdg_strength", "2", "pdg_strength must be a finite number, not '2'"),
    ("seed", "7", "seed must be a whole number or None, not '7'"),
]


@pytest.mark.parametrize(("name", "value", "message"), CHANGES, ids=[message for *_, message in CHANGES])
def test_a_setting_changed_to_what_there_is_not_is_refused_when_it_is_used(
    model: FCDMDiffAE, tokenizer: Tokenizer, name: str, value: Any, message: str
) -> None:
    config = FCDMDiffAEInferenceConfig()
    setattr(config, name, value)
    assert refusal(model.decode, LATENTS, 32, 48, inference_config=config) == message
    assert refusal(model.reconstruct, IMAGES, inference_config=config) == message
    assert refusal(tokenizer.decode, LATENTS, ["a"], config) == message
    assert refusal(FCDMDiffAEInferenceConfig, **{name: value}) == message


def test_the_sampler_itself_refuses_names_that_it_does_not_know() -> None:
    def predict(x_t: Tensor, _: int) -> Tensor:
        return x_t

    config = FCDMDiffAEInferenceConfig()
    config.sampler = "euler"  # type: ignore[assignment]
    assert refusal(diffusion.sample, predict, IMAGES, config, -10.0, 10.0).startswith("sampler must be one of")
    assert refusal(diffusion.time_grid, 2, "karras").startswith("schedule must be one of")


def test_a_seed_that_torch_does_not_take_is_refused(model: FCDMDiffAE) -> None:
    message = refusal(model.decode, LATENTS, 32, 48, inference_config=FCDMDiffAEInferenceConfig(seed=2**64))
    assert message == "seed must be a whole number of 64 bits, not 18446744073709551616"


NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
ABSENT = [
    "nope",
    "",
    "meta",
    "xla",
    "cuda:99",
    "mps:7",
    "cuda:x",
    *(pytest.param(d, marks=NO_CUDA) for d in ("cuda", 0)),
]


@pytest.mark.parametrize("device", ABSENT)
def test_an_absent_device_is_known_before_anything_is_fetched(device: Any) -> None:
    for name in (UNKNOWN_TO_THE_HUB, "semdis-small"):
        with pytest.raises(UsageError, match=r"^--device ") as caught:
            FCDMDiffAE.from_pretrained(name, device=device)
        assert len(str(caught.value).splitlines()) == 1
        with pytest.raises(UsageError, match=r"^--device "):
            Tokenizer.load(name, TokenizerSettings(device=device))


def test_a_dtype_of_no_weights_is_known_before_anything_is_fetched() -> None:
    for dtype in ("bfloat16", torch.int8, torch.complex64, float):
        message = refusal(FCDMDiffAE.from_pretrained, UNKNOWN_TO_THE_HUB, dtype=dtype)
        assert message.startswith("dtype must be one of floating point, as torch.bfloat16, not")
    with pytest.raises(UsageError, match="--dtype float8: must be auto, or one of bfloat16, float32"):
        Tokenizer.load(UNKNOWN_TO_THE_HUB, TokenizerSettings("cpu", "float8"))  # type: ignore[arg-type]


def test_devices_by_every_kind_of_name_are_found() -> None:
    for device in ("cpu", "auto", None, torch.device("cpu"), "cpu:0"):
        assert FCDMDiffAE.from_pretrained("semdis-small", device=device).device.type in {"cpu", "cuda"}
    with pytest.raises(CheckpointError):
        FCDMDiffAE.from_pretrained("no such folder", device="cpu")
