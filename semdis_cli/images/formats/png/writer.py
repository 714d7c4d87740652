"""Pixels as a PNG, without a loss, in half the time that Pillow takes: one filter for all rows, runs packed by zlib."""

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from semdis_cli.images.formats.png.chunks import PNG_SIGNATURE, chunk_bytes

_AS_THEY_ARE, _AVERAGE = 0, 3  # the numbers of the filters
_RGB, _BITS, _CHANNELS = 2, 8, 3
_BAND_BYTES = 1 << 18  # of rows that are filtered at once: they stay in a core's cache


def png_bytes(picture: Image.Image) -> bytes:
    """Write a picture of mode RGB as a PNG (W3C, third edition). Equal pixels give equal bytes with one zlib.

    Every row is filtered by the average of its neighbours, which suits pictures. zlib then looks for runs of one byte
    alone: other repeats are seldom in what is left of a photograph, and finding none of them takes most of the time.
    """
    packer = zlib.compressobj(level=1, strategy=zlib.Z_RLE)
    return _png(picture, b"".join([*(packer.compress(band.data) for band in _filtered(picture)), packer.flush()]))


def unpacked_png_bytes(picture: Image.Image) -> bytes:
    """Write a picture as `png_bytes` does, but its samples as they are: in a tenth of the time, 3 bytes a pixel."""
    rows = _rows_of(picture)
    stored = np.empty((len(rows), 1 + rows.shape[1]), np.uint8)
    stored[:, 0], stored[:, 1:] = _AS_THEY_ARE, rows
    return _png(picture, zlib.compress(stored.data, level=0))


def _png(picture: Image.Image, data: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", picture.width, picture.height, _BITS, _RGB, 0, 0, 0)
    return PNG_SIGNATURE + chunk_bytes(b"IHDR", header) + chunk_bytes(b"IDAT", data) + chunk_bytes(b"IEND", b"")


def _rows_of(picture: Image.Image) -> np.ndarray:
    """Return the samples of a picture, [H,3W] uint8."""
    return np.frombuffer(picture.tobytes(), np.uint8).reshape(picture.height, _CHANNELS * picture.width)


def _filtered(picture: Image.Image) -> Iterator[np.ndarray]:
    """Yield bands of rows, [N,1+3W] uint8: each row's filter, and its samples less the mean of left and above."""
    rows = _rows_of(picture)
    row_bytes = rows.shape[1]
    num_rows = max(1, _BAND_BYTES // row_bytes)
    above = np.zeros(row_bytes, np.uint8)
    for top in range(0, picture.height, num_rows):
        band = rows[top : top + num_rows]
        yield _filtered_band(band, above)
        above = band[-1]


def _filtered_band(band: np.ndarray, above: np.ndarray) -> np.ndarray:
    """Filter rows [N,3W] below the row `above` [3W]; means are rounded down, and what lies outside is 0."""
    padded = np.zeros((1 + len(band), _CHANNELS + len(above)), np.uint8)
    padded[0, _CHANNELS:], padded[1:, _CHANNELS:] = above, band
    left, up = padded[1:, :-_CHANNELS], padded[:-1, _CHANNELS:]
    mean = left ^ up  # of two bytes without a carry: half of what one has, and what both have
    mean >>= 1
    mean += left & up
    filtered = np.empty((len(band), 1 + len(above)), np.uint8)
    filtered[:, 0] = _AVERAGE
    np.subtract(band, mean, out=filtered[:, 1:])
    return filtered
