"""Image files of the structures that differ between readers, each to be shown by a browser and by us."""

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
from PIL import Image, features

from tests.image_bytes import (
    any_bmp,
    exif,
    icc_profile,
    jpeg_segment,
    jpeg_segments,
    png,
    png_chunk,
    with_bmp_profile,
    with_jpeg_segment,
)
from tests.odd_images import quadrants
from tests.odd_images.picture import COLOURS, HEIGHT, INDICES, PICTURE, WIDTH, jpeg, saved

_PALETTE = b"".join(bytes([blue, green, red, 0]) for red, green, blue in COLOURS)
_XMP = (
    b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>"
    b"<rdf:Description xmlns:tiff='http://ns.adobe.com/tiff/1.0/' tiff:Orientation='6'/></rdf:RDF></x:xmpmeta>"
)
Files = Iterator[tuple[str, bytes]]


def bmps() -> Files:
    red, green, blue = (PICTURE[::-1, :, channel].astype(np.uint32) for channel in range(3))
    alpha = quadrants(255, 0, 128, 60)[::-1, :, 0].astype(np.uint32)
    words = {
        "rgbx": (red | green << 8 | blue << 16, (0xFF, 0xFF00, 0xFF0000, 0)),
        "argb": (red << 16 | green << 8 | blue | alpha << 24, (0xFF0000, 0xFF00, 0xFF, 0xFF000000)),
        "rgba": (red << 24 | green << 16 | blue << 8 | alpha, (0xFF000000, 0xFF0000, 0xFF00, 0xFF)),
        "abgr": (red | green << 8 | blue << 16 | alpha << 24, (0xFF, 0xFF00, 0xFF0000, 0xFF000000)),
        "deep": (red << 22 | green << 12 | blue << 2, (0x3FF00000, 0xFFC00, 0x3FF, 0)),
        "deep_alpha": (red << 2 | green << 12 | blue << 22 | alpha >> 6 << 30, (0x3FF, 0xFFC00, 0x3FF00000, 3 << 30)),
        "few": (red >> 7 << 9 | green >> 5 << 4 | blue >> 4, (0x200, 0x70, 0xF, 0)),
        "no_blue": (red << 8 | green, (0xFF00, 0xFF, 0, 0)),
        "no_alpha_set": (red << 16 | green << 8 | blue, (0xFF0000, 0xFF00, 0xFF, 0xFF000000)),
    }
    for name, (pixels, masks) in words.items():
        rows = pixels.astype("<u4").tobytes()
        yield f"{name}_v1.bmp", any_bmp(rows, bits=32, compression=3, masks=masks[:3])
        yield f"{name}_alpha.bmp", any_bmp(rows, bits=32, compression=6, masks=masks)
        for header in (52, 56, 108, 124):
            stored = masks[: 3 if header == 52 else 4]
            tail = b"BGRs" if header > 56 else b""
            yield f"{name}_{header}.bmp", any_bmp(rows, bits=32, header=header, compression=3, masks=stored, tail=tail)
            yield f"{name}_{header}_plain.bmp", any_bmp(rows, bits=32, header=header, masks=stored, tail=tail)
    short = {
        "565": (red >> 3 << 11 | green >> 2 << 5 | blue >> 3, (0xF800, 0x7E0, 0x1F, 0)),
        "555": (red >> 3 << 10 | green >> 3 << 5 | blue >> 3, (0x7C00, 0x3E0, 0x1F, 0)),
        "4444": (red >> 4 << 8 | green & 0xF0 | blue >> 4 | alpha >> 4 << 12, (0xF00, 0xF0, 0xF, 0xF000)),
        "444": (red >> 4 << 8 | green & 0xF0 | blue >> 4, (0xF00, 0xF0, 0xF, 0)),
        "5551": (red >> 3 << 11 | green >> 3 << 6 | blue >> 3 << 1 | alpha >> 7, (0xF800, 0x7C0, 0x3E, 1)),
        "1555": (red >> 3 << 10 | green >> 3 << 5 | blue >> 3 | alpha >> 7 << 15, (0x7C00, 0x3E0, 0x1F, 0x8000)),
    }
    for name, (pixels, masks) in short.items():
        rows = pixels.astype("<u2").tobytes()
        yield f"{name}_16_v1.bmp", any_bmp(rows, bits=16, compression=3, masks=masks[:3])
        yield f"{name}_16_alpha.bmp", any_bmp(rows, bits=16, compression=6, masks=masks)
        for header in (56, 108, 124):
            yield f"{name}_16_{header}.bmp", any_bmp(rows, bits=16, header=header, compression=3, masks=masks)
            yield f"{name}_16_{header}_plain.bmp", any_bmp(rows, bits=16, header=header, masks=masks)
    yield "555_plain.bmp", any_bmp(short["555"][0].astype("<u2").tobytes(), bits=16)
    yield "32_plain.bmp", any_bmp(words["argb"][0].astype("<u4").tobytes(), bits=32)
    yield from _palette_bmps()
    yield from _run_length_bmps()
    yield from _profile_bmps()


def _palette_bmps() -> Files:
    indices = INDICES[:, :, 0].astype(np.uint8)[::-1]
    lowest_first = PICTURE[::-1, :, ::-1].tobytes()
    packed = {
        1: np.packbits((indices & 1).astype(np.uint8), axis=1),
        2: indices[:, ::4] << 6 | indices[:, 1::4] << 4 | indices[:, 2::4] << 2 | indices[:, 3::4],
        4: indices[:, ::2] << 4 | indices[:, 1::2],
        8: indices,
    }
    for bits, rows in packed.items():
        padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4))).tobytes()
        palette = _PALETTE[: 4 << bits].ljust(min(4 << bits, 64), b"\0")
        for header in (40, 108, 16, 20, 24, 28, 32, 36, 44, 48, 60, 64):
            yield (
                f"pal{bits}_{header}.bmp",
                any_bmp(padded, bits=bits, header=header, palette=palette.ljust(4 << bits, b"\0")),
            )
        full = palette.ljust(4 << bits, b"\0")
        yield f"pal{bits}_few.bmp", any_bmp(padded, bits=bits, palette=palette[:8], num_colours=2)
        yield f"pal{bits}_top_down.bmp", any_bmp(padded, bits=bits, size=(-HEIGHT, WIDTH), palette=full)
        threes = b"".join(full[at : at + 3] for at in range(0, len(full), 4))
        yield f"pal{bits}_os2.bmp", any_bmp(padded, bits=bits, header=12, palette=threes)
    for header in (12, 16, 40, 64, 124):
        yield f"rgb24_{header}.bmp", any_bmp(lowest_first, bits=24, header=header)


def _run_length_bmps() -> Files:
    eight = [
        bytes([48, 0, 48, 1, 0, 0]) * 32 + bytes([48, 2, 48, 3, 0, 0]) * 32 + b"\0\1",
        bytes([48, 0, 48, 1, 0, 0]) * 10 + b"\0\1",  # ends early
        bytes([10, 0, 0, 2, 20, 5, 10, 1, 0, 0]) * 8 + b"\0\1",  # gaps
        bytes([0, 5, 0, 1, 2, 3, 0, 0, 90, 2, 0, 0]) * 30 + b"\0\1",  # one by one, odd count
        bytes([200, 2, 0, 0]) * 64 + b"\0\1",  # over the edge
        bytes([96, 9, 0, 0]) * 64 + b"\0\1",  # no such colour
        bytes([96, 2, 0, 0]) * 64,  # no end
    ]
    for number, data in enumerate(eight):
        yield f"rle8_{number}.bmp", any_bmp(data, bits=8, compression=1, palette=_PALETTE, num_colours=4)
    four = [
        bytes([96, 0x01, 0, 0]) * 32 + bytes([95, 0x23, 0, 0]) * 32 + b"\0\1",
        bytes([0, 5, 0x01, 0x23, 0x10, 0, 11, 0x22, 0, 0]) * 20 + b"\0\1",
        bytes([10, 0, 0, 2, 20, 5, 10, 0x12, 0, 0]) * 8 + b"\0\1",
    ]
    for number, data in enumerate(four):
        yield f"rle4_{number}.bmp", any_bmp(data, bits=4, compression=2, palette=_PALETTE, num_colours=4)
    upright = b"".join(bytes([96, row % 4, 0, 0]) for row in range(64)) + b"\0\1"
    yield "rle8_top_down.bmp", any_bmp(upright, bits=8, size=(-64, 96), compression=1, palette=_PALETTE, num_colours=4)
    run = bytes([96, 10, 200, 30, 0, 0]) * 60 + bytes([0, 3, *range(9), 0, 0, 0]) * 2 + b"\0\1"
    yield "rle24.bmp", any_bmp(run, bits=24, header=64, compression=4)


def _profile_bmps() -> Files:
    lowest_first = PICTURE[::-1, :, ::-1].tobytes()
    masks = (0xFF0000, 0xFF00, 0xFF, 0)
    for name, kind in (("srgb", b"BGRs"), ("windows", b" niW"), ("calibrated", bytes(4))):
        # CIEXYZTRIPLE of 2.30 fixed point, then the three gammas of 16.16
        ends = [0.4361, 0.2225, 0.0139, 0.3851, 0.7169, 0.0971, 0.1431, 0.0606, 0.7141]
        tail = kind + struct.pack("<9i", *(round(v * 2**30) for v in ends)) + struct.pack("<3I", *[65536] * 3)
        for header in (108, 124):
            yield f"{name}_{header}.bmp", any_bmp(lowest_first, bits=24, header=header, masks=masks, tail=tail)
    profile = icc_profile("GBR")
    plain = any_bmp(lowest_first, bits=24, header=124, masks=masks, tail=b"DEBM")
    yield "embedded.bmp", with_bmp_profile(plain, profile)


def webps() -> Files:
    """Animations of 64 x 48 whose first frame is smaller; VP8X's alpha flag, a frame's flags, the background."""
    green = np.full((24, 32, 3), (0, 200, 0), np.uint8)
    half = np.dstack([green, np.full((24, 32), 128, np.uint8)])
    half[:12, :, 3] = 0
    kinds: dict[str, dict[str, Any]] = {"lossless": {"lossless": True, "exact": True}, "lossy": {"quality": 100}}
    backgrounds = (bytes(4), b"\x10\x20\xf0\xff")
    for alpha, flags, background, kind in product((0, 0x10), range(4), backgrounds, kinds):
        for name, pixels in (("opaque", green), ("half", half)):
            if name == "half" and not alpha:
                continue  # against the format, and the browser mixes such a frame wrongly
            frames = [_webp_frame(pixels, 16, 12, flags, **kinds[kind]), _webp_frame(2 * green, 0, 0, 0, lossless=True)]
            yield f"{name}_{kind}_{alpha}_{flags}_{background[0]}.webp", _webp(frames, 2 | alpha, background)


def _u24(value: int) -> bytes:
    return value.to_bytes(3, "little")


def _webp_part(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def _webp(frames: Sequence[bytes], flags: int, background: bytes) -> bytes:
    body = _webp_part(b"VP8X", bytes([flags, 0, 0, 0]) + _u24(63) + _u24(47))
    body += _webp_part(b"ANIM", background + bytes(2)) + b"".join(frames)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _webp_frame(pixels: np.ndarray, left: int, top: int, flags: int, **options: Any) -> bytes:
    payload = saved(pixels, "WEBP", **options)
    payload = payload[30:] if payload[12:16] == b"VP8X" else payload[12:]
    size = _u24(pixels.shape[1] - 1) + _u24(pixels.shape[0] - 1)
    return _webp_part(b"ANMF", _u24(left // 2) + _u24(top // 2) + size + _u24(100) + bytes([flags]) + payload)


def pngs() -> Files:
    levels = [0, 1, 200, 255, 256, 0x1234, 0x1235, 0x1200, 0x3434, 0x8000, 65535]
    deep = np.repeat(np.array(levels)[None, :, None], 16, 0).repeat(3, 2)
    deep[:, 5, 1] = 7
    for value in (0, 0x1234, 255, 65535):
        key = png_chunk(b"tRNS", struct.pack(">3H", value, value, value))
        for interlaced in (False, True):
            yield f"key16_{value}_{interlaced}.png", png(deep, bit_depth=16, before=[key], is_interlaced=interlaced)
        grey = png(deep[:, :, :1], bit_depth=16, colour_type=0, before=[png_chunk(b"tRNS", struct.pack(">H", value))])
        yield f"key16_grey_{value}.png", grey
    for bits in (1, 2, 4, 8):
        ramp = np.repeat(np.arange(1 << bits)[None, :, None], 8, 0)
        for value in (0, 1, (1 << bits) - 1, 0x0101, 0xFF01):
            chunk = png_chunk(b"tRNS", struct.pack(">H", value))
            yield f"key{bits}_{value}.png", png(ramp, bit_depth=bits, colour_type=0, before=[chunk])
        palette = png_chunk(b"PLTE", bytes((np.arange(3 << bits) * 37 % 256).astype(np.uint8)))
        alphas = png_chunk(b"tRNS", bytes([0, 100, 200][: 1 << bits]))
        yield f"pal{bits}.png", png(ramp, bit_depth=bits, colour_type=3, before=[palette, alphas])
    wide = png_chunk(b"tRNS", struct.pack(">3H", *(0x100 + value for value in COLOURS[1])))
    yield "key8_high_byte.png", png(PICTURE, before=[wide])
    yield from _odd_chunks()
    yield from apngs()


def _odd_chunks() -> Files:
    """Palettes that end early, transparency that is short or in the wrong place, wrong checksums."""
    palette, clear = png_chunk(b"PLTE", b"".join(map(bytes, COLOURS[:3]))), png_chunk(b"tRNS", bytes([255, 90, 120]))
    gamma = png_chunk(b"gAMA", struct.pack(">I", 100_000))
    bad = gamma[:-4] + b"abcd"
    chunks = {"beyond": [palette], "beyond_clear": [palette, clear], "clear_before": [clear, palette]}
    chunks |= {"clear_twice": [palette, png_chunk(b"tRNS", b"\xff"), clear], "cut": [png_chunk(b"PLTE", bytes(8))]}
    for name, before in chunks.items():
        for bits in (2, 8):
            yield f"palette_{name}_{bits}.png", png(INDICES, bit_depth=bits, colour_type=3, before=before)
    yield "palette_clear_behind.png", png(INDICES, colour_type=3, before=[palette], after=[clear])
    yield "bad_gamma.png", png(PICTURE, before=[bad])
    yield "bad_gamma_then_good.png", png(PICTURE, before=[bad, gamma])
    block = png_chunk(b"eXIf", exif(6))
    yield "bad_exif.png", png(PICTURE, before=[block[:-4] + b"abcd"])
    yield "bad_exif_then_good.png", png(PICTURE, before=[block[:-4] + b"abcd", block])
    for size in (79, 90):
        start = b"n" * size + b"\0\0"
        yield f"name_{size}.png", png(PICTURE, before=[png_chunk(b"iCCP", start + zlib.compress(icc_profile("GBR")))])
    yield "short_key.png", png(PICTURE, before=[png_chunk(b"tRNS", bytes(5))])


def apngs() -> Files:
    yield from ((f"apng_{name}.png", data) for name, data in _apngs())


def _apngs() -> Files:
    size, inner = (HEIGHT, WIDTH), (24, 32)
    small = np.full((*inner, 3), (0, 200, 0), np.uint8)
    red = np.full((*size, 3), (200, 0, 0), np.uint8)
    whole = [_control(0, size), _frame(1, red), _control(2, size), _frame(3, red // 2)]
    within = [_control(0, inner, (10, 20)), _frame(1, small), _control(2, size), _frame(3, red)]
    for num in (0, 1, 2):
        yield f"apart_{num}", _moving(num, PICTURE, behind=whole)
    first = [_control(0, size)]
    yield "first_too", _moving(2, PICTURE, before=first, behind=[_control(1, size), _frame(2, red)])
    yield "small", _moving(2, PICTURE, behind=within)
    yield "small_over", _moving(2, PICTURE, behind=[_control(0, inner, (10, 20), 1), *within[1:]])
    packed = _packed(red)
    halves = [png_chunk(b"fdAT", struct.pack(">I", at + 1) + packed[30 * at : 30 + 1000 * at]) for at in (0, 1)]
    yield "split", _moving(1, PICTURE, behind=[whole[0], *halves])
    half = np.dstack([small, np.full(inner, 90, np.uint8)])
    rgba = np.dstack([PICTURE, np.full(size, 255, np.uint8)])
    yield "alpha", _moving(1, rgba, behind=[within[0], _frame(1, half)], colour_type=6)
    palette = [png_chunk(b"PLTE", b"".join(map(bytes, COLOURS))), png_chunk(b"tRNS", bytes([255, 100, 0]))]
    indices = [within[0], _frame(1, small[:, :, :1] * 0 + 1), _control(2, size), _frame(3, INDICES)]
    yield "palette", _moving(2, INDICES * 0, before=palette, behind=indices, colour_type=3)


def _control(number: int, size: tuple[int, int], place: tuple[int, int] = (0, 0), blend: int = 0) -> bytes:
    sides = (size[1], size[0], place[1], place[0])
    return png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, *sides, 1, 1, 0, blend))


def _packed(pixels: np.ndarray) -> bytes:
    return zlib.compress(b"".join(b"\0" + row.astype(np.uint8).tobytes() for row in pixels))


def _frame(number: int, pixels: np.ndarray) -> bytes:
    return png_chunk(b"fdAT", struct.pack(">I", number) + _packed(pixels))


def _moving(
    num_frames: int, pixels: np.ndarray, *, before: Sequence[bytes] = (), behind: Sequence[bytes], colour_type: int = 2
) -> bytes:
    start = png_chunk(b"acTL", struct.pack(">II", num_frames, 0))
    return png(pixels, before=[start, *before], after=behind, colour_type=colour_type)


def avifs() -> Files:
    if not features.check("avif"):
        return
    data = saved(PICTURE, "AVIF", quality=90, subsampling="4:4:4")
    for brand in (b"avif", b"MA1B", b"MA1A", b"mif1", b"miaf", b"heic"):
        yield f"major_{brand.decode()}.avif", data[:8] + brand + data[12:]
    moving = io.BytesIO()
    Image.fromarray(PICTURE).save(moving, "AVIF", save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT))])
    yield "sequence.avif", moving.getvalue()


def turned() -> Files:
    """Orientation 6 in every place and type, of which a reader may honour some."""
    for order in "<>":
        for kind, name in ((1, "byte"), (3, "short"), (4, "long")):
            block = exif(6, order=order, kind=kind)
            app1 = b"Exif\0\0" + block
            yield f"jpeg_{name}_{order}.jpg", with_jpeg_segment(jpeg(), 0xE1, app1)
            yield f"before_{name}_{order}.png", png(PICTURE, before=[png_chunk(b"eXIf", block)])
            yield f"behind_{name}_{order}.png", png(PICTURE, after=[png_chunk(b"eXIf", block)])
            yield f"exif_{name}_{order}.webp", saved(PICTURE, "WEBP", lossless=True, exif=block)
            yield f"prefix_{name}_{order}.webp", saved(PICTURE, "WEBP", lossless=True, exif=app1)
    first, block = exif(1), exif(6)
    entry = struct.pack("<HHII", 0x0112, 3, 2, 6)
    yield "jpeg_two_values.jpg", with_jpeg_segment(jpeg(), 0xE1, b"Exif\0\0" + block[:10] + entry + bytes(4))
    xmp = b"http://ns.adobe.com/xap/1.0/\0" + _XMP
    app1 = b"Exif\0\0" + block
    yield "jpeg_behind_xmp.jpg", with_jpeg_segment(with_jpeg_segment(jpeg(), 0xE1, app1), 0xE1, xmp)
    yield "jpeg_xmp.jpg", with_jpeg_segment(jpeg(), 0xE1, xmp)
    yield "jpeg_exif_16.jpg", with_jpeg_segment(with_jpeg_segment(jpeg(), 0xE1, app1), 0xE1, b"Exif\0\0" + first)
    yield "jpeg_exif_61.jpg", with_jpeg_segment(with_jpeg_segment(jpeg(), 0xE1, b"Exif\0\0" + first), 0xE1, app1)
    yield (
        "jpeg_exif_other.jpg",
        with_jpeg_segment(with_jpeg_segment(jpeg(), 0xE1, app1), 0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\0"),
    )
    yield "jpeg_exif_empty.jpg", with_jpeg_segment(with_jpeg_segment(jpeg(), 0xE1, app1), 0xE1, b"Exif\0\0")
    plain = jpeg()
    at = next(start for marker, start, _ in jpeg_segments(plain) if marker == 0xC0)
    yield "jpeg_behind_frame.jpg", plain[:at] + plain[at : at + 19] + jpeg_segment(0xE1, app1) + plain[at + 19 :]
    scan = next(start for marker, start, _ in jpeg_segments(plain) if marker == 0xDA)
    yield "jpeg_before_scan.jpg", plain[:scan] + jpeg_segment(0xE1, app1) + plain[scan:]
    far = b"II*\0" + struct.pack("<I", 40) + bytes(32) + b"\1\0" + struct.pack("<HHII", 0x0112, 3, 1, 6) + bytes(4)
    yield "jpeg_far.jpg", with_jpeg_segment(plain, 0xE1, b"Exif\0\0" + far)
    yield from _turned_others(block, first)


def _turned_others(block: bytes, first: bytes) -> Files:
    app1 = b"Exif\0\0" + block
    yield "prefix_before.png", png(PICTURE, before=[png_chunk(b"eXIf", app1)])
    text = b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n%8d\n" % len(app1) + app1.hex().encode() + b"\n")
    yield "text.png", png(PICTURE, before=[png_chunk(b"zTXt", text)])
    yield "two_before.png", png(PICTURE, before=[png_chunk(b"eXIf", first), png_chunk(b"eXIf", block)])
    yield "lossy.webp", saved(PICTURE, "WEBP", quality=95, exif=block)
    moving = [Image.new("RGB", (WIDTH, HEIGHT))]
    yield "animated.webp", saved(PICTURE, "WEBP", lossless=True, exif=block, save_all=True, append_images=moving)
    for value in range(2, 9):
        yield f"irot_{value}.avif", saved(PICTURE, "AVIF", quality=95, subsampling="4:4:4", exif=exif(value))
    mixed = saved(PICTURE, "AVIF", quality=95, subsampling="4:4:4", exif=exif(6))
    plain = saved(PICTURE, "AVIF", quality=95, subsampling="4:4:4", exif=exif(1))
    yield "irot_exif_3.avif", mixed.replace(exif(6), exif(3))
    yield "exif_only.avif", plain.replace(exif(1), exif(6))


def gifs_and_jpegs() -> Files:
    mpo = saved(PICTURE, "MPO", save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT))], quality=95)
    yield "stereo.jpg", mpo
    yield "plain.jpg", jpeg()
