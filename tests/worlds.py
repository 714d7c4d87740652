"""Small worlds for tests: a tiny model of the real architecture, in memory or in a folder, and pictures of noise."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from semdis_cli.model.autoencoder import FCDMDiffAE
from semdis_cli.model.config import FCDMDiffAEConfig

_TINY = FCDMDiffAEConfig(
    model_dim=32,
    encoder_depth=2,
    decoder_depth=4,
    decoder_start_blocks=1,
    decoder_end_blocks=1,
    bottleneck_dim=8,
    mlp_ratio=2.0,
    depthwise_kernel_size=3,
    adaln_low_rank_rank=4,
)


def tiny_config(**changes: Any) -> FCDMDiffAEConfig:
    """An architecture with every kind of block, 16 pixels a patch, and a hundred thousand parameters."""
    return dataclasses.replace(_TINY, **changes)


@torch.no_grad()
def tiny_model(seed: int = 0, **changes: Any) -> FCDMDiffAE:
    """A model with float32 weights from `seed`, of which none is zero; its images stay about within [-1, 1].

    Latent statistics differ from channel to channel. The weights are drawn in the order of their names.
    """
    model = FCDMDiffAE(tiny_config(**changes))
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in sorted(model.state_dict().items()):
        if name != "decoder.time_embed.freqs":
            tensor.copy_(_draw(name, tensor.shape, generator))
    return model.requires_grad_(False).eval()


def save_tiny_model(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Write the checkpoint of `tiny_model` into `folder`, and return `folder`."""
    tiny_model(seed, **changes).save_pretrained(folder)
    return folder


def save_noise(path: Path, seed: int = 0, size: tuple[int, int] = (32, 48)) -> Path:
    """Write an image of that (height, width), of any two seeds another one, in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return path


def _draw(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    if name == "latent_norm_running_var":
        return 0.2 + 1.8 * torch.rand(shape, generator=generator)
    if name.endswith("layer_scale"):
        return 0.3 + 0.7 * torch.rand(shape, generator=generator)
    values = torch.randn(shape, generator=generator)
    if name.endswith(".weight"):
        values /= math.sqrt(math.prod(shape[1:]))
    else:
        values *= 0.3
    return 0.2 * values if name.startswith("decoder.out_proj") else values
