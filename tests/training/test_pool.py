"""Images for training: how they are read, and where crops are cut out of them."""

import io
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from semdis_cli.events import Failure
from semdis_cli.images.images import write_image
from semdis_cli.records import SourceImage
from semdis_cli.settings import ReadSettings
from semdis_cli.sources.files import ON_DISK
from semdis_cli.sources.names import NamedPath
from semdis_cli.sources.source import Search
from semdis_cli.sources.tars import Tar
from semdis_cli.training.pool import CropPlaces, CropSampler, ImagePool, draw_places, in_random_order, packed, read_all

Pixels = npt.NDArray[np.uint8]
CPU = torch.device("cpu")

quick = settings(max_examples=100, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_pixels(height: int = 6, width: int = 9, *, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(height: int = 6, width: int = 9, *, seed: int = 0) -> bytes:
    return write_image(random_pixels(height, width, seed=seed), "png")


def as_image(pixels: Pixels) -> Tensor:
    """[H,W,3] -> [3,H,W]."""
    return torch.tensor(np.moveaxis(pixels, 2, 0))


def add_member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            add_member(archive, name, data)
    return path


def images_in(path: Path) -> list[SourceImage]:
    return list(Tar(path, NamedPath.of_file(path)).images(f"{path.stem}/", Search()).images)


# --- order ----------------------------------------------------------------------------------------------------------


def sources(*keys: str) -> list[SourceImage]:
    return [SourceImage(key, ON_DISK, f"nowhere/{key}", 0) for key in keys]


def test_the_order_is_random_and_the_seeds() -> None:
    images = sources(*(f"{i:03d}.png" for i in range(100)))
    order = in_random_order(images, 0)
    assert sorted(image.key for image in order) == [image.key for image in images]
    assert order != images
    assert order == in_random_order(images[::-1], 0)
    assert order != in_random_order(images, 1)
    places = [order.index(image) for image in images]
    assert abs(np.corrcoef(places, range(100))[0, 1]) < 0.3  # three times its standard deviation


@given(keys=st.lists(st.text(min_size=1), min_size=2, max_size=8, unique=True), seed=st.integers(0, 99))
@quick
def test_the_place_of_an_image_does_not_depend_on_the_others(keys: list[str], seed: int) -> None:
    images = sources(*keys)
    order = in_random_order(images, seed)
    for left_out in images:
        rest = [image for image in images if image != left_out]
        assert in_random_order(rest, seed) == [image for image in order if image != left_out]


def test_a_name_that_is_not_unicode_has_its_place_too() -> None:
    images = sources("b\udcff.png", "b\udcfe.png", "a.png")
    assert set(in_random_order(images, 0)) == set(images)


# --- reading --------------------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path: Path) -> list[SourceImage]:
    """Good files and packed images, and among them whatever can go wrong."""
    tar = write_tar(tmp_path / "crops.tar", [("0.png", png(seed=0)), ("bad.png", b"no image"), ("1.png", png(seed=1))])
    first, bad, second = images_in(tar)
    cut = write_tar(tmp_path / "cut.tar", [("x.png", png(20, 30))])
    (shorter,) = images_in(cut)
    cut.write_bytes(cut.read_bytes()[: shorter.place + 50])
    (tmp_path / "2.png").write_bytes(png(seed=2))
    (tmp_path / "text.png").write_bytes(b"a text")
    (tmp_path / "folder.png").mkdir()
    files: dict[str, SourceImage] = {
        name: SourceImage(name, ON_DISK, tmp_path / name, 1) for name in ("2.png", "text.png", "gone.png", "folder.png")
    }
    tar_reader = Tar(tmp_path / "gone.tar", NamedPath.of_file(tmp_path / "gone.tar"))
    gone_tar = SourceImage("gone/x.png", tar_reader, 512, 10)
    return [
        first,
        files["gone.png"],
        bad,
        files["2.png"],
        gone_tar,
        shorter,
        files["text.png"],
        second,
        *files.values(),
    ]


@pytest.mark.parametrize("num_workers", [1, 4])
def test_every_image_comes_in_order_with_its_pixels_or_the_reason(mixed: list[SourceImage], num_workers: int) -> None:
    read = list(read_all(mixed, ReadSettings(), num_workers))
    assert [image for image, _ in read] == mixed
    good = {"crops/0.png": 0, "crops/1.png": 1, "2.png": 2}
    for image, result in read:
        if isinstance(result, Failure):
            assert image.key not in good
            assert result.key == image.key
            assert result.reason
            assert len(result.reason.splitlines()) == 1
        else:
            assert result.dtype == torch.uint8
            assert result.is_contiguous()
            assert torch.equal(result, as_image(random_pixels(seed=good[image.key])))


def test_a_vanished_file_is_told_from_a_broken_one(mixed: list[SourceImage]) -> None:
    reasons = {
        image.key: result.reason for image, result in read_all(mixed, ReadSettings(), 1) if isinstance(result, Failure)
    }
    for key in ("gone.png", "gone/x.png"):
        assert "No such file" in reasons[key]
    for key in ("crops/bad.png", "cut/x.png", "text.png"):
        assert "No such file" not in reasons[key]
    assert set(reasons) == {"gone.png", "gone/x.png", "crops/bad.png", "cut/x.png", "text.png", "folder.png"}


def test_more_images_than_are_read_at_once_stay_in_order(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "crops.tar", [(f"{i}.png", png(2, 1 + i % 7)) for i in range(150)])
    found = images_in(path)
    widths = [pixels.shape[2] for _, pixels in read_all(found, ReadSettings(), 4) if isinstance(pixels, Tensor)]
    assert widths == [1 + i % 7 for i in range(150)]


def test_only_a_few_images_are_read_ahead(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    images = [SourceImage(f"{i}.png", ON_DISK, tmp_path / "a.png", 1) for i in range(1000)]
    reading = read_all(images, ReadSettings(), 2)
    _, first = next(reading)
    assert isinstance(first, Tensor)
    (tmp_path / "a.png").unlink()
    assert sum(isinstance(result, Tensor) for _, result in reading) < 200


def test_what_is_in_the_pool_is_counted() -> None:
    pool = ImagePool()
    assert (len(pool), pool.num_bytes) == (0, 0)
    one, other = as_image(random_pixels(4, 5)), as_image(random_pixels(7, 2))
    pool.add("a", one)
    pool.add("b", other)
    assert (len(pool), pool.num_bytes) == (2, 3 * (20 + 14))
    assert pool.keys == ["a", "b"]
    assert pool.images[0] is one
    assert pool.images[1] is other
    assert len(ImagePool()) == 0  # every pool has lists of its own


# --- where crops are ------------------------------------------------------------------------------------------------


@given(
    crop_px=st.integers(1, 8),
    margins=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=6),
    count=st.integers(0, 50),
    seed=seeds,
)
@quick
def test_crops_lie_inside_their_image_and_the_generator_alone_decides(
    crop_px: int, margins: list[tuple[int, int]], count: int, seed: int
) -> None:
    shapes = torch.tensor(margins) + crop_px
    places = draw_places(shapes, crop_px, count, seeded(seed))
    for values, dtype in (
        (places.image, torch.int64),
        (places.top, torch.int64),
        (places.left, torch.int64),
        (places.mirrored, torch.bool),
    ):
        assert values.shape == (count,)
        assert values.dtype == dtype
    assert ((places.image >= 0) & (places.image < len(shapes))).all()
    heights, widths = shapes[places.image].T
    assert ((places.top >= 0) & (places.top + crop_px <= heights)).all()
    assert ((places.left >= 0) & (places.left + crop_px <= widths)).all()
    again = draw_places(shapes, crop_px, count, seeded(seed))
    for name in ("image", "top", "left", "mirrored"):
        assert torch.equal(getattr(places, name), getattr(again, name))


def test_another_seed_or_the_next_draw_gives_other_places() -> None:
    shapes, generator = torch.tensor([[50, 60], [70, 40]]), seeded(0)
    first, second = (draw_places(shapes, 8, 20, generator) for _ in range(2))
    assert not torch.equal(first.top, second.top)
    assert not torch.equal(first.top, draw_places(shapes, 8, 20, seeded(1)).top)


def test_images_are_drawn_by_their_area_so_that_every_pixel_has_its_share() -> None:
    shapes = torch.tensor([[16, 16], [100, 50], [32, 32], [16, 64]])
    places = draw_places(shapes, 16, 40_000, seeded())
    share = torch.bincount(places.image, minlength=4).double() / 40_000
    areas = torch.tensor([256.0, 5000, 1024, 1024], dtype=torch.float64)
    torch.testing.assert_close(share, areas / areas.sum(), rtol=0, atol=0.01)  # four standard deviations


def test_every_place_in_an_image_is_as_likely_and_half_of_the_crops_are_mirrored() -> None:
    places = draw_places(torch.tensor([[10, 12]]), 8, 30_000, seeded())
    assert int(places.top.max()) == 2
    assert int(places.left.max()) == 4
    place = (places.top * 5 + places.left) * 2 + places.mirrored.long()
    share = torch.bincount(place, minlength=30).double() / 30_000
    torch.testing.assert_close(share, torch.full((30,), 1 / 30, dtype=torch.float64), rtol=0, atol=0.005)


# --- crops ----------------------------------------------------------------------------------------------------------

SHAPES = [(9, 9), (30, 11), (9, 40), (23, 25)]
CROP_PX = 9


def images_of_all_shapes() -> list[Tensor]:
    return [as_image(random_pixels(*shape, seed=i)) for i, shape in enumerate(SHAPES)]


def cut_by_hand(images: Sequence[Tensor], places: CropPlaces) -> Tensor:
    crops = []
    for image, top, left, is_mirrored in zip(
        *(values.tolist() for values in (places.image, places.top, places.left, places.mirrored)), strict=True
    ):
        crop = images[image].numpy()[:, top : top + CROP_PX, left : left + CROP_PX]
        crops.append(crop[:, :, ::-1] if is_mirrored else crop)
    return torch.tensor(np.stack(crops))


def test_crops_are_the_pixels_of_their_images() -> None:
    images = images_of_all_shapes()
    crops = CropSampler(images, CROP_PX, CPU).draw(60, seeded(3))
    places = draw_places(torch.tensor(SHAPES), CROP_PX, 60, seeded(3))
    assert set(places.image.tolist()) == {0, 1, 2, 3}
    assert set(places.mirrored.tolist()) == {False, True}
    assert crops.dtype == torch.uint8
    assert crops.shape == (60, 3, CROP_PX, CROP_PX)
    assert torch.equal(crops, cut_by_hand(images, places))


def test_a_mirrored_crop_is_the_crop_flipped_left_to_right() -> None:
    sampler = CropSampler(images_of_all_shapes(), CROP_PX, CPU)
    image, top, left = torch.tensor([3]), torch.tensor([5]), torch.tensor([7])
    plain = sampler.cut(CropPlaces(image, top, left, torch.tensor([False])))
    mirrored = sampler.cut(CropPlaces(image, top, left, torch.tensor([True])))
    assert not torch.equal(mirrored, plain)
    for x in range(CROP_PX):
        assert torch.equal(mirrored[..., x], plain[..., CROP_PX - 1 - x])


def places_at_the_corners() -> CropPlaces:
    """Every corner of every image, mirrored and not."""
    rows = [
        (i, top, left, is_mirrored)
        for i, (height, width) in enumerate(SHAPES)
        for top in (0, height - CROP_PX)
        for left in (0, width - CROP_PX)
        for is_mirrored in (False, True)
    ]
    image, top, left, mirrored = (torch.tensor(values) for values in zip(*rows, strict=True))
    return CropPlaces(image, top, left, mirrored)


@pytest.mark.parametrize(
    "places",
    [places_at_the_corners(), draw_places(torch.tensor(SHAPES), CROP_PX, 100, seeded(4))],
    ids=["ends", "drawn"],
)
def test_images_in_one_piece_of_memory_give_the_same_crops(places: CropPlaces) -> None:
    images = images_of_all_shapes()
    together = packed(images, CPU)
    assert len({image.untyped_storage().data_ptr() for image in together}) == 1
    crops = CropSampler(together, CROP_PX, CPU).cut(places)
    assert crops.dtype == torch.uint8
    assert torch.equal(crops, CropSampler(images, CROP_PX, CPU).cut(places))
    assert torch.equal(crops, cut_by_hand(images, places))


@pytest.mark.gpu
def test_an_accelerator_draws_the_same_crops() -> None:
    images = images_of_all_shapes()
    on_device = CropSampler(images, CROP_PX, torch.device("cuda")).draw(60, seeded(3))
    assert on_device.device.type == "cuda"
    assert torch.equal(on_device.cpu(), CropSampler(images, CROP_PX, CPU).draw(60, seeded(3)))
