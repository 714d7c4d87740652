"""Noise of one image, the same wherever and beside whatever it is computed."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def image_noise(purpose: str, seed: int, key: str, shape: tuple[int, ...], out: Tensor | None = None) -> Tensor:
    """Standard normal float32 noise of one image.

    `purpose` keeps the streams of encoding and decoding apart. `out`: where to draw it, contiguous.
    """
    text = f"{purpose}\0{seed}\0{key}".encode(errors="surrogatepass")
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1)
    return torch.randn(shape, generator=generator, out=out)


def noise_of_images(purpose: str, seed: int, keys: Sequence[str], shape: tuple[int, ...]) -> Tensor:
    """[len(keys), *shape]."""
    noise = torch.empty(len(keys), *shape)
    for image, key in zip(noise, keys, strict=True):
        image_noise(purpose, seed, key, shape, out=image)
    return noise


def posterior_noise(*, is_mirrored: bool, epoch: int = 0) -> str:
    """Name the stream of the noise that samples posteriors: of an image or of its twin, in an epoch of training.

    That of epoch 0 is the one that encoding draws from.
    """
    name = "posterior flip" if is_mirrored else "posterior"
    return f"{name} {epoch}" if epoch else name
