"""Bytes to what the model sees: the pixels and the errors of `read_image`, whatever decodes and resizes."""

import io
from concurrent.futures import ThreadPoolExecutor
from math import log10
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from semdis_cli.errors import UnreadableImageError
from semdis_cli.images.geometry import plan_geometry, undo_padding
from semdis_cli.images.images import read_image
from semdis_cli.images.pixels import LoadedPixels, _fraction, load_pixels
from semdis_cli.settings import GeometrySettings, ReadSettings
from tests.image_bytes import exif
from tests.images.jpeg_decoders import decoder_alone
from tests.odd_images import OddImage, odd_files, odd_shapes
from tests.odd_images.picture import PICTURE, jpeg

PHOTOS = sorted((Path(__file__).parents[1] / "photos").rglob("*.jpg"))
ODD_FILES = [*odd_files(), *odd_shapes()]
NATIVE = GeometrySettings()
EXACT, SCALED = ReadSettings(), ReadSettings(jpeg_scaling=True)


def of(odd: OddImage, _: bytes) -> str:
    return odd.key


def read_or_reason(data: bytes) -> tuple[np.ndarray, tuple[str, ...]] | str:
    """[H,W,3] and notes, by `read_image`."""
    try:
        read = read_image(data, ReadSettings(max_image_pixels=10**6))
    except UnreadableImageError as error:
        return str(error)
    return np.asarray(read.pixels), read.notes


def load_or_reason(data: bytes) -> tuple[np.ndarray, tuple[str, ...]] | str:
    """The same by `load_pixels`."""
    try:
        loaded = load_pixels(data, ReadSettings(max_image_pixels=10**6), NATIVE, 1)
    except UnreadableImageError as error:
        return str(error)
    return loaded.pixels.permute(1, 2, 0).numpy(), loaded.notes


def assert_same(
    loaded: tuple[np.ndarray, tuple[str, ...]] | str, read: tuple[np.ndarray, tuple[str, ...]] | str
) -> None:
    if isinstance(loaded, str) or isinstance(read, str):
        assert loaded == read
    else:
        assert np.array_equal(loaded[0], read[0])
        assert loaded[1] == read[1]


def photo_jpeg(path: Path, size: tuple[int, int], mode: str = "RGB", **options: object) -> bytes:
    """A photograph, enlarged or not to (height, width), as a JPEG."""
    file = io.BytesIO()
    with Image.open(path) as image:
        image.convert(mode).resize(size[::-1], Image.Resampling.BICUBIC).save(file, "JPEG", quality=90, **options)
    return file.getvalue()


def psnr_db(one: torch.Tensor, other: torch.Tensor) -> float:
    error = ((one.double() - other.double()) ** 2).mean().item()
    return 10 * log10(255**2 / error) if error else float("inf")


@pytest.mark.parametrize(("odd", "data"), ODD_FILES, ids=[of(*case) for case in ODD_FILES])
def test_an_odd_file_gives_what_read_image_gives(odd: OddImage, data: bytes) -> None:
    del odd
    assert_same(load_or_reason(data), read_or_reason(data))


SMALL_JPEGS = {odd.key: data for odd, data in ODD_FILES if data[:2] == b"\xff\xd8" and len(data) < 20_000}


@pytest.mark.usefixtures("decoder")
@settings(
    max_examples=500,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    key=st.sampled_from(sorted(SMALL_JPEGS)),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4),
    length=st.none() | st.floats(0, 1),
)
def test_a_damaged_jpeg_gives_what_read_image_gives(
    key: str, changes: list[tuple[float, int]], length: float | None
) -> None:
    data = bytearray(SMALL_JPEGS[key])
    for place, value in changes:
        data[int(place * len(data))] = value
    if length is not None:
        del data[int(length * len(data)) :]
    assert_same(load_or_reason(bytes(data)), read_or_reason(bytes(data)))


@pytest.mark.parametrize("path", PHOTOS, ids=lambda path: path.stem)
@pytest.mark.parametrize("mode", [NATIVE, GeometrySettings(size=64), GeometrySettings(max_pixels=50_000)], ids=str)
@pytest.mark.parametrize("name", ["simplejpeg", "torchvision"])
def test_what_decodes_changes_no_bit(path: Path, mode: GeometrySettings, name: str) -> None:
    data = path.read_bytes()
    for settings_ in (EXACT, SCALED):
        with decoder_alone(name):
            fast = load_pixels(data, settings_, mode, 16)
        with decoder_alone("pillow"):
            slow = load_pixels(data, settings_, mode, 16)
        assert torch.equal(fast.pixels, slow.pixels)
        assert fast.geometry == slow.geometry


@pytest.mark.parametrize("path", PHOTOS, ids=lambda path: path.stem)
def test_a_resized_photograph_is_within_a_level_of_pillows(path: Path) -> None:
    data = photo_jpeg(path, (500, 760))
    loaded = load_pixels(data, EXACT, GeometrySettings(max_pixels=40_000), 1)
    height, width = loaded.geometry.resized
    narrow = read_image(data).pixels.resize((width, 500), Image.Resampling.LANCZOS)
    by_pillow = narrow.resize((width, height), Image.Resampling.LANCZOS)
    difference = (loaded.pixels.permute(1, 2, 0).int() - torch.from_numpy(np.array(by_pillow)).int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.02


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", [NATIVE, GeometrySettings(size=32)], ids=str)
def test_a_turned_file_is_loaded_upright(orientation: int, mode: GeometrySettings) -> None:
    data = jpeg(PICTURE, exif=b"Exif\0\0" + exif(orientation))
    upright = read_image(data)
    loaded = load_pixels(data, EXACT, mode, 16)
    assert loaded.geometry == plan_geometry(upright.size, mode, 16)
    file = io.BytesIO()
    upright.pixels.save(file, "PNG")
    as_stored_upright = load_pixels(file.getvalue(), EXACT, mode, 16)
    difference = (loaded.pixels.int() - as_stored_upright.pixels.int()).abs()
    # Resized in the other order, overshoot at hard edges is cut off elsewhere.
    assert difference.max() <= (0 if mode is NATIVE else 12)


def test_native_pixels_are_not_copied_into_planes() -> None:
    loaded = load_pixels(jpeg(PICTURE), EXACT, NATIVE, 16)
    assert loaded.pixels.shape == (3, 64, 96)
    assert loaded.pixels.stride() == (1, 288, 3)


@pytest.mark.parametrize("mode", [NATIVE, GeometrySettings(size=64), GeometrySettings(max_pixels=20_000)])
@pytest.mark.parametrize("settings", [EXACT, SCALED])
def test_an_image_stays_what_it_is_when_the_next_one_is_loaded(mode: GeometrySettings, settings: ReadSettings) -> None:
    loaded = [load_pixels(path.read_bytes(), settings, mode, 16).pixels for path in PHOTOS]
    copies = [pixels.clone() for pixels in loaded]
    for path in reversed(PHOTOS):
        load_pixels(path.read_bytes(), settings, mode, 16)
    assert all(torch.equal(pixels, copy) for pixels, copy in zip(loaded, copies, strict=True))


def test_padding_repeats_the_last_row_and_column() -> None:
    data = jpeg(PICTURE[:50, :70])
    loaded = load_pixels(data, EXACT, NATIVE, 16)
    pixels = loaded.pixels.numpy()
    assert pixels.shape == (3, 64, 80)
    assert np.array_equal(undo_padding(pixels, loaded.geometry), np.asarray(read_image(data).pixels).transpose(2, 0, 1))
    assert (pixels[:, 50:] == pixels[:, 49:50]).all()
    assert (pixels[:, :, 70:] == pixels[:, :, 69:70]).all()


def test_threads_load_what_one_thread_loads() -> None:
    files = [path.read_bytes() for path in PHOTOS]

    def load(data: bytes) -> LoadedPixels:
        return load_pixels(data, SCALED, GeometrySettings(size=64), 16)

    alone = [load(data) for data in files]
    with ThreadPoolExecutor(8) as pool:
        for index, loaded in enumerate(pool.map(load, files * 4)):
            assert torch.equal(loaded.pixels, alone[index % len(files)].pixels)


@pytest.mark.parametrize("size", [(1024, 1536), (999, 1501), (1003, 669)])
@pytest.mark.parametrize("path", PHOTOS[:4], ids=lambda path: path.stem)
def test_a_photograph_decoded_at_a_fraction_is_nearly_the_same(path: Path, size: tuple[int, int]) -> None:
    for options in ({}, {"mode": "L"}, {"exif": b"Exif\0\0" + exif(6)}, {"subsampling": 0}):
        data = photo_jpeg(path, size, **options)
        for mode in (GeometrySettings(size=64), GeometrySettings(size=160), GeometrySettings(max_pixels=30_000)):
            exact, scaled = (load_pixels(data, read, mode, 16) for read in (EXACT, SCALED))
            assert scaled.geometry == exact.geometry
            assert not torch.equal(scaled.pixels, exact.pixels)
            assert psnr_db(scaled.pixels, exact.pixels) >= 45


@pytest.mark.parametrize(
    ("source", "short_side", "fraction"),
    [(512, 32, 8), (511, 32, 4), (256, 32, 4), (255, 32, 2), (128, 32, 2), (127, 32, 1), (64, 64, 1), (15, 1, 1)],
)
def test_twice_the_size_is_left_for_resizing(source: int, short_side: int, fraction: int) -> None:
    plan = plan_geometry((source, 2 * source), GeometrySettings(size=short_side), 1)
    assert _fraction(plan) == fraction


@pytest.mark.parametrize(
    "odd", [odd for odd, _ in ODD_FILES if odd.is_readable and not odd.has_note], ids=lambda o: o.key
)
def test_scaling_takes_no_file_for_a_bad_one(odd: OddImage) -> None:
    data = next(data for other, data in ODD_FILES if other is odd)
    loaded = load_pixels(data, SCALED, GeometrySettings(size=4), 1)
    assert loaded.geometry.source == odd.size


@pytest.mark.parametrize(
    ("odd", "data"),
    [case for case in ODD_FILES if not case[0].is_readable and case[0].key.endswith(".jpg")],
    ids=lambda value: value.key if isinstance(value, OddImage) else "",
)
def test_scaling_finds_a_bad_file(odd: OddImage, data: bytes) -> None:
    with pytest.raises(UnreadableImageError) as caught:
        load_pixels(data, SCALED, GeometrySettings(size=4), 1)
    assert odd.reason in str(caught.value)


def test_scaling_leaves_colours_of_a_quarter_of_the_resolution_alone() -> None:
    simplejpeg = pytest.importorskip("simplejpeg")
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    data = simplejpeg.encode_jpeg(picture, quality=95, colorsubsampling="411")
    small = GeometrySettings(size=64)
    exact, scaled = (load_pixels(data, ReadSettings(jpeg_scaling=on), small, 16).pixels for on in (False, True))
    assert torch.equal(exact, scaled)


def test_scaling_leaves_other_formats_alone() -> None:
    file = io.BytesIO()
    Image.fromarray(PICTURE).save(file, "PNG")
    exact, scaled = (load_pixels(file.getvalue(), read, GeometrySettings(size=4), 1) for read in (EXACT, SCALED))
    assert torch.equal(exact.pixels, scaled.pixels)


def test_too_many_pixels_are_refused_from_the_header() -> None:
    data = jpeg(PICTURE)
    headers_alone = data[: data.index(b"\xff\xda") + 14]
    with pytest.raises(UnreadableImageError, match=r"exceeds --max-image-pixels: 64x96 = 6144 > 6143"):
        load_pixels(headers_alone, ReadSettings(max_image_pixels=6143), NATIVE, 16)
