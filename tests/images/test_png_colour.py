"""PNG: which of the chunks about colour counts, and what it means."""

import struct
import zlib

import numpy as np
import pytest

from semdis_cli.images.images import read_image
from tests.image_bytes import png, png_chunk
from tests.image_profiles import SWAPPED, grey_profile, press_profile, rgb_profile
from tests.shown_files import SRGB_CHUNK, SRGB_PLACES, WIDE_PLACES, chrm, clli, gama, iccp, mdcv, png_cicp

_ORANGE, _GREY = (200, 100, 50), (128, 128, 128)
_PICTURE = np.array([[_ORANGE, _GREY, (16, 0, 20)]], np.uint8)
_SWAPPED = iccp(rgb_profile(SWAPPED, 2.2))
_LINEAR = gama(100_000)

# What Chromium 156 shows of (200, 100, 50), (128, 128, 128), (16, 0, 20).
_STORED = (_ORANGE, _GREY, (16, 0, 20))
_AS_LINEAR = ((229, 168, 122), (188, 188, 188), (71, 0, 79))
_AS_WIDE = ((215, 93, 31), _GREY, (19, 0, 21))
_AS_SWAPPED = ((100, 201, 46), (129, 129, 129), (0, 7, 12))

_SHOWN = {
    "as ImageMagick 6 writes it": ([gama(45455), chrm(*SRGB_PLACES)], ((201, 100, 46), (129, 129, 129), (7, 0, 12))),
    "linear": ([_LINEAR], _AS_LINEAR),
    "the usual gamma alone": ([gama(45455)], _STORED),
    "within 5 % of it": ([gama(43182)], _STORED),
    "gamma 0": ([gama(0), chrm(*WIDE_PLACES)], _STORED),
    "primaries alone": ([chrm(*WIDE_PLACES)], _STORED),
    "sRGB over gamma": ([_LINEAR, SRGB_CHUNK], _STORED),
    "profile over sRGB": ([SRGB_CHUNK, _LINEAR, _SWAPPED], _AS_SWAPPED),
    "code points over a profile": ([_SWAPPED, png_cicp(12, 13)], _AS_WIDE),
    "the first of two": ([_LINEAR, gama(45455)], _AS_LINEAR),
    "sRGB code points over a profile": ([_SWAPPED, png_cicp(1, 13)], _STORED),
}
_IGNORED = {
    "high dynamic range": ([png_cicp(9, 16)], ((255, 0, 0), (132, 132, 132), (1, 0, 2))),
    "unknown code points, then a profile": ([png_cicp(12, 200), _SWAPPED], _AS_SWAPPED),
    "limited range": ([png_cicp(12, 13, 0, 0)], _STORED),
    "a matrix": ([png_cicp(12, 13, 9, 1)], _STORED),
    "broken profile, then gamma": ([png_chunk(b"iCCP", b"x\0\0junk"), _LINEAR], _AS_LINEAR),
    "profile for ink": ([iccp(press_profile())], _STORED),
    "profile for grey": ([iccp(grey_profile(1.0))], _STORED),
    "chromaticities beyond 1": ([_LINEAR, chrm(31270, 32900, 164000, *SRGB_PLACES[3:])], _STORED),
    "negative chromaticities": ([_LINEAR, chrm(31270, 32900, 64000, 33000, 30000, 60000, -1, 6000)], _STORED),
    "primaries on a line": ([_LINEAR, chrm(31270, 32900, 20000, 20000, 30000, 30000, 40000, 40000)], _STORED),
    "white without luminance": ([_LINEAR, chrm(31270, 0, *SRGB_PLACES[2:])], _STORED),
}


@pytest.mark.parametrize("name", [*_SHOWN, *_IGNORED])
def test_chunks_about_colour_are_followed_and_what_is_ignored_or_lost_leaves_a_note(name: str) -> None:
    chunks, expected = (_SHOWN | _IGNORED)[name]
    read = read_image(png(_PICTURE, before=chunks))
    assert np.abs(np.asarray(read.pixels)[0].astype(int) - np.array(expected)).max() <= 1
    assert bool(read.notes) == (name in _IGNORED)


def test_chunks_of_wrong_length_or_behind_the_pixels_or_the_palette_mean_nothing() -> None:
    short = [png_chunk(b"gAMA", b"\0\1"), png_chunk(b"cICP", bytes([12, 13, 0])), png_chunk(b"sRGB", b"")]
    short += [png_chunk(b"cICP", bytes([12, 13, 0, 1, 0])), png_chunk(b"cHRM", bytes(20))]
    files = [png(_PICTURE, before=short), png(_PICTURE, after=[_LINEAR, png_cicp(12, 13)])]
    palette = png_chunk(b"PLTE", _PICTURE.tobytes())
    indices = np.array([[[0], [1], [2]]])
    files.append(png(indices, colour_type=3, before=[palette, png_cicp(12, 13)]))
    for data in files:
        assert np.array_equal(np.asarray(read_image(data).pixels), _PICTURE)
    in_order = png(indices, colour_type=3, before=[png_cicp(12, 13), palette])
    assert np.abs(np.asarray(read_image(in_order).pixels)[0].astype(int) - np.array(_AS_WIDE)).max() <= 1


def test_chunks_that_fail_their_checksum_leave_a_note_and_the_word_to_the_next_of_their_kind() -> None:
    for chunk, rest, expected in (
        (_LINEAR, [], _STORED),
        (gama(200_000), [_LINEAR], _AS_LINEAR),
        (SRGB_CHUNK, [_LINEAR], _AS_LINEAR),
        (_SWAPPED, [], _STORED),
        (png_cicp(12, 13), [_SWAPPED], _AS_SWAPPED),
    ):
        read = read_image(png(_PICTURE, before=[_damaged(chunk), *rest]))
        assert np.abs(np.asarray(read.pixels)[0].astype(int) - np.array(expected)).max() <= 1
        assert read.notes == (f"wrong checksum in a chunk about colour ({chunk[4:8].decode()}): ignored",)


def test_a_profile_whose_name_is_too_long_is_ignored() -> None:
    packed = zlib.compress(rgb_profile(SWAPPED, 2.2))
    for num, expected in ((1, _AS_SWAPPED), (79, _AS_SWAPPED), (81, _STORED), (300, _STORED)):
        read = read_image(png(_PICTURE, before=[png_chunk(b"iCCP", b"n" * num + b"\0\0" + packed)]))
        assert np.abs(np.asarray(read.pixels)[0].astype(int) - np.array(expected)).max() <= 1


def _damaged(chunk: bytes) -> bytes:
    return chunk[:-1] + bytes([chunk[-1] ^ 1])


@pytest.mark.parametrize("depth", [8, 16])
def test_grey_of_either_depth_follows_gamma(depth: int) -> None:
    grey = np.array([[[0], [16], [128], [255]]]) * (257 if depth == 16 else 1)
    for before, expected in (([_LINEAR], [0, 71, 188, 255]), ([iccp(grey_profile(1.0))], [0, 71, 188, 255])):
        read = read_image(png(grey, bit_depth=depth, colour_type=0, before=before))
        assert np.abs(np.asarray(read.pixels)[0, :, 1].astype(int) - expected).max() <= 1


def test_all_16_bits_of_a_picture_of_high_range_count() -> None:
    ramp = np.arange(0, 65536, 64).reshape(1, -1, 1).repeat(3, axis=2)
    see_through = np.concatenate([ramp, np.full((1, ramp.shape[1], 1), 65535)], axis=2)
    rgb = np.asarray(read_image(png(ramp, bit_depth=16, before=[png_cicp(9, 18)])).pixels)
    rgba = np.asarray(read_image(png(see_through, bit_depth=16, colour_type=6, before=[png_cicp(9, 18)])).pixels)
    assert len(np.unique(rgb[:, :, 0])) > 250  # the high bytes alone make 200 of HLG
    assert np.array_equal(rgb, rgba)


def test_the_brightest_light_is_that_of_the_content_or_else_of_its_screen() -> None:
    def white(*chunks: bytes) -> int:
        grey = np.full((1, 1, 3), 148, np.uint8)  # 203 cd/m2 in PQ
        return int(np.asarray(read_image(png(grey, before=[png_cicp(9, 16), *chunks])).pixels)[0, 0, 0])

    dim, bright = white(clli(200)), white(clli(4000))
    assert bright < dim
    assert white(mdcv(4000), clli(200)) == dim
    assert white(mdcv(200)) == white(mdcv(200), clli(0)) == dim
    assert white() == white(clli(1000))


def test_no_value_of_a_colour_chunk_brings_a_reader_down() -> None:
    rng = np.random.default_rng(0)
    for gamma in (1, 2, 3000, 2**31, 2**32 - 1):
        places = struct.pack(">8I", *rng.integers(0, 100_001, 8))
        chunks = [png_chunk(b"gAMA", struct.pack(">I", gamma)), png_chunk(b"cHRM", places)]
        assert read_image(png(_PICTURE, before=chunks)).size == (1, 3)
    for light in (0, 1, 2_030_001, 2**32 - 1):
        data = png(_PICTURE, before=[png_cicp(9, 16), png_chunk(b"cLLI", struct.pack(">II", light, 0))])
        assert read_image(data).size == (1, 3)
