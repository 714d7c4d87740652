"""Noise of one image, the same bits wherever, beside whatever and on whatever device it is computed.

A random word of 64 bits (`philox`) gives four normal numbers: each 16 bits choose one of 65,536 normal values of equal
probability, and an orthogonal matrix of 1/2 and -1/2 mixes four of these. Sums and differences of independent normal
numbers are independent and normal, and now there are 2^64 of them. So all arithmetic is looking up, adding and
subtracting: IEEE 754 says every bit of that, and there is no product that a compiler could fuse with a sum.
"""

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semdis_cli.model.network import to_device
from semdis_cli.model.philox import philox_on_cpu, philox_on_device
from semdis_cli.settings import NoiseKind

Array = TypeVar("Array", NDArray[np.float32], Tensor)

_CPU = torch.device("cpu")
_VALUES_OF_WORD, _BITS = 4, 16
_MASK = (1 << _BITS) - 1
_WORDS_AT_ONCE = 1 << 14  # on a CPU: more would not stay in the cache of a core


def noise_stream(purpose: str, seed: int, key: str) -> bytes:
    """Name the stream of an image's noise, 32 bytes. `purpose` keeps encoding and decoding apart."""
    return hashlib.sha256(f"{purpose}\0{seed}\0{key}".encode(errors="surrogatepass")).digest()


def posterior_noise(*, is_mirrored: bool, epoch: int = 0) -> str:
    """Name the purpose of noise that samples posteriors: of an image or of its twin, in an epoch of training.

    That of epoch 0 is the one that encoding draws for.
    """
    name = "posterior flip" if is_mirrored else "posterior"
    return f"{name} {epoch}" if epoch else name


def noise_of_images(
    purpose: str,
    seed: int,
    keys: Sequence[str],
    shape: tuple[int, ...],
    device: torch.device = _CPU,
    kind: NoiseKind = "philox",
) -> Tensor:
    """Standard normal float32 noise of the images with these `keys`, [len(keys), *shape] on `device`.

    `kind` "torch": as PyTorch draws it, image by image on the CPU, in sets and folders of versions that had no other.
    """
    streams = [noise_stream(purpose, seed, key) for key in keys]
    return noise_of_streams(streams, shape, device) if kind == "philox" else to_device(_drawn(streams, shape), device)


def noise_of_streams(streams: Sequence[bytes], shape: tuple[int, ...], device: torch.device = _CPU) -> Tensor:
    """Standard normal float32 noise of each of `streams`, [len(streams), *shape] on `device`.

    Value i of N is row i // M of what is mixed of word i % M, where M is N / 4, rounded up.
    """
    num_values = math.prod(shape)
    noise = torch.empty(len(streams), _VALUES_OF_WORD, -(-num_values // _VALUES_OF_WORD), device=device)
    keys = np.frombuffer(b"".join(stream[:16] for stream in streams), "<u8").reshape(-1, 2)
    if device.type == "cpu":
        fill_on_cpu(noise.numpy(), keys)
    else:
        fill_on_device(noise, keys)
    return noise.flatten(1)[:, :num_values].reshape(-1, *shape)


def fill_on_cpu(noise: NDArray[np.float32], keys: NDArray[np.uint64]) -> None:
    """Fill [B,4,M] with the noise of B keys, as much at a time as stays in the cache."""
    num_words = noise.shape[2]
    num_images = max(1, _WORDS_AT_ONCE // num_words)
    shifts = np.arange(0, 64, _BITS)[:, None]
    for first in range(0, len(keys), num_images):
        images = slice(first, first + num_images)
        words = philox_on_cpu(keys[images], num_words)[:, None]
        for start in range(0, num_words, _WORDS_AT_ONCE):
            part = slice(start, start + _WORDS_AT_ONCE)
            chosen = words[..., part] >> shifts & _MASK
            _mix(normal_values().take(chosen, mode="wrap"), noise[images, :, part])


def fill_on_device(noise: Tensor, keys: NDArray[np.uint64]) -> None:
    """Fill [B,4,M] with the noise of B keys, all at once."""
    words = philox_on_device(keys, noise.shape[2], noise.device)[:, None]
    shifts = torch.arange(0, 64, _BITS, device=noise.device)[:, None]
    _mix(_normal_values_on(noise.device)[words >> shifts & _MASK], noise)


def _mix(values: Array, noise: Array) -> None:
    """Four halved normal values [B,4,M] -> `noise` [B,4,M]: their sums, with the signs of a Hadamard matrix."""
    sums, differences = values[:, :2] + values[:, 2:], values[:, :2] - values[:, 2:]
    for row, pair in ((0, sums), (2, differences)):
        noise[:, row] = pair[:, 0] + pair[:, 1]
        noise[:, row + 1] = pair[:, 0] - pair[:, 1]


@lru_cache(maxsize=1)
def normal_values() -> NDArray[np.float32]:
    """Half of the normal value in the middle of each of 65,536 intervals of equal probability.

    The outermost two are those with which the variance is 1. None is so near to the middle between two float32 numbers
    that the last bits of a math library could decide which one it becomes.
    """
    number = 1 << _BITS
    upper = [NormalDist().inv_cdf((index + 0.5) / number) for index in range(number // 2, number - 1)]
    upper.append(math.sqrt(number / 2 - math.fsum(value * value for value in upper)))
    half = np.array(upper) / 2
    return np.concatenate([-half[::-1], half]).astype(np.float32)


@lru_cache
def _normal_values_on(device: torch.device) -> Tensor:
    return torch.from_numpy(normal_values()).to(device)


def _drawn(streams: Sequence[bytes], shape: tuple[int, ...]) -> Tensor:
    """Noise as PyTorch draws it on a CPU; another version of it may draw another."""
    noise = torch.empty(len(streams), *shape)
    for image, stream in zip(noise, streams, strict=True):
        generator = torch.Generator().manual_seed(int.from_bytes(stream[:8], "big") >> 1)
        torch.randn(shape, generator=generator, out=image)
    return noise
