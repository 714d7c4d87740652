"""DiT: a transformer that predicts the velocity of latents (Peebles & Xie 2023), from top to bottom.

N = h w / p^2 tokens of P = Z p^2 values, D channels wide, of B images. Departures from the paper: positions of any grid
are computed, not looked up, and t in [0,1] is told apart as its 1,000 steps were.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from semdis_cli.evaluation.generator.settings import GeneratorSize
from semdis_cli.training.step import generator_for

_MLP_RATIO, _NUM_FREQUENCIES, _LONGEST_PERIOD, _TIME_SCALE = 4, 128, 10_000.0, 1_000.0
_SMALL_STD = 0.02


@dataclass(frozen=True)
class DiTShape:
    """Depth, width and heads of a network."""

    depth: int
    width: int
    num_heads: int


# S and B: Peebles & Xie 2023, table 1.
SHAPES: dict[GeneratorSize, DiTShape] = {
    "tiny": DiTShape(4, 128, 4),
    "S": DiTShape(12, 384, 6),
    "B": DiTShape(12, 768, 12),
}


class DiT(nn.Module):
    """Velocity of noisy latents [B,Z,h,w] at t [B] for labels [B]; label `num_classes` stands for none."""

    def __init__(self, shape: DiTShape, num_channels: int, patch: int, num_classes: int) -> None:
        super().__init__()
        self.patch, self.num_classes, self._width = patch, num_classes, shape.width
        num_values = num_channels * patch**2
        self.tokens = nn.Linear(num_values, shape.width)
        self.time = nn.Sequential(
            nn.Linear(2 * _NUM_FREQUENCIES, shape.width), nn.SiLU(), nn.Linear(shape.width, shape.width)
        )
        self.labels = nn.Embedding(num_classes + 1, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.depth))
        self.last = LastLayer(shape.width, num_values)

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """[B,Z,h,w], [B] in [0,1], [B] int64 -> [B,Z,h,w]."""
        h, w = x_t.shape[2] // self.patch, x_t.shape[3] // self.patch
        values = functional.pixel_unshuffle(x_t, self.patch).flatten(2).mT  # [B,N,P]
        x = self.tokens(values) + positions(h, w, self._width, x_t.device)  # [B,N,D]
        condition = functional.silu(self.time(frequencies(t)) + self.labels(labels))  # [B,D]
        for block in self.blocks:
            x = block(x, condition)
        velocity: Tensor = self.last(x, condition)  # [B,N,P]
        return functional.pixel_shuffle(velocity.mT.unflatten(2, (h, w)), self.patch)

    @torch.no_grad()
    def initialise(self, seed: int) -> "DiT":
        """Draw the weights as the paper does: Xavier, the conditions' narrow, and zeros where adaLN-Zero asks for them.

        Each tensor has its own chance: those of one name and shape are equal, whatever the others' shapes.
        """
        for name, tensor in self.named_parameters():
            generator = generator_for(seed, f"generator {name}", 0)
            if name.endswith("bias") or ".modulation." in name or name == "last.values.weight":
                nn.init.zeros_(tensor)
            elif name.startswith(("time.", "labels.")):
                nn.init.normal_(tensor, std=_SMALL_STD, generator=generator)
            else:
                nn.init.xavier_uniform_(tensor, generator=generator)
        return self


class Block(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by the condition: adaLN-Zero (section 3.2)."""

    def __init__(self, shape: DiTShape) -> None:
        super().__init__()
        width = shape.width
        self._num_heads = shape.num_heads
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, _MLP_RATIO * width), nn.GELU(approximate="tanh"), nn.Linear(_MLP_RATIO * width, width)
        )

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """[B,N,D] and [B,D] -> [B,N,D]."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition)[:, None].chunk(6, dim=2)
        x = x + gate_a * self._attend(modulate(x, shift_a, scale_a))
        mixed: Tensor = x + gate_m * self.mlp(modulate(x, shift_m, scale_m))
        return mixed

    def _attend(self, x: Tensor) -> Tensor:
        """Let all tokens of an image look at each other: [B,N,D] -> [B,N,D]."""
        q, k, v = self.qkv(x).unflatten(2, (3, self._num_heads, -1)).permute(2, 0, 3, 1, 4)  # [B,heads,N,D/heads] each
        seen = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out: Tensor = self.out(seen)
        return out


class LastLayer(nn.Module):
    """Tokens -> their values, by the condition."""

    def __init__(self, width: int, num_values: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 2 * width)
        self.values = nn.Linear(width, num_values)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """[B,N,D] and [B,D] -> [B,N,P]."""
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=2)
        values: Tensor = self.values(modulate(x, shift, scale))
        return values


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm without weights of its own, times 1 + scale, plus shift (section 3.2, adaLN): [B,N,D] -> [B,N,D]."""
    return functional.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def frequencies(t: Tensor) -> Tensor:
    """Cosines and sines of t at 128 frequencies from 1 down to 1/10,000 (Vaswani et al. 2017): [B] -> [B,256]."""
    exponents = torch.arange(_NUM_FREQUENCIES, device=t.device) / _NUM_FREQUENCIES
    angles = _TIME_SCALE * t[:, None] * torch.exp(-math.log(_LONGEST_PERIOD) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def positions(h: int, w: int, width: int, device: torch.device) -> Tensor:
    """Sines and cosines of row and column, D / 2 channels each (Vaswani et al. 2017): -> [h w,D] float32."""
    exponents = torch.arange(width // 4, device=device) / (width // 4)
    rates = torch.exp(-math.log(_LONGEST_PERIOD) * exponents)
    rows, columns = (torch.arange(n, device=device)[:, None] * rates for n in (h, w))
    rows, columns = (torch.cat([angles.sin(), angles.cos()], dim=1) for angles in (rows, columns))
    return torch.cat([rows[:, None].expand(-1, w, -1), columns[None].expand(h, -1, -1)], dim=2).flatten(0, 1)


def num_parameters(shape: DiTShape, num_values: int, num_classes: int) -> int:
    """Return how many parameters a network has, for tokens of `num_values` values."""
    width, ends = shape.width, (2 * num_values + 2 * _NUM_FREQUENCIES + num_classes + 1) * shape.width + num_values
    of_block = (10 + 2 * _MLP_RATIO) * width**2 + (11 + _MLP_RATIO) * width
    return ends + shape.depth * of_block + 3 * width**2 + 5 * width


def flops(shape: DiTShape, num_values: int, num_tokens: int) -> int:
    """Return 2 x multiply-adds of a forward pass for one image of `num_tokens` tokens of `num_values` values."""
    width = shape.width
    of_token = 2 * num_values * width + shape.depth * ((4 + 2 * _MLP_RATIO) * width**2 + 2 * num_tokens * width)
    of_image = (2 * _NUM_FREQUENCIES + width) * width + (6 * shape.depth + 2) * width**2
    return 2 * (num_tokens * of_token + of_image)
