"""Encoder and decoder for inference on a CPU: the plain modules' function on rows of patches, with packed weights.

`FCDMDiffAE` stays the reference; this is what the `Tokenizer` runs instead where oneDNN's operators are at hand. One
thread a call: a caller uses more cores by making more calls at once.
"""

from threading import Lock
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from semdis_cli.model import diffusion
from semdis_cli.model.autoencoder import FCDMDiffAE
from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.model.cpu.kernels import Modulation, PackedBlock, PackedLinear, float_bias, rows_at_once
from semdis_cli.model.decoder import Decoder
from semdis_cli.model.encoder import Encoder
from semdis_cli.model.layers import FCDMBlock
from semdis_cli.model.pixels import float_to_images, images_to_float, images_to_patches, patches_to_images
from semdis_cli.model.posterior import EncoderPosterior
from semdis_cli.stops import look

Grid = tuple[int, int]
_MOST_IMAGES = 32


def images_of_a_group(grid: Grid, hidden_dim: int) -> int:
    """Images of patch grid `grid` (h, w) that go through a network of that hidden width as one block of rows."""
    return max(1, min(_MOST_IMAGES, rows_at_once(hidden_dim) // (grid[0] * grid[1])))


class PackedEncoder:
    """uint8 images -> what `Encoder.to_bottleneck` gives."""

    @torch.inference_mode()
    def __init__(self, encoder: Encoder, patch_size: int) -> None:
        self._patch = patch_size
        self._patchify = _packed(encoder.patchify.proj)
        self._blocks = _packed_blocks(encoder.blocks)
        self._head = _packed(encoder.to_bottleneck)
        self._dtype = encoder.to_bottleneck.weight.dtype

    def head(self, images: Tensor) -> Tensor:
        """One group [n,3,H,W] uint8 of any strides -> [n,Z,h,w] (or 2Z) float32."""
        shape = (len(images), images.shape[2] // self._patch, images.shape[3] // self._patch)
        x = self._patchify(images_to_float(images_to_patches(images, self._patch)).to(self._dtype))
        for block in self._blocks:
            look()
            x = block(x, shape)
        return self._head(x).view(*shape, -1).permute(0, 3, 1, 2).float().contiguous()


class PackedDecoder:
    """Raw latents and noise -> uint8 images, with all that does not change between steps computed once.

    The noisy image is kept as patches; patchify and its half of `fuse_in` are one map, and so are `latent_up` and the
    other half.
    """

    @torch.inference_mode()
    def __init__(self, decoder: Decoder, patch_size: int) -> None:
        self._patch = patch_size
        self._dtype = decoder.out_proj.weight.dtype
        width = decoder.out_proj.in_channels
        of_x, of_z = (half.float() for half in decoder.fuse_in.weight.flatten(1).split(width, dim=1))
        patchify, latent_up = decoder.patchify.proj, decoder.latent_up
        bias = float_bias(decoder.fuse_in) + of_x @ float_bias(patchify) + of_z @ float_bias(latent_up)
        self._noisy_in = PackedLinear((of_x @ patchify.weight.flatten(1).float()).to(self._dtype))
        self._latents_in = PackedLinear((of_z @ latent_up.weight.flatten(1).float()).to(self._dtype), bias)

        self._start, self._middle, self._end = (
            _packed_blocks(blocks) for blocks in (decoder.start_blocks, decoder.middle_blocks, decoder.end_blocks)
        )
        of_start, of_middle = decoder.fuse_skip.weight.flatten(1).split(width, dim=1)
        self._skip_in = PackedLinear(of_start.contiguous())
        self._middle_in = PackedLinear(of_middle.contiguous(), float_bias(decoder.fuse_skip))
        dropped = of_middle.float() @ decoder.path_drop_mask_feature.flatten().float() + float_bias(decoder.fuse_skip)
        self._dropped_in = dropped.to(self._dtype)
        self._out = _packed(decoder.out_proj)
        self._plain = decoder
        self._grid_modulations: tuple[Tensor, list[list[Modulation]]] | None = None

    def images(
        self, z: Tensor, noise: Tensor, config: FCDMDiffAEInferenceConfig, logsnr_limits: tuple[float, float]
    ) -> Tensor:
        """One group: raw latents [n,Z,h,w] float32, noise [n,3,H,W], which is lost -> uint8 [n,3,H,W]."""
        shape = (len(z), z.shape[2], z.shape[3])
        condition = self._latents_in(z.permute(0, 2, 3, 1).reshape(-1, z.shape[1]).to(self._dtype))
        modulations = self._modulations(config)

        def predict(x_t: Tensor, step: int) -> Tensor:
            return self._predict(x_t, condition, shape, modulations[step], config)

        x = images_to_patches(noise, self._patch)  # all states follow each other in this memory
        x0 = diffusion.sample(predict, x, config, *logsnr_limits, in_place=True)
        return patches_to_images(float_to_images(x0, scratch=x0), self._patch, shape[1:])

    def _predict(
        self,
        x_t: Tensor,
        condition: Tensor,
        shape: tuple[int, int, int],
        modulations: list[Modulation],
        config: FCDMDiffAEInferenceConfig,
    ) -> Tensor:
        """Patches [M,3*P*P] float32 -> x0_hat of the same shape, guided if `config` says so."""
        first_end = len(self._start) + len(self._middle)
        s = self._noisy_in.add(x_t.to(self._dtype), condition)
        s = _run(self._start, s, shape, modulations[: len(self._start)])
        skip = self._skip_in(s)
        m = _run(self._middle, s, shape, modulations[len(self._start) : first_end])
        e = _run(self._end, self._middle_in.add(m, skip), shape, modulations[first_end:])
        x0_full = self._out(e)
        if not config.pdg:
            return x0_full
        e = _run(self._end, skip.add_(self._dropped_in), shape, modulations[first_end:])
        return diffusion.path_drop_guidance(x0_full, self._out(e), config.pdg_strength)

    def _modulations(self, config: FCDMDiffAEInferenceConfig) -> list[list[Modulation]]:
        """Of every block for every step of the time grid; the last grid's are kept."""
        times = diffusion.time_grid(config.num_steps, config.schedule)[:-1]
        kept = self._grid_modulations
        if kept is None or not torch.equal(kept[0], times):
            of_blocks = [rows.chunk(2, dim=1) for rows in self._plain.modulations(times)]  # (scale, gate) [steps,C]
            kept = times, [[(1 + scale[i], gate[i]) for scale, gate in of_blocks] for i in range(len(times))]
            self._grid_modulations = kept  # another thread may do the same: both write equal values
        return kept[1]


class PackedNetwork:
    """The model of a `Tokenizer` on a CPU. Weights are packed when first used: encoding alone packs no decoder."""

    kernels = "onednn"
    pads_calls = False  # groups of one size, whatever the call's

    def __init__(self, model: FCDMDiffAE) -> None:
        self._model = model
        self._lock = Lock()
        self._encoder: PackedEncoder | None = None
        self._decoder: PackedDecoder | None = None

    def posterior(self, images: Tensor) -> EncoderPosterior:
        """uint8 [B,3,H,W] of any strides -> raw posterior [B,Z,h,w] float32."""
        self._model.check_size(*images.shape[2:])
        encoder = self._packed_encoder()
        heads = [encoder.head(group) for group in self._groups(images)]
        return self._model.encoder.posterior(_joined(heads)[: len(images)])

    def images(self, latents: Tensor, noise: Tensor, config: FCDMDiffAEInferenceConfig) -> Tensor:
        """Decode as the plain network does."""
        self._model.check_latents(latents, *noise.shape[2:])
        decoder = self._packed_decoder()
        z, patch = self._model.dewhiten(latents), self._model.config.bottleneck_patch
        if patch > 1:  # otherwise it would be a copy
            z = functional.pixel_shuffle(z, patch)
        limits = (self._model.config.logsnr_min, self._model.config.logsnr_max)
        groups = zip(self._groups(z, patch=1), self._groups(noise), strict=True)
        return _joined([decoder.images(*group, config, limits) for group in groups])[: len(latents)]

    def _groups(self, batch: Tensor, patch: int | None = None) -> list[Tensor]:
        """[B,c,H,W] in groups of one size, the last with zeros behind: kernels may add up otherwise for fewer rows."""
        patch = self._model.config.patch_size if patch is None else patch
        size = images_of_a_group((batch.shape[2] // patch, batch.shape[3] // patch), self._model.config.hidden_dim)
        groups = list(batch.split(size))
        missing = size - len(groups[-1])
        if missing:
            groups[-1] = torch.cat([groups[-1], batch.new_zeros(missing, *batch.shape[1:])])
        return groups

    def _packed_encoder(self) -> PackedEncoder:
        with self._lock:
            if self._encoder is None:
                self._encoder = PackedEncoder(self._model.encoder, self._model.config.patch_size)
            return self._encoder

    def _packed_decoder(self) -> PackedDecoder:
        with self._lock:
            if self._decoder is None:
                self._decoder = PackedDecoder(self._model.decoder, self._model.config.patch_size)
            return self._decoder


def _joined(groups: list[Tensor]) -> Tensor:
    return groups[0] if len(groups) == 1 else torch.cat(groups)


def _run(blocks: list[PackedBlock], x: Tensor, shape: tuple[int, int, int], modulations: list[Modulation]) -> Tensor:
    for block, modulation in zip(blocks, modulations, strict=True):
        look()  # a call for a large image takes half a minute
        x = block(x, shape, modulation)
    return x


def _packed(layer: nn.Module) -> PackedLinear:
    """A 1x1 convolution as a linear map of rows."""
    assert isinstance(layer, nn.Conv2d)
    return PackedLinear(layer.weight.flatten(1), layer.bias)


def _packed_blocks(blocks: nn.ModuleList) -> list[PackedBlock]:
    return [PackedBlock(cast(FCDMBlock, block)) for block in blocks]
