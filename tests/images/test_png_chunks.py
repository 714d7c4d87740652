"""PNG: chunks about transparency, palettes and orientation that are not as they should be, as a browser takes them."""

import numpy as np
import pytest

from semdis_cli.errors import UnreadableImageError
from semdis_cli.images.images import read_image
from tests.image_bytes import exif, png, png_chunk

_INDICES = np.array([[[0], [1], [2], [3]]])
_COLOURS = np.array([[10, 20, 30], [40, 50, 60], [200, 100, 0], [7, 8, 9]], np.uint8)
_PALETTE = png_chunk(b"PLTE", _COLOURS.tobytes())
_CLEAR = png_chunk(b"tRNS", bytes(4))


def _shown(data: bytes) -> np.ndarray:
    pixels: np.ndarray = np.asarray(read_image(data).pixels)[0]
    return pixels


@pytest.mark.parametrize("is_interlaced", [False, True])
def test_a_palette_goes_on_with_its_last_colour_and_that_ones_alpha(is_interlaced: bool) -> None:
    for depth in (2, 4, 8):
        short = png_chunk(b"PLTE", _COLOURS[:3].tobytes() + b"\1\2")
        for before, last in (
            ([short], _COLOURS[2]),
            ([short, png_chunk(b"tRNS", b"\xff")], _COLOURS[2]),
            ([short, png_chunk(b"tRNS", b"\xff\xff\0\xff")], [255] * 3),
        ):
            data = png(_INDICES, bit_depth=depth, colour_type=3, before=before, is_interlaced=is_interlaced)
            assert np.array_equal(_shown(data), [*_COLOURS[:2], last, last])


@pytest.mark.parametrize("chunks", [[], [png_chunk(b"PLTE", b"")], [png_chunk(b"PLTE", b"\1\2")]])
def test_an_image_of_a_palette_without_colours_is_damaged(chunks: list[bytes]) -> None:
    with pytest.raises(UnreadableImageError, match="no palette"):
        read_image(png(_INDICES, colour_type=3, before=chunks))


def test_transparency_counts_where_it_has_to_stand_and_the_first_one_does() -> None:
    opaque = png_chunk(b"tRNS", b"\xff")
    for before, after in (
        ([_CLEAR, _PALETTE], []),
        ([_PALETTE], [_CLEAR]),
        ([_PALETTE, opaque, _CLEAR], []),
        ([_PALETTE, png_chunk(b"tRNS", b"")], []),
    ):
        assert np.array_equal(_shown(png(_INDICES, colour_type=3, before=before, after=after)), _COLOURS)
    assert (_shown(png(_INDICES, colour_type=3, before=[_PALETTE, _CLEAR])) == 255).all()


def test_a_key_that_is_too_short_is_none() -> None:
    for colour_type, picture, num_bytes in ((0, _INDICES, 1), (2, _COLOURS[None], 5)):
        shown = _shown(png(picture, colour_type=colour_type, before=[png_chunk(b"tRNS", bytes(num_bytes))]))
        assert np.array_equal(shown, np.broadcast_to(picture[0], (4, 3)))


def test_the_last_chunk_needs_no_checksum() -> None:
    data = png(_COLOURS[None])
    assert np.array_equal(_shown(data[:-4] + b"abcd"), _COLOURS)


def test_an_orientation_that_fails_its_checksum_is_left_alone_and_the_next_one_is_not() -> None:
    turned = png_chunk(b"eXIf", exif(6))
    bad = turned[:-4] + b"abcd"
    read = read_image(png(_COLOURS[None], before=[bad]))
    assert read.size == (1, 4)
    assert "wrong checksum" in read.notes[0]
    assert read_image(png(_COLOURS[None], before=[bad, turned])).size == (4, 1)


def test_a_png_of_an_iphone_app_is_told_what_it_is() -> None:
    data = png(_COLOURS[None])
    with pytest.raises(UnreadableImageError, match="iPhone app"):
        read_image(data[:8] + png_chunk(b"CgBI", b"P\0 \2") + data[8:])
