"""Structural similarity of two images, at one scale and at five.

SSIM: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity", 2004.
MS-SSIM: Wang, Simoncelli, Bovik, "Multiscale structural similarity for image quality assessment", 2003.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

DATA_RANGE = 255
WINDOW_PX, WINDOW_SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # finest first, as published
MIN_PX = WINDOW_PX
MIN_MULTISCALE_PX = (WINDOW_PX - 1) * 2 ** (len(SCALE_WEIGHTS) - 1) + 1  # the coarsest scale still holds a window

_C1, _C2 = (K1 * DATA_RANGE) ** 2, (K2 * DATA_RANGE) ** 2
_HALO = WINDOW_PX - 1
_BLOCK = 8  # lines whose sums are one product of matrices
_TILE_HEIGHT, _TILE_WIDTH = 128, 256  # four float32 maps of three channels: 1.6 MB, whatever the image


@dataclass(frozen=True)
class Structure:
    """Similarity of two images, 1 for equal ones. `ms_ssim`: None if not asked for, or below `MIN_MULTISCALE_PX`."""

    ssim: float
    ms_ssim: float | None


@dataclass(frozen=True)
class _Scale:
    """Means over all windows of one scale, float64 [C]: of SSIM, and of its contrast and structure alone."""

    ssim: Tensor
    contrast: Tensor


@torch.inference_mode()
def structure(image: Tensor, reference: Tensor, *, multiscale: bool) -> Structure:
    """Compare two uint8 images [C,H,W] of one shape, at least `MIN_PX` high and wide.

    The means are those over channels and over windows that lie within the image. Coarser scales are means of 2x2
    pixels, at odd edges of those that there are.
    """
    assert image.shape == reference.shape, f"{list(image.shape)} against {list(reference.shape)}"
    assert min(image.shape[1:]) >= MIN_PX, f"no window of {MIN_PX} px fits into {list(image.shape)}"
    scales = [_compare(image, reference)]
    ssim = scales[0].ssim.mean().item()
    if not multiscale or min(image.shape[1:]) < MIN_MULTISCALE_PX:
        return Structure(ssim, None)
    for _ in SCALE_WEIGHTS[1:]:
        image, reference = halved(image), halved(reference)
        scales.append(_compare(image, reference))
    return Structure(ssim, _combine(scales))


def to_json() -> dict[str, Any]:
    """Return what is on record of how both are computed."""
    return {
        "window_px": WINDOW_PX,
        "window_sigma_px": WINDOW_SIGMA,
        "k": [K1, K2],
        "region": "windows within the image",
        "channels": "mean of R, G, B",
        "scale_weights": list(SCALE_WEIGHTS),
    }


def _combine(scales: list[_Scale]) -> float:
    """Multiply contrasts of all scales and the luminance of the last, weighted by powers; negative ones count as 0."""
    factors = torch.stack([*(scale.contrast for scale in scales[:-1]), scales[-1].ssim])
    weights = torch.tensor(SCALE_WEIGHTS, dtype=torch.float64)[:, None]
    return (factors.clamp_min(0) ** weights).prod(0).mean().item()


def halved(pixels: Tensor) -> Tensor:
    """Return float32 means of 2x2 pixels: [C,H,W] -> [C,ceil(H/2),ceil(W/2)]."""
    num_channels, height, width = pixels.shape
    found = torch.empty(num_channels, (height + 1) // 2, (width + 1) // 2)
    for rows, means in zip(pixels.split(2 * _TILE_HEIGHT, dim=1), found.split(_TILE_HEIGHT, dim=1), strict=True):
        means.copy_(_halved(rows.float()))
    return found


def _halved(pixels: Tensor) -> Tensor:
    _, height, width = pixels.shape
    if height % 2 or width % 2:
        pixels = F.pad(pixels, (0, width % 2, 0, height % 2), mode="replicate")
    rows = pixels[:, 0::2] + pixels[:, 1::2]
    return (rows[..., 0::2] + rows[..., 1::2]).mul_(0.25)  # a sixth of the time of `avg_pool2d`


@dataclass
class _Shares:
    """Sums over windows, float64 [C], of the shares by which structure and luminance fall short of 1, halved."""

    structure: Tensor
    luminance: Tensor
    product: Tensor

    @classmethod
    def nothing(cls, num_channels: int) -> Self:
        return cls(*torch.zeros(3, num_channels, dtype=torch.float64))

    def add(self, structure: Tensor, luminance: Tensor) -> None:
        """Add those of a tile, [H,C,W] both."""
        self.structure += structure.sum((0, 2))
        self.luminance += luminance.sum((0, 2))
        self.product += (structure * luminance).sum((0, 2))

    def scale(self, num_windows: int) -> _Scale:
        """Return the means: SSIM is (1 - 2 structure)(1 - 2 luminance) at each window."""
        structure, luminance, product = (one / num_windows for one in (self.structure, self.luminance, self.product))
        return _Scale(ssim=1 - 2 * (structure + luminance) + 4 * product, contrast=1 - 2 * structure)


def _compare(image: Tensor, reference: Tensor) -> _Scale:
    """Compare [C,H,W] of one scale by tiles, so that large images take no more memory than small ones."""
    num_channels, height, width = image.shape
    shares = _Shares.nothing(num_channels)
    for top, bottom in _spans(height - _HALO, _TILE_HEIGHT):
        for left, right in _spans(width - _HALO, _TILE_WIDTH):
            tile = (slice(None), slice(top, bottom + _HALO), slice(left, right + _HALO))
            shares.add(*_shortfalls(*_windowed(image[tile], reference[tile])))
    return shares.scale((height - _HALO) * (width - _HALO))


def _spans(length: int, most: int) -> Iterator[tuple[int, int]]:
    """Yield begin and end of parts of about one length, at most `most`."""
    number = math.ceil(length / most)
    for part in range(number):
        yield part * length // number, (part + 1) * length // number


def _windowed(image: Tensor, reference: Tensor) -> tuple[Tensor, float, float]:
    """Return the windows' means of d, s, d^2 and s^2, float32 [4,H',C,W'], of images [C,H,W] of one scale.

    d is the difference of the images and s their sum, less about the tile's own mean of each, which is returned too.
    Variances of d and s tell as much as those of the images and their covariance, and rounding is least where squares
    are small: d is, where the images are alike.
    """
    num_channels, height, width = image.shape
    blocks = math.ceil((height - _HALO) / _BLOCK)
    maps = torch.empty(blocks * _BLOCK + _HALO, 4, num_channels, width)  # a row of all maps and channels is a line
    d, s, d2, s2 = maps[:height].unbind(1)
    d2.copy_(image.transpose(0, 1))
    s2.copy_(reference.transpose(0, 1))
    mean_a, mean_b = (round(one[::_BLOCK].mean().item()) for one in (d2, s2))  # of every eighth line: about is enough
    torch.sub(d2, s2, out=d)
    if mean_a != mean_b:
        d -= mean_a - mean_b
    torch.add(d2, s2, out=s).sub_(mean_a + mean_b)
    torch.mul(d, d, out=d2)
    torch.mul(s, s, out=s2)
    maps[height:] = 0
    row = maps[0].numel()
    means = _along(_down(maps.view(-1, row)).flatten())
    shape = (4, height - _HALO, num_channels, width - _HALO)
    return means.as_strided(shape, (num_channels * width, row, width, 1)), mean_a - mean_b, mean_a + mean_b


def _down(lines: Tensor) -> Tensor:
    """Return sums over the window down each column, [blocks * 8 + 10, N] -> [blocks, 8, N].

    A product by a band of weights has seven zeros for eleven weights, and still takes half the time of sums of lines.
    """
    num_lines, length = lines.shape
    blocks = (num_lines - _HALO) // _BLOCK
    seen = lines.as_strided((blocks, _BLOCK + _HALO, length), (_BLOCK * length, length, 1))
    return torch.bmm(_BAND.expand(blocks, -1, -1), seen)


def _along(values: Tensor) -> Tensor:
    """Return sums over the window along a line, [N] -> [N - 10]; what wraps round to the next is not looked at."""
    length = len(values) - _HALO
    (first, weight), *others = _WEIGHTS
    sums = values[first : first + length] * weight
    for place, weight in others:
        sums.add_(values[place : place + length], alpha=weight)
    return sums


def _weights() -> tuple[tuple[int, float], ...]:
    """Return places in the window, along one axis, and their weights, which sum to 1: small first, to round less."""
    distances = [place - _HALO / 2 for place in range(WINDOW_PX)]
    weights = [math.exp(-((distance / WINDOW_SIGMA) ** 2) / 2) for distance in distances]
    return tuple(sorted(enumerate(weight / math.fsum(weights) for weight in weights), key=lambda one: one[1]))


def _band() -> Tensor:
    """Return the weights once for each line of a block, each time a line lower: [8, 8 + 10]."""
    band = torch.zeros(_BLOCK, _BLOCK + _HALO)
    for line in range(_BLOCK):
        for place, weight in _WEIGHTS:
            band[line, line + place] = weight
    return band


_WEIGHTS = _weights()
_BAND = _band()


def _shortfalls(means: Tensor, mean_d: float, mean_s: float) -> tuple[Tensor, Tensor]:
    """Return halves of 1 - cs and 1 - l at each window, [4,H,C,W] -> two of [H,C,W].

    With d = a - b and s = a + b the published factors are
    cs = (2 cov + C2) / (var a + var b + C2) = 1 - 2 var d / (var s + var d + 2 C2) and
    l = (2 mean a mean b + C1) / (mean a^2 + mean b^2 + C1) = 1 - 2 mean d^2 / (mean s^2 + mean d^2 + 2 C1).
    """
    d, s, d2, s2 = means
    var_d, var_s = d2 - d * d, s2 - s * s
    if mean_d:
        d += mean_d
    s += mean_s
    dd = d * d
    luminance_sum = (s * s).add_(dd).add_(2 * _C1)  # of the means themselves: in black areas they are small
    return var_d / var_s.add_(var_d).add_(2 * _C2), dd / luminance_sum
