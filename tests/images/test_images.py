"""Reading and writing of images: right pixels from odd files, one line of reason from bad ones, nothing else."""

import io
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, JpegImagePlugin

from semdis_cli.errors import UnreadableImageError, UsageError
from semdis_cli.images.colour.convert import Samples, split_alpha
from semdis_cli.images.formats.pillow import pillow_guard
from semdis_cli.images.images import (
    pack_png,
    read_image,
    read_image_size,
    write_image,
    write_images,
    write_unpacked,
)
from semdis_cli.settings import ReadSettings
from tests.image_bytes import exif, icc_profile, png, png_chunk, tiff
from tests.odd_images import HEIGHT, WIDTH, OddImage, odd_files

PHOTOS = sorted((Path(__file__).parents[1] / "photos").rglob("*.jpg"))
ODD_FILES = list(odd_files())
READABLE = [(odd, data) for odd, data in ODD_FILES if odd.is_readable]
UNREADABLE = [(odd, data) for odd, data in ODD_FILES if not odd.is_readable]


def _named(cases: list[tuple[OddImage, bytes]]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return pytest.mark.parametrize(("odd", "data"), cases, ids=[odd.key for odd, _ in cases])


def _saved(image: Image.Image, name: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


@_named(READABLE)
def test_an_odd_file_has_the_right_size_colours_and_notes(odd: OddImage, data: bytes) -> None:
    read = read_image(data)
    assert read.size == odd.size
    assert read.pixels.mode == "RGB"
    pixels = np.asarray(read.pixels).astype(int)
    wrong = {
        place: (tuple(pixels[place]), colour)
        for place, colour in odd.colours
        if np.abs(pixels[place] - colour).max() > odd.tolerance
    }
    assert not wrong
    assert bool(read.notes) == odd.has_note


@_named(READABLE)
def test_the_size_from_the_header_is_that_of_the_picture(odd: OddImage, data: bytes) -> None:
    assert read_image_size(data) == odd.size
    assert read_image_size(io.BytesIO(data)) == odd.size


@_named(UNREADABLE)
def test_a_bad_file_gives_one_line_of_reason(odd: OddImage, data: bytes) -> None:
    with pytest.raises(UnreadableImageError) as caught:
        read_image(data)
    assert odd.reason in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@_named([case for case in READABLE if not case[0].key.startswith(("animated", "stereo", "pages", "small", "trans"))])
def test_half_a_file_is_no_image(odd: OddImage, data: bytes) -> None:
    del odd
    with pytest.raises(UnreadableImageError):
        read_image(data[: len(data) // 2])


@_named(READABLE)
def test_the_pixel_cap_holds_from_the_header_on(odd: OddImage, data: bytes) -> None:
    del odd
    read_image(data, ReadSettings(max_image_pixels=HEIGHT * WIDTH))
    for read in (read_image, read_image_size):
        with pytest.raises(UnreadableImageError, match=r"exceeds --max-image-pixels: 64x96 = 6144 > 6143"):
            read(data, ReadSettings(max_image_pixels=HEIGHT * WIDTH - 1))


@_named(READABLE)
def test_pillows_own_limit_neither_refuses_nor_warns_below_the_cap_and_stays(
    odd: OddImage, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert read_image(data).size == odd.size
    assert read_image_size(data) == odd.size
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_pillows_limit_is_left_alone_where_it_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    with pillow_guard(ReadSettings().max_image_pixels):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12345)  # somebody else, meanwhile
    assert Image.MAX_IMAGE_PIXELS == 12345


def test_pillows_limit_comes_back_after_the_last_of_several_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pillow_guard(1000):
        with pillow_guard(5000):
            assert Image.MAX_IMAGE_PIXELS == 5000
        assert Image.MAX_IMAGE_PIXELS is not None
        assert 2 * Image.MAX_IMAGE_PIXELS >= 1000
    assert Image.MAX_IMAGE_PIXELS == 100


def test_threads_read_what_one_thread_reads() -> None:
    alone = [np.asarray(read_image(data).pixels) for _, data in READABLE]
    with ThreadPoolExecutor(8) as pool:
        many = list(pool.map(lambda data: np.asarray(read_image(data).pixels), [d for _, d in READABLE] * 4))
    for index, pixels in enumerate(many):
        assert np.array_equal(pixels, alone[index % len(alone)])


def _warn_as_pillow() -> None:
    Image.open(io.BytesIO(_tiff_with_a_bad_tag())).close()


def _tiff_with_a_bad_tag() -> bytes:
    """A TIFF that Pillow warns about: a tag's values lie beyond the end of the file."""
    whole = tiff((2, 2), bytes(12), {258: (8, 8, 8), 262: (2,), 306: (1, 2, 3, 4)})
    at = whole.index(struct.pack("<HHI", 306, 3, 4)) + 4
    return whole[:at] + struct.pack("<I", 1000) + whole[at + 4 :]


def test_pillow_warns_elsewhere_but_not_in_a_read() -> None:
    read_image(_tiff_with_a_bad_tag())  # pytest makes an error of every warning
    with pytest.warns(UserWarning, match="Tag data larger|Truncated File Read"):
        _warn_as_pillow()


def test_pillow_may_warn_in_another_thread_during_a_read() -> None:
    caught: list[Warning] = []

    def warn_in_thread() -> None:
        try:
            _warn_as_pillow()
        except UserWarning as warning:
            caught.append(warning)

    with pillow_guard(10**6):
        thread = threading.Thread(target=warn_in_thread)
        thread.start()
        thread.join()
        _warn_as_pillow()  # silent here
    assert len(caught) == 1


def test_the_callers_warning_filters_stay_in_force() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_image(_tiff_with_a_bad_tag())
        warnings.warn("mine", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["mine"]


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (7, 100, 201)])
def test_transparency_is_rounded_to_nearest_on_any_background(background: tuple[int, int, int]) -> None:
    value, alpha = np.meshgrid(np.arange(256), np.arange(256))
    rgba = np.stack([value, value[:, ::-1], value, alpha], axis=2)
    read = np.asarray(read_image(png(rgba, colour_type=6), ReadSettings(background=background)).pixels)
    exact = (rgba[:, :, :3] * alpha[:, :, None] + np.array(background) * (255 - alpha[:, :, None])) / 255
    assert np.array_equal(read, np.floor(exact + 0.5))


def test_every_16_bit_grey_is_rounded_to_the_nearest_of_8_bits() -> None:
    values = np.arange(65536).reshape(256, 256, 1)
    read = np.asarray(read_image(png(values, bit_depth=16, colour_type=0)).pixels)
    assert np.array_equal(read, np.repeat(np.floor(values / 257 + 0.5), 3, axis=2))


@pytest.mark.parametrize("mode", ["La", "RGBa"])
def test_premultiplied_colours_are_divided_by_their_alpha(mode: str) -> None:
    straight = Image.new(mode[:-1] + "A", (1, 1), (200, 128) if mode == "La" else (200, 100, 50, 128))
    colour, alpha = split_alpha(straight.convert(mode), Samples())
    assert alpha is not None
    assert alpha.tobytes() == bytes([128])
    values = np.array([*colour.tobytes()])
    assert np.abs(values - [*straight.tobytes()[:-1]]).max() <= 2


def test_orientation_is_not_taken_from_xmp() -> None:
    picture = Image.new("RGB", (5, 3))
    data = _saved(picture, "TIFF", tiffinfo={700: b'<x tiff:Orientation="6"/>'})
    assert read_image(data).size == read_image_size(data) == (3, 5)


@pytest.mark.parametrize(
    "block", [b"", b"Exif\0\0", b"MM", exif(1)[:9], exif(1)[:17], b"\xff" * 50, exif(6).replace(b"II", b"XX")]
)
def test_a_broken_exif_block_leaves_the_picture_as_stored(block: bytes) -> None:
    data = png(np.zeros((3, 5, 3), int), before=[png_chunk(b"eXIf", block)])
    read = read_image(data)
    assert read.size == read_image_size(data) == (3, 5)
    assert len(read.notes) == (1 if block else 0)


@pytest.mark.parametrize("kind", [1, 3, 4])
@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_is_a_short_in_either_byte_order(kind: int, order: str) -> None:
    data = png(np.zeros((3, 5, 3), int), before=[png_chunk(b"eXIf", exif(6, order=order, kind=kind))])
    is_short = kind == 3
    assert read_image(data).size == read_image_size(data) == ((5, 3) if is_short else (3, 5))
    assert len(read_image(data).notes) == (not is_short)


def test_a_profile_that_calls_itself_srgb_is_not_applied_if_it_is() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    data = _saved(Image.fromarray(pixels), "TIFF", icc_profile=icc_profile("RGB", "sRGB IEC61966-2.1"))
    assert np.array_equal(np.asarray(read_image(data).pixels), pixels)
    called_so = _saved(Image.fromarray(pixels), "TIFF", icc_profile=icc_profile("GBR", "sRGB IEC61966-2.1"))
    shown = np.asarray(read_image(called_so).pixels).astype(int)
    assert np.abs(shown - pixels[:, :, [2, 0, 1]]).max() <= 1


def test_the_size_needs_no_pixels() -> None:
    whole = png(np.zeros((300, 200, 3), int))
    assert read_image_size(whole[:33]) == (300, 200)


def test_a_failing_disk_is_a_reason_not_a_crash() -> None:
    class BrokenFile(io.BytesIO):
        def read(self, *_: object) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(UnreadableImageError, match="Input/output error"):
        read_image_size(BrokenFile())


def test_settings_out_of_range_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match="three values"):
        ReadSettings(background=(0, 0, 256))
    with pytest.raises(UsageError, match="--max-image-pixels"):
        ReadSettings(max_image_pixels=0)


SMALL_FILES = {odd.key: data for odd, data in ODD_FILES if 0 < len(data) < 20_000}


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    key=st.sampled_from(sorted(SMALL_FILES)),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    in_header=st.booleans(),
    length=st.none() | st.floats(0, 1),
)
def test_whatever_the_bytes_there_is_an_image_of_the_promised_size_or_a_reason(
    key: str, changes: list[tuple[float, int]], in_header: bool, length: float | None
) -> None:
    data = bytearray(SMALL_FILES[key])
    for place, value in changes:
        data[int(place * (min(len(data), 200) if in_header else len(data)))] = value
    if length is not None:
        del data[int(length * len(data)) :]
    cap = ReadSettings(max_image_pixels=10**6)
    try:
        read = read_image(bytes(data), cap)
    except UnreadableImageError:
        return
    assert read.size == read_image_size(bytes(data), cap)


@pytest.fixture
def photo() -> np.ndarray:
    """[48,80,3] uint8: a smooth picture with some grain."""
    y, x = np.mgrid[0:48, 0:80]
    smooth = np.stack([3 * x, 5 * y, 128 + x - y], axis=2)
    return (smooth + np.random.default_rng(0).integers(0, 8, smooth.shape)).astype(np.uint8)


@pytest.mark.parametrize(("name", "quality"), [("png", 1), ("png", 100), ("webp", 100)])
def test_a_lossless_file_holds_every_bit(photo: np.ndarray, name: str, quality: int) -> None:
    data = write_image(photo, name, quality)  # type: ignore[arg-type]
    assert np.array_equal(np.asarray(read_image(data).pixels), photo)


@settings(max_examples=200, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), top=st.sampled_from([2, 256]), seed=st.integers(0, 99))
def test_a_png_of_any_size_holds_every_bit(height: int, width: int, top: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, top, (height, width, 3), np.uint8)
    data = write_image(pixels, "png")
    assert np.array_equal(np.asarray(read_image(data).pixels), pixels)  # which checks every checksum, too
    unpacked = write_unpacked(pixels)
    for file in (data, unpacked):
        with Image.open(io.BytesIO(file)) as image:
            image.verify()
    assert np.array_equal(np.asarray(read_image(unpacked).pixels), pixels)
    assert pack_png(unpacked) == data


@settings(max_examples=20, deadline=None)
@given(
    height=st.sampled_from([1, 2, 900, 2184, 2185, 4400]), width=st.integers(1, 60), top=st.sampled_from([1, 2, 9, 256])
)
def test_a_png_of_many_bands_is_that_of_one_filter_and_one_call_of_zlib(height: int, width: int, top: int) -> None:
    pixels = np.random.default_rng(height).integers(0, top, (height, width, 3), np.uint8).repeat(1 + width % 3, axis=1)
    rows = pixels.reshape(height, -1).astype(int)
    left = np.pad(rows, ((0, 0), (3, 0)))[:, :-3]
    above = np.pad(rows, ((1, 0), (0, 0)))[:-1]
    filtered = np.pad(((rows - (left + above) // 2) % 256).astype(np.uint8), ((0, 0), (1, 0)), constant_values=3)
    packer = zlib.compressobj(level=1, strategy=zlib.Z_RLE)
    packed = packer.compress(filtered.tobytes()) + packer.flush()
    assert write_image(pixels, "png").endswith(png_chunk(b"IDAT", packed) + png_chunk(b"IEND", b""))


def test_photographs_as_pngs_take_about_what_pillows_quickest_ones_take() -> None:
    num_bytes = num_bytes_of_pillow = 0
    for path in PHOTOS:
        with Image.open(path) as image:
            num_bytes += len(write_image(np.asarray(image), "png"))
            num_bytes_of_pillow += len(_saved(image, "PNG", compress_level=1))
    assert num_bytes < 1.05 * num_bytes_of_pillow


def test_a_jpeg_is_the_same_where_there_are_no_files_in_memory(
    photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_image(photo, "jpg")
    monkeypatch.delattr(os, "memfd_create", raising=False)
    assert write_image(photo, "jpg") == data


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system does not list open files")
def test_writing_leaves_no_file_open(photo: np.ndarray) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for name in ("png", "jpg", "webp"):
        write_image(photo, name)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("name", ["jpg", "webp"])
def test_a_lossy_file_is_close_and_smaller_at_lower_quality(photo: np.ndarray, name: str) -> None:
    fine, coarse = (write_image(photo, name, quality) for quality in (95, 30))  # type: ignore[arg-type]
    error = np.asarray(read_image(fine).pixels).astype(int) - photo
    assert np.abs(error).mean() < 3
    assert len(coarse) < len(fine) / 2


@pytest.mark.parametrize(("quality", "sampling"), [(89, 2), (90, 0), (100, 0)])
def test_a_jpeg_keeps_full_colour_resolution_from_quality_90_on(photo: np.ndarray, quality: int, sampling: int) -> None:
    with Image.open(io.BytesIO(write_image(photo, "jpg", quality))) as image:
        assert JpegImagePlugin.get_sampling(image) == sampling


@pytest.mark.parametrize("name", ["png", "jpg", "webp"])
def test_images_that_are_written_together_are_those_that_are_written_alone(photo: np.ndarray, name: str) -> None:
    images = [photo, photo[::2, :30], np.full_like(photo, 7), photo[:, ::-1]]  # also a file shorter than the one before
    alone = [write_image(pixels, name, 90) for pixels in images]  # type: ignore[arg-type]
    assert write_images(images, name, 90) == alone  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["png", "jpg", "webp"])
def test_equal_pixels_give_equal_bytes(photo: np.ndarray, name: str) -> None:
    transposed_twice = np.ascontiguousarray(photo.transpose(2, 0, 1)).transpose(1, 2, 0)
    assert write_image(photo, name) == write_image(transposed_twice, name)  # type: ignore[arg-type]


def test_what_cannot_be_written_is_a_usage_error(photo: np.ndarray) -> None:
    for quality in (0, 101):
        with pytest.raises(UsageError, match="--quality"):
            write_image(photo, "jpg", quality)
    with pytest.raises(UsageError, match="16383"):
        write_image(np.zeros((1, 16384, 3), np.uint8), "webp")
    with pytest.raises(UsageError, match="65500"):
        write_image(np.zeros((65501, 1, 3), np.uint8), "jpg")
