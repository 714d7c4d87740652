"""Noisy image + time + latents -> clean image: start blocks, droppable middle blocks, end blocks, each with AdaLN."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from semdis_cli.model.config import FCDMDiffAEConfig
from semdis_cli.model.layers import (
    AdaLNScaleGateZeroLowRankDelta,
    AdaLNScaleGateZeroProjector,
    FCDMBlock,
    Patchify,
    SinusoidalTimeEmbeddingMLP,
)


class Decoder(nn.Module):
    """The published decoder. `adaln_deltas` is indexed by the block's place in start + middle + end."""

    def __init__(self, config: FCDMDiffAEConfig) -> None:
        super().__init__()
        width = config.model_dim

        def blocks(count: int) -> nn.ModuleList:
            kernel = config.depthwise_kernel_size
            return nn.ModuleList(
                FCDMBlock(width, config.mlp_ratio, depthwise_kernel_size=kernel, use_external_adaln=True)
                for _ in range(count)
            )

        self.patchify = Patchify(config.in_channels, config.patch_size, width)
        self.latent_up = nn.Conv2d(config.bottleneck_dim, width, 1)
        self.fuse_in = nn.Conv2d(2 * width, width, 1)
        self.time_embed = SinusoidalTimeEmbeddingMLP(width)
        self.adaln_base = AdaLNScaleGateZeroProjector(width, width)
        self.adaln_deltas = nn.ModuleList(
            AdaLNScaleGateZeroLowRankDelta(d_model=width, d_cond=width, rank=config.adaln_low_rank_rank)
            for _ in range(config.decoder_depth)
        )
        self.start_blocks = blocks(config.decoder_start_blocks)
        self.middle_blocks = blocks(config.num_middle_blocks)
        self.fuse_skip = nn.Conv2d(2 * width, width, 1)
        self.end_blocks = blocks(config.decoder_end_blocks)
        self.path_drop_mask_feature = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.out_proj = nn.Conv2d(width, config.in_channels * config.patch_size**2, 1)
        self.unpatchify = nn.PixelShuffle(config.patch_size)

    def forward(self, x_t: Tensor, t: Tensor, latents: Tensor, *, drop_middle_blocks: bool = False) -> Tensor:
        """x_t [B,3,H,W], t [B] float32, raw latents [B,Z,H/P,W/P] -> x0_hat [B,3,H,W] in the weights' dtype, unclamped.

        `drop_middle_blocks` replaces the middle blocks by a learned constant: the weak branch of path-drop guidance
        (the path drop of SPRINT, arXiv 2510.21986).
        """
        f = self.fuse_in(torch.cat([self.patchify(x_t), self.latent_up(latents)], dim=1))
        modulations = self.modulations(t)
        s = self.start(f, modulations)
        return self.finish(s, modulations, drop_middle_blocks=drop_middle_blocks)

    def modulations(self, t: Tensor) -> list[Tensor]:
        """t [B] -> (scale, gate) [B,2C] of every block: the shared projection plus the block's low-rank delta."""
        act_cond = self.adaln_base.act(self.time_embed(t))
        base = self.adaln_base.forward_activated(act_cond)
        return [
            base + cast(AdaLNScaleGateZeroLowRankDelta, delta).forward_activated(act_cond)
            for delta in self.adaln_deltas
        ]

    def start(self, f: Tensor, modulations: list[Tensor]) -> Tensor:
        """Send the output of `fuse_in` [B,C,h,w] through the start blocks. `modulations`: [B,2C], or [1,2C] for all."""
        return _run(self.start_blocks, f, modulations[: len(self.start_blocks)])

    def finish(self, s: Tensor, modulations: list[Tensor], *, drop_middle_blocks: bool = False) -> Tensor:
        """Turn the output of `start` [B,C,h,w] into x0_hat [B,3,H,W]."""
        num_start = len(self.start_blocks)
        first_end = num_start + len(self.middle_blocks)
        if drop_middle_blocks:
            m = self.path_drop_mask_feature.expand_as(s)
        else:
            m = _run(self.middle_blocks, s, modulations[num_start:first_end])
        e = self.fuse_skip(torch.cat([s, m], dim=1))
        e = _run(self.end_blocks, e, modulations[first_end:])
        return cast(Tensor, self.unpatchify(self.out_proj(e)))


class DecoderGrid:
    """Tensors that the steps of a decoder over one time grid share, whatever the latents; for unchanging weights.

    By all images of a step: the modulations. By all steps: the two halves of `fuse_in`, of the image and of latents.
    """

    def __init__(self, decoder: Decoder, times: Tensor) -> None:
        """`times` [steps] float32, on the device of the weights."""
        self.decoder = decoder
        fuse = decoder.fuse_in
        of_x, of_z = fuse.weight.split(fuse.out_channels, dim=1)
        self.weight_of_x, self.weight_of_z = of_x.contiguous(), of_z.contiguous()
        of_blocks = decoder.modulations(times)  # each [steps,2C]
        self.modulations = [[rows[i : i + 1] for rows in of_blocks] for i in range(len(times))]


class DecoderSteps:
    """A decoder's steps over one time grid for given latents; what the steps share is computed once.

    Shared by all: `latent_up` and its half of `fuse_in`. By the two passes of path-drop guidance: everything up to the
    middle blocks.
    """

    def __init__(self, grid: DecoderGrid, latents: Tensor) -> None:
        """Raw `latents` [B,Z,h,w]."""
        self._grid, self._decoder = grid, grid.decoder
        up = self._decoder.latent_up(latents)
        self._condition = functional.conv2d(up, grid.weight_of_z, self._decoder.fuse_in.bias)

    def predict(self, x_t: Tensor, step: int) -> Tensor:
        """x_t [B,3,H,W] in the weights' dtype -> x0_hat [B,3,H,W]."""
        return self._decoder.finish(self._start(x_t, step), self._grid.modulations[step])

    def predict_both(self, x_t: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """x_t [B,3,H,W] -> x0_hat with and without the middle blocks, each [B,3,H,W]."""
        s, modulations = self._start(x_t, step), self._grid.modulations[step]
        return self._decoder.finish(s, modulations), self._decoder.finish(s, modulations, drop_middle_blocks=True)

    def _start(self, x_t: Tensor, step: int) -> Tensor:
        f = functional.conv2d(self._decoder.patchify(x_t), self._grid.weight_of_x).add_(self._condition)
        return self._decoder.start(f, self._grid.modulations[step])


def _run(blocks: nn.ModuleList, x: Tensor, modulations: list[Tensor]) -> Tensor:
    for block, modulation in zip(blocks, modulations, strict=True):
        x = block(x, modulation)
    return x
