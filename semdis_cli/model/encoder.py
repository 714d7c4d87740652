"""Images -> posterior: patchify, residual blocks, one 1x1 head for mean and log-SNR."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from semdis_cli.model.config import FCDMDiffAEConfig
from semdis_cli.model.layers import ChannelWiseRMSNorm, FCDMBlock, Patchify
from semdis_cli.model.posterior import EncoderPosterior


class Encoder(nn.Module):
    """The published encoder: `patchify`, `blocks`, `to_bottleneck`, `norm_out` (no tensors)."""

    def __init__(self, config: FCDMDiffAEConfig) -> None:
        super().__init__()
        self.is_deterministic = config.bottleneck_posterior_kind == "deterministic"
        self.bottleneck_patch = config.bottleneck_patch
        width = config.model_dim
        self.patchify = Patchify(config.in_channels, config.patch_size, width)
        self.blocks = nn.ModuleList(
            FCDMBlock(width, config.mlp_ratio, depthwise_kernel_size=config.depthwise_kernel_size)
            for _ in range(config.encoder_depth)
        )
        num_heads = 1 if self.is_deterministic else 2
        self.to_bottleneck = nn.Conv2d(width, num_heads * config.bottleneck_dim, 1)
        normalise = config.bottleneck_norm_mode == "channel_wise"
        self.norm_out = ChannelWiseRMSNorm(config.bottleneck_dim, affine=False) if normalise else nn.Identity()

    def forward(self, images: Tensor) -> EncoderPosterior:
        """[B,3,H,W] in [-1,1], any float dtype -> posterior with float32 `mean`, `logsnr` [B,Z,h,w], raw.

        Mean and log-SNR leave the network's dtype here, so that everything after it is float32. A deterministic encoder
        has logsnr = inf: alpha 1, sigma 0. For p32, 2x2 positions are folded into channels (c*4 + dy*2 + dx).
        """
        h = self.patchify(images)
        for block in self.blocks:
            h = block(h)
        return self.posterior(self.to_bottleneck(h).float())

    def posterior(self, head: Tensor) -> EncoderPosterior:
        """Read the output of `to_bottleneck`, [B,Z,h,w] or [B,2Z,h,w] float32, as a posterior."""
        if self.is_deterministic:
            mean, logsnr = head, torch.full_like(head, torch.inf)
        else:
            mean, logsnr = head.chunk(2, dim=1)
        return EncoderPosterior(mean=self._fold(self.norm_out(mean)), logsnr=self._fold(logsnr))

    def _fold(self, x: Tensor) -> Tensor:
        return x if self.bottleneck_patch == 1 else functional.pixel_unshuffle(x, self.bottleneck_patch)  # it copies
