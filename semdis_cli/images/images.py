"""Image files to pixels and back: `read_image_size`, `read_image`, `write_image`."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageChops

from semdis_cli.errors import UnreadableImageError, UsageError
from semdis_cli.files.disk import memory_file
from semdis_cli.images.colour.convert import Samples, composite, split_alpha, to_srgb
from semdis_cli.images.formats.exif import turn_upright
from semdis_cli.images.formats.jpeg.header import read_plain_jpeg
from semdis_cli.images.formats.jpeg.pixels import draft
from semdis_cli.images.formats.pillow import decoder_errors, pillow_guard
from semdis_cli.images.formats.png.writer import png_bytes, unpacked_png_bytes
from semdis_cli.images.headers import Header, check_pixels, open_pixels, read_header
from semdis_cli.settings import ImageFormat, ReadSettings

LONGEST_SIDES: dict[ImageFormat, int] = {"png": 2**31 - 1, "jpg": 65_500, "webp": 16_383}  # px that a file can hold


@dataclass(frozen=True, slots=True)
class ReadImage:
    """`pixels`: a picture of Pillow's mode RGB, 8 bits, sRGB. `notes`: what could not be honoured, one line each.

    `alpha`: how opaque it was before it was laid over the background, mode L; None: everywhere.
    """

    pixels: Image.Image
    notes: tuple[str, ...] = ()
    alpha: Image.Image | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in px; Pillow's own order is the other way round."""
        return self.pixels.height, self.pixels.width


_DEFAULT_SETTINGS = ReadSettings()


def read_image_size(file: BinaryIO | bytes, settings: ReadSettings = _DEFAULT_SETTINGS) -> tuple[int, int]:
    """Read (height, width) in px of the upright picture from the header: the size that `read_image` gives.

    `file` may be unbuffered. Only an AVIF is read to its end. Raises `UnreadableImageError`.
    """
    file = io.BytesIO(file) if isinstance(file, bytes) else file
    with decoder_errors("file"):  # a disk may fail
        plain = read_plain_jpeg(file)
    if plain is None:
        file.seek(0)
        with pillow_guard(settings.max_image_pixels):
            size = read_header(file).size
    else:
        size = plain.size
    check_size(size, settings)
    return size


def read_image(data: bytes, settings: ReadSettings = _DEFAULT_SETTINGS) -> ReadImage:
    """Read the picture in a file's bytes: upright, sRGB, 8 bits, laid over the background where it is transparent.

    It is decoded whole. Formats are JPEG, MPO, PNG, WebP, GIF, BMP, TIFF, AVIF and, with its extra, JPEG XL, recognised
    by content; of several frames or pages it is the first whole one (`docs/images.md` has the rules). Orientation
    counts where browsers look for it, and colours are those that Chromium shows. An EXIF block, profile or code point
    that cannot be used costs a note, not the image. JPEGs of four channels hold inverted ink, as all writers since
    Photoshop do it. Safe to call from several threads. Raises `UnreadableImageError`: unknown format, cut off,
    damaged, too large.
    """
    with pillow_guard(settings.max_image_pixels):
        header = read_header(io.BytesIO(data))
        check_size(header.size, settings)
        stored = decode_stored(header, data, settings)
        return ReadImage(turn_upright(stored.pixels, header.orientation), stored.notes)


def decode_stored(header: Header, data: bytes, settings: ReadSettings, fraction: int = 1) -> ReadImage:
    """Decode by Pillow as `read_image` does but for its last step: the picture is not turned upright yet.

    `header` was read from `data`. `fraction`: 1; of a JPEG 2, 4 or 8 too, where no side is below it. Call it inside
    `pillow_guard`. Raises `UnreadableImageError`.
    """
    colour, alpha, samples = _decode_split(header, data, fraction)
    rgb, notes = to_srgb(colour, samples)
    stored = ReadImage(composite(rgb, alpha, settings.background), header.notes + notes, alpha)
    if stored.size != tuple(-(-side // fraction) for side in header.stored_size):
        raise UnreadableImageError(f"damaged {header.name}: {stored.size} px where it promised {header.stored_size}")
    return stored


def read_grey(header: Header, data: bytes) -> np.ndarray:
    """Read a picture as grey values, [H,W] uint8: as stored, whatever its profile, but upright, and black behind alpha.

    `header` was read from `data`. Call it inside `pillow_guard`. Raises `UnreadableImageError`.
    """
    colour, alpha, _ = _decode_split(header, data)
    grey = colour.convert("L")
    grey = grey if alpha is None else ImageChops.multiply(grey, alpha)
    return np.array(turn_upright(grey, header.orientation))


def _decode_split(header: Header, data: bytes, fraction: int = 1) -> tuple[Image.Image, Image.Image | None, Samples]:
    image, samples = open_pixels(header, data)
    with decoder_errors(header.name):
        draft(image, fraction)
        image.load()
        check_pixels(header, image, data, fraction)
        return *split_alpha(image, samples), samples


def write_image(pixels: np.ndarray, format: ImageFormat, quality: int = 95) -> bytes:  # noqa: A002
    """Write pixels as the bytes of an image file. `pixels`: [H,W,3] uint8 sRGB; equal pixels give equal bytes.

    `png` is lossless whatever the `quality`. `jpg`: quality 1..100, full colour resolution (4:4:4) from 90 on, 4:2:0
    below. `webp`: quality 1..99, colour always at half resolution (4:2:0); 100 is lossless. Raises `UsageError` for a
    quality out of range and for a picture larger than the format can hold.
    """
    [data] = write_images([pixels], format, quality)
    return data


def write_images(images: Sequence[np.ndarray], format: ImageFormat, quality: int) -> list[bytes]:  # noqa: A002
    """Write several images as `write_image` does, which takes less time than one by one."""
    if not 1 <= quality <= 100:
        raise UsageError(f"--quality must be in 1..100, not {quality}")
    for pixels in images:
        _check_writable(pixels.shape, format)
    pictures = map(_picture, images)
    if format == "png":
        return [*map(png_bytes, pictures)]
    with memory_file(buffering=0) as file:
        return [_saved(picture, file, format, quality) for picture in pictures]


def write_unpacked(pixels: np.ndarray) -> bytes:
    """Write pixels [H,W,3] as a PNG for a while: in a tenth of the time that `write_image` takes, 3 bytes a pixel."""
    return unpacked_png_bytes(_picture(pixels))


def pack_png(data: bytes) -> bytes:
    """Return the PNG that `write_image` makes of a picture in a file's bytes. Raises `UnreadableImageError`."""
    return png_bytes(read_image(data).pixels)


def _saved(picture: Image.Image, file: BinaryIO, name: ImageFormat, quality: int) -> bytes:
    """Save a picture at the beginning of `file`, and return its bytes."""
    file.seek(0)
    if name == "jpg":
        picture.save(file, "JPEG", quality=quality, subsampling=0 if quality >= 90 else 2)
    elif quality == 100:
        picture.save(file, "WEBP", lossless=True, quality=0, method=0)  # for lossless files these two are effort only
    else:
        picture.save(file, "WEBP", quality=quality, method=2)
    num_bytes = file.tell()
    file.seek(0)
    return file.read(num_bytes)


def _picture(pixels: np.ndarray) -> Image.Image:
    """Make a picture of [H,W,3] uint8. Pillow joins planes, as a model gives them, many times faster than NumPy."""
    return Image.merge("RGB", [Image.fromarray(plane) for plane in pixels.transpose(2, 0, 1)])


def _check_writable(shape: tuple[int, ...], name: ImageFormat) -> None:
    longest = LONGEST_SIDES[name]
    if max(shape[:2]) > longest:
        raise UsageError(f"{name} files hold at most {longest} px a side, not {max(shape[:2])}: choose png")


def check_size(size: tuple[int, int], settings: ReadSettings) -> None:
    """Raise `UnreadableImageError` for an image of more pixels than `settings` allow."""
    height, width = size
    if height * width > settings.max_image_pixels:
        limit = settings.max_image_pixels
        raise UnreadableImageError(f"exceeds --max-image-pixels: {height}x{width} = {height * width} > {limit}")
