"""A folder of odd image files, with what a reader must make of each: derived from the formats, not from our reader."""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, features

from tests.image_bytes import (
    exif,
    gif,
    icc_profile,
    png,
    png_chunk,
    tiff,
    with_jpeg_segment,
    without_jpeg_segment,
)

RGB = tuple[int, int, int]

HEIGHT, WIDTH = 64, 96
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
# Top left, top right, bottom left, bottom right: turned, mirrored, swapped or mistaken for another depth, it shows.
COLOURS: tuple[RGB, RGB, RGB, RGB] = ((200, 40, 40), (40, 160, 40), (40, 40, 200), (128, 128, 128))
GREYS = (30, 90, 160, 220)
CENTRES = ((16, 24), (16, 72), (48, 24), (48, 72))
CORNERS = ((1, 1), (1, WIDTH - 2), (HEIGHT - 2, 1), (HEIGHT - 2, WIDTH - 2))


@dataclass(frozen=True)
class OddImage:
    """One file of the folder.

    `size`: upright (H, W), or None if the file cannot be read; then `reason` is part of why. `colours`: sRGB values at
    (row, column) of the upright picture on white, each within `tolerance`. `has_note`: reading it leaves a note.
    `is_found`: a folder scan lists it.
    """

    key: str
    size: tuple[int, int] | None = (HEIGHT, WIDTH)
    colours: tuple[tuple[tuple[int, int], RGB], ...] = ()
    tolerance: int = 0
    has_note: bool = False
    reason: str = ""
    is_found: bool = True

    @property
    def is_readable(self) -> bool:
        return self.size is not None


def build_odd_images(folder: Path) -> list[OddImage]:
    """Write the files below `folder`, and say what they are, in key order."""
    built = [OddImage("folder.jpg", size=None, reason="is a folder", is_found=False)]
    (folder / "folder.jpg").mkdir(parents=True)
    for odd, data in odd_files():
        path = folder / odd.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        built.append(odd)
    return sorted(built, key=lambda odd: odd.key)


def quadrants(*values: object) -> np.ndarray:
    """[H,W,C] array whose four quadrants have the four values, in reading order."""
    corner = np.array(values).reshape(2, 2, -1)
    return corner.repeat(HEIGHT // 2, axis=0).repeat(WIDTH // 2, axis=1)


def as_stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels to store so that `orientation` turns them into `upright`, by the table of the EXIF standard.

    It says at which side of the picture the stored row 0 and column 0 are seen.
    """
    row_0, column_0 = {
        1: ("top", "left"),
        2: ("top", "right"),
        3: ("bottom", "right"),
        4: ("bottom", "left"),
        5: ("left", "top"),
        6: ("right", "top"),
        7: ("right", "bottom"),
        8: ("left", "bottom"),
    }[orientation]
    height, width = upright.shape[:2]
    places = {"top": range(height), "bottom": range(height - 1, -1, -1)}
    places |= {"left": range(width), "right": range(width - 1, -1, -1)}
    if orientation <= 4:
        return upright[np.ix_(places[row_0], places[column_0])]
    return upright[np.ix_(places[column_0], places[row_0])].swapaxes(0, 1)


def lab_to_srgb(lightness: float, a: float, b: float) -> RGB:
    """sRGB of a colour inside its gamut, from CIE L*a*b* under D50 (CIE 15, IEC 61966-2-1, Bradford adaptation)."""
    middle = (lightness + 16) / 116
    f = np.array([middle + a / 500, middle, middle - b / 200])
    xyz = np.array([0.9642, 1.0, 0.8249]) * np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
    from_d50 = np.array([[3.13386, -1.61687, -0.49061], [-0.97877, 1.91614, 0.03345], [0.07195, -0.22899, 1.40524]])
    light = from_d50 @ xyz
    assert light.min() >= 0, "outside of sRGB"
    assert light.max() <= 1, "outside of sRGB"
    values = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    red, green, blue = (round(float(255 * value)) for value in values)
    return red, green, blue


def _spots(*colours: RGB | int) -> tuple[tuple[tuple[int, int], RGB], ...]:
    rgb = [(colour, colour, colour) if isinstance(colour, int) else colour for colour in colours]
    return (*zip(CENTRES, rgb, strict=True), *zip(CORNERS, rgb, strict=True))


FOUR = _spots(*COLOURS)
FOUR_GREYS = _spots(*GREYS)
_PICTURE = quadrants(*COLOURS).astype(np.uint8)
_GREY = quadrants(*GREYS).astype(np.uint8)
_ON_WHITE = round(128 * 128 / 255 + 255 * 127 / 255)  # grey 128 under alpha 128


def _saved(pixels: np.ndarray | Image.Image, name: str, **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels.squeeze())
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def _jpeg(pixels: np.ndarray | Image.Image = _PICTURE, **options: object) -> bytes:
    return _saved(pixels, "JPEG", **{"quality": 95, "subsampling": 0, **options})


def odd_files() -> Iterator[tuple[OddImage, bytes]]:
    """Every file and its bytes, in no particular order."""
    yield from _jpegs()
    yield from _turned()
    yield from _pngs()
    yield from _transparent_pngs()
    yield from _webps()
    yield from _gifs()
    yield from _tiffs()
    yield from _others()
    yield from _profiles()
    yield from _names()
    yield from _unreadable()


def _jpegs() -> Iterator[tuple[OddImage, bytes]]:
    yield OddImage("plain.jpg", colours=FOUR, tolerance=3), _jpeg()
    yield OddImage("grey.jpg", colours=FOUR_GREYS, tolerance=2), _jpeg(_GREY)
    yield OddImage("progressive.jpg", colours=FOUR, tolerance=3), _jpeg(progressive=True)
    # Ink, not light: R = (255-C)(255-K)/255. Pillow writes it inverted under an Adobe marker, as Photoshop does.
    inks = quadrants((0, 204, 204, 55), (215, 95, 215, 0), (215, 215, 55, 0), (0, 0, 0, 127)).astype(np.uint8)
    cmyk = _jpeg(Image.frombytes("CMYK", (WIDTH, HEIGHT), inks.tobytes()), quality=100)
    yield OddImage("cmyk.jpg", colours=FOUR, tolerance=4), cmyk
    yield OddImage("cmyk_without_marker.jpg", colours=FOUR, tolerance=4), without_jpeg_segment(cmyk, 0xEE)
    second = Image.new("RGB", (WIDTH, HEIGHT))
    mpo = _saved(_PICTURE, "MPO", save_all=True, append_images=[second], quality=95, subsampling=0)
    yield OddImage("stereo.mpo", colours=FOUR, tolerance=3), mpo


def _turned() -> Iterator[tuple[OddImage, bytes]]:
    for orientation in range(1, 9):
        order = "<>"[orientation % 2]
        block = b"Exif\0\0" + exif(orientation, order=order)
        jpeg = with_jpeg_segment(_jpeg(as_stored(_PICTURE, orientation)), 0xE1, block)
        yield OddImage(f"turned/{orientation}.jpg", colours=FOUR, tolerance=3), jpeg
    turned = as_stored(_PICTURE, 6)
    chunk = png_chunk(b"eXIf", exif(6))
    yield OddImage("turned/exif_before.png", colours=FOUR), png(turned, before=[chunk])
    yield OddImage("turned/exif_after.png", colours=FOUR), png(turned, after=[chunk])
    webp = _saved(as_stored(_PICTURE, 8), "WEBP", lossless=True, exif=exif(8, order=">"))
    yield OddImage("turned/lossless.webp", colours=FOUR), webp
    rows = as_stored(_PICTURE, 5)
    tags = {258: (8, 8, 8), 262: (2,), 274: (5,)}
    yield OddImage("turned/tagged.tif", colours=FOUR), tiff(rows.shape[:2], rows.tobytes(), tags)
    broken = with_jpeg_segment(_jpeg(), 0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff")
    yield OddImage("turned/broken_exif.jpg", colours=FOUR, tolerance=3, has_note=True), broken
    unknown = with_jpeg_segment(_jpeg(), 0xE1, b"Exif\0\0" + exif(9))
    yield OddImage("turned/no_such_orientation.jpg", colours=FOUR, tolerance=3, has_note=True), unknown


def _pngs() -> Iterator[tuple[OddImage, bytes]]:
    yield OddImage("plain.png", colours=FOUR), png(_PICTURE)
    yield OddImage("interlaced.png", colours=FOUR), png(_PICTURE, is_interlaced=True)
    # 257·v is exactly v in 8 bits; 200 more is nearer to the next level, 100 more is not.
    deep = quadrants(30 * 257 + 200, 90 * 257 + 100, 160 * 257, 65535)
    yield OddImage("grey16.png", colours=_spots(31, 90, 160, 255)), png(deep, bit_depth=16, colour_type=0)
    yield OddImage("rgb16.png", colours=FOUR), png(_PICTURE.astype(int) * 257, bit_depth=16)
    rgba16 = np.concatenate([_PICTURE.astype(int) * 257, np.full((HEIGHT, WIDTH, 1), 65535)], axis=2)
    yield OddImage("rgba16.png", colours=FOUR), png(rgba16, bit_depth=16, colour_type=6)
    yield (
        OddImage("one_bit.png", colours=_spots(0, 255, 255, 0)),
        png(quadrants(0, 1, 1, 0), bit_depth=1, colour_type=0),
    )
    palette = png_chunk(b"PLTE", b"".join(map(bytes, COLOURS)))
    indices = quadrants(0, 1, 2, 3)
    yield OddImage("palette.png", colours=FOUR), png(indices, colour_type=3, before=[palette])
    yield OddImage("palette2.png", colours=FOUR), png(indices, bit_depth=2, colour_type=3, before=[palette])
    # Comments beyond what Pillow accepts, and one under the name of a field that Pillow reads.
    comments = [
        png_chunk(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(3 * 2**20))),
        png_chunk(b"tEXt", b"transparency\0none"),
        png_chunk(b"acTL", struct.pack(">II", 0, 0)),
    ]
    yield OddImage("comments.png", colours=FOUR), png(_PICTURE, before=comments)


def _transparent_pngs() -> Iterator[tuple[OddImage, bytes]]:
    red, _, blue, _ = COLOURS
    expected = _spots(red, WHITE, blue, _ON_WHITE)
    alpha = quadrants(255, 0, 255, 128)
    rgba = np.concatenate([_PICTURE, alpha], axis=2)
    yield OddImage("rgba.png", colours=expected), png(rgba, colour_type=6)
    grey_alpha = np.concatenate([quadrants(30, 90, 160, 128), alpha], axis=2)
    yield OddImage("grey_alpha.png", colours=_spots(30, WHITE, 160, _ON_WHITE)), png(grey_alpha, colour_type=4)
    palette = png_chunk(b"PLTE", b"".join(map(bytes, COLOURS)))
    indices = quadrants(0, 1, 2, 3)
    alphas = png_chunk(b"tRNS", bytes([255, 0, 255, 128]))
    yield OddImage("palette_alpha.png", colours=expected), png(indices, colour_type=3, before=[palette, alphas])
    without_green = _spots(red, WHITE, *COLOURS[2:])
    key = png_chunk(b"tRNS", struct.pack(">3H", *COLOURS[1]))
    yield OddImage("key_rgb.png", colours=without_green), png(_PICTURE, before=[key])
    key = png_chunk(b"tRNS", struct.pack(">3H", *(257 * value for value in COLOURS[1])))
    yield OddImage("key_rgb16.png", colours=without_green), png(_PICTURE.astype(int) * 257, bit_depth=16, before=[key])
    key = png_chunk(b"tRNS", struct.pack(">H", 90))
    grey = _spots(GREYS[0], WHITE, *GREYS[2:])
    yield OddImage("key_grey.png", colours=grey), png(_GREY, colour_type=0, before=[key])
    key = png_chunk(b"tRNS", struct.pack(">H", 90 * 257 + 1))
    deep = quadrants(30 * 257, 90 * 257 + 1, 90 * 257, 65535)
    deep_png = png(deep, bit_depth=16, colour_type=0, before=[key])
    yield OddImage("key_grey16.png", colours=_spots(30, WHITE, 90, 255)), deep_png
    key = png_chunk(b"tRNS", struct.pack(">H", 1))
    two_bits = png(quadrants(0, 1, 2, 3), bit_depth=2, colour_type=0, before=[key])
    yield OddImage("key_grey2.png", colours=_spots(BLACK, WHITE, 170, 255)), two_bits
    one_bit = png(quadrants(0, 0, 1, 0), bit_depth=1, colour_type=0, before=[png_chunk(b"tRNS", b"\0\0")])
    yield OddImage("key_one_bit.png", colours=_spots(WHITE, WHITE, 255, WHITE)), one_bit


def _webps() -> Iterator[tuple[OddImage, bytes]]:
    yield OddImage("plain.webp", colours=FOUR, tolerance=6), _saved(_PICTURE, "WEBP", quality=95)
    alpha = quadrants(255, 0, 255, 128).astype(np.uint8)
    expected = _spots(COLOURS[0], WHITE, COLOURS[2], _ON_WHITE)
    rgba = np.concatenate([_PICTURE, alpha], axis=2)
    yield OddImage("alpha.webp", colours=expected), _saved(rgba, "WEBP", lossless=True, exact=True)
    black = Image.new("RGB", (WIDTH, HEIGHT))
    moving = _saved(_PICTURE, "WEBP", lossless=True, save_all=True, append_images=[black], duration=100)
    yield OddImage("animated.webp", colours=FOUR), moving


def _gifs() -> Iterator[tuple[OddImage, bytes]]:
    indices = quadrants(0, 1, 2, 3)[:, :, 0]
    screen = (HEIGHT, WIDTH)
    animated = gif(screen, COLOURS, [(0, 0, indices), (0, 0, indices * 0)])
    yield OddImage("animated.gif", colours=FOUR), animated
    see_through = _spots(*COLOURS[:2], WHITE, COLOURS[3])
    yield OddImage("transparent.gif", colours=see_through), gif(screen, COLOURS, [(0, 0, indices)], transparent=2)
    right_half = [(0, WIDTH // 2, indices[:, WIDTH // 2 :]), (0, 0, indices)]
    half = _spots(WHITE, COLOURS[1], WHITE, COLOURS[3])
    yield OddImage("small_first_frame.gif", colours=half), gif(screen, COLOURS, right_half)
    corner = _spots(WHITE, COLOURS[1], WHITE, WHITE)
    yield OddImage("small_transparent_frame.gif", colours=corner), gif(screen, COLOURS, right_half, transparent=3)


def _tiffs() -> Iterator[tuple[OddImage, bytes]]:
    size = (HEIGHT, WIDTH)
    page = Image.new("RGB", (WIDTH // 2, HEIGHT // 2))
    yield OddImage("plain.tif", colours=FOUR), _saved(_PICTURE, "TIFF")
    yield OddImage("lzw.tiff", colours=FOUR), _saved(_PICTURE, "TIFF", compression="tiff_lzw")
    yield OddImage("pages.tif", colours=FOUR), _saved(_PICTURE, "TIFF", save_all=True, append_images=[page])
    inks = quadrants((0, 204, 204, 55), (215, 95, 215, 0), (215, 215, 55, 0), (0, 0, 0, 127)).astype(np.uint8)
    yield OddImage("cmyk.tif", colours=FOUR, tolerance=1), tiff(size, inks.tobytes(), {258: (8,) * 4, 262: (5,)})
    deep = quadrants(30 * 257 + 200, 90 * 257 + 100, 160 * 257, 65535).astype("<u2")
    yield OddImage("grey16.tif", colours=_spots(31, 90, 160, 255)), tiff(size, deep.tobytes(), {258: (16,), 262: (1,)})
    white_is_0 = (65535 - deep).astype("<u2").tobytes()
    yield (
        OddImage("white_is_zero16.tif", colours=_spots(31, 90, 160, 255)),
        tiff(size, white_is_0, {258: (16,), 262: (0,)}),
    )
    # 12 bits, two samples in three bytes: 4095 is white, 2048 is 127.53.
    pairs = quadrants(0, 2048, 4095, 1000).reshape(-1, 2)
    a, b = pairs[:, 0], pairs[:, 1]
    packed = np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], axis=1).astype("u1").tobytes()
    yield OddImage("grey12.tif", colours=_spots(0, 128, 255, 62)), tiff(size, packed, {258: (12,), 262: (1,)})
    # L* as 0..255, a* and b* as signed bytes.
    labs = ((120, 50, 30), (150, -40, 35), (90, 20, -60), (137, 0, 0))
    stored = quadrants(*labs).astype("i2").astype("u1").tobytes()
    expected = _spots(*(lab_to_srgb(lightness / 2.55, a, b) for lightness, a, b in labs))
    yield OddImage("lab.tif", colours=expected, tolerance=2), tiff(size, stored, {258: (8, 8, 8), 262: (8,)})
    # Alpha 128 with its colour stored multiplied, (100, 50, 0) for (199, 100, 0); on white 127 are added.
    rgba = quadrants((*COLOURS[0], 255), (100, 50, 0, 128), (0, 0, 0, 0), (*COLOURS[3], 255)).astype("u1").tobytes()
    expected = _spots(COLOURS[0], (227, 177, 127), WHITE, COLOURS[3])
    premultiplied = tiff(size, rgba, {258: (8,) * 4, 262: (2,), 338: (1,)})
    yield OddImage("premultiplied.tif", colours=expected, tolerance=1), premultiplied


def _others() -> Iterator[tuple[OddImage, bytes]]:
    yield OddImage("plain.bmp", colours=FOUR), _saved(_PICTURE, "BMP")
    four_colours = Image.fromarray(_PICTURE).quantize(4, dither=Image.Dither.NONE)
    yield OddImage("palette.bmp", colours=FOUR), _saved(four_colours, "BMP")
    if features.check("avif"):
        yield (
            OddImage("plain.avif", colours=FOUR, tolerance=4),
            _saved(_PICTURE, "AVIF", quality=95, subsampling="4:4:4"),
        )


def _profiles() -> Iterator[tuple[OddImage, bytes]]:
    # The three channels drive green, blue and red light, so (g, b, r) in the file is (r, g, b) to the eye.
    profile = icc_profile("GBR")
    stored = _PICTURE[:, :, [1, 2, 0]]
    swapped = png(stored, before=[png_chunk(b"iCCP", b"test\0\0" + zlib.compress(profile))])
    yield OddImage("profile/swapped.png", colours=FOUR, tolerance=1), swapped
    yield OddImage("profile/swapped.jpg", colours=FOUR, tolerance=5), _jpeg(stored, icc_profile=profile)
    webp = _saved(stored, "WEBP", lossless=True, icc_profile=profile)
    yield OddImage("profile/swapped.webp", colours=FOUR, tolerance=1), webp
    yield OddImage("profile/swapped.tif", colours=FOUR, tolerance=1), _saved(stored, "TIFF", icc_profile=profile)
    rgba = np.concatenate([stored, quadrants(255, 0, 255, 128).astype("u1")], axis=2)
    see_through = png(rgba, colour_type=6, before=[png_chunk(b"iCCP", b"test\0\0" + zlib.compress(profile))])
    expected = _spots(COLOURS[0], WHITE, COLOURS[2], _ON_WHITE)
    yield OddImage("profile/swapped_alpha.png", colours=expected, tolerance=1), see_through
    plain = _jpeg(icc_profile=icc_profile("RGB"))
    yield OddImage("profile/same_as_srgb.jpg", colours=FOUR, tolerance=4), plain
    grey = _jpeg(_GREY, icc_profile=profile)
    yield OddImage("profile/for_another_mode.jpg", colours=FOUR_GREYS, tolerance=2, has_note=True), grey
    broken = _jpeg(icc_profile=b"no profile at all")
    yield OddImage("profile/broken.jpg", colours=FOUR, tolerance=3, has_note=True), broken
    unpackable = png(_PICTURE, before=[png_chunk(b"iCCP", b"test\0\0not deflate")])
    yield OddImage("profile/broken.png", colours=FOUR, has_note=True), unpackable


def _names() -> Iterator[tuple[OddImage, bytes]]:
    yield OddImage("names/is_a_png.jpg", colours=FOUR), png(_PICTURE)
    yield OddImage("names/no_suffix", colours=FOUR), png(_PICTURE)
    yield OddImage("names/image.txt", colours=FOUR), png(_PICTURE)
    yield OddImage("names/UPPER.PNG", colours=FOUR), png(_PICTURE)
    yield OddImage("names/two words äöü.png", colours=FOUR), png(_PICTURE)


def _unreadable() -> Iterator[tuple[OddImage, bytes]]:
    jpeg, whole = _jpeg(), png(_PICTURE)
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    yield OddImage("bad/empty.jpg", None, reason="empty file"), b""
    yield OddImage("bad/text.jpg", None, reason="not an image"), b"This is a caption, not an image.\n" * 9
    yield OddImage("bad/truncated.jpg", None, reason="truncated"), jpeg[: len(jpeg) * 2 // 3]
    yield OddImage("bad/truncated.webp", None, reason="truncated"), _saved(noise, "WEBP")[:2000]
    yield OddImage("bad/truncated.png", None, reason="truncated"), png(noise)[:9000]
    yield OddImage("bad/header_only.png", None, reason="truncated"), whole[:33]
    yield OddImage("bad/header_only.jpg", None, reason="truncated"), jpeg[:4]
    bomb = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    lying = whole[:8] + png_chunk(b"IHDR", bomb) + whole[33:]
    yield OddImage("bad/bomb.png", None, reason="--max-image-pixels"), lying
    flipped = bytearray(png(noise))
    flipped[5000] ^= 1
    yield OddImage("bad/flipped_bit.png", None, reason="checksum"), bytes(flipped)
    floats = tiff((HEIGHT, WIDTH), quadrants(0.0, 0.5, 1.0, 9.0).astype("<f4").tobytes(), _one_sample(32, 3))
    yield OddImage("bad/float.tif", None, reason="without a defined range"), floats
    integers = tiff((HEIGHT, WIDTH), quadrants(0, 1, 2, 3).astype("<i4").tobytes(), _one_sample(32, 2))
    yield OddImage("bad/int32.tif", None, reason="without a defined range"), integers


def _one_sample(bits: int, sample_format: int) -> dict[int, tuple[int, ...]]:
    return {258: (bits,), 262: (1,), 339: (sample_format,)}
