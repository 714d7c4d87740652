"""JPEGs decoded by what is fastest: to the bits that Pillow gives, or left to Pillow."""

import io
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from semdis_cli.images.formats.jpeg import decoder as module
from semdis_cli.images.formats.jpeg.decoder import decode_plain_jpeg, is_fast_jpeg, jpeg_decoder
from semdis_cli.images.formats.jpeg.header import read_plain_jpeg
from semdis_cli.images.formats.jpeg.pixels import draft, may_be_filled_up
from semdis_cli.images.formats.pillow import open_image
from tests.image_bytes import with_jpeg_size
from tests.images.jpeg_decoders import decoder_alone
from tests.images.test_missing_pixels import JPEGS, some_jpeg
from tests.odd_images import odd_files

quick = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ODD_JPEGS = {odd.key: data for odd, data in odd_files() if data[:2] == b"\xff\xd8"}
COLOURS = JPEGS | {"mode": st.sampled_from(["L", "RGB"])}


@pytest.fixture
def chosen_anew() -> Iterator[None]:
    module._fast_decoder.cache_clear()
    yield
    module._fast_decoder.cache_clear()


def by_pillow(data: bytes, fraction: int = 1) -> np.ndarray:
    image = open_image("JPEG", io.BytesIO(data))
    draft(image, fraction)
    return np.asarray(image.convert("RGB"))


@pytest.mark.usefixtures("chosen_anew")
def test_simplejpeg_decodes_where_it_is_installed() -> None:
    simplejpeg = pytest.importorskip("simplejpeg")
    assert jpeg_decoder() == f"simplejpeg {simplejpeg.__version__}"


def test_a_decoder_is_named_with_its_version(decoder: str) -> None:
    assert jpeg_decoder() == f"{decoder} {version(decoder)}"


def test_pillow_decodes_without_another_decoder() -> None:
    with decoder_alone("pillow"):
        assert decode_plain_jpeg(ODD_JPEGS["plain.jpg"], (64, 96)) is None


@pytest.mark.usefixtures("chosen_anew")
@pytest.mark.parametrize("does", ["other bits", "another size", "nothing", "an older one"])
def test_no_decoder_decodes_that_does_not_agree_with_pillow(does: str, monkeypatch: pytest.MonkeyPatch) -> None:
    simplejpeg = pytest.importorskip("simplejpeg")

    def decode_jpeg(data: bytes, *args: object, **options: object) -> np.ndarray:
        if does == "nothing":
            raise ValueError("not built for this")
        if does == "an older one":
            raise TypeError("decode_jpeg() got an unexpected keyword argument 'strict'")
        pixels: np.ndarray = simplejpeg.decode_jpeg(data, *args, **options)
        if does == "another size":
            return pixels[:-1]
        pixels[0, 0, 0] ^= 1
        return pixels

    monkeypatch.setitem(sys.modules, "simplejpeg", SimpleNamespace(__version__="0", decode_jpeg=decode_jpeg))
    assert not jpeg_decoder().startswith("simplejpeg")


@pytest.mark.usefixtures("chosen_anew")
def test_no_decoder_decodes_that_cannot_even_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simplejpeg", SimpleNamespace())
    assert not jpeg_decoder().startswith("simplejpeg")


@pytest.mark.usefixtures("chosen_anew")
@pytest.mark.parametrize("library", [None, b"", b"\x7fELF of another machine"])
def test_a_torchvision_that_cannot_be_loaded_is_done_without(
    library: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if library is not None:
        (tmp_path / "image.so").write_bytes(library)
    package = ModuleType("torchvision")
    package.__spec__ = ModuleSpec("torchvision", None, is_package=True)
    package.__spec__.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    assert jpeg_decoder().startswith("pillow ")


def is_simple(data: bytes) -> bool:
    plain = read_plain_jpeg(io.BytesIO(data))
    return plain is not None and plain.is_simple


@pytest.mark.usefixtures("decoder")
@quick
@given(**COLOURS)
def test_every_bit_is_pillows(height: int, width: int, **how: object) -> None:
    data = some_jpeg(height=height, width=width, **how)  # type: ignore[arg-type]
    assert is_simple(data)
    pixels = decode_plain_jpeg(data, (height, width))
    if pixels is None:
        assert not module._fast_decoder().is_strict  # type: ignore[union-attr]
        assert may_be_filled_up(by_pillow(data))
    else:
        assert np.array_equal(pixels, by_pillow(data))


@pytest.mark.usefixtures("decoder")
@quick
@given(fraction=st.sampled_from([2, 4, 8]), **COLOURS | {"height": st.integers(16, 70), "width": st.integers(16, 70)})
def test_every_bit_of_a_smaller_picture_is_that_of_pillows_draft(
    fraction: int, height: int, width: int, **how: object
) -> None:
    data = some_jpeg(height=height, width=width, **how)  # type: ignore[arg-type]
    pixels = decode_plain_jpeg(data, (-(-height // fraction), -(-width // fraction)), fraction)
    assert (pixels is not None) == is_fast_jpeg(fraction)
    assert pixels is None or np.array_equal(pixels, by_pillow(data, fraction))


@pytest.mark.usefixtures("decoder")
@quick
@given(share=st.floats(0, 1, exclude_max=True), **COLOURS)
def test_what_is_cut_off_is_left_to_pillow(share: float, height: int, width: int, **how: object) -> None:
    data = some_jpeg(height=height, width=width, **how)  # type: ignore[arg-type]
    cut = data[: int(share * (len(data) - 2))]
    assert decode_plain_jpeg(cut, (height, width)) is None
    scan = data.rindex(b"\xff\xda") + 20
    closed = data[: scan + int(share * (len(data) - 2 - scan))] + b"\xff\xd9"
    pixels = decode_plain_jpeg(closed, (height, width))
    # Padding alone may be missing: then nothing was made up. What is no stricter than Pillow decodes as Pillow does.
    expected = data if module._fast_decoder().is_strict else closed  # type: ignore[union-attr]
    assert pixels is None or np.array_equal(pixels, by_pillow(expected))


@pytest.mark.usefixtures("decoder")
@quick
@given(rows_more=st.integers(32, 60), fraction=st.sampled_from([1, 2, 4, 8]), **COLOURS)
def test_what_lacks_rows_is_left_to_pillow(
    rows_more: int, fraction: int, height: int, width: int, **how: object
) -> None:
    data = some_jpeg(height=height, width=width, **how)  # type: ignore[arg-type]
    taller = height + rows_more
    size = (-(-taller // fraction), -(-width // fraction))
    assert decode_plain_jpeg(with_jpeg_size(data, taller, width), size, fraction) is None


@pytest.mark.parametrize(
    ("key", "is_plain"),
    [
        ("plain.jpg", True),
        ("grey.jpg", True),
        ("progressive.jpg", True),
        ("extended.jpg", True),
        ("half_colour.jpg", True),
        ("trailing.jpg", True),
        ("turned/6.jpg", True),
        ("arithmetic.jpg", False),
        ("rgb.jpg", False),
        ("cmyk.jpg", False),
        ("ycck.jpg", False),
        ("cmyk_without_marker.jpg", False),
        ("fill_bytes.jpg", False),
        ("lies/two_starts.jpg", False),
        ("cut/in_SOF0.jpg", False),
    ],
)
def test_only_what_nearly_all_files_are_is_plain(key: str, is_plain: bool) -> None:
    assert is_simple(ODD_JPEGS[key]) == is_plain


def test_components_called_r_g_b_are_not_plain() -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", keep_rgb=True)
    assert not is_simple(file.getvalue())
