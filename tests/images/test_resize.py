"""Plans carried out: by torch as by Pillow, whichever way up a picture is stored, wherever it is cut."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from semdis_cli.images.formats.exif import turn_upright, turned, unturned_box, upright_size
from semdis_cli.images.geometry import mirror, plan_geometry, undo_padding
from semdis_cli.images.resize import Axis, _pillow_pass, _torch_pass, fit_pixels, resize_name
from semdis_cli.records import Geometry
from semdis_cli.settings import GeometrySettings

quick = settings(max_examples=80, deadline=None)
SIDE = st.integers(1, 90) | st.integers(1, 400)
SIZES = st.tuples(SIDE, SIDE)
ORIENTATIONS = st.integers(1, 8)
BUCKETS = GeometrySettings(buckets=((32, 48), (96, 32)))
MODES = st.sampled_from(
    [
        BUCKETS,
        GeometrySettings(size=32),
        GeometrySettings(size=256),
        GeometrySettings(bucket_size=64),
        GeometrySettings(),
    ]
    + [GeometrySettings(max_pixels=n) for n in (50, 1000)]
)
KINDS = st.sampled_from(["noise", "black or white", "checkerboard", "lines", "edge", "grey"])
TORCH_HAS_IT = resize_name() == "torch lanczos"


def picture(size: tuple[int, int], kind: str) -> np.ndarray:
    """[H,W,3] uint8 of the kinds on which resizing is known to go wrong."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    rng = np.random.default_rng(size)
    values = {
        "noise": rng.integers(0, 256, size),
        "black or white": 255 * rng.integers(0, 2, size),
        "checkerboard": 255 * ((x + y) % 2),
        "lines": 255 * (x % 3 == 0),
        "edge": 255 * (x + 2 * y > size[1]),
        "grey": np.full(size, 127) + (x + y) % 2,
    }[kind]
    return np.stack([values, values[::-1], values[:, ::-1]], axis=2).astype(np.uint8)


def smooth(size: tuple[int, int], low: int = 64, high: int = 192) -> np.ndarray:
    """[H,W,3] uint8 gradients; between the default values nothing overshoots the range of 8 bits."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    gradients = np.stack([x / size[1], y / size[0], (x + y) / sum(size)], axis=2)
    return np.round(low + (high - low) * gradients).astype(np.uint8)


def furthest(one: torch.Tensor | np.ndarray, other: torch.Tensor | np.ndarray) -> int:
    """The largest difference between two pictures."""
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max())


@contextmanager
def torch_whose_resizing(does: object) -> Iterator[None]:
    """A torch of another release: `does` stands for its `interpolate`."""
    resize_name.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "interpolate", does)
        yield
    resize_name.cache_clear()


def knows_no_lanczos(*_: object, mode: str, **__: object) -> None:
    raise NotImplementedError(f"Input Error: only other modes are supported (got {mode})")


@quick
@given(SIZES, st.integers(1, 16))
def test_without_scaling_undoing_gives_the_image_back(size: tuple[int, int], multiple_px: int) -> None:
    image = picture(size, "noise")
    geometry = plan_geometry(size, GeometrySettings(), multiple_px)
    pixels = fit_pixels(image, geometry).numpy()
    assert pixels.shape == (3, *geometry.bucket)
    assert pixels.dtype == np.uint8
    assert np.array_equal(undo_padding(pixels, geometry), image.transpose(2, 0, 1))
    assert (pixels[:, size[0] :] == pixels[:, size[0] - 1 : size[0]]).all()
    assert (pixels[:, :, size[1] :] == pixels[:, :, size[1] - 1 : size[1]]).all()


@pytest.mark.skipif(not TORCH_HAS_IT, reason="this torch does not resize as Pillow does")
@quick
@given(SIZES, st.integers(1, 300), KINDS, st.integers(0, 1))
def test_along_one_axis_torch_is_within_one_level_of_pillow(
    size: tuple[int, int], resized: int, kind: str, dim: int
) -> None:
    axis = Axis(size[dim], resized, resized // 3, resized - resized // 3 - resized // 5)
    image = picture(size, kind)
    assert furthest(_torch_pass(image, axis, dim), _pillow_pass(image, axis, dim)) <= 1


@pytest.mark.skipif(not TORCH_HAS_IT, reason="this torch does not resize as Pillow does")
@quick
@given(SIZES, MODES, KINDS, ORIENTATIONS)
def test_a_plan_carried_out_by_torch_is_within_two_levels_of_pillow(
    size: tuple[int, int], mode: GeometrySettings, kind: str, orientation: int
) -> None:
    geometry = plan_geometry(size, mode, 16)
    stored = picture(upright_size(size, orientation), kind)
    fitted = fit_pixels(stored, geometry, orientation)
    with torch_whose_resizing(knows_no_lanczos):
        assert resize_name() == "pillow lanczos"
        assert furthest(fitted, fit_pixels(stored, geometry, orientation)) <= 2


@pytest.mark.parametrize("dims", [{2, 3}, {2}, {3}], ids=["both axes", "columns", "rows"])
def test_torch_is_not_used_where_it_disagrees_with_pillow(dims: set[int]) -> None:
    interpolate = F.interpolate

    def is_two_levels_off(image: torch.Tensor, **options: Any) -> torch.Tensor:
        is_off = any(options["size"][dim - 2] != image.shape[dim] for dim in dims)
        return interpolate(image, **(options | {"mode": "bicubic"} if is_off else options))

    with torch_whose_resizing(is_two_levels_off):
        assert resize_name() == "pillow lanczos"


@pytest.mark.skipif(not TORCH_HAS_IT, reason="this torch does not resize as Pillow does")
@pytest.mark.parametrize(
    ("text", "kind"), [("DefaultCPUAllocator: can't allocate memory: you tried", MemoryError), ("bug", RuntimeError)]
)
def test_no_memory_for_resizing_is_a_lack_of_memory_and_other_errors_are_not(
    text: str, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    geometry = plan_geometry((64, 96), GeometrySettings(size=32), 16)
    stored = picture((64, 96), "noise")
    assert resize_name() == "torch lanczos"  # found out by now
    monkeypatch.setattr(F, "interpolate", Mock(side_effect=RuntimeError(text)))
    with pytest.raises(kind):
        fit_pixels(stored, geometry, 1)


def test_torch_is_not_used_where_it_cannot() -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("not implemented for 'Byte'")

    with torch_whose_resizing(fails):
        assert resize_name() == "pillow lanczos"


@pytest.mark.skipif(not TORCH_HAS_IT, reason="Pillow is told where a crop begins, and rounds that")
@quick
@given(SIZES, st.sampled_from([GeometrySettings(size=32), GeometrySettings(bucket_size=64), BUCKETS]), KINDS)
def test_a_crop_is_what_cutting_the_whole_resized_image_gives(
    size: tuple[int, int], mode: GeometrySettings, kind: str
) -> None:
    assume(max(size) <= 8 * min(size))
    image = picture(size, kind)
    geometry = plan_geometry(size, mode, 16)
    (top, left), (height, width), whole = geometry.crop, geometry.image, geometry.resized
    everything = fit_pixels(image, Geometry(size, whole, (0, 0), whole, whole))
    assert torch.equal(fit_pixels(image, geometry), everything[:, top : top + height, left : left + width])


@quick
@given(SIZES, MODES, KINDS)
def test_mirrored_pixels_are_the_mirrored_image_cut_at_the_twin_s_corner(
    size: tuple[int, int], mode: GeometrySettings, kind: str
) -> None:
    assume(max(size) <= 8 * min(size))
    image = picture(size, kind)
    geometry = plan_geometry(size, mode, 16)
    pixels = fit_pixels(image, geometry)
    (top, left), (height, width), whole = geometry.crop_flip, geometry.image, geometry.resized
    resized = fit_pixels(image, Geometry(size, whole, (0, 0), whole, whole))
    mirrored, twin = resized.flip(-1), mirror(pixels, geometry)
    assert torch.equal(twin[:, :height, :width], mirrored[:, top : top + height, left : left + width])
    assert (twin[:, :, width:] == twin[:, :, width - 1 : width]).all()
    assert torch.equal(mirror(twin, geometry), pixels)


@quick
@given(SIZES, MODES, ORIENTATIONS)
def test_turning_last_gives_what_turning_first_gives(
    size: tuple[int, int], mode: GeometrySettings, orientation: int
) -> None:
    geometry = plan_geometry(size, mode, 16)
    stored = smooth(upright_size(size, orientation))
    upright = np.array(turn_upright(Image.fromarray(stored), orientation))
    # The order of the two passes changes with the turn, and so does what is rounded first, in both ways once.
    assert furthest(fit_pixels(stored, geometry, orientation), fit_pixels(upright, geometry)) <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_array_is_turned_as_pillow_turns_an_image(orientation: int) -> None:
    stored = picture((5, 7), "noise")
    upright = np.array(turn_upright(Image.fromarray(stored), orientation))
    assert np.array_equal(turned(stored, orientation), upright)
    corner, box = (1, 2), (3, 2)
    top, left = unturned_box(corner, box, upright.shape[:2], orientation)
    height, width = upright_size(box, orientation)
    cut = turned(stored[top : top + height, left : left + width], orientation)
    assert np.array_equal(cut, upright[1:4, 2:4])


@quick
@given(st.tuples(st.integers(130, 200), st.integers(130, 200)), st.sampled_from([2, 4, 8]), ORIENTATIONS)
def test_a_picture_decoded_at_a_fraction_stays_where_it_was(
    size: tuple[int, int], fraction: int, orientation: int
) -> None:
    geometry = plan_geometry(size, GeometrySettings(size=16), 16)
    stored = smooth(upright_size(size, orientation), 0, 255).astype(float)
    padded = np.pad(stored, [(0, -stored.shape[0] % fraction), (0, -stored.shape[1] % fraction), (0, 0)], mode="edge")
    blocks = padded.reshape(padded.shape[0] // fraction, fraction, -1, fraction, 3)
    reduced = np.round(blocks.mean(axis=(1, 3))).astype(np.uint8)
    exact = fit_pixels(stored.astype(np.uint8), geometry, orientation)
    # Nearly two levels a pixel: what is off by more than a pixel, of the seven that rounding up may add, shows.
    assert furthest(fit_pixels(reduced, geometry, orientation, fraction), exact) <= 2


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1)])
@pytest.mark.parametrize(
    "mode",
    [
        GeometrySettings(),
        GeometrySettings(max_pixels=100),
        GeometrySettings(size=256),
        GeometrySettings(bucket_size=1024),
    ],
)
def test_extreme_shapes_work_in_every_mode(size: tuple[int, int], mode: GeometrySettings) -> None:
    geometry = plan_geometry(size, mode, 16)
    pixels = fit_pixels(np.full((*size, 3), (10, 20, 30), np.uint8), geometry)
    assert pixels.shape == (3, *geometry.bucket)
    assert (pixels == torch.tensor([10, 20, 30]).reshape(3, 1, 1)).all()


def test_neither_the_thread_nor_the_place_in_memory_changes_a_bit() -> None:
    image = picture((301, 203), "noise")
    geometry = plan_geometry((301, 203), GeometrySettings(size=64), 16)
    places = []
    for start in range(16):
        memory = np.empty(image.nbytes + start, np.uint8)
        places.append(memory[start:].reshape(image.shape))
        places[-1][:] = image
    with ThreadPoolExecutor(4) as pool:
        fitted = list(pool.map(lambda pixels: fit_pixels(pixels, geometry), places))
    assert all(torch.equal(pixels, fitted[0]) for pixels in fitted)


def test_a_crop_does_not_keep_the_whole_in_memory() -> None:
    strip = picture((4000, 32), "noise")
    for size, mode in (((4000, 32), GeometrySettings(size=32)), ((4000, 32), GeometrySettings(size=16))):
        pixels = fit_pixels(strip, plan_geometry(size, mode, 16))
        assert pixels.untyped_storage().nbytes() == pixels.numel()


@pytest.mark.parametrize(("orientation", "fraction"), [(6, 1), (1, 2), (6, 2)])
def test_pixels_of_another_size_are_refused(orientation: int, fraction: int) -> None:
    geometry = plan_geometry((20, 30), GeometrySettings(), 16)
    with pytest.raises(ValueError, match="do not fit"):
        fit_pixels(np.zeros((20, 30, 3), np.uint8), geometry, orientation, fraction)
