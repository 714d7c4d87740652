"""Tiny peers with random weights, saved as diffusers saves them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from semdis_cli.errors import MissingExtraError
from semdis_cli.model.peers import find_peer
from semdis_cli.settings.contenders import PeerName
from tests.extras import needs

_KL: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
}
_TINY: dict[PeerName, dict[str, Any]] = {
    "flux2": _KL,
    "sd": _KL,
    "dcae": {
        "latent_channels": 4,
        "attention_head_dim": 4,
        "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
        "decoder_block_types": ("ResBlock", "EfficientViTBlock"),
        "encoder_block_out_channels": (8, 16),
        "decoder_block_out_channels": (8, 16),
        "encoder_layers_per_block": (1, 1),
        "decoder_layers_per_block": (1, 1),
        "encoder_qkv_multiscales": ((), (5,)),
        "decoder_qkv_multiscales": ((), (5,)),
        "upsample_block_type": "interpolate",
        "downsample_block_type": "conv",
    },
}


def save_tiny_peer(name: PeerName, folder: Path) -> Any:
    """Save a peer that halves the size, and return it; skips the test that runs without a diffusers that works."""
    needs("diffusers")
    try:
        peer_class = find_peer(name, "a test")
    except MissingExtraError as error:  # beside some builds of torchvision it cannot be imported
        pytest.skip(str(error))
    with torch.random.fork_rng(devices=[]):
        network = peer_class(**_TINY[name]).eval()
    network.save_pretrained(folder)
    return network
