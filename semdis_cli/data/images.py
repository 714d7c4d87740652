"""Image files to pixels and back: `read_image_size`, `read_image`, `write_image`."""

import io
from dataclasses import dataclass
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image

from semdis_cli.data.colour import composite, split_alpha, to_srgb
from semdis_cli.data.exif import turn_upright
from semdis_cli.data.headers import check_pixels, open_pixels, read_header
from semdis_cli.data.jpeg_header import plain_jpeg_size
from semdis_cli.data.pillow import decoder_errors, pillow_guard
from semdis_cli.defaults import MAX_IMAGE_PIXELS
from semdis_cli.errors import UnreadableImageError, UsageError

ImageFormat = Literal["png", "jpg", "webp"]


@dataclass(frozen=True, slots=True)
class ReadSettings:
    """How files become pixels. `background`: sRGB colour behind transparent pixels, 0..255 each.

    `max_image_pixels`: an image of more pixels is refused from its header, before anything is decoded.
    """

    background: tuple[int, int, int] = (255, 255, 255)
    max_image_pixels: int = MAX_IMAGE_PIXELS

    def __post_init__(self) -> None:
        if not all(0 <= value <= 255 for value in self.background):
            raise UsageError(f"the background is three values in 0..255, not {self.background}")
        if self.max_image_pixels < 1:
            raise UsageError(f"--max-image-pixels must be at least 1, not {self.max_image_pixels}")


@dataclass(frozen=True, slots=True)
class ReadImage:
    """`pixels`: upright picture, Pillow mode RGB, 8 bits, sRGB. `notes`: what could not be honoured, one line each."""

    pixels: Image.Image
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in px; Pillow's own order is the other way round."""
        return self.pixels.height, self.pixels.width


_DEFAULT_SETTINGS = ReadSettings()


def read_image_size(file: BinaryIO | bytes, settings: ReadSettings = _DEFAULT_SETTINGS) -> tuple[int, int]:
    """(height, width) in px of the upright picture, from the header; `read_image` gives exactly this size, or raises.

    `file` may be unbuffered. Only an AVIF is read to its end. Raises `UnreadableImageError`.
    """
    file = io.BytesIO(file) if isinstance(file, bytes) else file
    with decoder_errors("file"):  # a disk may fail
        size = plain_jpeg_size(file)
    if size is None:
        file.seek(0)
        with pillow_guard(settings.max_image_pixels):
            size = read_header(file).size
    _check_size(size, settings)
    return size


def read_image(data: bytes, settings: ReadSettings = _DEFAULT_SETTINGS) -> ReadImage:
    """The picture in a file's bytes: upright, sRGB, 8 bits, laid over the background where it is transparent.

    Formats are JPEG, MPO, PNG, WebP, GIF, BMP, TIFF and AVIF, recognised by content; of several frames or pages the
    first. Orientation comes from EXIF alone. An EXIF block or ICC profile that cannot be used costs a note, not the
    image. JPEGs of four channels hold inverted ink, as all writers since Photoshop do it. PNG's gAMA and cHRM are not
    applied. Safe to call from several threads. Raises `UnreadableImageError`: unknown format, cut off, damaged, too
    large.
    """
    with pillow_guard(settings.max_image_pixels):
        header = read_header(io.BytesIO(data))
        _check_size(header.size, settings)
        image, samples = open_pixels(header, data)
        with decoder_errors(header.name):
            image.load()
            check_pixels(header, image, data)
            colour, alpha = split_alpha(image, samples)
        rgb, notes = to_srgb(colour, samples.profile)
        pixels = turn_upright(composite(rgb, alpha, settings.background), header.orientation)
    image_read = ReadImage(pixels, header.notes + notes)
    if image_read.size != header.size:
        raise UnreadableImageError(f"damaged {header.name}: {image_read.size} px where it promised {header.size}")
    return image_read


def write_image(pixels: np.ndarray, format: ImageFormat, quality: int = 95) -> bytes:  # noqa: A002
    """The bytes of an image file. `pixels`: [H,W,3] uint8 sRGB; equal pixels give equal bytes.

    `png` is lossless whatever the `quality`. `jpg`: quality 1..100, full colour resolution (4:4:4) from 90 on, 4:2:0
    below. `webp`: quality 1..99, colour always at half resolution (4:2:0); 100 is lossless. Raises `UsageError` for a
    quality out of range and for a picture larger than the format can hold.
    """
    if not 1 <= quality <= 100:
        raise UsageError(f"--quality must be in 1..100, not {quality}")
    _check_writable(pixels.shape, format)
    image, file = Image.fromarray(pixels), io.BytesIO()
    if format == "png":
        # Level 1: a photograph of 768x512 px takes 45 ms and 0.80 MB; level 6 takes 85 ms and 0.77 MB.
        image.save(file, "PNG", compress_level=1)
    elif format == "jpg":
        image.save(file, "JPEG", quality=quality, subsampling=0 if quality >= 90 else 2)
    elif quality == 100:
        image.save(file, "WEBP", lossless=True, quality=0, method=0)  # for lossless files these two are effort only
    else:
        image.save(file, "WEBP", quality=quality, method=2)
    return file.getvalue()


def _check_writable(shape: tuple[int, ...], name: ImageFormat) -> None:
    longest = {"png": 2**31 - 1, "jpg": 65_500, "webp": 16_383}[name]
    if max(shape[:2]) > longest:
        raise UsageError(f"{name} files hold at most {longest} px a side, not {max(shape[:2])}: choose png")


def _check_size(size: tuple[int, int], settings: ReadSettings) -> None:
    height, width = size
    if height * width > settings.max_image_pixels:
        limit = settings.max_image_pixels
        raise UnreadableImageError(f"exceeds --max-image-pixels: {height}x{width} = {height * width} > {limit}")
