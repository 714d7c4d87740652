"""The model at its published size, with random weights: it can be saved, loaded, and run on a CPU."""

import json
import struct
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from semdis_cli.model.autoencoder import FCDMDiffAE
from semdis_cli.model.config import FCDMDiffAEConfig, FCDMDiffAEInferenceConfig
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.settings import TokenizerSettings
from tests.worlds import tiny_model

# Of `model.safetensors` as published: the first export, and the one with latent statistics.
FIRST_EXPORT_BYTES, EXPORT_BYTES = 355_100_344, 355_101_560
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


def float32_file_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Size of a safetensors file of these tensors in float32 without metadata: length, header padded to 8, payload."""
    entries, end = {}, 0
    for name in sorted(tensors):
        start, end = end, end + 4 * tensors[name].numel()
        entries[name] = {"dtype": "F32", "shape": list(tensors[name].shape), "data_offsets": [start, end]}
    header = json.dumps(entries, separators=(",", ":")).encode()
    return 8 + -(-len(header) // 8) * 8 + end


def published_tensors() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Build what a model of the published config saves, without latent statistics and with them, on the meta device."""
    with torch.device("meta"):
        tensors = FCDMDiffAE(FCDMDiffAEConfig()).state_dict()
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("latent_norm_")}, tensors


def test_names_and_shapes_give_the_published_file_sizes_to_the_byte() -> None:
    small = tiny_model().state_dict()
    assert float32_file_bytes(small) == len(save(small))
    first, complete = published_tensors()
    assert float32_file_bytes(first) == FIRST_EXPORT_BYTES
    assert float32_file_bytes(complete) == EXPORT_BYTES
    assert len(complete) == NUM_TENSORS


@pytest.mark.slow
def test_the_written_file_has_the_published_size_to_the_byte(tmp_path: Path) -> None:
    tensors = {name: torch.zeros(tensor.shape) for name, tensor in published_tensors()[1].items()}
    save_file(tensors, tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").stat().st_size == EXPORT_BYTES


P32 = FCDMDiffAEConfig(bottleneck_patchify_mode="patch_2x2")
P32_V2 = FCDMDiffAEConfig(patch_size=32, model_dim=1024, encoder_depth=8, bottleneck_dim=384)
# An encoder as deep as the decoder, and latents that are no distribution.
CAPACITOR = FCDMDiffAEConfig(encoder_depth=8, bottleneck_posterior_kind="deterministic")
NORMALISED = FCDMDiffAEConfig(bottleneck_norm_mode="channel_wise", encoder_depth=0, mlp_ratio=3.0)
SIBLINGS = {"p32": (P32, 512), "p32_v2": (P32_V2, 384), "capacitor": (CAPACITOR, 128), "normalised": (NORMALISED, 128)}


@pytest.mark.slow
@pytest.mark.parametrize(("config", "channels"), SIBLINGS.values(), ids=SIBLINGS.keys())
def test_its_siblings_load_whole_encode_and_decode(config: FCDMDiffAEConfig, channels: int, tmp_path: Path) -> None:
    saved = FCDMDiffAE(config).to(torch.bfloat16)
    saved.save_pretrained(tmp_path)
    names = saved.state_dict().keys()
    del saved
    assert load_file(tmp_path / "model.safetensors").keys() == names
    patch = config.effective_patch_size
    images = torch.rand(1, 3, 2 * patch, 3 * patch, generator=torch.Generator().manual_seed(0)) * 2 - 1

    model = FCDMDiffAE.from_pretrained(tmp_path, dtype=torch.float32)
    latents = model.encode(images)
    assert latents.shape == (1, channels, 2, 3)
    assert latents.isfinite().all()
    guided = FCDMDiffAEInferenceConfig(num_steps=2, pdg=True, seed=0)
    assert model.decode(latents, 2 * patch, 3 * patch, inference_config=guided).isfinite().all()
    with pytest.raises(ValueError, match=f"multiple of {patch}"):
        model.encode(images[..., : patch + 16 if patch > 16 else patch + 8, :])

    tokenizer = Tokenizer.load(str(tmp_path), SETTINGS)
    pixels = ((images + 1) * 127.5).to(torch.uint8)
    again = tokenizer.encode(pixels, ["a"])
    assert again.shape == latents.shape
    assert tokenizer.decode(again, ["a"]).shape == pixels.shape


def test_the_second_model_with_32_pixels_a_patch_has_the_size_that_follows_from_its_config() -> None:
    with torch.device("meta"):
        model = FCDMDiffAE(P32_V2)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(156.6e6, rel=1e-3)
