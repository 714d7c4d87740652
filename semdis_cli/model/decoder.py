"""Noisy image + time + latents -> clean image: start blocks, droppable middle blocks, end blocks, each with AdaLN."""

from typing import cast

import torch
from torch import Tensor, nn

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
        modulations = self._modulations(t)
        num_start, num_middle = len(self.start_blocks), len(self.middle_blocks)

        s = _run(self.start_blocks, f, modulations[:num_start])
        if drop_middle_blocks:
            m = self.path_drop_mask_feature.expand_as(s)
        else:
            m = _run(self.middle_blocks, s, modulations[num_start : num_start + num_middle])
        e = self.fuse_skip(torch.cat([s, m], dim=1))
        e = _run(self.end_blocks, e, modulations[num_start + num_middle :])
        return cast(Tensor, self.unpatchify(self.out_proj(e)))

    def _modulations(self, t: Tensor) -> list[Tensor]:
        """t [B] -> (scale, gate) [B,2C] of every block: the shared projection plus the block's low-rank delta."""
        act_cond = self.adaln_base.act(self.time_embed(t))
        base = self.adaln_base.forward_activated(act_cond)
        return [
            base + cast(AdaLNScaleGateZeroLowRankDelta, delta).forward_activated(act_cond)
            for delta in self.adaln_deltas
        ]


def _run(blocks: nn.ModuleList, x: Tensor, modulations: list[Tensor]) -> Tensor:
    for block, modulation in zip(blocks, modulations, strict=True):
        x = block(x, modulation)
    return x
