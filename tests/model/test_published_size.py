"""The model at its published size, with random weights: it can be saved, loaded, and run on a CPU."""

import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from semdis_cli.model.autoencoder import FCDMDiffAE
from semdis_cli.model.config import FCDMDiffAEConfig
from semdis_cli.model.tokenizer import Tokenizer, TokenizerSettings

NUM_PARAMETERS, NUM_BUFFER_VALUES, NUM_TENSORS = 88_771_328, 384, 140
SETTINGS = TokenizerSettings("cpu", batch_size=1)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A checkpoint in bfloat16, gone with the last test of this file: it is large."""
    model = FCDMDiffAE(FCDMDiffAEConfig()).to(torch.bfloat16)
    with tempfile.TemporaryDirectory() as path:
        model.save_pretrained(path)
        yield Path(path)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(str(folder), SETTINGS)


@pytest.fixture(scope="module")
def latents(tokenizer: Tokenizer) -> Tensor:
    images = torch.randint(0, 256, (1, 3, 256, 256), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return tokenizer.encode(images, ["noise.png"])


def test_the_published_checkpoint_has_the_published_size(folder: Path, tokenizer: Tokenizer) -> None:
    assert (folder / "config.json").stat().st_size == 431
    with (folder / "model.safetensors").open("rb") as file:
        (header_bytes,) = struct.unpack("<Q", file.read(8))
    payload_bytes = (folder / "model.safetensors").stat().st_size - 8 - header_bytes
    assert payload_bytes == 2 * NUM_PARAMETERS + 4 * NUM_BUFFER_VALUES
    assert len(tokenizer.model.state_dict()) == NUM_TENSORS
    assert sum(parameter.numel() for parameter in tokenizer.model.parameters()) == NUM_PARAMETERS


def test_an_image_of_256_pixels_becomes_128_by_16_by_16_latents(latents: Tensor) -> None:
    assert latents.shape == (1, 128, 16, 16)
    assert latents.dtype == torch.float32
    assert latents.isfinite().all()
    assert float(latents.std()) > 0.01


def test_the_latents_become_an_image_of_256_pixels_in_one_step(tokenizer: Tokenizer, latents: Tensor) -> None:
    image = tokenizer.decode(latents, ["noise.png"])
    assert image.shape == (1, 3, 256, 256)
    assert image.dtype == torch.uint8


P32 = FCDMDiffAEConfig(bottleneck_patchify_mode="patch_2x2")
P32_V2 = FCDMDiffAEConfig(patch_size=32, model_dim=1024, encoder_depth=8, bottleneck_dim=384)


@pytest.mark.parametrize(("config", "channels"), [(P32, 512), (P32_V2, 384)], ids=["p32", "p32_v2"])
def test_the_models_with_32_pixels_a_patch_run_too(config: FCDMDiffAEConfig, channels: int) -> None:
    model = FCDMDiffAE(config).eval()
    images = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        latents = model.encode(images)
        assert latents.shape == (1, channels, 2, 3)
        assert model.decode(latents, 64, 96).shape == images.shape
    with pytest.raises(ValueError, match="multiple of 32"):
        model.encode(images[..., :48, :])
