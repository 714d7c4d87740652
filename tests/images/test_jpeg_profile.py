"""JPEG profiles: in parts, in any order, before and behind the frame header; by the fast way and by Pillow's."""

import numpy as np
import pytest
from PIL import Image

from semdis_cli.images.images import read_image
from semdis_cli.images.pixels import load_pixels
from semdis_cli.settings import GeometrySettings, ReadSettings
from tests.image_bytes import jpeg_segment, jpeg_segments
from tests.image_profiles import SRGB, SWAPPED, grey_profile, press_profile, rgb_profile
from tests.odd_images.picture import GREY, PICTURE, jpeg, saved

_PROFILE = rgb_profile(SWAPPED, 2.2)
_SWAPPED = PICTURE[:, :, [1, 0, 2]]


def _part(data: bytes, number: int, count: int) -> bytes:
    return jpeg_segment(0xE2, b"ICC_PROFILE\0" + bytes([number, count]) + data)


_WHOLE = _part(_PROFILE, 1, 1)
_FIRST, _SECOND, _THIRD = (_part(_PROFILE[at : at + 200], at // 200 + 1, 3) for at in (0, 200, 400))
_OTHER = _part(rgb_profile(SRGB, 1.0), 1, 1)


def _with(in_front: bytes, behind: bytes = b"") -> bytes:
    """The picture with segments in front of the frame header, and behind it."""
    whole = jpeg()
    start = next(start for kind, start, _ in jpeg_segments(whole) if kind == 0xC0)
    scan = next(start for kind, start, _ in jpeg_segments(whole) if kind == 0xDA)
    return whole[:start] + in_front + whole[start:scan] + behind + whole[scan:]


def _both_ways(data: bytes) -> tuple[np.ndarray, tuple[str, ...]]:
    """The pixels and notes, which are the same by `read_image` and by `load_pixels`."""
    read = read_image(data)
    loaded = load_pixels(data, ReadSettings(), GeometrySettings(), 16)
    pixels = np.asarray(read.pixels)
    assert np.array_equal(loaded.pixels.numpy().transpose(1, 2, 0), pixels)
    assert loaded.notes == read.notes
    return pixels, read.notes


@pytest.mark.parametrize(
    ("in_front", "behind"),
    [
        (_WHOLE, b""),
        (b"", _WHOLE),
        (_FIRST + _SECOND + _THIRD, b""),
        (_THIRD + _FIRST + _SECOND, b""),
        (b"", _SECOND + _THIRD + _FIRST),
        (_SECOND, _THIRD + _FIRST),
        (_WHOLE + _OTHER, b""),
        (_WHOLE, _OTHER),
        (jpeg_segment(0xE2, b"some other program's") + _WHOLE, b""),
    ],
)
def test_a_profile_counts_wherever_its_parts_stand_before_the_scan(in_front: bytes, behind: bytes) -> None:
    pixels, notes = _both_ways(_with(in_front, behind))
    assert np.abs(pixels[::16, ::24].astype(int) - _SWAPPED[::16, ::24]).max() <= 10
    assert not notes


@pytest.mark.parametrize(
    "parts",
    [
        _FIRST + _SECOND,
        _SECOND + _THIRD,
        _FIRST + _FIRST + _SECOND + _THIRD,
        _part(_PROFILE, 0, 1),
        _part(_PROFILE, 2, 1),
        _part(_PROFILE, 1, 0),
        _part(_PROFILE[:200], 1, 2) + _part(_PROFILE[200:], 2, 3),
    ],
)
def test_parts_that_make_no_profile_leave_a_note(parts: bytes) -> None:
    for data in (_with(parts), _with(b"", parts)):
        pixels, notes = _both_ways(data)
        assert np.abs(pixels[::16, ::24].astype(int) - PICTURE[::16, ::24]).max() <= 4
        assert notes == ("unusable ICC profile: ignored",)


def test_a_grey_picture_takes_a_profile_for_grey_or_for_rgb() -> None:
    plain, _ = _both_ways(jpeg(GREY))
    for profile in (grey_profile(1.0), rgb_profile(SRGB, 1.0)):
        pixels, notes = _both_ways(jpeg(GREY, icc_profile=profile))
        light = plain / 255
        expected = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
        assert np.abs(pixels - expected).max() <= 1.5
        assert not notes


@pytest.mark.parametrize(
    ("mode", "profile", "for_what"),
    [("RGB", grey_profile(1.0), "GRAY"), ("RGB", press_profile(), "CMYK"), ("L", press_profile(), "CMYK")],
)
def test_a_profile_for_another_kind_of_picture_is_ignored_with_a_note(mode: str, profile: bytes, for_what: str) -> None:
    picture = Image.fromarray(PICTURE).convert(mode)
    pixels, (note,) = _both_ways(jpeg(picture, icc_profile=profile))
    assert np.array_equal(pixels, _both_ways(jpeg(picture))[0])
    assert note.startswith(f"the ICC profile is for {for_what}, the image is ")


def test_ink_is_mixed_with_black_before_its_profile_is_asked() -> None:
    inks = [(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 255, 0), (0, 0, 0, 255), (0, 0, 0, 128)]
    inks += [(128, 128, 128, 0), (200, 100, 50, 30), (255, 255, 255, 255)]
    picture = np.array(inks, np.uint8)[None].repeat(8, axis=1).repeat(16, axis=0)
    data = jpeg(Image.fromarray(picture, "CMYK"), quality=100, icc_profile=press_profile())
    # As Chromium 156 shows it.
    shown = [(239, 242, 239), (70, 233, 236), (252, 97, 212), (241, 241, 88), (88, 98, 95), (182, 182, 168)]
    shown += [(182, 182, 168), (130, 185, 192), (88, 98, 95)]
    assert np.abs(np.asarray(read_image(data).pixels)[8, 4::8].astype(int) - shown).max() <= 2
    # A TIFF, which no browser shows, is as the press prints it: all four inks are its darkest, and that is black.
    printed = saved(Image.fromarray(picture, "CMYK"), "TIFF", icc_profile=press_profile())
    assert np.asarray(read_image(printed).pixels)[8, 4 + 8 * 8].max() <= 3
    with_rgb = read_image(jpeg(Image.fromarray(picture, "CMYK"), icc_profile=_PROFILE))
    assert with_rgb.notes == ("the ICC profile is for RGB, the image is CMYK: ignored",)
