"""TIFF: Pillow's header and pixels where it has them right, our own (`tiff_pixels`) where it has not."""

import io
from dataclasses import dataclass, replace
from typing import BinaryIO

from PIL import Image, ImageFile, ImagePalette, TiffImagePlugin

from semdis_cli.errors import UnreadableImageError
from semdis_cli.images.colour.convert import Samples
from semdis_cli.images.formats.exif import ORIENTATION_TAG, valid_orientation
from semdis_cli.images.formats.pillow import open_image
from semdis_cli.images.formats.tiff.layout import (
    Layout,
    check_samples,
    is_ordinary,
    is_supported,
    pillow_errs,
    read_layout,
)
from semdis_cli.images.formats.tiff.pixels import decode_tiff, palette_of_8_bits
from semdis_cli.kinds.tiff_directories import Directory, TiffReader, find_picture, larger_page, pointed_at

_BIG_ENDIAN_BIGTIFF = b"MM\0+"  # Pillow looks for its directory in the wrong place
_UNCOMPRESSED = 1
_SEPARATE_PLANES = 2
_PROFILE_TAG = 34675


@dataclass(frozen=True, slots=True)
class TiffHeader:
    """`size`: (height, width) in px as stored. `orientation`: 1..8, what is still to be done to the decoded pixels.

    `notes`: what is wrong with the orientation, or doubtful. `image`: opened by Pillow, which turns it upright itself;
    None where it is opened with the pixels, for which there is the `layout` of the picture in `directory`.
    """

    size: tuple[int, int]
    orientation: int
    notes: tuple[str, ...]
    image: ImageFile.ImageFile | None = None
    directory: Directory | None = None
    layout: Layout | None = None


def read_tiff_header(file: BinaryIO) -> TiffHeader:
    """Read the header of the picture that a TIFF is about. Raises `UnreadableImageError`, for camera raws too.

    Call it inside `pillow_guard`.
    """
    reader = TiffReader(file)
    if reader.start.startswith(_BIG_ENDIAN_BIGTIFF):
        raise UnreadableImageError("a BigTIFF of big-endian byte order: convert it to little-endian")
    directory = find_picture(reader)
    if directory is None:
        return _pillow_header(open_image("TIFF", file))
    layout = read_layout(reader, directory)
    check_samples(layout)
    if layout.compression not in TiffImagePlugin.COMPRESSION_INFO:
        raise UnreadableImageError(f"a TIFF in compression {layout.compression}, which is not read: convert it first")
    if pillow_errs(layout):
        return _own_header(reader, directory, layout)
    header = _header(reader, directory, layout)
    if is_ordinary(layout) and header.orientation == 1:
        return header
    try:
        opened = _pillow_header(open_image("TIFF", pointed_at(directory, reader, file)))
        return replace(opened, notes=header.notes)
    except UnreadableImageError:
        if is_supported(layout):
            return _own_header(reader, directory, layout)
        raise


def open_tiff(header: TiffHeader, data: bytes) -> tuple[Image.Image, Samples]:
    """Open the picture of the TIFF in `data`, which has that `header`; also its samples' meaning but for the profile.

    The profile is in `image.info`, as Pillow puts it.
    """
    if header.directory is None or header.layout is None:
        assert header.image is not None
        return _with_samples(header.image)
    reader = TiffReader(io.BytesIO(data))
    if not pillow_errs(header.layout) and is_ordinary(header.layout):
        image = open_image("TIFF", pointed_at(header.directory, reader, io.BytesIO(data)))
        _stay_as_stored(image)
        return _with_samples(image)
    picture = decode_tiff(reader, header.directory, header.layout, data)
    profile = bytes(map(int, reader.values(header.directory, _PROFILE_TAG)))
    if profile:
        picture.info["icc_profile"] = profile
    return picture, Samples()


def _with_samples(image: ImageFile.ImageFile) -> tuple[Image.Image, Samples]:
    assert isinstance(image, TiffImagePlugin.TiffImageFile)
    _check_parts(image)
    _mend_palette(image)
    return image, _pillow_samples(image)


def _stay_as_stored(image: ImageFile.ImageFile, orientation: int = 1) -> None:
    """Keep Pillow from turning a TIFF upright by its tag or by XMP: it is told how, so that size and pixels agree."""
    exif = image.getexif()
    for tag in list(exif):  # while decoding, Pillow would parse all of them
        del exif[tag]
    exif[ORIENTATION_TAG] = orientation
    image.info.pop("xmp", None)


def _own_header(reader: TiffReader, directory: Directory, layout: Layout) -> TiffHeader:
    """Make the header of a picture that Pillow cannot read or would get wrong."""
    if not is_supported(layout):
        raise UnreadableImageError("a TIFF of a kind that is not read: convert it to 8-bit RGB without compression")
    return _header(reader, directory, layout)


def _header(reader: TiffReader, directory: Directory, layout: Layout) -> TiffHeader:
    values = reader.values(directory, ORIENTATION_TAG)
    orientation, notes = valid_orientation(values[0] if values else None)
    larger = larger_page(reader, directory)
    if larger is not None:
        notes += (
            f"the TIFF has a page of the same shape that is larger, {larger[0]}x{larger[1]} px: the first is used",
        )
    return TiffHeader(layout.size, orientation, notes, directory=directory, layout=layout)


def _pillow_header(image: ImageFile.ImageFile) -> TiffHeader:
    assert isinstance(image, TiffImagePlugin.TiffImageFile)
    orientation, notes = valid_orientation(image.tag_v2.get(ORIENTATION_TAG))
    _stay_as_stored(image, orientation)
    return TiffHeader((image.height, image.width), 1, notes, image=image)


def _pillow_samples(image: TiffImagePlugin.TiffImageFile) -> Samples:
    if not image.mode.startswith("I;16"):
        return Samples(white=None)
    bits = image.tag_v2[TiffImagePlugin.BITSPERSAMPLE][0]
    white_is_zero = image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0) == 0
    return Samples(white=(1 << bits) - 1, is_inverted=white_is_zero)


def _mend_palette(image: TiffImagePlugin.TiffImageFile) -> None:
    """Mend a colour map of 8-bit values, as some writers have it: Pillow takes its high bytes, which are black."""
    if image.mode in {"P", "PA"}:
        palette = palette_of_8_bits(tuple(image.tag_v2[TiffImagePlugin.COLORMAP]))
        if palette is not None:
            image.palette = ImagePalette.raw("RGB;L", palette)


def _check_parts(image: TiffImagePlugin.TiffImageFile) -> None:
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
