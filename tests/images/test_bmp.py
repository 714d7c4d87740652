"""BMPs at the borders of their format: what is missing, what is too much, what cannot be."""

import struct

import numpy as np
import pytest

from semdis_cli.errors import UnreadableImageError
from semdis_cli.images.images import read_image, read_image_size
from tests.image_bytes import any_bmp, icc_profile, with_bmp_profile
from tests.odd_images.picture import COLOURS, PICTURE

_PALETTE = b"".join(bytes([blue, green, red, 0]) for red, green, blue in COLOURS)
_ROWS = PICTURE[::-1, :, ::-1]
_WORDS = np.arange(64 * 96, dtype="<u4").reshape(64, 96)


def _shown(data: bytes) -> np.ndarray:
    read = read_image(data)
    assert read.size == read_image_size(data)
    return np.asarray(read.pixels)


def test_the_padding_of_the_last_row_may_be_missing() -> None:
    rows = np.pad(_ROWS[:, :95].reshape(64, -1), ((0, 0), (0, 3)))
    whole = any_bmp(rows.tobytes(), bits=24, size=(64, 95))
    assert np.array_equal(_shown(whole[:-3]), PICTURE[:, :95])
    with pytest.raises(UnreadableImageError, match="truncated"):
        read_image(whole[:-4])


@pytest.mark.parametrize("bits", range(1, 17))
def test_masks_of_any_width_are_scaled_to_the_nearest_level(bits: int) -> None:
    white = (1 << bits) - 1
    values = np.linspace(0, white, 96).round().astype("<u4")[None].repeat(64, 0)
    data = any_bmp(values << 9, masks=(white << 9, 0, 0), compression=3)
    red = _shown(data)[0, :, 0].astype(int)
    exact = values[0].astype(float) * 255 / white
    assert np.abs(red - exact).max() <= 0.5


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (any_bmp(_WORDS, masks=(0x5, 0xFF00, 0xFF0000), compression=3), "its masks have holes"),
        (any_bmp(bytes(64), bits=8, compression=2, palette=_PALETTE), "compression 2 of 8 bits"),
        (any_bmp(bytes(64), bits=8, compression=9, palette=_PALETTE), "compression 9 of 8 bits"),
        (any_bmp(bytes(64), bits=5), "5 bits a pixel"),
        (any_bmp(bytes(64), bits=24, size=(0, 96)), "its size is 0x96"),
        (any_bmp(bytes(64), bits=24, size=(64, -96)), "its size is 64x-96"),
        (any_bmp(bytes(64), bits=1, header=64, compression=3), "Huffman coding"),
        (any_bmp(bytes(64), bits=0, compression=5), "a BMP with a PNG inside"),
        (any_bmp(bytes(64), bits=24)[:40], "ends in its header"),
        (any_bmp(b"\5\1\0\0", bits=8, compression=1, palette=_PALETTE), "truncated"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImageError, match=reason):
        read_image(data)


def test_a_small_file_that_claims_a_large_picture_is_refused_before_there_is_memory_for_it() -> None:
    data = any_bmp(b"\0\1", bits=8, size=(2**30, 2**30), compression=1, palette=_PALETTE)
    for read in (read_image, read_image_size):
        with pytest.raises(UnreadableImageError, match="exceeds --max-image-pixels"):
            read(data)


def test_an_embedded_profile_is_applied_and_a_missing_one_noted() -> None:
    plain = any_bmp(_ROWS.tobytes(), bits=24, header=124, masks=(0, 0, 0, 0), tail=b"DEBM")
    red, green, blue = COLOURS[0]
    assert tuple(_shown(with_bmp_profile(plain, icc_profile("GBR")))[3, 3]) == (blue, red, green)
    lost = with_bmp_profile(plain, icc_profile("GBR"))[: len(plain)]
    assert len(read_image(lost).notes) == 1


def test_a_text_that_begins_with_bm_is_no_bmp() -> None:
    with pytest.raises(UnreadableImageError, match="is plain text"):
        read_image(b"BMW is a maker of cars." + struct.pack("<I", 0x20202020))


def test_run_lengths_may_begin_at_the_top_as_a_browser_takes_them() -> None:
    runs = b"".join(bytes([96, row % 4, 0, 0]) for row in range(64)) + b"\0\1"
    for size, rows in (((-64, 96), range(64)), ((64, 96), range(63, -1, -1))):
        data = any_bmp(runs, bits=8, size=size, compression=1, palette=_PALETTE, num_colours=4)
        assert np.array_equal(_shown(data)[:, 5], [COLOURS[row % 4] for row in rows])
