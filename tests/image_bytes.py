"""Image files put together by hand, from the formats' specifications, where no library writes them so."""

import struct
import zlib
from collections.abc import Sequence

import numpy as np

# Adam7 (PNG specification, 8.2): first row, first column, row step, column step of each pass.
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def png_chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def png(
    samples: np.ndarray,
    *,
    bit_depth: int = 8,
    colour_type: int = 2,
    before: Sequence[bytes] = (),
    after: Sequence[bytes] = (),
    is_interlaced: bool = False,
) -> bytes:
    """PNG of raw `samples` [H,W,C], with extra chunks before and after the pixels. `colour_type`: as in IHDR."""
    height, width, _ = samples.shape
    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, int(is_interlaced))
    if is_interlaced:
        rows = b"".join(_png_rows(samples[y::dy, x::dx], bit_depth) for y, x, dy, dx in _ADAM7)
    else:
        rows = _png_rows(samples, bit_depth)
    chunks = [
        png_chunk(b"IHDR", header),
        *before,
        png_chunk(b"IDAT", zlib.compress(rows)),
        *after,
        png_chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _png_rows(samples: np.ndarray, bit_depth: int) -> bytes:
    """Rows without filter, each after its filter byte; samples of fewer than 8 bits are packed from the left."""
    flat = samples.reshape(samples.shape[0], -1)
    if bit_depth == 16:
        return b"".join(b"\0" + row.astype(">u2").tobytes() for row in flat)
    if bit_depth == 8:
        return b"".join(b"\0" + row.astype("u1").tobytes() for row in flat)
    bits = (flat[:, :, None] >> np.arange(bit_depth - 1, -1, -1)) & 1
    return b"".join(b"\0" + np.packbits(row.reshape(-1).astype("u1")).tobytes() for row in bits)


def exif(orientation: object = 1, *, order: str = "<", kind: int = 3) -> bytes:
    """EXIF block with the orientation tag alone, in either byte order; without the `Exif` prefix."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    value = struct.pack(order + {1: "Bxxx", 3: "Hxx", 4: "I"}[kind], orientation)
    return head + struct.pack(f"{order}IHHHI", 8, 1, 0x0112, kind, 1) + value + bytes(4)


def with_jpeg_segment(jpeg: bytes, marker: int, payload: bytes) -> bytes:
    """The JPEG with one more segment right behind its start."""
    return jpeg[:2] + struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload + jpeg[2:]


def without_jpeg_segment(jpeg: bytes, marker: int) -> bytes:
    """The JPEG without its first segment of that kind."""
    position = 2
    while jpeg[position + 1] != marker:
        position += 2 + int.from_bytes(jpeg[position + 2 : position + 4])
    return jpeg[:position] + jpeg[position + 2 + int.from_bytes(jpeg[position + 2 : position + 4]) :]


def tiff(size: tuple[int, int], strip: bytes, tags: dict[int, tuple[int, ...]]) -> bytes:
    """Little-endian TIFF of one uncompressed strip. `size`: (height, width). `tags`: further ones, SHORT values."""
    entries = {256: (size[1],), 257: (size[0],), 259: (1,), 277: (len(tags[258]),), 278: (size[0],), **tags}
    values = {tag: ("H", value) for tag, value in entries.items()}
    first = 8 + len(strip) + len(strip) % 2
    values |= {273: ("I", (8,)), 279: ("I", (len(strip),))}
    beyond = first + 2 + 12 * len(values) + 4
    directory, extra = struct.pack("<H", len(values)), b""
    for tag, (code, value) in sorted(values.items()):
        packed = struct.pack(f"<{len(value)}{code}", *value)
        if len(packed) > 4:
            packed, extra = struct.pack("<I", beyond + len(extra)), extra + packed
        directory += struct.pack("<HHI", tag, 3 if code == "H" else 4, len(value)) + packed.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", first) + strip.ljust(first - 8, b"\0") + directory + bytes(4) + extra


def gif(
    screen: tuple[int, int],
    palette: Sequence[tuple[int, int, int]],
    frames: Sequence[tuple[int, int, np.ndarray]],
    transparent: int | None = None,
) -> bytes:
    """GIF of `frames`: (top, left, indices [H,W] below 128). `screen`: (height, width).

    The codes are 8 bits wide and the table is cleared before they would grow, so every code is one byte.
    """
    colours = b"".join(bytes(colour) for colour in palette).ljust(3 * 128, b"\0")
    out = b"GIF89a" + struct.pack("<HHBBB", screen[1], screen[0], 0x80 | 6, 0, 0) + colours
    for top, left, indices in frames:
        out += b"!\xf9\x04" + struct.pack("<BHB", transparent is not None, 10, transparent or 0) + b"\0"
        out += b"," + struct.pack("<HHHHB", left, top, indices.shape[1], indices.shape[0], 0) + b"\x07"
        flat = indices.astype("u1").tobytes()
        codes = b"".join(b"\x80" + flat[at : at + 100] for at in range(0, len(flat), 100)) + b"\x81"
        blocks = (codes[at : at + 255] for at in range(0, len(codes), 255))
        out += b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"
    return out + b";"


# Colorants of sRGB relative to D50, as in the profiles of the International Color Consortium.
_SRGB_XYZ = {"R": (0.43607, 0.22249, 0.01392), "G": (0.38515, 0.71687, 0.09708), "B": (0.14307, 0.06061, 0.71410)}


def icc_profile(meaning: str = "RGB", description: str = "made for a test") -> bytes:
    """ICC v4 matrix profile with sRGB's curve. `meaning`: which sRGB primary each of the three channels drives.

    With "GBR" the first channel is green light, the second blue, the third red: values (a, b, c) look like sRGB (c, a,
    b).
    """
    text = description.encode("utf-16-be")
    mluc = b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(text), 28) + text
    curve = b"para" + bytes(4) + struct.pack(">HH", 3, 0) + _s15f16(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    tags = {b"desc": mluc, b"cprt": mluc, b"wtpt": _xyz(0.96420, 1.0, 0.82491)}
    for channel, primary in zip(b"rgb", meaning, strict=True):
        tags[bytes([channel]) + b"XYZ"] = _xyz(*_SRGB_XYZ[primary])
        tags[bytes([channel]) + b"TRC"] = curve
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, payload in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(payload))
        body += payload + bytes(-len(payload) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), bytes(4), 0x04200000, b"mntr", b"RGB ", b"XYZ ")
    head += struct.pack(">6H4s", 2024, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + _s15f16(0.96420, 1.0, 0.82491)
    return head.ljust(128, b"\0") + table + body


def _xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + _s15f16(*values)


def _s15f16(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))
