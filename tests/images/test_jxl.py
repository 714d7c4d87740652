"""JPEG XL: its size without the extra, its pixels with it, and what is said where it is not there."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semdis_cli.errors import PassingReadError, UnreadableImageError
from semdis_cli.images.formats.jxl import JxlHeader, read_jxl_header
from semdis_cli.images.images import read_image, read_image_size
from semdis_cli.kinds.formats import image_format
from semdis_cli.kinds.jxl_start import has_jxl
from semdis_cli.settings import ReadSettings
from tests.image_bytes import exif
from tests.image_profiles import SWAPPED, cicp, rgb_profile
from tests.odd_images.picture import ALPHA, GREY, PICTURE, as_stored

# 13 x 7 px, by cjxl 0.7.0.
_TINY = base64.b64decode("/wowABiAgOJCCAIBAMAASygkxkVBwYRIhHtEGGOwaozEkZExBiseQITITwCQ3gXk9wEAoOQHAVAJwacG1gsA")
_BOXES = b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl \0\0\0\0jxl "
needs_jxl = pytest.mark.skipif(not has_jxl(), reason="the extra jxl is not installed")


def _header(bits: str) -> JxlHeader:
    """Of a codestream of these bits, in the order in which they are read."""
    padded = bits.replace(" ", "") + "0" * 80
    values = [int(padded[at : at + 8][::-1], 2) for at in range(0, len(padded) // 8 * 8, 8)]
    return read_jxl_header(io.BytesIO(b"\xff\x0a" + bytes(values)))


def test_the_size_is_read_from_the_codestream_bare_or_in_boxes() -> None:
    in_one = _BOXES + (8 + len(_TINY)).to_bytes(4) + b"jxlc" + _TINY
    in_parts = _BOXES + (12 + len(_TINY)).to_bytes(4) + b"jxlp\0\0\0\0" + _TINY
    long = _BOXES + b"\0\0\0\1xml " + (32).to_bytes(8) + bytes(16) + b"\0\0\0\0jxlc" + _TINY
    for data in (_TINY, in_one, in_parts, long):
        assert read_jxl_header(io.BytesIO(data)) == JxlHeader((7, 13), 1)


def test_sizes_of_every_form_and_orientation_are_read() -> None:
    # Lowest bit first: small, 5 bits of height / 8 - 1, ratio, all default.
    assert _header("1 11000 100 1") == JxlHeader((32, 32), 1)
    assert _header("1 11000 010 1") == JxlHeader((32, 38), 1)
    assert _header("1 11000 000 10000 1") == JxlHeader((32, 16), 1)
    # 13 bits of 1079, ratio 16:9; then extra fields with orientation 6 - 1 = 5, and nothing else.
    assert _header("0 10 1110110000100 101 0 1 101 0 0 0") == JxlHeader((1920, 1080), 6)
    with pytest.raises(UnreadableImageError, match="animated"):
        _header("1 11000 100 0 1 000 0 0 1")


def test_headers_cut_off_say_so() -> None:
    boxes = _BOXES + b"\0\0\0\0jxlc" + _TINY
    for data in (*(_TINY[:end] for end in range(2, 5)), *(boxes[:end] for end in range(12, 44))):
        with pytest.raises(UnreadableImageError, match="truncated"):
            read_jxl_header(io.BytesIO(data))


@pytest.mark.skipif(has_jxl(), reason="the extra jxl is installed")
def test_without_the_extra_the_file_is_no_image_and_named_outright_it_says_what_to_install() -> None:
    assert image_format(_TINY) is None
    for data in (_TINY, _BOXES):
        with pytest.raises(PassingReadError, match=r"pip install 'semdis\[jxl\]'"):
            read_image_size(data)


def _saved(picture: Image.Image, **options: object) -> bytes:
    pytest.importorskip("pillow_jxl")
    file = io.BytesIO()
    picture.save(file, "JXL", **options)
    return file.getvalue()


@needs_jxl
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_every_mode_comes_out_as_it_went_in(mode: str) -> None:
    rgba = Image.fromarray(np.concatenate([PICTURE, ALPHA], axis=2))
    picture = rgba.convert(mode)
    data = _saved(picture, lossless=True)
    assert image_format(data) == "JXL"
    png = io.BytesIO()
    picture.save(png, "PNG")
    expected = np.asarray(read_image(png.getvalue()).pixels).astype(int)
    assert np.abs(np.asarray(read_image(data).pixels) - expected).max() <= 1
    assert read_image_size(data) == picture.size[::-1]


@needs_jxl
def test_grey_of_16_bits_is_light_where_its_file_says_so() -> None:
    data = _saved(Image.fromarray(GREY[:, :, 0].astype(np.uint16) * 257), lossless=True)  # under a linear profile
    greys = np.asarray(read_image(data).pixels)[::32, ::48, 0].reshape(-1)
    assert np.abs(greys.astype(int) - [96, 160, 208, 239]).max() <= 1


@needs_jxl
def test_it_is_turned_and_its_colours_are_followed(tmp_path: Path) -> None:
    swapped = Image.fromarray(PICTURE[:, :, [1, 0, 2]])
    swapped.info["icc_profile"] = rgb_profile(SWAPPED, 2.2, cicp=cicp(1, 13))
    shown = np.asarray(read_image(_saved(Image.fromarray(PICTURE), lossless=True)).pixels)
    assert np.array_equal(shown, PICTURE)
    path = tmp_path / "turned.jpg"
    Image.fromarray(as_stored(PICTURE, 6)).save(path, quality=95, subsampling=0, exif=b"Exif\0\0" + exif(6))
    packed = _saved(Image.open(path), lossless_jpeg=True)  # the JPEG itself, packed
    read = read_image(packed)
    assert read.size == read_image_size(packed) == PICTURE.shape[:2]
    assert np.array_equal(np.asarray(read.pixels), np.asarray(read_image(path.read_bytes()).pixels))


@needs_jxl
def test_too_large_a_picture_is_refused_before_it_is_decoded_and_damage_is_said() -> None:
    data = _saved(Image.fromarray(PICTURE), lossless=True)
    with pytest.raises(UnreadableImageError, match="exceeds --max-image-pixels"):
        read_image(data, ReadSettings(max_image_pixels=100))
    rng = np.random.default_rng(0)
    for end in range(2, len(data), 40):
        with pytest.raises(UnreadableImageError):
            read_image(data[:end])
    for _ in range(60):
        changed = bytearray(data)
        changed[rng.integers(2, len(data))] = rng.integers(0, 256)
        try:
            read_image(bytes(changed), ReadSettings(max_image_pixels=10**6))
        except UnreadableImageError:
            continue
