"""Image files put together by hand, from the formats' specifications, where no library writes them so."""

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

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
        passes = [samples[y::dy, x::dx] for y, x, dy, dx in _ADAM7]
        rows = b"".join(_png_rows(part, bit_depth) for part in passes if part.size)
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
    return jpeg[:2] + jpeg_segment(marker, payload) + jpeg[2:]


def without_jpeg_segment(jpeg: bytes, marker: int) -> bytes:
    """The JPEG without its first segment of that kind."""
    start, end = next((start, end) for kind, start, end in jpeg_segments(jpeg) if kind == marker)
    return jpeg[:start] + jpeg[end:]


def tiff(
    size: tuple[int, int],
    parts: bytes | Sequence[bytes],
    tags: Mapping[int, tuple[int, ...]],
    *,
    order: str = "<",
    is_big: bool = False,
) -> bytes:
    """TIFF or BigTIFF, in either byte order, of ready-made strips (one if `parts` is bytes), or of tiles.

    `size`: (height, width). `tags`: further ones, SHORT values; with 322, the tiles' width, the parts are tiles.
    """
    parts = [parts] if isinstance(parts, bytes) else parts
    head, inline, word, count = (16, 8, "Q", "Q") if is_big else (8, 4, "I", "H")
    entries = {256: (size[1],), 257: (size[0],), 259: (1,), 277: (len(tags[258]),), **tags}
    if 322 not in tags:
        entries.setdefault(278, (size[0],))
    values = {tag: ("H", value) for tag, value in entries.items()}
    padded = [part + bytes(-len(part) % 8) for part in parts]
    starts = [head + sum(map(len, padded[:number])) for number in range(len(parts))]
    places, lengths = (324, 325) if 322 in tags else (273, 279)
    values |= {places: (word, tuple(starts)), lengths: (word, tuple(map(len, parts)))}
    first = head + sum(map(len, padded))
    beyond = first + struct.calcsize(count) + (12 + 2 * (inline - 4)) * len(values) + inline
    directory, extra = struct.pack(order + count, len(values)), b""
    for tag, (code, value) in sorted(values.items()):
        packed = struct.pack(f"{order}{len(value)}{code}", *value)
        if len(packed) > inline:
            packed, extra = struct.pack(order + word, beyond + len(extra)), extra + packed
        kind = {"H": 3, "I": 4, "Q": 16}[code]
        directory += struct.pack(f"{order}HH{word}", tag, kind, len(value)) + packed.ljust(inline, b"\0")
    magic = struct.pack(f"{order}HHHQ", 43, 8, 0, first) if is_big else struct.pack(f"{order}HI", 42, first)
    return {"<": b"II", ">": b"MM"}[order] + magic + b"".join(padded) + directory + bytes(inline) + extra


def tiff_pages(
    pages: Sequence[tuple[tuple[int, int], bytes, Mapping[int, tuple[int, ...]]]],
    *,
    subs: Sequence[tuple[tuple[int, int], bytes, Mapping[int, tuple[int, ...]]]] = (),
    order: str = "<",
) -> bytes:
    """TIFF of several directories, each (height, width), its one strip, and further tags, as LONG.

    `subs`: sub-directories (tag 330) of the first page.
    """
    data = bytearray({"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 0))
    places = [_add_directory(data, page, order, {}) for page in subs]
    before = 4
    for number, page in enumerate(pages):
        extra = {330: tuple(places)} if number == 0 and places else {}
        place = _add_directory(data, page, order, extra)
        struct.pack_into(f"{order}I", data, before, place)
        (num_tags,) = struct.unpack_from(f"{order}H", data, place)
        before = place + 2 + 12 * num_tags
    return bytes(data)


def _add_directory(
    data: bytearray,
    page: tuple[tuple[int, int], bytes, Mapping[int, tuple[int, ...]]],
    order: str,
    extra: Mapping[int, tuple[int, ...]],
) -> int:
    """Append a strip and its directory; returns the place of the latter."""
    size, strip, tags = page
    values = {256: (size[1],), 257: (size[0],), 259: (1,), 278: (size[0],), 277: (len(tags[258]),), **tags, **extra}
    values |= {273: (len(data),), 279: (len(strip),)}
    data += strip + bytes(-len(strip) % 4)
    table = struct.pack(f"{order}H", len(values))
    for tag, numbers in sorted(values.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(packed) > 4:
            packed, place = struct.pack(f"{order}I", len(data)), packed
            data += place
        table += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + packed
    place_of_table = len(data)
    data += table + bytes(4)
    return place_of_table


def bmp(size: tuple[int, int], rows: bytes, *, bits: int, compression: int = 0, after_header: bytes = b"") -> bytes:
    """BMP of ready-made rows, the lowest first; with a negative height the highest. `after_header`: masks, palette."""
    start = 14 + 40 + len(after_header)
    info = struct.pack("<IiiHHIIiiII", 40, size[1], size[0], 1, bits, compression, len(rows), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + info + after_header + rows


def any_bmp(
    rows: np.ndarray | bytes,
    *,
    bits: int = 0,
    size: tuple[int, int] = (64, 96),
    header: int = 40,
    compression: int = 0,
    masks: Sequence[int] = (),
    palette: bytes = b"",
    tail: bytes = b"",
    num_colours: int = 0,
) -> bytes:
    """BMP with any header, of rows of pixels (`bits` are those of a value unless given), the lowest first.

    `masks` stand in the header from byte 40 on, or behind one of 40. `tail`: what follows them.
    """
    pixels = bytes(rows) if isinstance(rows, bytes) else rows.tobytes()
    bits = bits if isinstance(rows, bytes) else bits or 8 * rows.itemsize
    if header == 12:
        info = struct.pack("<IHHHH", 12, size[1], size[0], 1, bits)
    else:
        fields = (header, size[1], size[0], 1, bits, compression, len(pixels), 0, 0, num_colours, 0)
        info = struct.pack("<IiiHHIIiiII", *fields) + struct.pack(f"<{len(masks)}I", *masks) + tail
        info = info[:header] if header < 40 else info.ljust(header, b"\0")
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + info + palette + pixels


def with_bmp_profile(bmp: bytes, profile: bytes) -> bytes:
    """The BMP with a header of 124 bytes, and a profile behind its pixels that this header points at."""
    data = bytearray(bmp + profile)
    struct.pack_into("<II", data, 14 + 112, len(bmp) - 14, len(profile))
    return bytes(data)


def bmp_run_lengths(indices: np.ndarray) -> bytes:
    """Rows [H,W] of palette indices as BMP's RLE8, the lowest first."""
    out = b""
    for row in indices[::-1]:
        starts = [0, *(np.flatnonzero(np.diff(row)) + 1).tolist(), len(row)]
        for start, end in pairwise(starts):
            out += bytes([end - start, int(row[start])])  # runs of at most 255
        out += b"\0\0"
    return out + b"\0\1"


def flat_jpeg(samples: np.ndarray, *, precision: int = 8, process: int = 0xC0, segments: bytes = b"") -> bytes:
    """JPEG of `samples` [H,W,C], constant in each block of 8x8 px, which it holds exactly.

    Each block is its mean alone, quantised by 8. `process`: the marker of the frame header. `segments`: whole ones to
    put in front.
    """
    height, width, num_components = samples.shape
    components = range(1, num_components + 1)
    frame = struct.pack(">BHHB", precision, height, width, num_components)
    frame += b"".join(bytes([number, 0x11, 0]) for number in components)
    scan = bytes([num_components]) + b"".join(bytes([number, 0]) for number in components) + bytes([0, 63, 0])
    # Means: 16 sizes of 5 bits each. All else: one code, "nothing more in this block", of one bit.
    tables = b"\0" + bytes([0, 0, 0, 0, 16, *[0] * 11, *range(16)]) + b"\x10" + bytes([1, *[0] * 15, 0])
    bits = "".join(_block_bits(samples[::8, ::8].astype(int) - (1 << precision - 1)))
    bits += "1" * (-len(bits) % 8)
    packed = int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\0")
    head = jpeg_segment(0xDB, b"\0" + bytes([8] * 64)) + jpeg_segment(process, frame) + jpeg_segment(0xC4, tables)
    return b"\xff\xd8" + segments + head + jpeg_segment(0xDA, scan) + packed + b"\xff\xd9"


def _block_bits(means: np.ndarray) -> Iterator[str]:
    """The blocks' codes, component by component in each place: size of the step to the mean, the step, the end."""
    last = [0] * means.shape[2]
    for place in means.reshape(-1, means.shape[2]).tolist():
        for number, mean in enumerate(place):
            step, last[number] = mean - last[number], mean
            size = abs(step).bit_length()
            value = step if step > 0 else step + (1 << size) - 1
            yield f"{size:05b}" + (f"{value:0{size}b}" if size else "") + "0"


def jpeg_segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def jpeg_segments(jpeg: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of every segment up to the first scan's header."""
    position, marker = 2, 0
    while marker != 0xDA:
        marker = jpeg[position + 1]
        end = position + 2 + int.from_bytes(jpeg[position + 2 : position + 4])
        yield marker, position, end
        position = end


def with_jpeg_size(jpeg: bytes, height: int, width: int) -> bytes:
    """The JPEG with another size in its frame header."""
    start = next(start for marker, start, _ in jpeg_segments(jpeg) if marker in {0xC0, 0xC1, 0xC2})
    return jpeg[: start + 5] + struct.pack(">HH", height, width) + jpeg[start + 9 :]


def with_png_header(whole: bytes, height: int, width: int, *, depth: int = 8, colour_type: int = 2) -> bytes:
    """The PNG under another header, whose checksum is right."""
    header = struct.pack(">IIBB", width, height, depth, colour_type) + whole[26:29]
    return whole[:8] + png_chunk(b"IHDR", header) + whole[33:]


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
