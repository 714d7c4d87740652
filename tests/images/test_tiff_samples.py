"""TIFF samples of every depth, layout, packing and byte order: right to the level, or refused; never noise."""

import itertools
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from semdis_cli.errors import UnreadableImageError
from semdis_cli.images.images import read_image, read_image_size
from tests.image_bytes import tiff

HEIGHT, WIDTH, STRIP, TILE = 19, 23, 7, 16
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _CMYK = 0, 1, 2, 5
_COLOURS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _CMYK: 4}
_PREMULTIPLIED, _STRAIGHT = 1, 2
_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


def _lzw(data: bytes) -> bytes:
    """TIFF's LZW in codes of 9 bits alone: the table is cleared before they would grow."""
    parts = [data[at : at + 200] for at in range(0, len(data), 200)]
    bits = "".join(f"{256:09b}" + "".join(f"{value:09b}" for value in part) for part in parts) + f"{257:09b}"
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8)


def _packbits(data: bytes) -> bytes:
    parts = [data[at : at + 128] for at in range(0, len(data), 128)]
    return b"".join(bytes([len(part) - 1]) + part for part in parts)


_PACKERS: dict[int, Callable[[bytes], bytes]] = {1: bytes, 5: _lzw, 8: zlib.compress, 32773: _packbits}


def _rows(values: np.ndarray, bits: int, order: str) -> bytes:
    """Samples [H,W,S], each row from a byte of its own on."""
    flat = values.reshape(len(values), -1)
    if bits in {8, 16}:
        return flat.astype(f"{order}u{bits // 8}").tobytes()
    ones = flat[:, :, None] >> np.arange(bits - 1, -1, -1) & 1
    return np.packbits(ones.reshape(len(flat), -1).astype(np.uint8), axis=1).tobytes()


def _parts(values: np.ndarray, *, is_planar: bool, is_tiled: bool) -> Iterator[np.ndarray]:
    for plane in np.split(values, values.shape[2], axis=2) if is_planar else [values]:
        if not is_tiled:
            yield from (plane[top : top + STRIP] for top in range(0, HEIGHT, STRIP))
            continue
        padded = np.pad(plane, ((0, -HEIGHT % TILE), (0, -WIDTH % TILE), (0, 0)))
        for top, left in itertools.product(range(0, len(padded), TILE), range(0, padded.shape[1], TILE)):
            yield padded[top : top + TILE, left : left + TILE]


def _expected(values: np.ndarray, photometric: int, extra: int | None, white: int) -> np.ndarray:
    """[H,W,3] on white."""
    levels = values * 255 / white
    num = _COLOURS[photometric]
    colours, alpha = levels[:, :, :num], levels[:, :, num:]
    if photometric == _CMYK:
        return (255 - colours[:, :, :3]) * (255 - colours[:, :, 3:]) / 255
    colours = 255 - colours if photometric == _WHITE_IS_ZERO else colours
    if extra == _STRAIGHT:
        colours = (colours * alpha + 255 * (255 - alpha)) / 255
    elif extra == _PREMULTIPLIED:
        colours = colours + 255 - alpha
    return np.broadcast_to(colours, (*colours.shape[:2], 3))


@pytest.mark.parametrize("compression", _PACKERS)
@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8, 10, 12, 14, 16])
def test_samples_are_right_or_refused_in_every_layout(bits: int, compression: int) -> None:
    rng, white = np.random.default_rng(bits), (1 << bits) - 1
    num_right = 0
    wrong: list[tuple[object, float]] = []
    kinds = itertools.product(_COLOURS, (None, 0, _PREMULTIPLIED, _STRAIGHT), (1, 2), "<>", (False, True), (1, 2))
    for kind in kinds:
        photometric, extra, planes, order, is_tiled, fill = kind
        if (photometric in {_WHITE_IS_ZERO, _CMYK} and extra) or (fill == 2 and (compression == 8 or is_tiled)):
            continue
        values = rng.integers(0, white + 1, (HEIGHT, WIDTH, _COLOURS[photometric] + (extra is not None)))
        if extra == _PREMULTIPLIED:
            values[:, :, :-1] = values[:, :, :-1] * values[:, :, -1:] // white
        parts = _parts(values, is_planar=planes == 2, is_tiled=is_tiled)
        packed = [_PACKERS[compression](_rows(part, bits, order)) for part in parts]
        packed = [part.translate(_REVERSED) for part in packed] if fill == 2 else packed
        tags = {258: (bits,) * values.shape[2], 262: (photometric,), 259: (compression,), 284: (planes,), 266: (fill,)}
        tags |= {322: (TILE,), 323: (TILE,)} if is_tiled else {278: (STRIP,)}
        tags |= {} if extra is None else {338: (extra,)}
        data = tiff((HEIGHT, WIDTH), packed, tags, order=order)
        try:
            pixels = np.asarray(read_image(data).pixels)
        except UnreadableImageError:
            continue
        assert read_image_size(data) == pixels.shape[:2]
        off = np.abs(pixels - _expected(values, photometric, extra, white)).max()
        num_right, wrong = num_right + 1, wrong + [(kind, off)] * bool(off > 3)
    assert not wrong
    assert num_right >= (100 if compression == 1 else 70)


@pytest.mark.parametrize("sample_format", [2, 3, 5, 6])
@pytest.mark.parametrize("bits", [8, 16, 32, 64])
def test_samples_without_a_defined_range_are_refused(bits: int, sample_format: int) -> None:
    data = tiff((4, 4), bytes(4 * 4 * bits // 8), {258: (bits,), 262: (1,), 339: (sample_format,)})
    for read in (read_image, read_image_size):
        with pytest.raises(UnreadableImageError, match="without a defined range"):
            read(data)


def test_samples_of_an_undefined_format_are_unsigned() -> None:
    levels = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    data = tiff((8, 8), levels.tobytes(), {258: (8, 8, 8), 262: (2,), 339: (4, 4, 4)})
    assert np.array_equal(np.asarray(read_image(data).pixels), levels)


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 4)])
@pytest.mark.parametrize("compression", _PACKERS)
def test_ycbcr_is_right_at_every_subsampling(subsampling: tuple[int, int], compression: int) -> None:
    across, down = subsampling
    blocks = np.random.default_rng(0).integers(16, 240, (-(-HEIGHT // down), -(-WIDTH // across), across * down + 2))
    data = tiff(
        (HEIGHT, WIDTH),
        _PACKERS[compression](blocks.astype(np.uint8).tobytes()),
        {258: (8, 8, 8), 262: (6,), 259: (compression,), 530: subsampling, 532: (16, 235, 128, 240, 128, 240)},
    )
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    inside = blocks[rows // down, columns // across]
    light = np.take_along_axis(inside, (rows % down * across + columns % across)[:, :, None], axis=2)[:, :, 0]
    y, cb, cr = (light - 16) * 255 / 219, (inside[:, :, -2] - 128) * 127 / 112, (inside[:, :, -1] - 128) * 127 / 112
    red, blue = y + 1.402 * cr, y + 1.772 * cb
    green = (y - 0.299 * red - 0.114 * blue) / 0.587
    expected = np.stack([red, green, blue], axis=2).clip(0, 255)
    assert np.abs(np.asarray(read_image(data).pixels) - expected).max() <= 1


@pytest.mark.parametrize("compression", [5, 8, 34925, 50000])
def test_damaged_pixels_are_one_line_and_nothing_is_written_to_stderr(
    compression: int, capfd: pytest.CaptureFixture[str]
) -> None:
    junk = b"\xff\xfa\x55" * 100
    data = tiff((64, 64), junk, {258: (8, 8, 8), 259: (compression,), 262: (2,)})
    with pytest.raises(UnreadableImageError, match="damaged") as raised:
        read_image(data)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


def test_strips_that_are_shorter_than_their_pixels_and_lie_close_together_are_refused() -> None:
    tags = {258: (16,) * 3, 262: (_RGB,), 284: (2,), 278: (4,)}
    whole, half = ([bytes([number]) * num_bytes for number in range(6)] for num_bytes in (64, 32))
    assert read_image(tiff((8, 8), whole, tags)).pixels.getpixel((0, 7)) == (1, 3, 5)
    with pytest.raises(UnreadableImageError, match="shorter than its pixels"):
        read_image(tiff((8, 8), half, tags))
