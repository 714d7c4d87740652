"""ICC profiles: those that lie, that have tables or code points, and those that are of no use, in every format."""

import numpy as np
import pytest

from semdis_cli.images.colour.icc import parse_icc, with_plain_lab
from semdis_cli.images.images import read_image
from tests.avif_bytes import avif, icc
from tests.image_bytes import png
from tests.image_profiles import (
    SRGB,
    SWAPPED,
    bent_table_profile,
    cicp,
    press_profile,
    profile,
    rgb_profile,
    useless_profiles,
    xyz,
)
from tests.odd_images.picture import saved
from tests.shown_files import iccp

_PICTURE = np.array([[(200, 100, 50), (128, 128, 128)]], np.uint8).repeat(16, axis=0).repeat(16, axis=1)


def _shown(data: bytes) -> np.ndarray:
    return np.asarray(read_image(data).pixels)[0, ::16].astype(int)


def _with(data: bytes) -> np.ndarray:
    return _shown(png(_PICTURE, before=[iccp(data)]))


@pytest.mark.parametrize("name", useless_profiles())
def test_useless_profiles_leave_a_note_and_the_pixels(name: str) -> None:
    data = useless_profiles()[name]
    files = [png(_PICTURE, before=[iccp(data)])]
    if data:
        files += [saved(_PICTURE, "WEBP", lossless=True, icc_profile=data), saved(_PICTURE, "TIFF", icc_profile=data)]
    for file in files:
        read = read_image(file)
        assert np.array_equal(np.asarray(read.pixels), _PICTURE)
        assert read.notes == ("unusable ICC profile: ignored",)
    assert parse_icc(data) is None


# (200, 100, 50) as Chromium 156 shows it; 128 is where it was but for the functions of other displays.
@pytest.mark.parametrize(
    ("tag", "shown", "grey"),
    [
        (cicp(12, 13), (215, 93, 31), 128),
        (cicp(12, 1), (215, 93, 31), 128),
        (cicp(12, 14), (212, 83, 9), 121),
        (cicp(12, 2), (216, 93, 24), 129),
        (cicp(2, 13), (100, 200, 50), 128),
        (cicp(1, 13), (200, 100, 50), 128),
        (cicp(12, 16), (255, 0, 0), 132),
        (cicp(12, 200), (100, 201, 46), 129),
        (cicp(200, 13), (100, 201, 46), 129),
        (cicp(12, 13, 9, 1), (100, 201, 46), 129),
        (cicp(12, 13, 0, 0), (100, 201, 46), 129),
    ],
)
def test_code_points_in_a_profile_beat_its_curves(tag: bytes, shown: tuple[int, ...], grey: int) -> None:
    colour, middle = _with(rgb_profile(SWAPPED, 2.2, cicp=tag))
    assert np.abs(colour - shown).max() <= 1
    assert np.abs(middle - grey).max() <= 1


def test_a_profile_that_is_called_srgb_is_asked_whether_it_is() -> None:
    named = rgb_profile(SRGB, 1.0).replace(b"made for a test", b"sRGB built-in\0\0")
    assert np.abs(_with(named)[1] - 188).max() <= 1
    assert parse_icc(named) is not None


def test_tables_are_read_without_compensation_for_black() -> None:
    bent = _shown(png(_PICTURE, before=[iccp(bent_table_profile())]))
    # As Chromium 156 shows it.
    assert np.abs(bent - [(209, 137, 100), (159, 160, 161)]).max() <= 2


def test_an_avif_takes_its_profile_over_its_code_points() -> None:
    data = avif(_PICTURE, [icc(rgb_profile(SWAPPED, 2.2))])
    assert np.abs(_shown(data)[0] - (99, 201, 45)).max() <= 3
    broken = read_image(avif(_PICTURE, [icc(useless_profiles()["cut"])]))
    assert broken.notes == ("unusable ICC profile: ignored",)


def test_profiles_cut_off_anywhere_or_with_tables_that_claim_too_much_are_no_harm() -> None:
    for whole in (rgb_profile(SWAPPED, 2.2, cicp=cicp(2, 2)), press_profile()[:700], bent_table_profile()[:900]):
        for end in range(0, len(whole), 37):
            parse_icc(whole[:end])
            read_image(png(_PICTURE, before=[iccp(whole[:end])]))
    claims = b"mft2" + bytes(4) + bytes([255, 255, 255, 0]) + bytes(40) + b"\xff" * 4
    lying = profile(b"RGB ", {b"A2B0": claims, b"wtpt": xyz(1, 1, 1)}, pcs=b"Lab ")
    assert with_plain_lab(lying) == lying
    assert read_image(png(_PICTURE, before=[iccp(lying)])).notes
