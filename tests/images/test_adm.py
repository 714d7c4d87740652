"""ADM's centre crop, bit by bit as its definition and Pillow's filters make it, whichever Pillow is installed."""

import io
from collections.abc import Callable
from math import ceil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from semdis_cli.errors import UnreadableImageError, UsageError
from semdis_cli.images.formats.exif import turn_upright
from semdis_cli.images.geometry import plan_geometry
from semdis_cli.images.pixels import load_pixels
from semdis_cli.option import OptionError
from semdis_cli.settings import GeometrySettings, LoadSettings, ReadSettings

quick = settings(max_examples=60, deadline=None)
SIDE = st.integers(1, 60) | st.integers(1, 500)
SIZES = st.tuples(SIDE, SIDE)
SQUARES = st.sampled_from([16, 32, 48])
PHOTOS = sorted((Path(__file__).parents[1] / "photos").rglob("*.jpg"))
FRACTION_BITS = 22  # of the whole numbers that Pillow's filters for 8 bits are made of


def box(x: float) -> float:
    return 1.0 if -0.5 < x <= 0.5 else 0.0


def bicubic(x: float, a: float = -0.5) -> float:
    x = abs(x)
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


def taps(num_in: int, num_out: int, kernel: Callable[[float], float], support: float) -> list[tuple[int, list[int]]]:
    """For each output sample the first input sample that counts, and the weights from there on."""
    step = num_in / num_out
    stretch = max(step, 1.0)
    found = []
    for place in range(num_out):
        centre = (place + 0.5) * step
        first = max(int(centre - support * stretch + 0.5), 0)
        end = min(int(centre + support * stretch + 0.5), num_in)
        weights = [kernel((one - centre + 0.5) * (1.0 / stretch)) for one in range(first, end)]
        total = sum(weights)
        whole = [weight / total * (1 << FRACTION_BITS) for weight in weights]
        found.append((first, [int(weight - 0.5) if weight < 0 else int(weight + 0.5) for weight in whole]))
    assert max(len(weights) for _, weights in found) <= ceil(support * stretch) * 2 + 1
    return found


def resized_rows(pixels: np.ndarray, num_out: int, kernel: Callable[[float], float], support: float) -> np.ndarray:
    """[N,...] uint8 along its first axis."""
    if len(pixels) == num_out:
        return pixels
    out = np.empty((num_out, *pixels.shape[1:]), np.uint8)
    for place, (first, weights) in enumerate(taps(len(pixels), num_out, kernel, support)):
        total = sum(weight * pixels[first + one].astype(np.int64) for one, weight in enumerate(weights))
        out[place] = np.clip((total + (1 << (FRACTION_BITS - 1))) >> FRACTION_BITS, 0, 255)
    return out


def resized(pixels: np.ndarray, size: tuple[int, int], kernel: Callable[[float], float], support: float) -> np.ndarray:
    """[H,W,3] along rows first, rounded to 8 bits, then along columns."""
    wide = resized_rows(pixels.swapaxes(0, 1), size[1], kernel, support).swapaxes(0, 1)
    return resized_rows(wide, size[0], kernel, support)


def whole_adm(pixels: np.ndarray, side: int) -> np.ndarray:
    """The picture that ADM cuts from."""
    while min(pixels.shape[:2]) >= 2 * side:
        pixels = resized(pixels, (pixels.shape[0] // 2, pixels.shape[1] // 2), box, 0.5)
    scale = side / min(pixels.shape[:2])
    return resized(pixels, (round(pixels.shape[0] * scale), round(pixels.shape[1] * scale)), bicubic, 2.0)


def adm(pixels: np.ndarray, side: int) -> np.ndarray:
    whole = whole_adm(pixels, side)
    top, left = (whole.shape[0] - side) // 2, (whole.shape[1] - side) // 2
    return whole[top : top + side, left : left + side]


def noise(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(size).integers(0, 256, (*size, 3), dtype=np.uint8)


def png(pixels: np.ndarray, orientation: int = 1) -> bytes:
    """A file whose picture is `pixels` once it is turned upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    turn_upright(Image.fromarray(pixels), {6: 8, 8: 6}.get(orientation, orientation)).save(file, "PNG", exif=exif)
    return file.getvalue()


def encoded(data: bytes, side: int) -> np.ndarray:
    loaded = load_pixels(data, ReadSettings(), GeometrySettings(size=side, resize="adm"), 16)
    return loaded.pixels.permute(1, 2, 0).numpy()


@quick
@given(SIZES, SQUARES)
def test_every_size_is_cut_bit_by_bit_as_defined(size: tuple[int, int], side: int) -> None:
    pixels = noise(size)
    assert np.array_equal(encoded(png(pixels), side), adm(pixels, side))


@pytest.mark.slow
@quick
@given(SIZES, st.integers(1, 8))
def test_a_picture_on_its_side_is_turned_upright_first(size: tuple[int, int], orientation: int) -> None:
    pixels = noise(size)
    assert np.array_equal(encoded(png(pixels, orientation), 16), adm(pixels, 16))


@pytest.mark.parametrize("side", [64, 256])
@pytest.mark.parametrize("path", PHOTOS, ids=lambda path: path.name)
def test_photographs_are_cut_bit_by_bit_as_defined(path: Path, side: int) -> None:
    with Image.open(path) as image:
        pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(encoded(path.read_bytes(), side), adm(pixels, side))


@quick
@given(SIZES, SQUARES)
def test_the_record_says_where_the_pixels_lie_in_the_resized_picture(size: tuple[int, int], side: int) -> None:
    pixels = noise(size)
    whole, geometry = whole_adm(pixels, side), plan_geometry(size, GeometrySettings(size=side, resize="adm"), 16)
    assert (geometry.source, geometry.resized) == (size, whole.shape[:2])
    (top, left), (height, width) = geometry.crop, geometry.image
    assert np.array_equal(encoded(png(pixels), side), whole[top : top + height, left : left + width])


def test_half_a_pixel_is_rounded_to_the_even_side() -> None:
    sizes = [plan_geometry((64, width), GeometrySettings(size=48, resize="adm"), 16).resized for width in (66, 70, 74)]
    assert sizes == [(48, 50), (48, 52), (48, 56)]  # 49.5, 52.5, 55.5


def test_a_thread_of_pixels_that_would_fill_the_memory_is_refused() -> None:
    with pytest.raises(UnreadableImageError, match="too long for --resize adm"):
        plan_geometry((100_000, 1), GeometrySettings(size=256, resize="adm"), 16)
    assert plan_geometry((1, 100_000), GeometrySettings(size=256), 16).image == (256, 256)


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(OptionError, match="--resize adm goes with --size alone"):
        GeometrySettings(bucket_size=256, resize="adm")
    with pytest.raises(OptionError, match="--jpeg-scaling does not go with --resize adm"):
        LoadSettings(GeometrySettings(size=256, resize="adm"), ReadSettings(jpeg_scaling=True))
    with pytest.raises(UsageError, match="multiple of the model's patch"):
        plan_geometry((64, 64), GeometrySettings(size=40, resize="adm"), 16)
