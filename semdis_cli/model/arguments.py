"""Checks of what the public calls of a model are given: wrong tensors are refused in one line, before arithmetic."""

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from semdis_cli.tensors import is_finite

# Images in [-1, 1] may overshoot a little; those in [0, 255] go far beyond this.
_MOST_OF_A_PIXEL = 16.0


def check_float_images(images: Any, channels: int) -> None:
    """Raise `ValueError` unless these are images [B,`channels`,H,W] of floats, one at least; `TypeError` for no tensor.

    Their values are for `check_pixel_values`.
    """
    _check_shape(images, "images", (channels, "H", "W"))
    if not images.is_floating_point():
        hint = "; of uint8 0..255 that is images / 127.5 - 1" if images.dtype == torch.uint8 else ""
        raise ValueError(f"images are {images.dtype}, not floats in [-1, 1]{hint}")


def check_pixel_values(images: Tensor) -> None:
    """Raise `ValueError` unless the values are in [-1, 1], or a little beyond: for NaN, and for those in [0, 255]."""
    if images.is_meta:
        return
    least, most = (float(bound) for bound in images.detach().aminmax())
    if not -_MOST_OF_A_PIXEL <= least <= most <= _MOST_OF_A_PIXEL:
        found = "hold NaN" if math.isnan(least) else f"go from {least:g} to {most:g}"
        raise ValueError(f"images {found}; give them in [-1, 1]")


def check_uint8_images(images: Any, channels: int, keys: Sequence[str]) -> None:
    """Raise `ValueError` unless these are images [B,`channels`,H,W] of uint8 with a key each; `TypeError` as above."""
    _check_shape(images, "images", (channels, "H", "W"))
    if images.dtype != torch.uint8:
        raise ValueError(f"images are {images.dtype}, not uint8 0..255")
    _check_keys(keys, len(images), "images")


def check_latent_shape(latents: Any, channels: int, keys: Sequence[str] | None = None) -> None:
    """Raise `ValueError` unless these are latents [B,`channels`,h,w] of floats; `TypeError` for no tensor.

    `keys`: one for each of them, if they are given.
    """
    _check_shape(latents, "latents", (channels, "h", "w"))
    _check_floats(latents, "latents")
    if keys is not None:
        _check_keys(keys, len(latents), "latents")


def check_finite(values: Tensor, what: str) -> None:
    """Raise `ValueError` if a value is NaN or infinite."""
    if not values.is_meta and not is_finite(values.detach()):
        raise ValueError(f"{what} hold NaN or infinity")


def check_noise(noise: Any, shape: tuple[int, ...]) -> None:
    """Raise `ValueError` unless `noise` is finite floats of the `shape` of the images; `TypeError` for no tensor."""
    _check_tensor(noise, "noise")
    if noise.shape != shape:
        raise ValueError(f"noise is {list(noise.shape)}, but the images are {list(shape)}")
    _check_floats(noise, "noise values")
    check_finite(noise, "noise values")


def check_channels(latents: Any, channels: int) -> None:
    """Raise `ValueError` unless these are latents [...,`channels`,h,w] of floats; `TypeError` for no tensor."""
    _check_tensor(latents, "latents")
    _check_floats(latents, "latents")
    if latents.ndim < 3 or latents.shape[-3] != channels:
        raise ValueError(f"latents are {list(latents.shape)}, not [B, {channels}, h, w]")


def check_whole(**sizes: Any) -> None:
    """Raise `ValueError` unless each is a whole number."""
    for name, value in sizes.items():
        try:
            operator.index(value)
        except TypeError as error:
            raise ValueError(f"{name} must be a whole number of pixels, not {value!r:.40}") from error


def _check_tensor(values: Any, what: str) -> None:
    if not isinstance(values, Tensor):
        raise TypeError(f"{what} must be a torch.Tensor, not {type(values).__name__}")


def _check_shape(values: Any, what: str, shape: tuple[int | str, ...]) -> None:
    _check_tensor(values, what)
    if values.ndim != 1 + len(shape) or values.shape[1] != shape[0]:
        raise ValueError(f"{what} are {list(values.shape)}, not [B, {', '.join(map(str, shape))}]")
    if not len(values):
        raise ValueError(f"{what} are {list(values.shape)}: none in the batch")


def _check_floats(values: Tensor, what: str) -> None:
    if not values.is_floating_point():
        raise ValueError(f"{what} are {values.dtype}, not of a dtype of floating point")


def _check_keys(keys: Sequence[str], count: int, what: str) -> None:
    if isinstance(keys, str) or len(keys) != count:
        found = "one text" if isinstance(keys, str) else f"{len(keys)}"
        raise ValueError(f"{count} {what} need a key each, not {found}")
