"""Header of an image file, read before its pixels are decoded: format, upright size, and what its samples mean."""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from PIL import GifImagePlugin, Image, ImageFile

from semdis_cli.errors import UnreadableImageError
from semdis_cli.images.colour.convert import Samples
from semdis_cli.images.colour.tone_mapping import HighRange
from semdis_cli.images.formats.bmp import decode_bmp, read_bmp_header
from semdis_cli.images.formats.exif import exif_orientation, ignored_orientation, upright_size
from semdis_cli.images.formats.jpeg.pixels import check_jpeg_pixels
from semdis_cli.images.formats.jxl import decode_jxl, read_jxl_header
from semdis_cli.images.formats.pillow import decoder_errors, open_image
from semdis_cli.images.formats.pixel_colour import avif_samples, jpeg_samples, low_byte_image
from semdis_cli.images.formats.png.chunks import check_png_pixels, only_pixels, read_png_header
from semdis_cli.images.formats.png.colour import png_colour
from semdis_cli.images.formats.png.parts import first_frame, with_wide_key
from semdis_cli.images.formats.tiff.reader import open_tiff, read_tiff_header
from semdis_cli.images.formats.webp import check_complete, read_webp_header, with_empty_canvas
from semdis_cli.kinds.brands import with_avif_brand
from semdis_cli.kinds.formats import SIGNATURE_BYTES, image_format
from semdis_cli.kinds.jxl_start import check_jxl
from semdis_cli.kinds.recognise import START_BYTES, unreadable_reason

_STRAY_EXIF = "a PNG, behind its pixels, under a JPEG's prefix or with a wrong checksum"


@dataclass(frozen=True, slots=True)
class Header:
    """Header of an image file.

    `name`: of the format. `size`: (height, width) in px of the upright picture. `orientation`: 1..8, what is still to
    be done to the decoded pixels. `notes`: what is wrong with the orientation. `image`: the opened file, where Pillow
    has read the header. `own`: the header as the format's own module has read it, for what opens the pixels.
    """

    name: str
    size: tuple[int, int]
    orientation: int
    notes: tuple[str, ...] = ()
    image: ImageFile.ImageFile | None = None
    own: Any = None

    @property
    def stored_size(self) -> tuple[int, int]:
        """(height, width) in px before it is turned."""
        return upright_size(self.size, self.orientation)


def read_header(file: BinaryIO) -> Header:
    """Read the header of the image in `file`, which stands at its beginning. Raises `UnreadableImageError`.

    Call it inside `pillow_guard`.
    """
    with decoder_errors("file"):  # a disk may fail, too
        start = file.read(SIGNATURE_BYTES)
        check_jxl(start)
        name = image_format(start)
        if name is None:
            raise UnreadableImageError(unreadable_reason(start + file.read(START_BYTES - SIGNATURE_BYTES)))
        if name in _READERS:
            return _READERS[name](file)
        return _pillow_header(name, open_image(name, file))


def open_pixels(header: Header, data: bytes) -> tuple[Image.Image, Samples]:
    """Open the image in `data`, from which `header` was read, without decoding it; also the meaning of its samples."""
    if header.name in _OPENERS:
        return _OPENERS[header.name](header, data)
    image = header.image or open_image(header.name, io.BytesIO(data))
    with decoder_errors(header.name):
        if isinstance(image, GifImagePlugin.GifImageFile):
            return image, _gif_samples(image)
        return image, _other_samples(header.name, image, data)


def check_pixels(header: Header, image: Image.Image, data: bytes, fraction: int = 1) -> None:
    """Raise `UnreadableImageError` if `image`, decoded from `data`, has pixels that `data` does not hold.

    `fraction`: of its size at which a JPEG was decoded.
    """
    if header.name == "JPEG":
        check_jpeg_pixels(image, data, fraction)
    if header.name == "PNG":
        check_png_pixels(image, io.BytesIO(data))


def _png_header(file: BinaryIO) -> Header:
    header = read_png_header(file)
    orientation, notes = exif_orientation(header.exif)
    notes += ignored_orientation(header.stray_exif, _STRAY_EXIF)
    size = upright_size((header.height, header.width), orientation)
    return Header("PNG", size, orientation, notes, own=header)


def _webp_header(file: BinaryIO) -> Header:
    header = read_webp_header(file)
    return Header("WEBP", (header.height, header.width), 1, ignored_orientation(header.exif, "a WebP"))


def _pillow_header(name: str, image: ImageFile.ImageFile) -> Header:
    orientation, notes = exif_orientation(image.info.get("exif"))
    return Header(name, upright_size((image.height, image.width), orientation), orientation, notes, image=image)


def _tiff_header(file: BinaryIO) -> Header:
    header = read_tiff_header(file)
    size = upright_size(header.size, header.orientation)
    return Header("TIFF", size, header.orientation, header.notes, own=header)


def _open_png(header: Header, data: bytes) -> tuple[Image.Image, Samples]:
    pixels, frame = only_pixels(data, io.BytesIO(data)), first_frame(data)
    png = pixels if frame is None else frame.png
    image: Image.Image = open_image("PNG", io.BytesIO(png))
    samples = _png_samples(header, image, data)
    with decoder_errors("PNG"):
        if header.own.bit_depth == 16 and isinstance(samples.profile, HighRange):
            samples = replace(samples, low=low_byte_image(png))
        if header.own.bit_depth == 16 and isinstance(samples.transparent, tuple):
            image = with_wide_key(image, png)
            samples = replace(samples, transparent=None)
        if frame is not None:
            image = frame.on_canvas(image)
            samples = replace(samples, drawn=frame.box, low=samples.low and frame.on_canvas(samples.low))
    return image, samples


def _avif_header(file: BinaryIO) -> Header:
    file.seek(0)
    return _pillow_header("AVIF", open_image("AVIF", io.BytesIO(with_avif_brand(file.read()))))


def _bmp_header(file: BinaryIO) -> Header:
    header = read_bmp_header(file)
    return Header("BMP", (header.height, header.width), 1, own=header)


def _open_bmp(header: Header, data: bytes) -> tuple[Image.Image, Samples]:
    with decoder_errors(header.name):
        return decode_bmp(header.own, data)


def _jxl_header(file: BinaryIO) -> Header:
    header = read_jxl_header(file)
    return Header("JXL", header.size, 1, own=header)


def _open_jxl(header: Header, data: bytes) -> tuple[Image.Image, Samples]:
    return decode_jxl(header.own, data)


def _open_tiff(header: Header, data: bytes) -> tuple[Image.Image, Samples]:
    with decoder_errors(header.name):
        image, samples = open_tiff(header.own, data)
        return image, replace(samples, profile=_profile(image))


def _open_webp(_: Header, data: bytes) -> tuple[Image.Image, Samples]:
    check_complete(data)
    image = open_image("WEBP", io.BytesIO(with_empty_canvas(data)))
    return image, Samples(profile=_profile(image))


def _png_samples(header: Header, image: Image.Image, data: bytes) -> Samples:
    transparent = None if image.mode == "P" else image.info.get("transparency")
    if isinstance(transparent, tuple):
        transparent = tuple(_png_level(value, header.own.bit_depth) for value in transparent)
    elif transparent is not None and image.mode == "L":
        transparent = _png_level(transparent, header.own.bit_depth)
    profile, notes = png_colour(io.BytesIO(data))
    return Samples(white=65535, is_cut=profile is not None, transparent=transparent, profile=profile, notes=notes)


def _png_level(value: int, bit_depth: int) -> int:
    """Return the level 0..255 as which Pillow decodes a sample of that many bits."""
    if bit_depth == 16:
        return value >> 8
    white = (1 << bit_depth) - 1
    return (value & white) * 255 // white


def _gif_samples(image: GifImagePlugin.GifImageFile) -> Samples:
    """Leave what a frame does not cover empty; Pillow would fill it with the palette's first colour."""
    transparent = None if image.mode == "P" else image.info.get("transparency")
    return Samples(transparent=transparent, drawn=image.tile[0][1])


def _other_samples(name: str, image: ImageFile.ImageFile, data: bytes) -> Samples:
    if name == "JPEG":
        return jpeg_samples(image, data)
    return avif_samples(image, data) if name == "AVIF" else Samples(profile=_profile(image))


def _profile(image: Image.Image) -> bytes | None:
    """Return the ICC profile; empty bytes if there is one that Pillow could not put together."""
    if "icc_profile" not in image.info:
        return None
    profile = image.info["icc_profile"]
    return profile if isinstance(profile, bytes) else b""


# Formats of which more is to be known than Pillow says; all others are opened by it alone.
_READERS: dict[str, Callable[[BinaryIO], Header]] = {
    "AVIF": _avif_header,
    "BMP": _bmp_header,
    "JXL": _jxl_header,
    "PNG": _png_header,
    "TIFF": _tiff_header,
    "WEBP": _webp_header,
}
_OPENERS: dict[str, Callable[[Header, bytes], tuple[Image.Image, Samples]]] = {
    "BMP": _open_bmp,
    "JXL": _open_jxl,
    "PNG": _open_png,
    "TIFF": _open_tiff,
    "WEBP": _open_webp,
}
