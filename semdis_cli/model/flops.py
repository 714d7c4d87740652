"""Arithmetic of the model from its config: 2 x multiply-adds of its linear maps and convolutions, per image."""

from semdis_cli.model.config import FCDMDiffAEConfig


def encode_flops(config: FCDMDiffAEConfig, height: int, width: int) -> int:
    """Of `Encoder` for one image [3,height,width]."""
    num_heads = 1 if config.bottleneck_posterior_kind == "deterministic" else 2
    per_patch = (
        _patch_values(config) * config.model_dim
        + config.encoder_depth * _block(config)
        + config.model_dim * num_heads * config.bottleneck_dim
    )
    return 2 * per_patch * _patches(config, height, width)


def decode_flops(config: FCDMDiffAEConfig, height: int, width: int, num_steps: int = 1, *, pdg: bool = False) -> int:
    """Of `Decoder` as published, every step computed anew and path-drop guidance as two whole passes.

    Conditioning (AdaLN), shared by all patches, is left out: below 0.1 % of an
    image of 256 x 256 pixels.
    """
    dropped = config.num_middle_blocks * _block(config)
    per_patch = num_steps * (_whole_step(config) + (_whole_step(config) - dropped if pdg else 0))
    return 2 * per_patch * _patches(config, height, width)


def decode_flops_with_reuse(
    config: FCDMDiffAEConfig, height: int, width: int, num_steps: int = 1, *, pdg: bool = False
) -> int:
    """Count the part of `decode_flops` that is computed where steps and guidance's two passes share what they can.

    Once for all steps: `latent_up` and its half of `fuse_in`. Once for both passes: patchify, the other half, the start
    blocks.
    """
    C = config.model_dim
    once = config.bottleneck_dim * C + C * C
    start = _patch_values(config) * C + C * C + config.decoder_start_blocks * _block(config)
    end = 2 * C * C + config.decoder_end_blocks * _block(config) + C * _patch_values(config)
    step = start + config.num_middle_blocks * _block(config) + end + (end if pdg else 0)
    return 2 * (once + num_steps * step) * _patches(config, height, width)


def _whole_step(config: FCDMDiffAEConfig) -> int:
    C = config.model_dim
    into = _patch_values(config) * C + config.bottleneck_dim * C + 2 * C * C
    return into + config.decoder_depth * _block(config) + 2 * C * C + C * _patch_values(config)


def _block(config: FCDMDiffAEConfig) -> int:
    """Multiply-adds of one `FCDMBlock` at one patch."""
    return 2 * config.model_dim * config.hidden_dim + config.depthwise_kernel_size**2 * config.model_dim


def _patch_values(config: FCDMDiffAEConfig) -> int:
    return config.in_channels * config.patch_size**2


def _patches(config: FCDMDiffAEConfig, height: int, width: int) -> int:
    return (height // config.patch_size) * (width // config.patch_size)
