"""TIFF samples of kinds that Pillow refuses or gets wrong: planes, odd depths, subsampled colour, reference levels.

They come out with 8 bits a sample. What all of it means is in TIFF 6.0; libtiff was followed where that leaves it open.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from semdis_cli.errors import UnreadableImageError
from semdis_cli.images.formats.tiff.layout import (
    BLACK_IS_ZERO,
    CIE_LAB,
    CMYK,
    COLOUR_MAP,
    ICC_LAB,
    NONE,
    PALETTE,
    RGB,
    USUAL_LEVELS,
    WHITE_IS_ZERO,
    YCC,
    YCC_WEIGHTS,
    Layout,
    has_levels,
    read_parts,
)
from semdis_cli.images.formats.tiff.packing import unpacked_part
from semdis_cli.kinds.tiff_directories import Directory, TiffReader

_PREMULTIPLIED, _STRAIGHT = 1, 2
_BITS_AT_ONCE = 1 << 24
_REC_601 = (0.299, 0.587, 0.114)
_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


def decode_tiff(reader: TiffReader, directory: Directory, layout: Layout, data: bytes) -> Image.Image:
    """Decode a TIFF for which `is_supported` holds to mode L, LA, RGB, RGBA, CMYK or LAB.

    Samples are scaled to 0..255 and rounded; of colours of 16 bits the high byte counts, as Pillow has it. Raises
    `UnreadableImageError` where the file does not hold all of its pixels.
    """
    samples = _samples(reader.order, layout, read_parts(reader, directory, layout), data)
    if layout.photometric in {CIE_LAB, ICC_LAB}:
        return _lab(samples, layout)
    if layout.photometric == PALETTE:
        return Image.fromarray(_from_palette(samples[0], reader.values(directory, COLOUR_MAP), layout.bits[0]))
    kind = _alpha_kind(layout)
    num = layout.num_colours
    scaled = [_to_8_bits(samples[at], layout.bits[at], is_grey=num == 1) for at in range(num)]
    alpha = None if kind is None else _to_8_bits(samples[num], layout.bits[num], is_grey=num == 1)
    colours = np.stack(scaled, axis=2)
    if layout.photometric == WHITE_IS_ZERO:
        colours = 255 - colours
    elif layout.photometric == YCC:
        colours = _ycc_to_rgb(colours, reader.values(directory, YCC_WEIGHTS), layout.levels)
    elif has_levels(layout):
        colours = _rounded(_stretched(colours, layout.levels, (0.0, 0.0, 0.0)))
    if layout.photometric == CMYK:
        return Image.frombytes("CMYK", layout.size[::-1], colours.tobytes())
    return _image(colours, alpha, is_premultiplied=kind == _PREMULTIPLIED)


def palette_of_8_bits(values: tuple[float, ...]) -> bytes | None:
    """Return the colour map as Pillow's `RGB;L`, if it has 8-bit values where 16-bit ones belong; else None.

    As libtiff tells them: no value is above 255.
    """
    return bytes(map(int, values)) if values and max(values) < 256 else None


def _alpha_kind(layout: Layout) -> int | None:
    """Find the meaning of the sample behind the colours, if it is alpha; a fourth one of RGB is, even if unsaid."""
    if layout.num_samples == layout.num_colours or layout.photometric not in {WHITE_IS_ZERO, BLACK_IS_ZERO, RGB}:
        return None
    if not layout.extra and layout.photometric == RGB:
        return _STRAIGHT
    return layout.extra[0] if layout.extra and layout.extra[0] in {_PREMULTIPLIED, _STRAIGHT} else None


# --- from the file to samples


_Places = list[tuple[int, int]]


def _samples(order: str, layout: Layout, places: _Places, data: bytes) -> list[np.ndarray]:
    """Decode to [H,W] of each sample of a pixel, as stored: uint8, of more than 8 bits uint16."""
    num_interleaved = 1 if layout.is_planar else layout.num_samples
    planes = [np.empty(layout.size, np.uint16 if bits > 8 else np.uint8) for bits in layout.bits]
    for plane, top, left, rows, part in _parts(layout, places, data):
        columns = layout.part[1]
        if layout.subsampling == (1, 1):
            shape = (rows, columns, num_interleaved)
            values = _unpacked(part, shape, layout.bits[plane], order, is_difference=layout.predictor == 2)
        else:
            values = _from_units(part, (rows, columns), layout.subsampling)
        height, width = min(rows, layout.size[0] - top), min(columns, layout.size[1] - left)
        for sample in range(num_interleaved):
            planes[plane + sample][top : top + height, left : left + width] = values[:height, :width, sample]
    return planes


def _parts(layout: Layout, places: _Places, data: bytes) -> Iterator[tuple[int, int, int, int, bytes]]:
    """Yield of each strip or tile plane, top, left and rows in px, and its bytes, unpacked."""
    height, width = layout.size
    rows, columns = layout.part
    across = -(-width // columns)
    on_a_plane = across * -(-height // rows)
    starts = sorted(at for at, _ in places)
    for number, (at, length) in enumerate(places):
        plane, place = divmod(number, on_a_plane)
        top, left = place // across * rows, place % across * columns
        part_rows = rows if layout.is_tiled else min(rows, height - top)
        num_bytes = _part_bytes(layout, plane, part_rows)
        if layout.compression == NONE and 0 < length < num_bytes and _begins_within(starts, at, num_bytes):
            raise UnreadableImageError("damaged: a strip or tile of the TIFF is shorter than its pixels")
        packed = data[at : at + (num_bytes if layout.compression == NONE else length)]
        packed = packed.translate(_REVERSED) if layout.is_reversed else packed
        unpacked = unpacked_part(packed, layout.compression, num_bytes)
        if len(unpacked) < num_bytes:
            raise UnreadableImageError("truncated: the TIFF ends too early")
        yield plane, top, left, part_rows, unpacked


def _begins_within(starts: Sequence[int], at: int, num_bytes: int) -> bool:
    """Tell whether another strip or tile begins in the `num_bytes` behind `at`; a length alone is often wrong."""
    following = bisect_right(starts, at)
    return following < len(starts) and starts[following] < at + num_bytes


def _part_bytes(layout: Layout, plane: int, rows: int) -> int:
    """Count the bytes of a strip or tile of that many rows; every row begins on a byte of its own."""
    columns = layout.part[1]
    across, down = layout.subsampling
    if (across, down) != (1, 1):
        return -(-rows // down) * -(-columns // across) * (across * down + 2)
    num_interleaved = 1 if layout.is_planar else layout.num_samples
    return rows * -(-columns * num_interleaved * layout.bits[plane] // 8)


def _unpacked(part: bytes, shape: tuple[int, int, int], bits: int, order: str, *, is_difference: bool) -> np.ndarray:
    """Unpack a strip or tile to [rows,columns,samples]."""
    if bits in {8, 16}:
        values = np.frombuffer(part, f"{order}u{bits // 8}").reshape(shape)
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        return np.cumsum(values, axis=1, dtype=values.dtype) if is_difference else values
    rows, columns, samples = shape
    packed = np.frombuffer(part, np.uint8).reshape(rows, -1)
    values = np.empty((rows, columns * samples), np.uint16 if bits > 8 else np.uint8)
    at_once = max(1, _BITS_AT_ONCE // (8 * packed.shape[1]))
    for top in range(0, rows, at_once):  # the bits of a whole picture would take eight times its memory
        values[top : top + at_once] = _from_bits(packed[top : top + at_once], columns * samples, bits)
    return values.reshape(shape)


def _from_bits(packed: np.ndarray, num_values: int, bits: int) -> np.ndarray:
    """Return [rows,num_values] of samples of `bits` each, the highest bit first, out of rows of bytes."""
    ones = np.unpackbits(packed, axis=1)[:, : num_values * bits].reshape(len(packed), num_values, bits)
    values = np.zeros(ones.shape[:2], np.uint16)
    for bit in range(bits):
        values = values << 1 | ones[:, :, bit]
    return values


def _from_units(part: bytes, size: tuple[int, int], subsampling: tuple[int, int]) -> np.ndarray:
    """Return [H,W,3] YCbCr, 8 bits, of data units: a block's Y, then its one Cb and its one Cr (section 21)."""
    across, down = subsampling
    rows, columns = -(-size[0] // down), -(-size[1] // across)
    units = np.frombuffer(part, np.uint8).reshape(rows, columns, across * down + 2)
    light = units[:, :, :-2].reshape(rows, columns, down, across).swapaxes(1, 2).reshape(rows * down, columns * across)
    colours = [units[:, :, at].repeat(down, axis=0).repeat(across, axis=1) for at in (-2, -1)]
    return np.stack([light, *colours], axis=2)


# --- from samples to colours


def _to_8_bits(samples: np.ndarray, bits: int, *, is_grey: bool) -> np.ndarray:
    if bits == 8:
        return samples
    if bits == 16 and not is_grey:
        return (samples >> 8).astype(np.uint8)
    white = (1 << bits) - 1
    levels = (np.arange(white + 1, dtype=np.uint32) * 255 + white // 2) // white
    scaled: np.ndarray = levels.astype(np.uint8)[samples]
    return scaled


def _from_palette(indices: np.ndarray, values: tuple[float, ...], bits: int) -> np.ndarray:
    """Return [H,W,3] uint8: the high bytes of the colour map, whose reds come first, then its greens and its blues."""
    if len(values) != 3 << bits:
        raise UnreadableImageError("damaged TIFF: its palette is not whole")
    table = np.array(values, np.uint16).reshape(3, -1).T
    colours: np.ndarray = (table if table.max() < 256 else table >> 8).astype(np.uint8)[indices]
    return colours


def _stretched(colours: np.ndarray, levels: tuple[float, ...], zeros: tuple[float, ...]) -> np.ndarray:
    """Stretch samples between their levels of black and white to 0..255, or those whose zero is 128 to -127..127."""
    planes = []
    for at, zero in enumerate(zeros):
        black, white = levels[2 * at : 2 * at + 2]
        if black == white:
            raise UnreadableImageError("damaged TIFF: its black and white are the same")
        planes.append((colours[:, :, at].astype(np.float32) - black) * ((127 if zero else 255) / (white - black)))
    return np.stack(planes, axis=2)


def _ycc_to_rgb(colours: np.ndarray, weights: tuple[float, ...], levels: tuple[float, ...]) -> np.ndarray:
    """Convert YCbCr to [H,W,3] uint8 (TIFF 6.0, section 21)."""
    red, green, blue = weights if len(weights) == 3 and all(weights) else _REC_601
    ycc = _stretched(colours, levels if len(levels) == 6 else USUAL_LEVELS[YCC], (0.0, 128.0, 128.0))
    light, r = ycc[:, :, 0], ycc[:, :, 0] + ycc[:, :, 2] * (2 - 2 * red)
    b = light + ycc[:, :, 1] * (2 - 2 * blue)
    return _rounded(np.stack([r, (light - blue * b - red * r) / green, b], axis=2))


def _rounded(values: np.ndarray) -> np.ndarray:
    return (values.clip(0, 255) + 0.5).astype(np.uint8)


def _image(colours: np.ndarray, alpha: np.ndarray | None, *, is_premultiplied: bool) -> Image.Image:
    """Make an image of mode L, LA, RGB or RGBA."""
    if alpha is None:
        return Image.fromarray(colours[:, :, 0] if colours.shape[2] == 1 else colours)
    if is_premultiplied:
        divisor = np.maximum(alpha, 1)[:, :, None].astype(np.uint16)
        colours = np.minimum((colours.astype(np.uint16) * 255 + divisor // 2) // divisor, 255).astype(np.uint8)
    return Image.fromarray(np.concatenate([colours, alpha[:, :, None]], axis=2))


def _lab(samples: list[np.ndarray], layout: Layout) -> Image.Image:
    """Make an image of mode LAB; there a* and b* are bytes whose 128 is zero.

    CIE L*a*b* has them signed, of 16 bits in 256ths; ICC L*a*b* has 128 or 0x8000 for zero, and its white of 16 bits is
    0xff00.
    """
    is_icc, is_deep = layout.photometric == ICC_LAB, layout.bits[0] == 16
    light, *colours = (one.astype(np.int32) for one in samples[:3])
    if is_deep:
        white = 0xFF00 if is_icc else 0xFFFF
        light = np.minimum((light * 255 + white // 2) // white, 255)
        colours = [(one if is_icc else one ^ 0x8000) + 128 >> 8 for one in colours]
    elif not is_icc:
        colours = [one ^ 0x80 for one in colours]
    planes = np.stack([light, *(np.minimum(one, 255) for one in colours)], axis=2).astype(np.uint8)
    planes[:, :, 1:] ^= 0x80  # as Pillow unpacks them from a file: signed
    return Image.frombytes("LAB", (planes.shape[1], planes.shape[0]), planes.tobytes(), "raw", "LAB")
