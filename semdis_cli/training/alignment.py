"""Semantic alignment: latents from which a small head can tell a frozen teacher's features, even through noise.

Source: DRA (Page et al. 2026), section 4.3, noisy alignment. Latents are mixed with noise at a random level tau, a
projection head predicts the teacher's features from the mixture, and the loss is the negative cosine between the two.
The head serves training alone: it is no part of the autoencoder and is not exported.

B, h, w are a batch and its grid of latents, Z and F the channels of latents and features, C the head's width, N tokens.
"""

from functools import lru_cache
from typing import Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from semdis_cli.model.layers import SinusoidalTimeEmbeddingMLP, time_frequencies

_NUM_MODULATIONS = 5  # of a head: scale and gate of the attention, scale and gate of the MLP, scale of the output


def draw_tau(count: int, generator: torch.Generator) -> Tensor:
    """Noise levels tau ~ Beta(2,2), [count] float32 in [0,1], on the generator's device.

    The k-th smallest of n uniform numbers is distributed as Beta(k, n+1-k), so the median of three is Beta(2,2)
    exactly; torch's own sampler of Beta takes no generator.
    """
    uniform = torch.rand(3, count, generator=generator, device=generator.device, dtype=torch.float32)
    return uniform.median(dim=0).values


def noisy_latents(latents: Tensor, eps: Tensor, tau: Tensor) -> Tensor:
    """z_noisy = (1 - tau) z + tau eps, eps ~ N(0,I) (DRA, section 4.3).

    `latents` and `eps` [B,Z,h,w], of about unit variance; `tau` [B] in [0,1]. Returns [B,Z,h,w] float32: in bfloat16
    1 - tau has two digits.
    """
    assert latents.shape == eps.shape, "noise for every latent"
    level = tau.float()[:, None, None, None]
    return (1 - level) * latents.float() + level * eps.float()


def alignment_loss(predicted: Tensor, features: Tensor) -> Tensor:
    """Negative cosine over the channels, averaged over images and positions (DRA, section 4.3).

    Both [B,F,h,w]; the result is 0-dim float32 in [-1,1], as bfloat16 would round sums over F. Zero vectors count as
    orthogonal to everything. `features` are a target: they get no gradient.
    """
    assert predicted.shape == features.shape, "the cosine would broadcast in silence"
    return -functional.cosine_similarity(predicted.float(), features.detach().float(), dim=1).mean()


def position_features(height: int, width: int, channels: int) -> Tensor:
    """2-D sinusoidal positions [h*w, channels] float32, row by row: sines and cosines of y, then of x.

    Source: Vaswani et al. 2017, section 3.5, half of the channels per axis. `channels` must be a multiple of 4.
    """
    frequencies = time_frequencies(channels // 4)
    y, x = (torch.arange(length, dtype=torch.float32)[:, None] * frequencies for length in (height, width))
    rows, columns = (torch.cat([angles.sin(), angles.cos()], dim=1) for angles in (y, x))
    grid = torch.cat([rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)], dim=2)
    return grid.flatten(0, 1)


@lru_cache(maxsize=8)
def _positions_on(device: torch.device, height: int, width: int, channels: int) -> Tensor:
    """Make `position_features` on `device` once: a copy in every step would wait for the device."""
    return position_features(height, width, channels).to(device)


class AlignmentHead(nn.Module):
    """Noisy latents and their noise level -> features: 1x1 in, registers, one transformer block, norm, 1x1 out.

    The level tau acts through the head's own AdaLN, five modulations of `width` channels. Registers (Darcet et al.
    2024) are tokens of no place; positions are sinusoidal, so that any grid fits. The weights are those of
    `initialise`.
    """

    def __init__(
        self,
        latent_channels: int,
        feature_dim: int,
        width: int = 768,
        *,
        head_dim: int = 64,
        mlp_ratio: float = 4.0,
        num_registers: int = 4,
    ) -> None:
        super().__init__()
        assert width % head_dim == 0, "whole attention heads"
        assert width % 4 == 0, "sine and cosine of two axes"
        hidden = int(width * mlp_ratio)
        self.head_dim = head_dim
        self.to_width = nn.Conv2d(latent_channels, width, 1)
        self.registers = nn.Parameter(torch.zeros(num_registers, width))
        self.tau_embed = SinusoidalTimeEmbeddingMLP(width)
        self.adaln = nn.Linear(width, _NUM_MODULATIONS * width)
        self.to_qkv = nn.Linear(width, 3 * width)
        self.from_attention = nn.Linear(width, width)
        self.mlp_in = nn.Linear(width, hidden)
        self.mlp_out = nn.Linear(hidden, width)
        self.to_features = nn.Conv2d(width, feature_dim, 1)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> Self:
        """Draw all weights from a CPU `generator`, the same on every device; returns the head.

        Matrices are fan-in scaled, biases zero. Registers have the scale of the tokens beside them, and gates start
        open, so that gradients reach every parameter from the first step.
        """
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                parameter.zero_()
                continue
            std = 1.0 if name == "registers" else parameter[0].numel() ** -0.5
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
        for gate in self.adaln.bias.chunk(_NUM_MODULATIONS)[1:4:2]:
            gate.fill_(1.0)
        return self

    def forward(self, noisy: Tensor, tau: Tensor) -> Tensor:
        """[B,Z,h,w], tau [B] in [0,1] -> [B,F,h,w] float32, also under autocast."""
        height, width = noisy.shape[2:]
        modulation = self.adaln(functional.silu(self.tau_embed(tau)))[:, None]  # [B,1,5C]
        scale_attention, gate_attention, scale_mlp, gate_mlp, scale_out = modulation.chunk(_NUM_MODULATIONS, dim=-1)

        x = self._tokens(noisy)
        x = x + gate_attention * self._attention(_norm(x) * (1 + scale_attention))
        x = x + gate_mlp * self.mlp_out(functional.gelu(self.mlp_in(_norm(x) * (1 + scale_mlp))))

        x = (_norm(x) * (1 + scale_out))[:, : height * width]  # the registers have done their work
        features = self.to_features(x.transpose(1, 2).unflatten(2, (height, width)))
        return cast(Tensor, features.float())

    def _tokens(self, noisy: Tensor) -> Tensor:
        """[B,Z,h,w] -> [B,N,C] float32: one token for each position, row by row, then the registers.

        The residual stream is float32 whatever autocast makes of the matrices.
        """
        tokens = self.to_width(noisy).flatten(2).transpose(1, 2).float()
        positions = _positions_on(tokens.device, noisy.shape[2], noisy.shape[3], tokens.shape[2])
        registers = self.registers.float().expand(len(tokens), -1, -1)
        return torch.cat([tokens + positions, registers], dim=1)

    def _attention(self, x: Tensor) -> Tensor:
        """Self-attention over all tokens, [B,N,C] -> the same."""
        heads = self.to_qkv(x).unflatten(2, (3, -1, self.head_dim)).transpose(1, 3)  # [B,heads,3,N,head_dim]
        q, k, v = heads.unbind(2)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return cast(Tensor, self.from_attention(mixed.transpose(1, 2).flatten(2)))


def _norm(x: Tensor) -> Tensor:
    """Layer norm over C without parameters of its own, float32: the scale comes from AdaLN."""
    return functional.layer_norm(x.float(), x.shape[-1:])
