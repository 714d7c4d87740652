"""Pictures to measure with where there are none: JPEGs that cost about what photographs cost."""

import io
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

# Height and width in px of 1, 2, 6 and 12 megapixels, as cameras and web sites have them.
SYNTHETIC_SIZES = ((864, 1152), (1224, 1632), (2000, 3000), (3000, 4000))
_FIELD_SIZE = (3072, 4096)  # where no picture is larger; it repeats itself beyond
_QUALITY = 90
_FALL = 1.28  # the exponent of 1/f, and _STD of Y, Cb and Cr: files of 2 to 2.5 bits a pixel, as of photographs
_STD = (46.0, 14.0, 14.0)


def write_synthetic_jpegs(folder: Path, num_images: int, seed: int = 0) -> list[Path]:
    """Write `num_images` JPEGs of quality 90 into `folder`, 1, 2, 6 and 12 megapixels in turn; returns their paths.

    Their spectra fall with the frequency as those of photographs do (Field 1987: about 1/f, and cameras blur a little),
    so that files are about as long, and decoding them takes about as long. Equal arguments give equal files on one
    machine. The folder exists.
    """
    field = _photo_like(_FIELD_SIZE, seed)
    paths = []
    for number in range(num_images):
        height, width = SYNTHETIC_SIZES[number % len(SYNTHETIC_SIZES)]
        shift = (397 * number % _FIELD_SIZE[0], 811 * number % _FIELD_SIZE[1])
        pixels = field.roll(shift, (1, 2))[:, :height, :width].permute(1, 2, 0).contiguous()
        paths.append(folder / f"{number:04d}-{height * width / 1e6:.0f}-megapixels.jpg")
        paths[-1].write_bytes(_jpeg(pixels))
    return paths


def jpeg_of(size: tuple[int, int], seed: int = 0) -> bytes:
    """Make one such JPEG of `size` (H, W) px."""
    return _jpeg(_photo_like(size, seed).permute(1, 2, 0).contiguous())


def _photo_like(size: tuple[int, int], seed: int) -> Tensor:
    """Make [3,H,W] uint8 of Y, Cb and Cr: Gaussian noise, which repeats itself beyond its edges."""
    height, width = size
    generator = torch.Generator().manual_seed(seed)
    frequency = (torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.rfftfreq(width) ** 2).sqrt()
    frequency[0, 0] = torch.inf  # no mean
    spectrum = torch.fft.rfft2(torch.randn(size, generator=generator)) * frequency**-_FALL
    noise = torch.fft.irfft2(spectrum, s=size)
    noise /= noise.std()
    # One field for all three, but far apart: three would take three times as long.
    channels = [
        std * noise.roll((number * height // 3, number * width // 3), (0, 1)) for number, std in enumerate(_STD)
    ]
    return torch.stack([(128 + channel).round().clamp(0, 255).to(torch.uint8) for channel in channels])


def _jpeg(pixels: Tensor) -> bytes:
    """Make the file of a picture [H,W,3] uint8, given in the colours that JPEG stores."""
    file = io.BytesIO()
    Image.fromarray(pixels.numpy(), mode="YCbCr").save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
