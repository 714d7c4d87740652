"""Crops at random places: the same on any machine, anywhere in the picture, and cut as their record says."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from semdis_cli.events import Failure
from semdis_cli.images.adm import adm_pixels
from semdis_cli.images.geometry import move_crop, plan_geometry
from semdis_cli.images.loader import Loader
from semdis_cli.images.resize import fit_pixels, resize_name
from semdis_cli.option import OptionError
from semdis_cli.records import Geometry, LoadedImage, PlannedImage
from semdis_cli.settings import CropSettings, GeometrySettings, LoadSettings
from semdis_cli.sources.find import find_images
from semdis_cli.sources.views import in_views

quick = settings(max_examples=60, deadline=None)
SIDE = st.integers(16, 200)
SIZES = st.tuples(SIDE, SIDE)
MODES = st.sampled_from(
    [
        GeometrySettings(size=32),
        GeometrySettings(size=32, resize="adm"),
        GeometrySettings(bucket_size=64),
        GeometrySettings(buckets=((32, 48), (96, 32))),
    ]
)


def load(folder: Path, how: LoadSettings) -> dict[str, LoadedImage]:
    """Every view of the images in a folder, each loaded by itself."""
    images, _ = in_views(find_images([folder]).images, [], how.views)
    with Loader(how, 16, 1) as loader:
        planned, failures = loader.plan(images)
        assert failures == []
        loaded = [loader.load(image) for image in planned]
    return {image.record.key: image for image in loaded if isinstance(image, LoadedImage)}


def noise(path: Path, size: tuple[int, int]) -> np.ndarray:
    pixels = np.random.default_rng(size).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def whole(pixels: np.ndarray, geometry: Geometry, mode: GeometrySettings) -> torch.Tensor:
    """The picture that a crop is cut from."""
    everything = Geometry(geometry.source, geometry.resized, (0, 0), geometry.resized, geometry.resized)
    if mode.resize == "lanczos":
        return fit_pixels(pixels, everything)
    short = mode.sizes[0]
    height, width = geometry.resized
    parts = [
        adm_pixels(pixels, Geometry(geometry.source, geometry.resized, (top, left), (short, short), (short, short)))
        for top in (0, height - short)
        for left in (0, width - short)
    ]
    canvas = torch.zeros((3, height, width), dtype=torch.uint8)
    for part, (top, left) in zip(parts, [(y, x) for y in (0, height - short) for x in (0, width - short)], strict=True):
        canvas[:, top : top + short, left : left + short] = part
    return canvas


@pytest.mark.skipif(resize_name() != "torch lanczos", reason="Pillow is told where a crop begins, and rounds that")
@quick
@given(size=SIZES, mode=MODES, seed=st.integers(0, 9))
def test_cutting_the_resized_picture_by_the_record_gives_the_encoded_pixels(
    size: tuple[int, int], mode: GeometrySettings, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assume(max(size) <= 8 * min(size))  # of what is cut off most is not resized, which rounds otherwise now and then
    if mode.resize == "adm" and max(size) >= 2 * min(size):
        size = (min(size), min(size) + 7)  # its whole is put together of two crops
    folder = tmp_path_factory.mktemp("one")
    pixels = noise(folder / "a.png", size)
    loaded = load(folder, LoadSettings(mode, crops=CropSettings(3, seed)))
    assert sorted(loaded) == ["a#crop1.png", "a#crop2.png", "a#crop3.png"]
    for image in loaded.values():
        geometry = image.record.geometry
        (top, left), (height, width) = geometry.crop, geometry.image
        everything = whole(pixels, geometry, mode)
        assert torch.equal(image.pixels, everything[:, top : top + height, left : left + width])
        assert (geometry.source, geometry.resized) == (size, plan_geometry(size, mode, 16).resized)


def test_a_crop_is_where_it_is_on_any_machine() -> None:
    plan = plan_geometry((1000, 400), GeometrySettings(size=256), 16)
    crops = [move_crop(plan, 0, "a/é\udcff.jpg", number).crop for number in (1, 2, 3)]
    assert crops == [(382, 0), (314, 0), (355, 0)]
    assert move_crop(plan, 1, "a/é\udcff.jpg", 1).crop != crops[0]
    assert move_crop(plan, 0, "b.jpg", 1).crop != crops[0]


def test_crops_are_everywhere_and_the_same_part_in_every_size() -> None:
    small, large = (plan_geometry((400, 1000), GeometrySettings(size=side), 16) for side in (64, 512))
    room = small.resized[1] - 64
    lefts = [move_crop(small, 0, f"{number}.jpg", 1).crop[1] for number in range(4000)]
    assert (min(lefts), max(lefts)) == (0, room)
    counts = np.bincount(lefts, minlength=room + 1)
    assert 10 < counts.min() <= counts.max() < 90  # 41 on average
    for number in range(50):
        left, far_left = (move_crop(plan, 0, f"{number}.jpg", 1).crop[1] for plan in (small, large))
        assert abs(left / (room + 1) - far_left / (large.resized[1] - 512 + 1)) < 1 / room


@pytest.mark.parametrize("photo", ["lake-sherburne.jpg", "oakland-zoo-otters.jpg"])
def test_views_that_are_loaded_together_are_those_that_are_loaded_one_by_one(tmp_path: Path, photo: str) -> None:
    data = (Path(__file__).parents[1] / "photos" / photo).read_bytes()
    (tmp_path / "a.jpg").write_bytes(data)
    how = LoadSettings(GeometrySettings(size=128), crops=CropSettings(4))
    alone = load(tmp_path, how)
    images, _ = in_views(find_images([tmp_path]).images, [], how.views)
    with Loader(how, 16, 1) as loader:
        planned = loader.plan(images)[0]
        together = loader.load_views(planned)
    assert _keys(together) == sorted(alone)
    for image in together:
        assert isinstance(image, LoadedImage)
        assert image.record == alone[image.record.key].record
        assert torch.equal(image.pixels, alone[image.record.key].pixels)


def _keys(loaded: Sequence[LoadedImage | Failure]) -> list[str]:
    return [one.key if isinstance(one, Failure) else one.record.key for one in loaded]


def test_a_file_that_cannot_be_read_costs_all_its_views(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (40, 80)).save(file, "PNG")
    (tmp_path / "a.png").write_bytes(file.getvalue()[:-30])
    how = LoadSettings(GeometrySettings(size=32), crops=CropSettings(2))
    images, _ = in_views(find_images([tmp_path]).images, [], how.views)
    with Loader(how, 16, 1) as loader:
        failed = loader.load_views([PlannedImage(image, (32, 32)) for image in images])
    assert all(isinstance(one, Failure) and one.is_final for one in failed)
    assert _keys(failed) == ["a#crop1.png", "a#crop2.png"]


def test_crops_of_what_is_not_cut_are_refused() -> None:
    with pytest.raises(OptionError, match="--crops goes with --size, --bucket-size or --bucket"):
        LoadSettings(GeometrySettings(max_pixels=1000), crops=CropSettings(2))
