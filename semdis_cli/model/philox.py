"""Philox4x64-10: random words of 64 bits, each computed from a key and its number, the same on every device.

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3". Block n of four words, n = 0, 1, ..., is what
ten rounds make of the counter n + 1, as in `numpy.random.Philox`.
"""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semdis_cli.model.network import to_device

_WORDS_OF_BLOCK = 4
_ROUNDS = 10
_MULTIPLIERS = 0xD2E7470EE14C6C93, 0xCA5A826395121157
_KEY_STEPS = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B  # from a round to the next
_LOW_HALF = 0xFFFFFFFF


def philox_on_cpu(keys: NDArray[np.uint64], num_words: int) -> NDArray[np.int64]:
    """Return the first words of each of B `keys` [B,2], [B,num_words]: in C, by NumPy."""
    generator = np.random.Philox(key=0)
    state = generator.state
    words = np.empty((len(keys), num_words), np.uint64)
    for row, key in zip(words, keys, strict=True):
        state["state"]["key"] = key
        generator.state = state  # to make another generator takes four times as long
        row[:] = generator.random_raw(num_words)
    return words.view(np.int64)


def philox_on_device(keys: NDArray[np.uint64], num_words: int, device: torch.device) -> Tensor:
    """Return the same in integer operations of PyTorch, of all keys at once; no more than these goes to the device."""
    round_keys, multipliers = to_device(_round_keys(keys), device), _multipliers_on(device)
    counter = torch.arange(1, -(-num_words // _WORDS_OF_BLOCK) + 1, device=device).expand(len(keys), -1)
    # Words 0 and 2 of all blocks, which a round multiplies and swaps, and words 1 and 3, [2,B,N] each
    multiplied, others = torch.stack([counter, torch.zeros_like(counter)]), torch.zeros_like(round_keys[0])
    for key in round_keys:
        high, low = _product(multiplied.flip(0), multipliers)
        multiplied, others = high ^ others ^ key, low
    words = torch.stack([multiplied[0], others[0], multiplied[1], others[1]], dim=-1)
    return words.flatten(1)[:, :num_words]


def _round_keys(keys: NDArray[np.uint64]) -> Tensor:
    """Return the keys of all rounds, int64 [10,2,B,1]."""
    steps = np.arange(_ROUNDS, dtype=np.uint64)[:, None, None] * np.array(_KEY_STEPS, np.uint64)[:, None]
    return torch.from_numpy((keys.T + steps).view(np.int64)[..., None])


def _product(x: Tensor, multipliers: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 64 bits of 128: the unsigned product of int64 [2,B,N] and of its multipliers [3,2,1,1].

    Halves are multiplied: no product and no sum of them has more than 64 bits. Shifts copy the sign: it is cut off.
    """
    whole, high, low = multipliers
    x_high, x_low = x >> 32 & _LOW_HALF, x & _LOW_HALF
    middle = torch.addcmul(x_low * low >> 32 & _LOW_HALF, x_high, low)
    carry = torch.addcmul(middle & _LOW_HALF, x_low, high)
    return torch.addcmul((middle >> 32 & _LOW_HALF) + (carry >> 32 & _LOW_HALF), x_high, high), x * whole


@lru_cache
def _multipliers_on(device: torch.device) -> Tensor:
    """Return the multipliers of words 2 and 0, and their high and low halves, int64 [3,2,1,1]."""
    whole = np.array(_MULTIPLIERS[::-1], np.uint64)
    parts = np.stack([whole, whole >> np.uint64(32), whole & np.uint64(_LOW_HALF)])
    return torch.from_numpy(parts.view(np.int64)[..., None, None]).to(device)
