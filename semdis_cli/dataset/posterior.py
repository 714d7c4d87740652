"""Samples of posteriors, drawn while training: a set that holds mean and log-SNR gives others in each epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from semdis_cli.dataset.draws import Draws
from semdis_cli.errors import UsageError
from semdis_cli.model.diffusion import vp_alpha
from semdis_cli.model.noise import noise_of_streams, noise_stream, posterior_noise
from semdis_cli.parts import LOG_SNR
from semdis_cli.provenance import Provenance
from semdis_cli.settings import NoiseKind


@dataclass(frozen=True, eq=False)
class PosteriorSampler:
    """Draws z = mean + sigma eps, where `std` [Z,1,1] is what whitening divided by; None: the means are raw.

    In whitened space sigma is as much smaller as the means are: sigma / std.
    """

    draws: Draws
    std: Tensor | None
    noise: NoiseKind = "philox"

    @classmethod
    def of(cls, draws: Draws, provenance: Provenance, path: Path) -> Self:
        """Return that of the set at `path`. Raises `UsageError` if it does not hold posteriors."""
        if LOG_SNR not in provenance.layout.parts:
            raise UsageError("holds no posteriors to sample; encode with --posterior moments", place=path)
        if not provenance.is_whitened:
            return cls(draws, None)
        whitening = provenance.whitening
        if whitening is None:
            raise UsageError("does not say how its latents were whitened, so it cannot be sampled", place=path)
        return cls(draws, torch.tensor(whitening.std)[:, None, None])

    def sample(self, means: Tensor, log_snr: Tensor, keys: Sequence[str], flips: Sequence[bool]) -> Tensor:
        """Means as stored and log-SNR, [B,Z,h,w] -> samples float32; `flips`: which are those of twins.

        In epoch 0 the noise is that of `encode --posterior sample` with the same seed.
        """
        purposes = [posterior_noise(is_mirrored=flip, epoch=self.draws.epoch) for flip in flips]
        streams = [noise_stream(purpose, self.draws.seed, key) for purpose, key in zip(purposes, keys, strict=True)]
        eps = noise_of_streams(streams, tuple(means.shape[1:]))
        sigma = vp_alpha(-log_snr.float())
        return means.float() + (sigma if self.std is None else sigma / self.std) * eps
