"""Files that hold the picture in an odd way, each of which can be read."""

import base64
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, features

from tests.image_bytes import (
    any_bmp,
    bmp,
    bmp_run_lengths,
    exif,
    flat_jpeg,
    gif,
    jpeg_segment,
    png,
    png_chunk,
    tiff,
    tiff_pages,
    with_jpeg_segment,
    without_jpeg_segment,
)
from tests.odd_images.picture import (
    ALPHA,
    BLACK,
    COLOURS,
    FOUR,
    FOUR_GREYS,
    GREY,
    GREYS,
    HEIGHT,
    INDICES,
    INKS,
    ON_WHITE,
    PICTURE,
    SEEN_THROUGH,
    SIZE,
    WHITE,
    WIDTH,
    OddImage,
    as_stored,
    jpeg,
    lab_to_srgb,
    quadrants,
    saved,
    spots,
    to_ycc,
)

Files = Iterator[tuple[OddImage, bytes]]

_BLACK_PICTURE = Image.new("RGB", (WIDTH, HEIGHT))
_PALETTE = b"".join(map(bytes, COLOURS))
_RGB8 = {258: (8, 8, 8), 262: (2,)}
_RGBA = np.concatenate([PICTURE, ALPHA], axis=2)
# The picture as `jpegtran -arithmetic` and `jpegtran -arithmetic -progressive` of libjpeg-turbo write it.
_ARITHMETIC = """
/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAIBAQEBAQIBAQECAgICAgQDAgICAgUEBAMEBgUGBgYFBgYGBwkIBgcJBwYGCAsICQoKCgoKBggLDAsKDAkK
Cgr/2wBDAQICAgICAgUDAwUKBwYHCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgr/yQARCABAAGADAREAAhEB
AxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwD/ANmFRsSXaohV1VN5NhdeoSOwrlYq5LZ167Ig87ThvGiHHk3T1hm0oMyrtKt0WGpAM9hNhLkom7X4
/qFPTvIVEZqRkV6CEWIDqeeHP6ZBUkUQ43JITG5Q5C2AokC3IVxC/9k=
"""
_ARITHMETIC_PROGRESSIVE = """
/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAIBAQEBAQIBAQECAgICAgQDAgICAgUEBAMEBgUGBgYFBgYGBwkIBgcJBwYGCAsICQoKCgoKBggLDAsKDAkK
Cgr/2wBDAQICAgICAgUDAwUKBwYHCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgr/ygARCABAAGADAREAAhEB
AxEB/8wABgAQARD/2gAMAwEAAhADEAAAAf8As+iYwVYTqEY8Z5KT6dHw9haR9xE3WPlGr2f+a0Xl0ZHcxbk8x8lpDzKk7H/Liw1nOPHZ1bYgr9mYAK47
/ef0i4rvJmMfLe+89/0pXlQd3yWiaHgakWj/zAAEEAX/2gAIAQEAAQUCqP/MAAQRBf/aAAgBAwEBPwGo/8wABBEF/9oACAECAQE/Aaj/zAAEEAX/2gAI
AQEABj8CqP/MAAQQBf/aAAgBAQABPyGo/9oADAMBAAIAAwAAABBLxv/MAAQRBf/aAAgBAwEBPxCo/8wABBEF/9oACAECAQE/EKj/zAAEEAX/2gAIAQEA
AT8QqP/Z
"""


def _adobe(transform: int) -> bytes:
    """Adobe's APP14 segment. `transform`: 0 none, 1 YCbCr, 2 YCCK."""
    return jpeg_segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, transform))


def jpegs() -> Files:
    plain = jpeg()
    yield OddImage("plain.jpg", "baseline", colours=FOUR, tolerance=3), plain
    yield OddImage("grey.jpg", "one channel", colours=FOUR_GREYS, tolerance=2), jpeg(GREY)
    yield OddImage("progressive.jpg", "progressive", colours=FOUR, tolerance=3), jpeg(progressive=True)
    arithmetic = base64.b64decode(_ARITHMETIC)
    yield OddImage("arithmetic.jpg", "arithmetic coding", colours=FOUR, tolerance=3), arithmetic
    both = base64.b64decode(_ARITHMETIC_PROGRESSIVE)
    yield OddImage("arithmetic_progressive.jpg", "arithmetic coding, progressive", colours=FOUR, tolerance=3), both
    extended = flat_jpeg(to_ycc(PICTURE), process=0xC1)
    yield OddImage("extended.jpg", "extended sequential (SOF1), 8 bits", colours=FOUR, tolerance=2), extended
    yield OddImage("half_colour.jpg", "colour at half resolution", colours=FOUR, tolerance=3), jpeg(subsampling=2)
    marks = jpeg(restart_marker_blocks=3)
    yield OddImage("restart_marks.jpg", "restart markers", colours=FOUR, tolerance=3), marks
    at = plain.index(b"\xff\xdb")
    filled = plain[:at] + b"\xff\xff" + plain[at:]
    yield OddImage("fill_bytes.jpg", "fill bytes before a marker", colours=FOUR, tolerance=3), filled
    yield OddImage("trailing.jpg", "junk behind its end", colours=FOUR, tolerance=3), plain + b"junk" * 40
    yield from _jpegs_of_other_colours()
    mpo = saved(PICTURE, "MPO", save_all=True, append_images=[_BLACK_PICTURE], quality=95, subsampling=0)
    yield OddImage("stereo.mpo", "two pictures in one file", colours=FOUR, tolerance=3), mpo


def _jpegs_of_other_colours() -> Files:
    rgb = flat_jpeg(PICTURE, segments=_adobe(0))
    yield OddImage("rgb.jpg", "RGB under an Adobe marker, not YCbCr", colours=FOUR, tolerance=1), rgb
    # Pillow writes CMYK inverted under an Adobe marker, as Photoshop does.
    cmyk = jpeg(Image.frombytes("CMYK", (WIDTH, HEIGHT), INKS.tobytes()), quality=100)
    yield OddImage("cmyk.jpg", "CMYK under an Adobe marker", colours=FOUR, tolerance=4), cmyk
    without = without_jpeg_segment(cmyk, 0xEE)
    yield OddImage("cmyk_without_marker.jpg", "CMYK without an Adobe marker", colours=FOUR, tolerance=4), without
    # What YCC stands for is 255 less the stored values, which are inverted: the inks themselves.
    inks = INKS.astype(int)
    ycck = flat_jpeg(np.concatenate([to_ycc(inks[:, :, :3]), 255 - inks[:, :, 3:]], axis=2), segments=_adobe(2))
    yield OddImage("ycck.jpg", "YCCK under an Adobe marker", colours=FOUR, tolerance=4), ycck


def turned() -> Files:
    for orientation in range(1, 9):
        order = "<>"[orientation % 2]
        block = b"Exif\0\0" + exif(orientation, order=order)
        data = with_jpeg_segment(jpeg(as_stored(PICTURE, orientation)), 0xE1, block)
        yield OddImage(f"turned/{orientation}.jpg", f"EXIF orientation {orientation}", colours=FOUR, tolerance=3), data
    upright = as_stored(PICTURE, 6)
    chunk = png_chunk(b"eXIf", exif(6))
    yield OddImage("turned/exif_before.png", "EXIF before the pixels", colours=FOUR), png(upright, before=[chunk])
    # Browsers do not look there: a file that is seen the right way up in them must stay as it is.
    behind = png(PICTURE, after=[chunk])
    yield OddImage("turned/exif_after.png", "EXIF behind the pixels", colours=FOUR, has_note=True), behind
    prefixed = png(PICTURE, before=[png_chunk(b"eXIf", b"Exif\0\0" + exif(6))])
    yield OddImage("turned/exif_prefix.png", "EXIF with a JPEG's prefix", colours=FOUR, has_note=True), prefixed
    webp = saved(PICTURE, "WEBP", lossless=True, exif=exif(8, order=">"))
    yield OddImage("turned/lossless.webp", "EXIF in a lossless WebP", colours=FOUR, has_note=True), webp
    for kind, name in ((1, "BYTE"), (4, "LONG")):
        data = with_jpeg_segment(jpeg(), 0xE1, b"Exif\0\0" + exif(6, kind=kind))
        what = f"EXIF orientation 6 as a {name}"
        yield OddImage(f"turned/{name.lower()}.jpg", what, colours=FOUR, tolerance=3, has_note=True), data
    rows = as_stored(PICTURE, 5)
    tags = {258: (8, 8, 8), 262: (2,), 274: (5,)}
    yield (
        OddImage("turned/tagged.tif", "TIFF's orientation tag", colours=FOUR),
        tiff(rows.shape[:2], rows.tobytes(), tags),
    )
    yield from _broken_exif()


def _broken_exif() -> Files:
    whole = exif(6)
    blocks = {
        "broken_exif": ("EXIF whose directory lies beyond it", b"II*\0\xff\xff\xff\xff"),
        "cut_exif": ("EXIF cut off in its directory", whole[:15]),
        "exif_in_itself": ("EXIF whose directory is its header", whole[:4] + struct.pack("<I", 4) + whole[8:]),
        "empty_exif": ("EXIF with nothing in it", b""),
        "no_such_orientation": ("EXIF orientation 9", exif(9)),
        "orientation_0": ("EXIF orientation 0", exif(0)),
    }
    for name, (what, block) in blocks.items():
        data = with_jpeg_segment(jpeg(), 0xE1, b"Exif\0\0" + block)
        yield OddImage(f"turned/{name}.jpg", what, colours=FOUR, tolerance=3, has_note=True), data


def pngs() -> Files:
    yield OddImage("plain.png", "8 bits a sample", colours=FOUR), png(PICTURE)
    yield OddImage("interlaced.png", "interlaced", colours=FOUR), png(PICTURE, is_interlaced=True)
    # 257·v is exactly v in 8 bits; 200 more is nearer to the next level, 100 more is not.
    deep = quadrants(30 * 257 + 200, 90 * 257 + 100, 160 * 257, 65535)
    grey16 = png(deep, bit_depth=16, colour_type=0)
    yield OddImage("grey16.png", "grey of 16 bits", colours=spots(31, 90, 160, 255)), grey16
    yield OddImage("rgb16.png", "16 bits a sample", colours=FOUR), png(PICTURE.astype(int) * 257, bit_depth=16)
    rgba16 = np.concatenate([PICTURE.astype(int) * 257, np.full((HEIGHT, WIDTH, 1), 65535)], axis=2)
    yield OddImage("rgba16.png", "RGBA of 16 bits", colours=FOUR), png(rgba16, bit_depth=16, colour_type=6)
    one_bit = png(quadrants(0, 1, 1, 0), bit_depth=1, colour_type=0)
    yield OddImage("one_bit.png", "black and white, 1 bit", colours=spots(0, 255, 255, 0)), one_bit
    palette = png_chunk(b"PLTE", _PALETTE)
    yield OddImage("palette.png", "palette", colours=FOUR), png(INDICES, colour_type=3, before=[palette])
    two_bits = png(INDICES, bit_depth=2, colour_type=3, before=[palette])
    yield OddImage("palette2.png", "palette, 2 bits", colours=FOUR), two_bits
    # Comments beyond what Pillow accepts, and one under the name of a field that Pillow reads.
    comments = [
        png_chunk(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(3 * 2**20))),
        png_chunk(b"tEXt", b"transparency\0none"),
        png_chunk(b"acTL", struct.pack(">II", 0, 0)),
    ]
    yield OddImage("comments.png", "comments of 3 MiB once unpacked", colours=FOUR), png(PICTURE, before=comments)
    moving = saved(PICTURE, "PNG", save_all=True, append_images=[_BLACK_PICTURE], duration=100)
    yield OddImage("animated.png", "animated: the first frame counts", colours=FOUR), moving
    yield from _apart_from_the_animation()
    black = png(np.concatenate([PICTURE[:32], 0 * PICTURE[:32]]))
    yield OddImage("black_below.png", "lower half black", colours=spots(*COLOURS[:2], BLACK, BLACK)), black
    whole = png(PICTURE)
    yield OddImage("no_end.png", "without its last chunk (IEND)", colours=FOUR), whole[:-12]
    yield OddImage("trailing.png", "junk behind its end", colours=FOUR), whole + b"junk" * 9
    packed = whole[41:-16]
    scattered = b"".join(png_chunk(b"IDAT", packed[at : at + 1]) for at in range(len(packed)))
    yield OddImage("scattered.png", "a pixel chunk for each byte", colours=FOUR), whole[:33] + scattered + whole[-12:]


def _apart_from_the_animation() -> Files:
    """Animations whose first frame is not the picture that readers without animation show."""
    for name, what, top, left, colours in (
        ("apart", "animated: the picture is no frame, the first frame counts", 0, 0, FOUR),
        ("small_frame", "animated: the first frame is smaller", 32, 48, spots(WHITE, WHITE, WHITE, COLOURS[3])),
    ):
        rows = b"".join(b"\0" + row.tobytes() for row in PICTURE[top:, left:])
        place = (WIDTH - left, HEIGHT - top, left, top)
        control = png_chunk(b"fcTL", struct.pack(">5IHHBB", 0, *place, 1, 10, 0, 0))
        frame = png_chunk(b"fdAT", struct.pack(">I", 1) + zlib.compress(rows))
        count = png_chunk(b"acTL", struct.pack(">II", 1, 0))
        yield OddImage(f"{name}.png", what, colours=colours), png(PICTURE * 0, before=[count], after=[control, frame])


def transparent_pngs() -> Files:
    red = COLOURS[0]
    yield OddImage("rgba.png", "RGBA", colours=SEEN_THROUGH), png(_RGBA, colour_type=6)
    grey_alpha = np.concatenate([quadrants(30, 90, 160, 128), ALPHA], axis=2)
    expected = spots(30, WHITE, 160, ON_WHITE)
    yield OddImage("grey_alpha.png", "grey and alpha", colours=expected), png(grey_alpha, colour_type=4)
    chunks = [png_chunk(b"PLTE", _PALETTE), png_chunk(b"tRNS", bytes([255, 0, 255, 128]))]
    palette = png(INDICES, colour_type=3, before=chunks)
    yield OddImage("palette_alpha.png", "palette with alphas (tRNS)", colours=SEEN_THROUGH), palette
    without_green = spots(red, WHITE, *COLOURS[2:])
    key = png_chunk(b"tRNS", struct.pack(">3H", *COLOURS[1]))
    yield OddImage("key_rgb.png", "one colour transparent (tRNS)", colours=without_green), png(PICTURE, before=[key])
    key = png_chunk(b"tRNS", struct.pack(">3H", *(257 * value for value in COLOURS[1])))
    rgb16 = png(PICTURE.astype(int) * 257, bit_depth=16, before=[key])
    yield OddImage("key_rgb16.png", "one colour of 16 bits transparent", colours=without_green), rgb16
    nearly_black = quadrants((0, 0, 0), (1, 1, 1), (0, 0, 255), (0, 256, 0))
    black_key = png(nearly_black, bit_depth=16, before=[png_chunk(b"tRNS", bytes(6))])
    expected = spots(WHITE, BLACK, BLACK, (0, 1, 0))
    yield (
        OddImage("key_black16.png", "black of 16 bits transparent, not what is nearly so", colours=expected),
        black_key,
    )
    yield from _transparent_greys()


def _transparent_greys() -> Files:
    key = png_chunk(b"tRNS", struct.pack(">H", 90))
    expected = spots(GREYS[0], WHITE, *GREYS[2:])
    grey = png(GREY, colour_type=0, before=[key])
    yield OddImage("key_grey.png", "one grey transparent (tRNS)", colours=expected), grey
    key = png_chunk(b"tRNS", struct.pack(">H", 90 * 257 + 1))
    deep = quadrants(30 * 257, 90 * 257 + 1, 90 * 257, 65535)
    grey16 = png(deep, bit_depth=16, colour_type=0, before=[key])
    yield OddImage("key_grey16.png", "one grey of 16 bits transparent", colours=spots(30, WHITE, 90, 255)), grey16
    key = png_chunk(b"tRNS", struct.pack(">H", 1))
    two_bits = png(INDICES, bit_depth=2, colour_type=0, before=[key])
    yield OddImage("key_grey2.png", "one grey of 2 bits transparent", colours=spots(BLACK, WHITE, 170, 255)), two_bits
    one_bit = png(quadrants(0, 0, 1, 0), bit_depth=1, colour_type=0, before=[png_chunk(b"tRNS", b"\0\0")])
    expected = spots(WHITE, WHITE, 255, WHITE)
    yield OddImage("key_one_bit.png", "black of 1 bit transparent", colours=expected), one_bit


def webps() -> Files:
    yield OddImage("plain.webp", "lossy", colours=FOUR, tolerance=6), saved(PICTURE, "WEBP", quality=95)
    yield OddImage("lossless.webp", "lossless", colours=FOUR), saved(PICTURE, "WEBP", lossless=True)
    lossless = saved(_RGBA, "WEBP", lossless=True, exact=True)
    yield OddImage("alpha.webp", "lossless, alpha", colours=SEEN_THROUGH), lossless
    lossy = saved(_RGBA, "WEBP", quality=95)
    yield OddImage("alpha_lossy.webp", "lossy, alpha", colours=SEEN_THROUGH, tolerance=6), lossy
    moving = saved(PICTURE, "WEBP", lossless=True, save_all=True, append_images=[_BLACK_PICTURE], duration=100)
    yield OddImage("animated.webp", "animated: the first frame counts", colours=FOUR), moving
    corner = spots(WHITE, WHITE, WHITE, COLOURS[3])
    yield OddImage("small_first_frame.webp", "animated: the first frame is smaller", colours=corner), _smaller_frame()


def _smaller_frame() -> bytes:
    """An animated WebP, said to have no alpha, whose first frame is the bottom right quadrant."""
    frame = saved(PICTURE[32:, 48:], "WEBP", lossless=True)[12:]
    parts = [b"VP8X", bytes([2, 0, 0, 0]) + _u24(WIDTH - 1) + _u24(HEIGHT - 1), b"ANIM", bytes(6)]
    parts += [b"ANMF", b"".join(map(_u24, (24, 16, 47, 31, 100))) + b"\0" + frame]
    body = b"".join(
        kind + struct.pack("<I", len(part)) + part + bytes(len(part) % 2)
        for kind, part in zip(parts[::2], parts[1::2], strict=True)
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _u24(value: int) -> bytes:
    return value.to_bytes(3, "little")


def gifs() -> Files:
    indices = INDICES[:, :, 0]
    one = gif(SIZE, COLOURS, [(0, 0, indices)])
    yield OddImage("plain.gif", "GIF89a", colours=FOUR), one
    yield OddImage("old.gif", "GIF87a", colours=FOUR), one.replace(b"GIF89a", b"GIF87a")
    four_colours = Image.fromarray(PICTURE).quantize(4, dither=Image.Dither.NONE)
    yield OddImage("interlaced.gif", "interlaced", colours=FOUR), saved(four_colours, "GIF", interlace=True)
    animated = gif(SIZE, COLOURS, [(0, 0, indices), (0, 0, indices * 0)])
    yield OddImage("animated.gif", "animated: the first frame counts", colours=FOUR), animated
    see_through = spots(*COLOURS[:2], WHITE, COLOURS[3])
    transparent = gif(SIZE, COLOURS, [(0, 0, indices)], transparent=2)
    yield OddImage("transparent.gif", "one colour transparent", colours=see_through), transparent
    right_half = [(0, WIDTH // 2, indices[:, WIDTH // 2 :]), (0, 0, indices)]
    half = spots(WHITE, COLOURS[1], WHITE, COLOURS[3])
    yield OddImage("small_first_frame.gif", "first frame smaller", colours=half), gif(SIZE, COLOURS, right_half)
    corner = spots(WHITE, COLOURS[1], WHITE, WHITE)
    small = gif(SIZE, COLOURS, right_half, transparent=3)
    yield OddImage("small_transparent_frame.gif", "first frame smaller, transparent", colours=corner), small


def tiffs() -> Files:
    rows = PICTURE.tobytes()
    page = Image.new("RGB", (WIDTH // 2, HEIGHT // 2))
    yield OddImage("plain.tif", "uncompressed", colours=FOUR), tiff(SIZE, rows, _RGB8)
    yield OddImage("big_endian.tif", "big-endian", colours=FOUR), tiff(SIZE, rows, _RGB8, order=">")
    yield OddImage("big.tif", "BigTIFF", colours=FOUR), tiff(SIZE, rows, _RGB8, is_big=True)
    pages = saved(PICTURE, "TIFF", save_all=True, append_images=[page])
    yield OddImage("pages.tif", "two pages: the first counts", colours=FOUR), pages
    for name, compression in {"lzw": "tiff_lzw", "deflate": "tiff_adobe_deflate", "packbits": "packbits"}.items():
        packed = saved(PICTURE, "TIFF", compression=compression)
        yield OddImage(f"{name}.tiff", f"{name} compression", colours=FOUR), packed
    in_jpeg = saved(PICTURE, "TIFF", compression="jpeg", quality=95)
    yield OddImage("jpeg.tiff", "JPEG compression", colours=FOUR, tolerance=3), in_jpeg
    two_tone = Image.fromarray(quadrants(0, 255, 255, 0)[:, :, 0].astype(np.uint8)).convert("1")
    fax = saved(two_tone, "TIFF", compression="group4")
    yield OddImage("fax.tiff", "CCITT group 4", colours=spots(0, 255, 255, 0)), fax
    yield from _tiff_directories()
    yield from _tiff_layouts()
    yield from _tiff_samples()
    yield from _tiff_samples_that_pillow_lacks()
    yield from _tiff_colours()


def _tiff_layouts() -> Files:
    strips = [PICTURE[y : y + 16].tobytes() for y in range(0, HEIGHT, 16)]
    yield OddImage("strips.tif", "four strips", colours=FOUR), tiff(SIZE, strips, {**_RGB8, 278: (16,)})
    padded = np.pad(PICTURE, ((0, 32), (0, 0), (0, 0)))
    tiles = [padded[y : y + 48, x : x + 48].tobytes() for y in (0, 48) for x in (0, 48)]
    tags = {**_RGB8, 322: (48,), 323: (48,)}
    yield OddImage("tiled.tif", "tiles that reach over the edge", colours=FOUR), tiff(SIZE, tiles, tags)
    planes = [PICTURE[:, :, channel].tobytes() for channel in range(3)]
    yield OddImage("planes.tif", "a plane for each channel", colours=FOUR), tiff(SIZE, planes, {**_RGB8, 284: (2,)})


def _tiff_directories() -> Files:
    """Files that do not begin with their picture."""
    whole = (SIZE, PICTURE.tobytes(), _RGB8)
    small = ((8, 12), bytes(8 * 12 * 3), {**_RGB8, 254: (1,)})
    old = ((8, 12), bytes(8 * 12 * 3), {**_RGB8, 255: (2,)})
    mask = (SIZE, bytes(HEIGHT * WIDTH // 8), {258: (1,), 262: (4,), 254: (4,)})
    half = ((32, 48), PICTURE[::2, ::2].tobytes(), {**_RGB8, 254: (1,)})
    unsaid = ((8, 12), bytes(8 * 12 * 3), _RGB8)
    for name, what, data in (
        ("preview_first", "a reduced version, then the picture", tiff_pages([small, whole])),
        (
            "old_preview_first",
            "a reduced version by the old tag, then the picture",
            tiff_pages([old, whole], order=">"),
        ),
        ("mask_first", "a mask, then the picture", tiff_pages([mask, whole])),
        ("pyramid_upwards", "a pyramid, its smallest level first", tiff_pages([small, half, whole])),
        ("pyramid", "a pyramid", tiff_pages([whole, half, small])),
        (
            "in_sub_directory",
            "a reduced version, the picture in a sub-directory",
            tiff_pages([small], subs=[half, whole]),
        ),
        ("larger_sub_directory", "a small picture, a larger one below it", tiff_pages([unsaid], subs=[whole])),
        ("smaller_sub_directory", "the picture, a reduced version below it", tiff_pages([whole], subs=[half])),
    ):
        yield OddImage(f"directories/{name}.tif", what, colours=FOUR), data
    twice = ((2 * HEIGHT, 2 * WIDTH), bytes(12 * HEIGHT * WIDTH), _RGB8)
    what = "the picture, a page of the same shape and twice the size behind it"
    yield OddImage("pages_larger.tif", what, colours=FOUR, has_note=True), tiff_pages([whole, twice])


def _tiff_samples_that_pillow_lacks() -> Files:
    deep = (PICTURE.astype("<u2") * 257).transpose(2, 0, 1)
    rgb16 = {258: (16,) * 3, 262: (2,), 284: (2,)}
    planes = [plane.tobytes() for plane in deep]
    yield OddImage("planes16.tif", "a plane of 16 bits for each channel", colours=FOUR), tiff(SIZE, planes, rgb16)
    swapped = [plane.astype(">u2").tobytes() for plane in deep]
    big_endian = tiff(SIZE, swapped, rgb16, order=">")
    yield OddImage("planes16_big_endian.tif", "such planes, big-endian", colours=FOUR), big_endian
    steps = np.diff(deep, axis=2, prepend=deep[:, :, :1] * 0).astype("<u2")
    packed = [zlib.compress(plane.tobytes()) for plane in steps]
    predicted = tiff(SIZE, packed, {**rgb16, 259: (8,), 317: (2,)})
    yield OddImage("planes16_deflate.tif", "such planes, deflated with a predictor", colours=FOUR), predicted
    alphas = [*planes[:1], (ALPHA[:, :, 0].astype("<u2") * 257).tobytes()]
    seen = spots(200, WHITE, 40, ON_WHITE)
    grey_alpha = tiff(SIZE, alphas, {258: (16, 16), 262: (1,), 284: (2,), 338: (2,)})
    yield OddImage("grey_alpha16.tif", "grey and alpha of 16 bits in planes", colours=seen), grey_alpha
    bits = np.unpackbits((PICTURE & 0xFC).astype(np.uint8)[:, :, :, None], axis=3)[:, :, :, :6].reshape(HEIGHT, -1)
    six = tiff(SIZE, np.packbits(bits, axis=1).tobytes(), {258: (6,) * 3, 262: (2,)})
    expected = spots(*(_of_few_bits(colour, 6) for colour in COLOURS))
    yield OddImage("rgb6.tif", "6 bits a sample", colours=expected), six
    yield from _tiff_colours_that_pillow_lacks()


def _tiff_colours_that_pillow_lacks() -> Files:
    table = np.zeros((3, 256), int)
    table[:, :4] = np.array(COLOURS).T
    tags = {258: (8,), 262: (3,), 320: tuple(table.ravel().tolist())}
    yield (
        OddImage("palette_of_bytes.tif", "palette of 8-bit values", colours=FOUR),
        tiff(SIZE, INDICES.astype("u1").tobytes(), tags),
    )
    ycc = to_ycc(PICTURE)
    blocks = np.concatenate(
        [ycc[:, :, 0].reshape(32, 2, 48, 2).transpose(0, 2, 1, 3).reshape(32, 48, 4), ycc[::2, ::2, 1:]], axis=2
    )
    units = tiff(SIZE, blocks.astype("u1").tobytes(), {258: (8,) * 3, 262: (6,), 530: (2, 2)})
    yield OddImage("ycc.tif", "YCbCr, colour at half resolution, uncompressed", colours=FOUR, tolerance=2), units
    video = np.stack([16 + PICTURE[:, :, at].astype(int) * 219 // 255 for at in range(3)], axis=2).astype("u1")
    levels = tiff(SIZE, video.tobytes(), {**_RGB8, 532: (16, 235) * 3})
    yield OddImage("reference_levels.tif", "black is 16, white is 235", colours=FOUR, tolerance=2), levels
    labs = ((120, 50, 30), (150, -40, 35), (90, 20, -60), (137, 0, 0))
    stored = quadrants(*((light, a + 128, b + 128) for light, a, b in labs)).astype("u1").tobytes()
    expected = spots(*(lab_to_srgb(lightness / 2.55, a, b) for lightness, a, b in labs))
    icc_lab = tiff(SIZE, stored, {258: (8,) * 3, 262: (9,)})
    yield OddImage("icc_lab.tif", "ICC L*a*b*", colours=expected, tolerance=2), icc_lab
    wide = quadrants(*((light * 257, a * 256, b * 256) for light, a, b in labs)).astype("<i4").astype("<u2").tobytes()
    lab16 = tiff(SIZE, wide, {258: (16,) * 3, 262: (8,)})
    yield OddImage("lab16.tif", "L*a*b* of 16 bits", colours=expected, tolerance=2), lab16


def _tiff_samples() -> Files:
    deep = quadrants(30 * 257 + 200, 90 * 257 + 100, 160 * 257, 65535)
    expected = spots(31, 90, 160, 255)
    grey = tiff(SIZE, deep.astype("<u2").tobytes(), {258: (16,), 262: (1,)})
    yield OddImage("grey16.tif", "grey of 16 bits", colours=expected), grey
    swapped = tiff(SIZE, deep.astype(">u2").tobytes(), {258: (16,), 262: (1,)}, order=">")
    yield OddImage("grey16_big_endian.tif", "grey of 16 bits, big-endian", colours=expected), swapped
    inverted = tiff(SIZE, (65535 - deep).astype("<u2").tobytes(), {258: (16,), 262: (0,)})
    yield OddImage("white_is_zero16.tif", "grey of 16 bits, white is 0", colours=expected), inverted
    rgb16 = tiff(SIZE, (PICTURE * np.uint16(257)).astype("<u2").tobytes(), {258: (16,) * 3, 262: (2,)})
    yield OddImage("rgb16.tif", "16 bits a sample", colours=FOUR), rgb16
    # 12 bits, two samples in three bytes: 4095 is white, 2048 is 127.53.
    pairs = quadrants(0, 2048, 4095, 1000).reshape(-1, 2)
    a, b = pairs[:, 0], pairs[:, 1]
    packed = np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], axis=1).astype("u1").tobytes()
    grey12 = tiff(SIZE, packed, {258: (12,), 262: (1,)})
    yield OddImage("grey12.tif", "grey of 12 bits", colours=spots(0, 128, 255, 62)), grey12
    bits = np.packbits(quadrants(0, 1, 1, 0)[:, :, 0].astype(np.uint8), axis=1).tobytes()
    for name, photometric, dark in (("one_bit", 1, 0), ("white_is_zero", 0, 255)):
        what = f"1 bit, {'black' if photometric else 'white'} is 0"
        expected = spots(dark, 255 - dark, 255 - dark, dark)
        yield OddImage(f"{name}.tif", what, colours=expected), tiff(SIZE, bits, {258: (1,), 262: (photometric,)})


def _tiff_colours() -> Files:
    yield (
        OddImage("cmyk.tif", "CMYK", colours=FOUR, tolerance=1),
        tiff(SIZE, INKS.tobytes(), {258: (8,) * 4, 262: (5,)}),
    )
    table = np.zeros((3, 256), int)
    table[:, :4] = np.array(COLOURS).T * 257
    tags = {258: (8,), 262: (3,), 320: tuple(table.ravel().tolist())}
    yield OddImage("palette.tif", "palette", colours=FOUR), tiff(SIZE, INDICES.astype("u1").tobytes(), tags)
    # L* as 0..255, a* and b* as signed bytes.
    labs = ((120, 50, 30), (150, -40, 35), (90, 20, -60), (137, 0, 0))
    stored = quadrants(*labs).astype("i2").astype("u1").tobytes()
    expected = spots(*(lab_to_srgb(lightness / 2.55, a, b) for lightness, a, b in labs))
    yield OddImage("lab.tif", "L*a*b*", colours=expected, tolerance=2), tiff(SIZE, stored, {258: (8, 8, 8), 262: (8,)})
    straight = tiff(SIZE, _RGBA.tobytes(), {258: (8,) * 4, 262: (2,), 338: (2,)})
    yield OddImage("alpha.tif", "alpha", colours=SEEN_THROUGH), straight
    # Alpha 128 with its colour stored multiplied, (100, 50, 0) for (199, 100, 0); on white 127 are added.
    rgba = quadrants((*COLOURS[0], 255), (100, 50, 0, 128), (0, 0, 0, 0), (*COLOURS[3], 255)).astype("u1").tobytes()
    expected = spots(COLOURS[0], (227, 177, 127), WHITE, COLOURS[3])
    premultiplied = tiff(SIZE, rgba, {258: (8,) * 4, 262: (2,), 338: (1,)})
    yield OddImage("premultiplied.tif", "premultiplied alpha", colours=expected, tolerance=1), premultiplied


def bmps() -> Files:
    palette = b"".join(bytes([blue, green, red, 0]) for red, green, blue in COLOURS)
    indices = INDICES[:, :, 0]
    lowest_first = PICTURE[::-1, :, ::-1].tobytes()
    yield OddImage("plain.bmp", "24 bits", colours=FOUR), bmp(SIZE, lowest_first, bits=24)
    downwards = bmp((-HEIGHT, WIDTH), PICTURE[:, :, ::-1].tobytes(), bits=24)
    yield OddImage("highest_first.bmp", "highest row first (negative height)", colours=FOUR), downwards
    nibbles = (indices[::-1, ::2] << 4 | indices[::-1, 1::2]).astype("u1").tobytes()
    yield OddImage("palette.bmp", "palette, 4 bits", colours=FOUR), bmp(SIZE, nibbles, bits=4, after_header=palette)
    runs = bmp(SIZE, bmp_run_lengths(indices), bits=8, compression=1, after_header=palette)
    yield OddImage("run_lengths.bmp", "palette, run lengths (RLE8)", colours=FOUR), runs
    # Of 8 bits the highest 5 or 6 are kept, which stand for v·255/31 or v·255/63: at most 8 levels off.
    words = quadrants(*(red >> 3 << 11 | green >> 2 << 5 | blue >> 3 for red, green, blue in COLOURS))
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    expected = spots(*(_rgb565(colour) for colour in COLOURS))
    deep = bmp(SIZE, words[::-1].astype("<u2").tobytes(), bits=16, compression=3, after_header=masks)
    yield OddImage("rgb565.bmp", "16 bits (5, 6, 5)", colours=expected, tolerance=1), deep
    unused = np.concatenate([PICTURE[::-1, :, ::-1], 0 * ALPHA], axis=2).tobytes()
    yield OddImage("unused_byte.bmp", "32 bits, of which 8 mean nothing", colours=FOUR), bmp(SIZE, unused, bits=32)
    yield from _masked_bmps()
    old = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, 24) + lowest_first
    os2 = b"BM" + struct.pack("<IHHI", 14 + len(old), 0, 0, 26) + old
    yield OddImage("os2.bmp", "header of OS/2", colours=FOUR), os2


def _masked_bmps() -> Files:
    red, green, blue = (PICTURE[::-1, :, channel].astype("<u4") for channel in range(3))
    alpha = ALPHA[::-1, :, 0].astype("<u4")
    rgbx, deep = red | green << 8 | blue << 16, red << 2 | green << 12 | blue << 22
    bgra = red << 16 | green << 8 | blue | alpha << 24
    low = (0xFF, 0xFF00, 0xFF0000)
    yield OddImage("rgbx.bmp", "32 bits, red lowest", colours=FOUR), any_bmp(rgbx, masks=low, compression=3)
    tens = any_bmp(deep, masks=(0x3FF, 0xFFC00, 0x3FF00000), compression=3)
    yield OddImage("deep.bmp", "10 bits a colour", colours=FOUR, tolerance=1), tens
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    behind = any_bmp(bgra, masks=masks, compression=6)
    yield OddImage("alpha_masks.bmp", "masks of colours and alpha behind the header", colours=SEEN_THROUGH), behind
    for header in (56, 108, 124):
        data = any_bmp(bgra, masks=masks, compression=3, header=header)
        yield OddImage(f"alpha_{header}.bmp", f"alpha, header of {header} bytes", colours=SEEN_THROUGH), data
    none = any_bmp(bgra & 0xFFFFFF, masks=masks, compression=3, header=108)
    yield OddImage("no_alpha.bmp", "an alpha mask, alpha 0 everywhere", colours=FOUR), none
    fives = (red >> 3 << 10 | green >> 3 << 5 | blue >> 3).astype("<u2")
    one_five = any_bmp(fives, masks=(0x7C00, 0x3E0, 0x1F, 0x8000), compression=3, header=108)
    expected = spots(*(_of_few_bits(colour, 5) for colour in COLOURS))
    yield OddImage("alpha1555.bmp", "16 bits (1, 5, 5, 5), alpha 0 everywhere", colours=expected), one_five
    palette = b"".join(bytes([b, g, r, 0]) for r, g, b in COLOURS)
    indices = INDICES[::-1, :, 0].astype("u1")
    quarters = indices[:, ::4] << 6 | indices[:, 1::4] << 4 | indices[:, 2::4] << 2 | indices[:, 3::4]
    yield OddImage("two_bits.bmp", "palette, 2 bits", colours=FOUR), any_bmp(quarters, bits=2, palette=palette)
    for header in (16, 64):
        data = any_bmp(PICTURE[::-1, :, ::-1].copy(), bits=24, header=header)
        yield OddImage(f"os2_{header}.bmp", f"header of OS/2, {header} bytes", colours=FOUR), data
    gaps = bytes([48, 0, 48, 1, 0, 0]) * 32 + bytes([0, 2, 48, 0, 48, 3, 0, 0]) * 32 + b"\0\1"
    lacking = spots(BLACK, COLOURS[3], *COLOURS[:2])
    what = "run lengths that leave a quarter out"
    runs = any_bmp(np.frombuffer(gaps, "u1"), bits=8, compression=1, palette=palette)
    yield OddImage("gaps.bmp", what, colours=lacking), runs


def _of_few_bits(colour: tuple[int, int, int], bits: int) -> tuple[int, int, int]:
    """The colour as its highest bits have it."""
    red, green, blue = (round((value >> 8 - bits) * 255 / ((1 << bits) - 1)) for value in colour)
    return red, green, blue


def _rgb565(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = colour
    return round((red >> 3) * 255 / 31), round((green >> 2) * 255 / 63), round((blue >> 3) * 255 / 31)


def avifs() -> Files:
    if not features.check("avif"):
        return
    fine = {"quality": 95, "subsampling": "4:4:4"}
    yield OddImage("plain.avif", "lossy", colours=FOUR, tolerance=4), saved(PICTURE, "AVIF", **fine)
    yield OddImage("alpha.avif", "alpha", colours=SEEN_THROUGH, tolerance=4), saved(_RGBA, "AVIF", **fine)
    turned = saved(as_stored(PICTURE, 6), "AVIF", exif=exif(6), **fine)
    yield OddImage("turned/irot.avif", "turned by its container", colours=FOUR, tolerance=4), turned
    for brand in ("MA1B", "mif1"):
        data = saved(PICTURE, "AVIF", **fine)
        other = data[:8] + brand.encode() + data[12:]
        yield OddImage(f"major_{brand}.avif", f"major brand {brand}", colours=FOUR, tolerance=4), other
    moving = saved(PICTURE, "AVIF", save_all=True, append_images=[_BLACK_PICTURE], **fine)
    yield OddImage("animated.avif", "animated: the first frame counts", colours=FOUR, tolerance=4), moving


def names() -> Files:
    data = png(PICTURE)
    for name, what in {
        "is_a_png.jpg": "PNG with the suffix of a JPEG",
        "no_suffix": "PNG without a suffix",
        "image.txt": "PNG with the suffix of a text",
        "UPPER.PNG": "suffix in capitals",
        "two words äöü.png": "blanks and letters beyond ASCII",
        "-o.png": "name like an option",
        "con.png": "name of a device elsewhere",
        "a.png": "name that differs from another's in capitals alone",
        "A.png": "name that differs from another's in capitals alone",
        "e\u0301.png": "letter and accent apart (NFD)",
        "\xe9.png": "letter and accent in one (NFC)",
        "line\nbreak.png": "line break in its name",
        "\x1b[31mred.png": "control characters in its name",
        "caf\udce9.png": "name that is not UTF-8",
        "x" * 251 + ".png": "name of 255 bytes",
    }.items():
        yield OddImage(f"names/{name}", what, colours=FOUR), data
