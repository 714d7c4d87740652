"""Chance of a generator's training: by seed, step and key alone, so that all sets of latents meet the same."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from semdis_cli.model.noise import noise_of_streams, noise_stream
from semdis_cli.training.step import generator_for


@dataclass(frozen=True)
class Draws:
    """Times `t` [B] in [0,1), and `is_hidden` [B], whose labels are hidden; both float32 and bool on the CPU."""

    t: Tensor
    is_hidden: Tensor

    @classmethod
    def of_step(cls, seed: int, step: int, batch_size: int, label_dropout: float) -> "Draws":
        """Draw for the images of a step in their order: of a shape that no set of latents has a say in."""
        generator = generator_for(seed, "generator", step)
        t = torch.rand(batch_size, generator=generator)
        return cls(t, torch.rand(batch_size, generator=generator) < label_dropout)


def noise_of(purpose: str, seed: int, keys: Sequence[str], latents: Tensor) -> Tensor:
    """Standard normal float32 noise for `latents` [B,Z,h,w] of images with these keys, on their device.

    An image's noise is made of one counter-based stream, which `purpose`, seed and key name: latents of equal shapes
    meet equal noise, and those of other shapes noise of the same random words.
    """
    streams = [noise_stream(f"generator {purpose}", seed, key) for key in keys]
    return noise_of_streams(streams, tuple(latents.shape[1:]), latents.device)
