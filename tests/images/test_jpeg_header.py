"""The size of a JPEG read from its markers: the one that the picture has when it is read, or none."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from semdis_cli.errors import UnreadableImageError
from semdis_cli.images.formats.jpeg.header import read_plain_jpeg
from semdis_cli.images.images import read_image, read_image_size

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
quick = settings(max_examples=150, deadline=None)


def exif(orientation: int) -> bytes:
    """An EXIF block with nothing but an orientation."""
    return b"Exif\0\0" + struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def jpeg(height: int = 40, width: int = 30, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(PIXELS).resize((width, height)).convert(mode)
    image.save(file, "JPEG", **options)
    return file.getvalue()


def size_of(data: bytes) -> tuple[int, int] | None:
    plain = read_plain_jpeg(io.BytesIO(data))
    return None if plain is None else plain.size


def size_when_read(data: bytes) -> tuple[int, int] | None:
    try:
        return read_image(data).size
    except UnreadableImageError:
        return None


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"optimize": True},
        {"subsampling": 0},
        {"subsampling": 2},
        {"mode": "L"},
        {"mode": "CMYK"},
        {"restart_marker_rows": 1},
        {"comment": b"a comment"},
        {"icc_profile": bytes(200_000)},
        {"exif": exif(1)},
        {"exif": exif(1) + bytes(60_000)},
        {"xmp": b"<x/>"},
    ],
)
def test_ordinary_files_are_told_from_their_markers(options: dict[str, object]) -> None:
    assert size_of(jpeg(**options)) == (40, 30)  # type: ignore[arg-type]


@pytest.mark.parametrize("orientation", range(10))
def test_the_size_is_that_of_the_upright_picture(orientation: int) -> None:
    data = jpeg(exif=exif(orientation))
    assert size_of(data) == ((30, 40) if 5 <= orientation <= 8 else (40, 30)) == read_image(data).size


def test_an_exif_block_split_over_two_segments_is_put_together() -> None:
    data, block = jpeg(), exif(6)
    segments = b"".join(
        b"\xff\xe1" + struct.pack(">H", 8 + len(part)) + b"Exif\0\0" + part for part in (block[6:20], block[20:])
    )
    split = data[:2] + segments + data[2:]
    assert size_of(split) == (30, 40) == read_image(split).size


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8",
        jpeg()[:60],
        jpeg()[:2] + b"\xff\xe0\0\1" + jpeg()[2:],
        jpeg()[:2] + b"\xff\xd0" + jpeg()[2:],
        jpeg()[:2] + b"junk" + jpeg()[2:],
        jpeg().replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"),
        jpeg().replace(b"\xff\xc0", b"\xff\xc9"),
        jpeg().replace(struct.pack(">HH", 40, 30), struct.pack(">HH", 0, 30)),
    ],
)
def test_anything_else_is_left_to_the_decoder(data: bytes) -> None:
    assert size_of(data) is None


def test_a_file_that_is_left_to_the_decoder_is_read_from_its_beginning() -> None:
    padded = jpeg()[:2] + b"\xff" + jpeg()[2:]  # legal, and seldom
    assert size_of(padded) is None
    assert read_image_size(padded) == (40, 30)


@quick
@given(st.integers(1, 300), st.integers(1, 300), st.booleans(), st.integers(1, 8))
def test_any_size_is_the_one_that_is_read(height: int, width: int, progressive: bool, orientation: int) -> None:
    data = jpeg(height, width, progressive=progressive, exif=exif(orientation))
    assert size_of(data) == read_image(data).size == read_image_size(data)


@quick
@given(st.data())
def test_a_damaged_file_has_the_size_that_it_is_read_with_or_cannot_be_read(data: st.DataObject) -> None:
    damaged = bytearray(jpeg(exif=exif(6), comment=b"c"))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, 700))] = data.draw(st.integers(0, 255))
    size, read = size_of(bytes(damaged)), size_when_read(bytes(damaged))
    assert size is None or read in {size, None}
