"""The picture that odd files hold, and the record of what such a file is and what must become of it."""

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

RGB = tuple[int, int, int]
Spots = tuple[tuple[tuple[int, int], RGB], ...]

HEIGHT, WIDTH = 64, 96
SIZE = (HEIGHT, WIDTH)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
# Top left, top right, bottom left, bottom right: turned, mirrored, swapped or mistaken for another depth, it shows.
COLOURS: tuple[RGB, RGB, RGB, RGB] = ((200, 40, 40), (40, 160, 40), (40, 40, 200), (128, 128, 128))
GREYS = (30, 90, 160, 220)
CENTRES = ((16, 24), (16, 72), (48, 24), (48, 72))
CORNERS = ((1, 1), (1, WIDTH - 2), (HEIGHT - 2, 1), (HEIGHT - 2, WIDTH - 2))


@dataclass(frozen=True)
class OddImage:
    """One file: its key, and in a few words `what` it is.

    `size`: upright (H, W), or None if the file cannot be read; then `reason` is part of why. `colours`: sRGB values at
    (row, column) of the upright picture on white, each within `tolerance`. `has_note`: reading it leaves a note.
    `scan`: what a scan of its folder finds there: an image, a failure, or nothing.
    """

    key: str
    what: str
    size: tuple[int, int] | None = SIZE
    colours: Spots = ()
    tolerance: int = 0
    has_note: bool = False
    reason: str = ""
    scan: Literal["image", "failure", "nothing"] = "image"

    @property
    def is_readable(self) -> bool:
        return self.size is not None

    @property
    def is_found(self) -> bool:
        """Whether a folder scan lists it as an image."""
        return self.scan == "image"

    @property
    def is_input(self) -> bool:
        """Whether an encoded set's index has a row for it."""
        return self.scan != "nothing"


def unreadable(key: str, what: str, reason: str) -> OddImage:
    return OddImage(key, what, size=None, reason=reason)


def quadrants(*values: object) -> np.ndarray:
    """[H,W,C] array whose four quadrants have the four values, in reading order."""
    corner = np.array(values).reshape(2, 2, -1)
    return corner.repeat(HEIGHT // 2, axis=0).repeat(WIDTH // 2, axis=1)


def spots(*colours: RGB | int) -> Spots:
    """Where the four quadrants' colours are to be seen: in their middles and at the picture's corners."""
    rgb = [(colour, colour, colour) if isinstance(colour, int) else colour for colour in colours]
    return (*zip(CENTRES, rgb, strict=True), *zip(CORNERS, rgb, strict=True))


FOUR = spots(*COLOURS)
FOUR_GREYS = spots(*GREYS)
PICTURE = quadrants(*COLOURS).astype(np.uint8)
GREY = quadrants(*GREYS).astype(np.uint8)
INDICES = quadrants(0, 1, 2, 3)
ALPHA = quadrants(255, 0, 255, 128).astype(np.uint8)
ON_WHITE = round(128 * 128 / 255 + 255 * 127 / 255)  # grey 128 under alpha 128
SEEN_THROUGH = spots(COLOURS[0], WHITE, COLOURS[2], ON_WHITE)  # the picture under that alpha
# Ink, not light: R = (255-C)(255-K)/255.
INKS = quadrants((0, 204, 204, 55), (215, 95, 215, 0), (215, 215, 55, 0), (0, 0, 0, 127)).astype(np.uint8)


def saved(pixels: np.ndarray | Image.Image, name: str, **options: object) -> bytes:
    if not isinstance(pixels, Image.Image):
        pixels = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    file = io.BytesIO()
    pixels.save(file, name, **options)
    return file.getvalue()


def jpeg(pixels: np.ndarray | Image.Image = PICTURE, **options: object) -> bytes:
    return saved(pixels, "JPEG", **{"quality": 95, "subsampling": 0, **options})


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


def to_ycc(rgb: np.ndarray) -> np.ndarray:
    """[H,W,3] values of JFIF's YCbCr (ITU-T T.871), rounded."""
    luma = rgb @ np.array([0.299, 0.587, 0.114])
    blue, red = 128 + (rgb[:, :, 2] - luma) / 1.772, 128 + (rgb[:, :, 0] - luma) / 1.402
    return np.stack([luma, blue, red], axis=2).round().astype(int)
