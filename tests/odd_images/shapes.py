"""Files of other sizes than the picture's: as thin as can be, and such as claim less than they hold."""

import struct

import numpy as np

from tests.image_bytes import bmp, gif, png, tiff, with_jpeg_size, with_png_header
from tests.odd_images.formats import Files
from tests.odd_images.picture import COLOURS, HEIGHT, INDICES, PICTURE, RGB, WIDTH, OddImage, Spots, jpeg, saved

RED, BLUE = COLOURS[0], COLOURS[2]


def thin() -> Files:
    for height, width in ((1, 1), (1, 20_000), (20_000, 1), (3, 5), (17, 33)):
        size, pixels = (height, width), _two_halves(height, width)
        ends: Spots = (((0, 0), RED), ((height - 1, width - 1), BLUE if max(size) > 100 else RED))
        what = f"{height:,} x {width:,} px"
        yield OddImage(f"shape/{height}x{width}.png", what, size, ends), png(pixels)
        if max(size) < 100:  # the long ones take the model longer than all other files together
            yield OddImage(f"shape/{height}x{width}.jpg", what, size, ends, tolerance=3), jpeg(pixels)
    one = np.array([[[200, 40, 40, 0]]], np.uint8)
    nothing = saved(one, "PNG")
    yield OddImage("shape/nothing.png", "one transparent pixel", (1, 1), (((0, 0), (255, 255, 255)),)), nothing


def _two_halves(height: int, width: int) -> np.ndarray:
    """[H,W,3]: red; if it is long, its second half is blue."""
    pixels = np.full((height, width, 3), RED, np.uint8)
    if max(height, width) > 100:
        pixels[height // 2 :, width // 2 :] = BLUE
    return pixels


def shorter() -> Files:
    """Headers that claim half of the rows that there are: what they claim is there, and is taken."""
    half = HEIGHT // 2
    size, what = (half, WIDTH), "claims half its rows"
    upper = _two(COLOURS[0], COLOURS[1])
    small = {258: (8, 8, 8), 262: (2,)}
    yield OddImage("lies/shorter.jpg", what, size, upper, tolerance=3), with_jpeg_size(jpeg(), half, WIDTH)
    yield OddImage("lies/shorter.png", what, size, upper), with_png_header(png(PICTURE), half, WIDTH)
    yield OddImage("lies/shorter.tif", what, size, upper), tiff(size, PICTURE.tobytes(), small)
    frame = bytearray(gif(size, COLOURS, [(0, 0, INDICES[:, :, 0])]))
    struct.pack_into("<H", frame, frame.index(b",", 13 + 384) + 7, half)
    yield OddImage("lies/shorter.gif", what, size, upper), bytes(frame)
    rows = PICTURE[::-1, :, ::-1].tobytes()  # the lowest first: the lower half is what comes first
    yield OddImage("lies/shorter.bmp", what, size, _two(COLOURS[2], COLOURS[3])), bmp(size, rows, bits=24)


def _two(left: RGB, right: RGB) -> Spots:
    return ((16, 24), left), ((16, 72), right)
