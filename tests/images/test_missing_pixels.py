"""Files whose headers promise more than they hold: found out, and never at the cost of a good one."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from semdis_cli.errors import UnreadableImageError
from semdis_cli.images.images import read_image, read_image_size
from tests.image_bytes import png, tiff, with_jpeg_size, with_png_header
from tests.odd_images import OddImage, odd_shapes
from tests.odd_images.picture import PICTURE, jpeg

SHAPES = list(odd_shapes())
SIDE = st.integers(1, 50)


@pytest.mark.parametrize(("odd", "data"), SHAPES, ids=[odd.key for odd, _ in SHAPES])
def test_an_odd_shape_has_the_right_size_and_colours(odd: OddImage, data: bytes) -> None:
    read = read_image(data)
    assert read.size == read_image_size(data) == odd.size
    pixels = np.asarray(read.pixels).astype(int)
    for place, colour in odd.colours:
        assert np.abs(pixels[place] - colour).max() <= odd.tolerance


@pytest.mark.parametrize("how", [{}, {"progressive": True}, {"restart_marker_blocks": 2}, {"subsampling": 2}], ids=str)
def test_no_beginning_of_a_jpeg_is_an_image(how: dict[str, object]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 24, 3), np.uint8)
    whole = jpeg(noise, quality=30, **{"subsampling": 0, **how})
    read_image(whole)
    for length in range(0, len(whole), 3):
        with pytest.raises(UnreadableImageError):
            read_image(whole[:length])


JPEGS = {
    "mode": st.sampled_from(["L", "RGB", "CMYK"]),
    "height": SIDE,
    "width": SIDE,
    "progressive": st.booleans(),
    "subsampling": st.sampled_from([0, 1, 2]),
    "restarts": st.sampled_from([0, 1, 3]),
    "seed": st.integers(0, 99),
    "is_grey": st.booleans(),
}


def some_jpeg(
    *, mode: str, height: int, width: int, progressive: bool, subsampling: int, restarts: int, seed: int, is_grey: bool
) -> bytes:
    """Noise; with `is_grey` it ends in mid-grey, as a picture does that the decoder has filled up."""
    channels = {"L": 1, "RGB": 3, "CMYK": 4}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    if is_grey:
        pixels[height - height // 2 :] = 128
    file = io.BytesIO()
    options = {"progressive": progressive, "restart_marker_blocks": restarts, "quality": 80}
    options |= {} if mode == "L" else {"subsampling": subsampling}
    Image.frombytes(mode, (width, height), pixels.tobytes()).save(file, "JPEG", **options)
    return file.getvalue()


@settings(max_examples=300, deadline=None)
@given(**JPEGS)
def test_a_whole_jpeg_is_never_taken_for_a_short_one(height: int, width: int, **how: object) -> None:
    assert read_image(some_jpeg(height=height, width=width, **how)).size == (height, width)  # type: ignore[arg-type]


@settings(max_examples=300, deadline=None)
@given(rows_more=st.integers(32, 60), **JPEGS | {"height": st.integers(17, 50)})  # not all of it is grey
def test_a_jpeg_that_lacks_more_than_a_row_of_blocks_is_refused(
    rows_more: int, height: int, width: int, **how: object
) -> None:
    data = some_jpeg(height=height, width=width, **how)  # type: ignore[arg-type]
    with pytest.raises(UnreadableImageError, match="fewer pixels"):
        read_image(with_jpeg_size(data, height + rows_more, width))


PNGS = {
    "kind": st.sampled_from([(0, 1), (0, 2), (0, 8), (0, 16), (2, 8), (2, 16), (4, 8), (6, 8), (6, 16)]),
    "height": SIDE,
    "width": SIDE,
    "is_interlaced": st.booleans(),
    "is_black": st.booleans(),
}


def some_png(kind: tuple[int, int], height: int, width: int, is_interlaced: bool, is_black: bool) -> bytes:
    colour_type, depth = kind
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour_type]
    pixels = np.random.default_rng(height).integers(0, 1 << depth, (height, width, channels))
    if is_black:
        pixels[height // 2 :] = 0
    return png(pixels, bit_depth=depth, colour_type=colour_type, is_interlaced=is_interlaced)


@settings(max_examples=300, deadline=None)
@given(**PNGS)
def test_a_whole_png_is_never_taken_for_a_short_one(height: int, width: int, **how: object) -> None:
    assert read_image(some_png(height=height, width=width, **how)).size == (height, width)  # type: ignore[arg-type]


@settings(max_examples=300, deadline=None)
@given(rows_more=st.integers(1, 40), **PNGS)
def test_a_png_that_claims_more_rows_than_it_has_is_refused(
    rows_more: int, height: int, width: int, kind: tuple[int, int], **how: object
) -> None:
    data = some_png(kind, height, width, **how)  # type: ignore[arg-type]
    longer = with_png_header(data, height + rows_more, width, depth=kind[1], colour_type=kind[0])
    with pytest.raises(UnreadableImageError, match=r"truncated|cannot be unpacked"):
        read_image(longer)


def test_a_tiff_without_all_of_its_parts_is_refused_however_they_are_laid_out() -> None:
    planes = [PICTURE[:, :, channel].tobytes() for channel in range(3)]
    tags = {258: (8, 8, 8), 262: (2,), 284: (2,)}
    read_image(tiff((64, 96), planes, tags))
    with pytest.raises(UnreadableImageError, match="2 of its 3 strips"):
        read_image(tiff((64, 96), planes[:2], tags))
    strips = [PICTURE[y : y + 10].tobytes() for y in range(0, 64, 10)]
    tags = {258: (8, 8, 8), 262: (2,), 278: (10,)}
    read_image(tiff((64, 96), strips, tags))
    with pytest.raises(UnreadableImageError, match="6 of its 7 strips"):
        read_image(tiff((64, 96), strips[:6], tags))
