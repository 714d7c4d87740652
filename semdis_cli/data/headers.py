"""What is known of an image file before its pixels are decoded: format, upright size, and what its samples mean."""

import io
from dataclasses import dataclass
from typing import BinaryIO

from PIL import GifImagePlugin, Image, ImageFile, TiffImagePlugin

from semdis_cli.data.colour import Samples
from semdis_cli.data.exif import ORIENTATION_TAG, exif_orientation, upright_size, valid_orientation
from semdis_cli.data.formats import SIGNATURE_BYTES, image_format
from semdis_cli.data.jpeg import check_jpeg_pixels
from semdis_cli.data.jxl import decode_jxl, read_jxl_header
from semdis_cli.data.jxl_start import check_jxl
from semdis_cli.data.pillow import decoder_errors, open_image
from semdis_cli.data.pixel_colour import avif_samples, jpeg_samples, low_byte_image
from semdis_cli.data.png import check_png_pixels, only_pixels, read_png_header
from semdis_cli.data.png_colour import png_colour
from semdis_cli.data.tone_mapping import HighRange
from semdis_cli.data.webp import check_complete, read_webp_header
from semdis_cli.errors import UnreadableImageError

_BIG_ENDIAN_BIGTIFF = b"MM\0+"  # Pillow looks for its directory in the wrong place
_UNCOMPRESSED = 1
_SEPARATE_PLANES = 2


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says about its image.

    `name`: of the format. `size`: (height, width) in px of the upright picture. `orientation`: 1..8, what is still to
    be done to the decoded pixels. `notes`: what is wrong with the orientation. `bit_depth`: bits per sample of a PNG.
    `image`: the opened file, where Pillow has read the header.
    """

    name: str
    size: tuple[int, int]
    orientation: int
    notes: tuple[str, ...] = ()
    bit_depth: int = 8
    image: ImageFile.ImageFile | None = None

    @property
    def stored_size(self) -> tuple[int, int]:
        """(height, width) in px before it is turned."""
        return upright_size(self.size, self.orientation)


def read_header(file: BinaryIO) -> Header:
    """Header of the image in `file`, which stands at its beginning. Raises `UnreadableImageError`.

    Call it inside `pillow_guard`.
    """
    with decoder_errors("file"):  # a disk may fail, too
        start = file.read(SIGNATURE_BYTES)
        check_jxl(start)
        name = image_format(start)
        if name is None:
            raise UnreadableImageError("not an image in a known format" if start else "empty file")
        if start.startswith(_BIG_ENDIAN_BIGTIFF):
            raise UnreadableImageError("a BigTIFF of big-endian byte order: convert it to little-endian")
        if name == "PNG":
            return _png_header(file)
        if name == "WEBP":
            return _webp_header(file)
        if name == "JXL":
            return Header("JXL", read_jxl_header(file).size, 1)
        image = open_image(name, file)
        return _tiff_header(image) if isinstance(image, TiffImagePlugin.TiffImageFile) else _pillow_header(name, image)


def open_pixels(header: Header, data: bytes) -> tuple[Image.Image, Samples]:
    """The image of a file whose header was read from `data`, not decoded yet, and the meaning of its samples."""
    if header.name == "PNG":
        pixels = only_pixels(data, io.BytesIO(data))
        image = open_image("PNG", io.BytesIO(pixels))
        return image, _png_samples(header, image, data, pixels)
    if header.name == "JXL":
        return decode_jxl(read_jxl_header(io.BytesIO(data)), data)
    if header.name == "WEBP":
        check_complete(data)
    image = header.image or open_image(header.name, io.BytesIO(data))
    with decoder_errors(header.name):
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            _check_tiff_parts(image)
            return image, _tiff_samples(image)
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
    size = upright_size((header.height, header.width), orientation)
    return Header("PNG", size, orientation, notes, header.bit_depth)


def _webp_header(file: BinaryIO) -> Header:
    header = read_webp_header(file)
    orientation, notes = exif_orientation(header.exif)
    return Header("WEBP", upright_size((header.height, header.width), orientation), orientation, notes)


def _pillow_header(name: str, image: ImageFile.ImageFile) -> Header:
    orientation, notes = exif_orientation(image.info.get("exif"))
    return Header(name, upright_size((image.height, image.width), orientation), orientation, notes, image=image)


def _tiff_header(image: TiffImagePlugin.TiffImageFile) -> Header:
    """Pillow turns a TIFF upright itself, by its tag or by XMP: it is told the tag, so that size and pixels agree."""
    orientation, notes = valid_orientation(image.tag_v2.get(ORIENTATION_TAG))
    exif = image.getexif()
    for tag in list(exif):  # while decoding, Pillow would parse all of them
        del exif[tag]
    exif[ORIENTATION_TAG] = orientation
    image.info.pop("xmp", None)
    return Header("TIFF", (image.height, image.width), 1, notes, image=image)


def _png_samples(header: Header, image: ImageFile.ImageFile, data: bytes, pixels: bytes) -> Samples:
    transparent = None if image.mode == "P" else image.info.get("transparency")
    if isinstance(transparent, tuple):
        transparent = tuple(_png_level(value, header.bit_depth) for value in transparent)
    elif transparent is not None and image.mode == "L":
        transparent = _png_level(transparent, header.bit_depth)
    profile, notes = png_colour(io.BytesIO(data))
    low = low_byte_image(pixels) if header.bit_depth == 16 and isinstance(profile, HighRange) else None
    is_cut = profile is not None
    return Samples(white=65535, is_cut=is_cut, transparent=transparent, profile=profile, notes=notes, low=low)


def _png_level(value: int, bit_depth: int) -> int:
    """The level 0..255 as which Pillow decodes a sample of that many bits."""
    if bit_depth == 16:
        return value >> 8
    white = (1 << bit_depth) - 1
    return (value & white) * 255 // white


def _gif_samples(image: GifImagePlugin.GifImageFile) -> Samples:
    """A frame smaller than the picture leaves the rest empty; Pillow would fill it with the palette's first colour."""
    transparent = None if image.mode == "P" else image.info.get("transparency")
    return Samples(transparent=transparent, drawn=image.tile[0][1])


def _other_samples(name: str, image: ImageFile.ImageFile, data: bytes) -> Samples:
    if name == "JPEG":
        return jpeg_samples(image, data)
    return avif_samples(image, data) if name == "AVIF" else Samples(profile=_profile(image))


def _tiff_samples(image: TiffImagePlugin.TiffImageFile) -> Samples:
    if not image.mode.startswith("I;16"):
        return Samples(white=None, profile=_profile(image))
    bits = image.tag_v2[TiffImagePlugin.BITSPERSAMPLE][0]
    white_is_zero = image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0) == 0
    return Samples(white=(1 << bits) - 1, is_inverted=white_is_zero, profile=_profile(image))


def _check_tiff_parts(image: TiffImagePlugin.TiffImageFile) -> None:
    """Refuse an uncompressed TIFF that leaves out strips or tiles: Pillow would leave them black."""
    tags = image.tag_v2
    if tags.get(TiffImagePlugin.COMPRESSION, _UNCOMPRESSED) != _UNCOMPRESSED:
        return  # libtiff sees to it
    width, height = tags[TiffImagePlugin.IMAGEWIDTH], tags[TiffImagePlugin.IMAGELENGTH]
    is_tiled = TiffImagePlugin.TILEOFFSETS in tags
    if is_tiled:
        columns, rows = tags[TiffImagePlugin.TILEWIDTH], tags[TiffImagePlugin.TILELENGTH]
    else:
        columns, rows = width, min(tags.get(TiffImagePlugin.ROWSPERSTRIP, height), height)
    is_separate = tags.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) == _SEPARATE_PLANES
    num_planes = tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1) if is_separate else 1
    num_parts = -(-height // rows) * -(-width // columns) * num_planes
    offsets = tags[TiffImagePlugin.TILEOFFSETS if is_tiled else TiffImagePlugin.STRIPOFFSETS]
    if len(offsets) < num_parts or 0 in offsets:
        raise UnreadableImageError(f"truncated: the TIFF has {len(offsets)} of its {num_parts} strips or tiles")


def _profile(image: ImageFile.ImageFile) -> bytes | None:
    """The ICC profile; empty bytes if there is one that Pillow could not put together."""
    if "icc_profile" not in image.info:
        return None
    profile = image.info["icc_profile"]
    return profile if isinstance(profile, bytes) else b""
