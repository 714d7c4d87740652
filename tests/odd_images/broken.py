"""Files that cannot be read, each with the reason to be given: cut off, damaged, lying, or no images at all."""

import struct
import zlib

import numpy as np
from PIL import features

from tests.image_bytes import (
    bmp,
    bmp_run_lengths,
    exif,
    flat_jpeg,
    gif,
    jpeg_segments,
    png,
    png_chunk,
    tiff,
    tiff_pages,
    with_jpeg_size,
    with_png_header,
)
from tests.odd_images.formats import Files
from tests.odd_images.picture import (
    COLOURS,
    FOUR,
    GREY,
    HEIGHT,
    INDICES,
    PICTURE,
    SIZE,
    WIDTH,
    OddImage,
    jpeg,
    quadrants,
    saved,
    unreadable,
)

_RGB8 = {258: (8, 8, 8), 262: (2,)}
_NOISE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
_MARKERS = {0xE0: "APP0", 0xFE: "COM", 0xDB: "DQT", 0xC0: "SOF0", 0xC4: "DHT", 0xDD: "DRI", 0xDA: "SOS"}


def cut_jpegs() -> Files:
    whole = jpeg(comment=b"a comment", restart_marker_blocks=4)
    yield unreadable("cut/after_SOI.jpg", "cut off behind SOI", "not an image in a known format"), whole[:2]
    ends: dict[str, tuple[int, int]] = {}
    for marker, start, end in jpeg_segments(whole):
        ends.setdefault(_MARKERS[marker], (start, end))
    for name, (start, end) in ends.items():
        inside = whole[: (start + 4 + end) // 2]
        yield unreadable(f"cut/in_{name}.jpg", f"cut off in {name}", "truncated"), inside
        yield unreadable(f"cut/after_{name}.jpg", f"cut off behind {name}", "truncated"), whole[:end]
    scan = ends["SOS"][1]
    middle = whole[: (scan + len(whole)) // 2]
    yield unreadable("cut/in_scan.jpg", "cut off in its pixels", "truncated"), middle
    mark = whole.index(b"\xff\xd1", scan)
    yield unreadable("cut/at_restart.jpg", "cut off behind a restart marker", "truncated"), whole[: mark + 2]
    yield unreadable("cut/before_EOI.jpg", "all but its last marker", "truncated"), whole[:-2]
    yield unreadable("cut/in_EOI.jpg", "all but its last byte", "truncated"), whole[:-1]
    closed = unreadable("cut/and_closed.jpg", "cut off in its pixels, and an end marker put there", "fewer pixels")
    yield closed, middle + b"\xff\xd9"
    progressive = jpeg(progressive=True)
    for percent in (40, 60, 80):
        data = progressive[: len(progressive) * percent // 100]
        odd = unreadable(f"cut/progressive_{percent}.jpg", f"first {percent} % of a progressive one", "truncated")
        yield odd, data


def cut_others() -> Files:
    noise = png(_NOISE)
    chunks = [png_chunk(b"PLTE", b"".join(map(bytes, COLOURS))), png_chunk(b"tRNS", bytes(4))]
    palette = png(INDICES, colour_type=3, before=chunks)
    webp, moving = saved(_NOISE, "WEBP"), saved(_NOISE, "WEBP", save_all=True, append_images=[], lossless=True)
    flat, image = gif(SIZE, COLOURS, [(0, 0, INDICES[:, :, 0])]), tiff(SIZE, PICTURE.tobytes(), _RGB8)
    rows = bmp(SIZE, PICTURE[::-1].tobytes(), bits=24)
    for name, data, reason in (
        ("signature.png", noise[:8], "does not begin with an image header"),
        ("in_IHDR.png", noise[:20], "truncated"),
        ("after_IHDR.png", noise[:33], "truncated"),
        ("in_PLTE.png", palette[:45], "truncated"),
        ("in_tRNS.png", palette[: palette.index(b"tRNS") + 5], "truncated"),
        ("in_IDAT.png", noise[:9000], "truncated"),
        ("in_checksum.png", noise[:-14], "truncated"),
        ("in_RIFF.webp", webp[:20], "truncated"),
        ("in_header.webp", webp[:28], "truncated"),
        ("in_pixels.webp", webp[:2000], "truncated"),
        ("in_frame.webp", moving[:-9], "truncated"),
        ("in_palette.gif", flat[:100], "truncated"),
        ("no_frame.gif", flat[: 13 + 384] + b";", "truncated"),
        ("in_pixels.gif", flat[: len(flat) // 2], "truncated"),
        ("header.tif", image[:8], "truncated"),
        ("before_directory.tif", image[: 8 + PICTURE.size], "truncated"),
        ("in_directory.tif", image[:-60], "truncated"),
        ("header.bmp", rows[:20], "truncated"),
        ("in_pixels.bmp", rows[:-5], "truncated"),
    ):
        place = name.partition(".")[0].replace("_", " ")
        yield unreadable(f"cut/{name}", f"cut off: {place}", reason), data
    if features.check("avif"):
        avif = saved(_NOISE, "AVIF")
        yield unreadable("cut/in_header.avif", "cut off: in header", "truncated"), avif[:60]
        yield unreadable("cut/in_pixels.avif", "cut off: in pixels", "truncated"), avif[: len(avif) // 2]


def lies() -> Files:
    yield from _lying_jpegs()
    yield from _lying_pngs()
    yield from _lying_tiffs()
    rows = INDICES[:, :, 0]
    tall = 2 * HEIGHT
    small_gif = bytearray(gif((tall, WIDTH), COLOURS, [(0, 0, rows)]))
    struct.pack_into("<H", small_gif, small_gif.index(b",", 13 + 384) + 7, tall)
    yield unreadable("lies/taller.gif", "claims twice its rows", "truncated"), bytes(small_gif)
    lossy = bytearray(saved(PICTURE, "WEBP", quality=90))
    struct.pack_into("<H", lossy, 28, tall)
    yield unreadable("lies/taller.webp", "claims twice its rows", "cannot decode WEBP"), bytes(lossy)
    moving = bytearray(saved(PICTURE, "WEBP", save_all=True, append_images=[], lossless=True, exif=exif(1)))
    moving[27] = HEIGHT // 2 - 1
    yield unreadable("lies/canvas.webp", "canvas smaller than its picture", "cannot decode WEBP"), bytes(moving)
    longer = bytearray(saved(PICTURE, "WEBP", lossless=True))
    struct.pack_into("<I", longer, 4, 2**32 - 10)
    yield unreadable("lies/length.webp", "claims a length of 4 GiB", "truncated"), bytes(longer)
    colours = PICTURE[::-1, :, ::-1].tobytes()
    yield unreadable("lies/taller.bmp", "claims twice its rows", "truncated"), bmp((tall, WIDTH), colours, bits=24)
    palette = bytes(4 * 256)
    short = bmp(SIZE, bmp_run_lengths(rows[: HEIGHT // 2])[:-2], bits=8, compression=1, after_header=palette)
    yield unreadable("lies/run_lengths.bmp", "run lengths of half its rows, without an end", "truncated"), short


def _lying_jpegs() -> Files:
    plain, progressive, grey = jpeg(), jpeg(progressive=True), jpeg(GREY)
    fewer = "fewer pixels"
    yield unreadable("lies/taller.jpg", "claims twice its rows", fewer), with_jpeg_size(plain, 2 * HEIGHT, WIDTH)
    yield (
        unreadable("lies/one_row_more.jpg", "claims one row too many", fewer),
        with_jpeg_size(plain, HEIGHT + 1, WIDTH),
    )
    yield unreadable("lies/wider.jpg", "claims twice its columns", fewer), with_jpeg_size(plain, HEIGHT, 2 * WIDTH)
    yield unreadable("lies/taller_grey.jpg", "grey, claims twice its rows", fewer), with_jpeg_size(grey, 128, WIDTH)
    tall = with_jpeg_size(progressive, 2 * HEIGHT, WIDTH)
    yield unreadable("lies/taller_progressive.jpg", "progressive, claims twice its rows", fewer), tall
    none = with_jpeg_size(plain, 0, WIDTH)
    yield unreadable("lies/no_height.jpg", "height left open (for a DNL marker)", "no usable header"), none
    again = b"\xff\xd8" + plain
    yield unreadable("lies/two_starts.jpg", "two SOI markers", "cannot decode JPEG"), again


def _lying_pngs() -> Files:
    whole = png(PICTURE)
    unpacked = "cannot be unpacked"
    for name, what, data, reason in (
        ("taller", "claims twice its rows", with_png_header(whole, 2 * HEIGHT, WIDTH), "fewer pixels"),
        ("one_row_more", "claims one row too many", with_png_header(whole, HEIGHT + 1, WIDTH), "fewer pixels"),
        ("wider", "claims twice its columns", with_png_header(whole, HEIGHT, 2 * WIDTH), unpacked),
        ("narrower", "claims half its columns", with_png_header(whole, HEIGHT, WIDTH // 2), unpacked),
        ("no_height", "claims no rows", with_png_header(whole, 0, WIDTH), "its size is 0x96"),
        ("depth16", "claims 16 bits a sample, has 8", with_png_header(whole, *SIZE, depth=16), unpacked),
        ("depth3", "claims 3 bits a sample", with_png_header(whole, *SIZE, depth=3), "no usable header"),
        ("no_palette", "claims a palette, has none", with_png_header(whole, *SIZE, colour_type=3), "no palette"),
        (
            "colour_type",
            "claims a colour type that there is not",
            with_png_header(whole, *SIZE, colour_type=7),
            "header",
        ),
        ("chunk_length", "chunk of 2 GiB", whole[:33] + b"\x7f\xff\xff\xff" + whole[37:], "truncated"),
        ("header_length", "header chunk of 12 bytes", whole[:11] + b"\x0c" + whole[12:], "begin with an image header"),
        ("no_pixels", "no pixel chunk", whole[:33] + whole[-12:], "before its pixels"),
        (
            "header_checksum",
            "wrong checksum of its header",
            whole[:31] + bytes([whole[31] ^ 1]) + whole[32:],
            "checksum",
        ),
    ):
        yield unreadable(f"lies/{name}.png", what, reason), data


def _lying_tiffs() -> Files:
    rows, tall = PICTURE.tobytes(), (2 * HEIGHT, WIDTH)
    whole = tiff(SIZE, rows, _RGB8)
    deflated, packed = zlib.compress(rows), {**_RGB8, 259: (8,)}
    wrong = deflated[:-1] + bytes([deflated[-1] ^ 1])
    upper = PICTURE[: HEIGHT // 2].tobytes()
    tiles = [PICTURE[y : y + 32, x : x + 32].tobytes() for y in (0, 32) for x in (0, 32, 64)]
    for name, what, data, reason in (
        ("taller", "claims twice its rows", tiff(tall, rows, _RGB8), "truncated"),
        ("taller_deflate", "claims twice its rows, packed", tiff(tall, deflated, packed), "cannot decode"),
        ("checksum", "packed, with a wrong checksum", tiff(SIZE, wrong, packed), "cannot decode"),
        ("strip_missing", "one strip of two", tiff(SIZE, upper, {**_RGB8, 278: (32,)}), "1 of its 2 strips"),
        ("tile_missing", "four tiles of six", tiff(SIZE, tiles[:4], {**_RGB8, 322: (32,), 323: (32,)}), "4 of its 6"),
        ("no_height", "claims no rows", tiff((0, WIDTH), rows, _RGB8), "makes no sense"),
        ("directory", "directory beyond the file", whole[:4] + struct.pack("<I", 2**31) + whole[8:], "truncated"),
        ("directory_in_header", "directory in its header", whole[:4] + struct.pack("<I", 4) + whole[8:], "damaged"),
    ):
        yield unreadable(f"lies/{name}.tif", what, reason), data


def bombs() -> Files:
    """Files that would take far more memory than they have bytes; those that need not are read."""
    side, over = 60_000, "exceeds --max-image-pixels"
    what = f"claims {side:,} x {side:,} px"
    yield unreadable("bomb/huge.png", what, over), with_png_header(png(PICTURE), side, side)
    yield unreadable("bomb/huge.jpg", what, over), with_jpeg_size(jpeg(), side, side)
    yield unreadable("bomb/huge.gif", what, over), gif((side, side), COLOURS, [(0, 0, INDICES[:, :, 0])])
    yield unreadable("bomb/huge.bmp", what, over), bmp((side, side), PICTURE.tobytes(), bits=24)
    yield unreadable("bomb/huge.tif", what, over), tiff((side, side), PICTURE.tobytes(), _RGB8)
    canvas = bytearray(saved(PICTURE, "WEBP", lossless=True, exif=exif(1)))
    canvas[24:30] = b"\xff\x3f\x00" * 2
    yield unreadable("bomb/huge.webp", "canvas of 16,384 x 16,384 px", over), bytes(canvas)
    deepest = bmp((-(2**31), WIDTH), PICTURE.tobytes(), bits=24)
    yield unreadable("bomb/lowest_number.bmp", "height of -2,147,483,648", over), deepest
    whole = png(PICTURE)
    surplus = zlib.compress(zlib.decompress(whole[41:-16]) + bytes(20 * 2**20), 1)
    much = whole[:33] + png_chunk(b"IDAT", surplus) + whole[-12:]
    yield OddImage("bomb/pixels.png", "20 MiB of pixels beyond its size", colours=FOUR), much
    strip = zlib.compress(PICTURE.tobytes() + bytes(20 * 2**20), 1)
    many = tiff(SIZE, strip, {**_RGB8, 259: (8,)})
    yield OddImage("bomb/strip.tif", "strip of 20 MiB once unpacked", colours=FOUR), many


_PREVIEW = ((8, 12), bytes(8 * 12 * 3), {**_RGB8, 254: (1,)})
_SENSOR = (SIZE, bytes(2 * HEIGHT * WIDTH), {258: (16,), 262: (32803,), 33421: (2, 2), 50706: (1,)})


def unsupported() -> Files:
    """Whole files of a kind that is not read."""
    rows = PICTURE.tobytes()
    samples, half = {258: (32,), 262: (1,)}, {258: (16,), 262: (1,), 339: (3,)}
    floats = quadrants(0.0, 0.5, 1.0, 9.0)
    float32, float16 = floats.astype("<f4").tobytes(), floats.astype("<f2").tobytes()
    integers = INDICES.astype("<i4").tobytes()
    deep = flat_jpeg(quadrants(0, 2048, 4095, 9), precision=12, process=0xC1)
    no_range = "without a defined range"
    for name, what, data, reason in (
        ("bits12.jpg", "12 bits a sample", deep, "samples of 12 bits"),
        ("two_channels.jpg", "two channels", flat_jpeg(PICTURE[:, :, :2]), "2-layer"),
        ("hierarchical.jpg", "hierarchical (SOF5)", flat_jpeg(GREY, process=0xC5), "cannot decode JPEG"),
        ("float.tif", "floating-point samples", tiff(SIZE, float32, samples | {339: (3,)}), no_range),
        ("float16.tif", "floats of 16 bits", tiff(SIZE, float16, half), no_range),
        ("int32.tif", "signed samples", tiff(SIZE, integers, samples | {339: (2,)}), no_range),
        ("uint32.tif", "samples of 32 bits", tiff(SIZE, integers, samples), no_range),
        ("ten_channels.tif", "ten channels", tiff(SIZE, rows * 4, {258: (8,) * 10, 262: (1,)}), "samples per pixel"),
        (
            "int8.tif",
            "signed samples of 8 bits",
            tiff(SIZE, GREY.tobytes(), {258: (8,), 262: (1,), 339: (2,)}),
            no_range,
        ),
        ("raw_dng.tif", "camera raw (DNG) under a preview", tiff_pages([_PREVIEW], subs=[_SENSOR]), "is a camera raw"),
        ("raw_whole.tif", "camera raw (DNG) in the first directory", tiff_pages([_SENSOR]), "is a camera raw"),
        (
            "raw_next.tif",
            "camera raw behind its preview",
            tiff_pages([_PREVIEW, _SENSOR], order=">"),
            "is a camera raw",
        ),
        ("previews.tif", "reduced versions alone", tiff_pages([_PREVIEW, _PREVIEW]), "holds only a reduced version"),
        ("big_big_endian.tif", "BigTIFF, big-endian", tiff(SIZE, rows, _RGB8, order=">", is_big=True), "little-endian"),
        ("jpeg.bmp", "JPEG in a BMP", bmp(SIZE, jpeg(), bits=24, compression=4), "a BMP with a JPEG inside"),
    ):
        yield unreadable(f"kind/{name}", what, reason), data


def no_images() -> Files:
    """Files under the names of images that are something else, and damaged ones."""
    unknown = "not an image in a known format"
    for name, what, data, reason in (
        ("empty.jpg", "nothing in it", b"", "empty file"),
        ("zeros.jpg", "4096 zero bytes", bytes(4096), "nothing but zeros"),
        ("text.jpg", "text", b"This is a caption, not an image.\n" * 9, "is plain text"),
        ("page.png", "error page of a web server", b"<!DOCTYPE html><title>404 Not Found</title>", "is an HTML page"),
        (
            "pointer.png",
            "pointer of Git LFS",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "is a Git LFS pointer",
        ),
        ("photo.jpg", "HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "is a HEIC picture"),
        ("mif1.jpg", "HEIC of major brand mif1", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(99), "a HEIC picture"),
        ("shot.jpg", "camera raw of Fujifilm", b"FUJIFILMCCD-RAW 0201" + bytes(99), "is a camera raw file"),
        ("archive.jpg", "zip archive", b"PK\3\4" + bytes(99), "is a zip archive"),
        ("answer.jpg", "error of a server as JSON", b'{"error": "not found"}', "is JSON text"),
        ("drawing.png", "SVG", b'<svg xmlns="http://www.w3.org/2000/svg"/>', "is an SVG drawing"),
        ("jpeg2000.jpg", "JPEG 2000", saved(PICTURE, "JPEG2000"), "is a JPEG 2000 picture"),
        ("as_text.png", "line ends changed as in a text", png(PICTURE).replace(b"\r\n", b"\n", 1), unknown),
        ("shifted.jpg", "a zero byte before it", b"\0" + jpeg(), unknown),
        ("noise.bin.jpg", "noise", _NOISE.tobytes(), unknown),
    ):
        yield unreadable(f"bad/{name}", what, reason), data
    flipped = bytearray(png(_NOISE))
    flipped[5000] ^= 1
    yield unreadable("bad/flipped_bit.png", "one bit of its pixels flipped", "checksum"), bytes(flipped)
