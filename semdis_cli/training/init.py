"""A model in closed form, without training: per-patch PCA written into the published architecture.

The linear optimum of the whole family: encoder and decoder reproduce the leading principal components of the
photographs' patches, and every block starts as the identity. It is both a usable tokenizer and a starting point for
training.
"""

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from semdis_cli.errors import UsageError
from semdis_cli.events import BatchDone, Event, Failure, RunFinished, RunStarted, StageTimes
from semdis_cli.images.loader import Loader
from semdis_cli.model.autoencoder import FCDMDiffAE
from semdis_cli.model.config import FCDMDiffAEConfig
from semdis_cli.model.diffusion import vp_alpha_sigma
from semdis_cli.model.layers import FCDMBlock
from semdis_cli.model.pixels import images_to_float
from semdis_cli.records import PlannedImage
from semdis_cli.training.settings import InitSettings

_LOGSNR = 8.0  # of the posterior: noise 35 dB below the latents
_GATE = 0.3  # of blocks, whose output is zero at first: the closed form stays, and the paths for gradients are open
_MAX_PATCHES_PER_IMAGE = 4096
_IMAGES_PER_BATCH = 16


class PatchMoments:
    """Count, sum and outer products of image patches in [-1, 1], accumulated in float64.

    A patch is a vector of D = 3*P*P values in the order of `PixelUnshuffle`, c*P*P + y*P + x.
    """

    def __init__(self, patch_size: int) -> None:
        self.patch_size = patch_size
        self.count = 0
        dim = 3 * patch_size**2
        self._total = torch.zeros(dim, dtype=torch.float64)
        self._outer = torch.zeros(dim, dim, dtype=torch.float64)

    def add(self, image: Tensor) -> None:
        """Count the whole patches of one image, uint8 [3,H,W]; of a large image an evenly spaced part."""
        side = self.patch_size
        height, width = (length // side * side for length in image.shape[1:])
        if height == 0 or width == 0:
            return
        pixels = images_to_float(image[None, :, :height, :width])
        patches = nn.functional.pixel_unshuffle(pixels, side)[0].flatten(1).T  # [n,D]
        patches = patches[:: -(-len(patches) // _MAX_PATCHES_PER_IMAGE)]
        self.count += len(patches)
        self._total += patches.double().sum(0)
        self._outer += (patches.T @ patches).double()

    def components(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean [D], standard deviations [D] in falling order, and the components as rows [D,D]; float64."""
        mean = self._total / self.count
        values, vectors = torch.linalg.eigh(self._outer / self.count - torch.outer(mean, mean))
        return mean, values.flip(0).clamp_min(1e-12).sqrt(), vectors.flip(1).T


def init_model(
    images: Sequence[PlannedImage],
    failures: Sequence[Failure],
    loader: Loader,
    config: FCDMDiffAEConfig,
    output: Path,
    settings: InitSettings,
) -> Iterator[Event]:
    """Fit the closed form to `images` and write the checkpoint folder `output`.

    Raises `UsageError` if there are too few patches for as many components, or the config has no closed form.
    """
    started = time.perf_counter()
    moments, num_failed = PatchMoments(config.patch_size), len(failures)
    yield RunStarted(len(images) + len(failures), 0, sum(i.bucket[0] * i.bucket[1] for i in images) / 1e6)
    yield from failures
    megapixels = 0.0
    remaining = iter(images)
    while batch := list(islice(remaining, _IMAGES_PER_BATCH)):
        reading, batch_megapixels = time.perf_counter(), 0.0
        loaded = loader.load_all(batch)
        read_s = time.perf_counter() - reading
        unread = [each for each in loaded if isinstance(each, Failure)]
        for image in loaded:
            if not isinstance(image, Failure):
                height, width = image.record.geometry.image
                moments.add(image.pixels[:, :height, :width])
                batch_megapixels += height * width / 1e6
        yield BatchDone(len(batch) - len(unread), batch_megapixels, StageTimes(read_s=read_s))
        yield from unread
        num_failed += len(unread)
        megapixels += batch_megapixels
    model = closed_form_model(config, moments, seed=settings.seed)
    model.to(getattr(torch, settings.dtype)).save_pretrained(output)
    num_ok, elapsed_s = len(images) + len(failures) - num_failed, time.perf_counter() - started
    report = {
        "command": "init",
        "images": {"ok": num_ok, "failed": num_failed, "this_run": num_ok},
        "patches": moments.count,
        "elapsed_s": round(elapsed_s, 3),
        "images_per_s": round(num_ok / elapsed_s, 3),
        "megapixels_per_s": round(megapixels / elapsed_s, 3),
        "stages": {},
        "output": str(output),
    }
    yield RunFinished(num_ok, num_failed, report)


@torch.no_grad()
def closed_form_model(config: FCDMDiffAEConfig, moments: PatchMoments, *, seed: int = 0) -> FCDMDiffAE:
    """The model whose one-step reconstruction is the projection of each patch onto `bottleneck_dim` components.

    Features are components scaled to unit variance. `seed` draws what has no closed form (the blocks' inner weights),
    which does not change the function: block outputs are zero. Raises `UsageError` for too few patches or an
    impossible config.
    """
    width, num_latents = config.model_dim, config.bottleneck_dim
    num_components = min(width, 3 * config.patch_size**2)
    if config.in_channels != 3:
        raise UsageError(f"no closed form for {config.in_channels} channels: photographs have 3")
    if num_latents > num_components or config.bottleneck_norm_mode != "disabled":
        raise UsageError(
            "no closed form: bottleneck_dim exceeds the components, or bottleneck_norm_mode is not disabled"
        )
    if moments.count < 2 * num_components:
        raise UsageError(
            f"{moments.count} patches of {config.patch_size} px are too few for {num_components} components; "
            "give more or larger images"
        )
    model = FCDMDiffAE(config)
    _draw_weights(model, torch.Generator().manual_seed(seed))
    mean, std, components = moments.components()
    std, components = std[:num_components], components[:num_components]
    encoder, decoder = model.encoder, model.decoder

    # Image -> features: components at unit variance, the mean removed by the bias
    rows = components / std[:, None]
    _set(encoder.patchify.proj, rows[:, :, None, None], -rows @ mean)
    # Features -> posterior: the leading ones are the mean, the log-SNR is constant
    _set(encoder.to_bottleneck, _eye(num_latents)[:, :, None, None])
    if config.bottleneck_posterior_kind == "diagonal_gaussian":
        _bias(encoder.to_bottleneck)[num_latents:] = _LOGSNR
        alpha = vp_alpha_sigma(torch.tensor(_LOGSNR))[0]
    else:
        alpha = torch.ones(())
    model.latent_norm_running_var.fill_(alpha.square().item())

    # Latents -> features -> image. The noisy image is seen at unit scale, but not listened to yet; the middle blocks
    # are by-passed, so that leaving them out (path drop) changes nothing.
    _set(decoder.patchify.proj, components[:, :, None, None])
    _set(decoder.latent_up, _eye(num_latents)[:, :, None, None] / alpha)
    _set(decoder.fuse_in, torch.cat([torch.zeros(width, width), _eye(width)], dim=1)[:, :, None, None])
    _set(decoder.fuse_skip, torch.cat([_eye(width), torch.zeros(width, width)], dim=1)[:, :, None, None])
    # All components, not only those the latents carry: columns left at zero are a saddle that training cannot leave
    _set(decoder.out_proj, (components.T * std)[:, :, None, None], mean)
    return model


@torch.no_grad()
def random_model(config: FCDMDiffAEConfig, *, seed: int = 0) -> FCDMDiffAE:
    """A model with random weights from `seed`: every block the identity behind an open gate, all else fan-in scaled."""
    model = FCDMDiffAE(config)
    _draw_weights(model, torch.Generator().manual_seed(seed))
    return model


def _draw_weights(model: nn.Module, generator: torch.Generator) -> None:
    """Random inner weights (fan-in scaled), zero biases, zero block outputs behind open gates."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "grn" not in name and not name.endswith(("up.weight", "mask_feature")):
            fan_in = parameter[0].numel()
            parameter.normal_(std=fan_in**-0.5, generator=generator)
        else:
            parameter.zero_()
    for module in model.modules():
        if isinstance(module, FCDMBlock):
            module.pwconv2.weight.zero_()
            if module.layer_scale is not None:
                module.layer_scale.fill_(_GATE)
    assert isinstance(model, FCDMDiffAE)
    base = model.decoder.adaln_base.proj
    base.weight.zero_()
    base.bias[model.config.model_dim :] = _GATE


def _set(layer: nn.Conv2d, weight: Tensor, bias: Tensor | None = None) -> None:
    """Write into the leading rows and columns of a layer; the rest becomes zero."""
    layer.weight.zero_()
    layer.weight[: weight.shape[0], : weight.shape[1]] = weight.to(layer.weight.dtype)
    _bias(layer).zero_()
    if bias is not None:
        _bias(layer)[: bias.shape[0]] = bias.to(layer.weight.dtype)


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None, "every convolution of this architecture has a bias"
    return layer.bias


def _eye(size: int) -> Tensor:
    return torch.eye(size)
