"""Masks on the latent grid: the area average of what counts of the pixels, through the very geometry of these."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from semdis_cli.events import Failure
from semdis_cli.images.geometry import mirror, move_crop, plan_geometry
from semdis_cli.images.loader import Loader
from semdis_cli.images.masks import grid_mask, masks_made
from semdis_cli.parts import MASK, MASK_FLIP
from semdis_cli.records import Geometry, LoadedImage
from semdis_cli.settings import CropSettings, GeometrySettings, LoadSettings
from semdis_cli.sources.find import find_images
from semdis_cli.sources.masks import find_masks
from semdis_cli.sources.views import in_views

PATCH = 4
WAYS = [
    GeometrySettings(),
    GeometrySettings(max_pixels=150),
    GeometrySettings(size=8),
    GeometrySettings(size=12, resize="adm"),
    GeometrySettings(buckets=((8, 12), (16, 8))),
]
PHOTO_PATCH = 16


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Any way of sizing a small picture, also cut at a random place."""
    size = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    plan = plan_geometry(size, draw(st.sampled_from(WAYS)), PATCH)
    return move_crop(plan, draw(st.integers(0, 9)), "a.png", 1)


def box_resized(values: np.ndarray, num: int, axis: int) -> np.ndarray:
    """Each of `num` pixels as the average of what it covers, found on a grid that is fine enough for both."""
    fine = np.repeat(values.astype(np.float64), num, axis)
    shape = [*fine.shape[:axis], num, values.shape[axis], *fine.shape[axis + 1 :]]
    means: np.ndarray = fine.reshape(shape).mean(axis + 1)
    return means


def by_pixels(values: np.ndarray, plan: Geometry, patch: int, *, is_mirrored: bool) -> np.ndarray:
    """The mask by way of pixels: resized by area, cut, mirrored, padded with 0, and averaged."""
    pixels = box_resized(box_resized(values, plan.resized[0], 0), plan.resized[1], 1)
    (top, left), (height, width) = plan.crop, plan.image
    pixels = pixels[top : top + height, left : left + width]
    padded = np.zeros(plan.bucket)
    padded[:height, :width] = pixels[:, ::-1] if is_mirrored else pixels
    h, w = (side // patch for side in plan.bucket)
    means: np.ndarray = padded.reshape(h, patch, w, patch).mean((1, 3)) / 255
    return means


@settings(deadline=None)
@given(
    plan=geometries(),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    seed=st.integers(0, 9),
    flip=st.booleans(),
)
def test_a_mask_is_the_area_average_of_its_pixels(plan: Geometry, size: tuple[int, int], seed: int, flip: bool) -> None:
    values = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    found = grid_mask(values, plan, PATCH, is_mirrored=flip)
    expected = by_pixels(values, plan, PATCH, is_mirrored=flip)
    assert found.dtype == torch.float32
    assert found.shape == (1, *expected.shape)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    np.testing.assert_allclose(found[0], expected, atol=1e-6)


@settings(deadline=None)
@given(plan=geometries(), seed=st.integers(0, 9))
def test_the_twin_of_a_mask_is_the_mask_of_the_mirrored_picture(plan: Geometry, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 256, plan.source, dtype=np.uint8)
    twin = grid_mask(values, plan, PATCH, is_mirrored=True)
    mirrored = grid_mask(values[:, ::-1], replace(plan, crop=plan.crop_flip), PATCH)
    torch.testing.assert_close(twin, mirrored, atol=1e-6, rtol=0)
    if plan.image[1] == plan.bucket[1]:
        torch.testing.assert_close(twin, grid_mask(values, plan, PATCH).flip(-1), atol=1e-6, rtol=0)


@settings(deadline=None)
@given(plan=geometries(), flip=st.booleans())
def test_of_a_picture_that_counts_whole_nothing_counts_but_for_padding(plan: Geometry, flip: bool) -> None:
    whole = np.full(plan.source, 255, np.uint8)
    expected = grid_mask(whole, plan, PATCH, is_mirrored=flip)
    torch.testing.assert_close(grid_mask(None, plan, PATCH, is_mirrored=flip), expected, atol=1e-6, rtol=0)


# --- of files ---


def waves(height: int, width: int) -> np.ndarray:
    """A smooth picture without symmetry, [H,W] uint8, whose resizing is much the same by any filter."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    values: np.ndarray = np.round(127.5 * (1 + np.sin(2 + 5 * x + 3 * y * y))).astype(np.uint8)
    return values


def save(path: Path, colour: np.ndarray, alpha: np.ndarray | None = None, orientation: int = 1) -> None:
    """A picture whose grey is `colour`; stored so that `orientation` turns it upright."""
    path.parent.mkdir(exist_ok=True)
    picture = Image.fromarray(colour)
    if alpha is not None:
        picture = Image.merge("LA", (picture, Image.fromarray(alpha)))
    undo = {6: Image.Transpose.ROTATE_90, 5: Image.Transpose.TRANSPOSE}
    exif = Image.Exif()
    exif[0x0112] = orientation
    (picture.transpose(undo[orientation]) if orientation in undo else picture).save(path, exif=exif)


def load(load_settings: LoadSettings, images: Path, masks: Path | None = None) -> dict[str, LoadedImage | Failure]:
    """The images of a folder, with masks from another one, or of their alpha."""
    found = find_images([images])
    maker = masks_made((MASK, MASK_FLIP), None if masks is None else find_masks(masks, found))
    with Loader(load_settings, PHOTO_PATCH, 1, masks=maker) as loader:
        planned, failures = loader.plan(in_views(loader.stamped(found.images), (), load_settings.views)[0])
        assert not failures
        return {one.source.key: loader.load(one) for one in planned}


def patch_means(pixels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(pixels[:1].double() / 255, PHOTO_PATCH).float()


BUCKETS = GeometrySettings(buckets=((48, 64), (64, 48)))
SETTINGS = {
    "own size": LoadSettings(),
    "max pixels": LoadSettings(GeometrySettings(max_pixels=3000)),
    "size": LoadSettings(GeometrySettings(size=48)),
    "adm": LoadSettings(GeometrySettings(size=32, resize="adm")),
    "bucket": LoadSettings(BUCKETS),
    "crops": LoadSettings(GeometrySettings(size=32), crops=CropSettings(number=3, seed=5)),
    "sizes and crops": LoadSettings(GeometrySettings(size=(32, 48)), crops=CropSettings(number=2)),
}


@pytest.mark.parametrize("orientation", [1, 6, 5])
@pytest.mark.parametrize("from_file", [False, True], ids=["alpha", "file"])
@pytest.mark.parametrize("way", SETTINGS)
def test_masks_lie_where_the_pixels_lie(tmp_path: Path, way: str, from_file: bool, orientation: int) -> None:
    """The same picture as pixels and as mask: their averages are the same, but for what filters make of them."""
    upright = waves(80, 104)
    save(tmp_path / "photos" / "a.png", upright, None, orientation)
    save(tmp_path / "photos" / "b.jpg", upright, None, orientation)
    if from_file:
        save(tmp_path / "masks" / "a.png", upright)
        save(tmp_path / "masks" / "b.tif", upright, None, orientation)
        plain = loaded = load(SETTINGS[way], tmp_path / "photos", tmp_path / "masks")
    else:
        plain = load(SETTINGS[way], tmp_path / "photos")
        save(tmp_path / "photos" / "a.png", upright, upright, orientation)
        save(tmp_path / "photos" / "b.jpg", upright, None, orientation)
        loaded = load(SETTINGS[way], tmp_path / "photos")
    for key, image in loaded.items():
        if from_file or key.startswith("a"):
            pixels = plain[key]
            assert isinstance(image, LoadedImage)
            assert isinstance(pixels, LoadedImage)
            geometry = image.record.geometry
            height, width = (side // PHOTO_PATCH for side in geometry.image)  # whole positions, without padding
            for mask, shown in (
                (image.parts[MASK], pixels.pixels),
                (image.parts[MASK_FLIP], mirror(pixels.pixels, geometry)),
            ):
                found, expected = mask[:, :height, :width], patch_means(shown)[:, :height, :width]
                torch.testing.assert_close(found, expected, atol=0.02, rtol=0)
    assert any(isinstance(image, LoadedImage) and image.parts[MASK].std() > 0.1 for image in loaded.values())


def with_palette(alpha: np.ndarray) -> Image.Image:
    """A picture of two colours, of which one is transparent by the palette."""
    picture = Image.fromarray((alpha > 0).astype(np.uint8)).convert("P")
    picture.putpalette([10, 20, 30, 200, 210, 220])
    picture.info["transparency"] = bytes([0, 128])
    return picture


def test_alpha_of_every_kind_counts(tmp_path: Path) -> None:
    alpha = np.zeros((32, 48), np.uint8)
    alpha[:16, :16], alpha[:, 32:] = 255, 128
    colour = Image.fromarray(np.full((32, 48), 90, np.uint8))
    picture = Image.fromarray(alpha)
    (tmp_path / "photos").mkdir()
    Image.merge("RGBA", (colour, colour, colour, picture)).save(tmp_path / "photos" / "rgba.png")
    Image.merge("LA", (colour, picture)).save(tmp_path / "photos" / "la.png")
    Image.merge("RGBA", (colour, colour, colour, picture)).save(tmp_path / "photos" / "webp.webp", lossless=True)
    with_palette(alpha).save(tmp_path / "photos" / "palette.png", transparency=bytes([0, 128]))
    colour.convert("RGB").save(tmp_path / "photos" / "key.png", transparency=(90, 90, 90))
    colour.convert("RGB").save(tmp_path / "photos" / "opaque.png")
    loaded = load(LoadSettings(), tmp_path / "photos")
    graded = torch.tensor([[[1, 0, 128 / 255], [0, 0, 128 / 255]]])
    expected = {
        "rgba.png": graded,
        "la.png": graded,
        "webp.webp": graded,
        "palette.png": torch.tensor([[[1, 0, 1], [0, 0, 1]]]) * 128 / 255,
        "key.png": torch.zeros(1, 2, 3),
        "opaque.png": torch.ones(1, 2, 3),
    }
    assert loaded.keys() == expected.keys()
    for key, image in loaded.items():
        assert isinstance(image, LoadedImage)
        torch.testing.assert_close(image.parts[MASK], expected[key], atol=1e-6, rtol=0)
        torch.testing.assert_close(image.parts[MASK_FLIP], expected[key].flip(-1), atol=1e-6, rtol=0)


def test_padding_counts_nothing_and_lies_at_the_right_of_twins_too(tmp_path: Path) -> None:
    save(tmp_path / "photos" / "a.png", np.full((20, 24), 90, np.uint8))
    [image] = load(LoadSettings(), tmp_path / "photos").values()
    assert isinstance(image, LoadedImage)
    expected = torch.tensor([[[1, 0.5], [0.25, 0.125]]])
    assert torch.equal(image.parts[MASK], expected)
    assert torch.equal(image.parts[MASK_FLIP], expected)


def bytes_of(picture: Image.Image, name: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, name, **options)
    return file.getvalue()


GREY = np.repeat(np.repeat(np.array([[0, 51, 255], [102, 204, 0]], np.uint8), 16, 0), 16, 1)
ON_GREY = Image.fromarray(GREY)
MASKS = {
    "grey": bytes_of(ON_GREY, "PNG"),
    "16 bits": bytes_of(Image.fromarray(GREY.astype(np.uint16) * 257), "PNG"),
    "colour": bytes_of(ON_GREY.convert("RGB"), "BMP"),
    "palette": bytes_of(ON_GREY.convert("P"), "PNG"),
    "alpha on white": bytes_of(Image.merge("LA", (Image.new("L", ON_GREY.size, 255), ON_GREY)), "PNG"),
    "half the size": bytes_of(ON_GREY.resize((24, 16), Image.Resampling.NEAREST), "PNG"),
    "thrice the size": bytes_of(ON_GREY.resize((144, 96), Image.Resampling.NEAREST), "TIFF"),
    "jpeg": bytes_of(ON_GREY, "JPEG", quality=100),
}


@pytest.mark.parametrize("kind", MASKS)
def test_masks_of_every_kind_are_read(tmp_path: Path, kind: str) -> None:
    save(tmp_path / "photos" / "a.b.jpg", waves(32, 48))
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a.b.png").write_bytes(MASKS[kind])
    [image] = load(LoadSettings(), tmp_path / "photos", tmp_path / "masks").values()
    assert isinstance(image, LoadedImage)
    expected = torch.tensor([[[0, 0.2, 1], [0.4, 0.8, 0]]])
    torch.testing.assert_close(image.parts[MASK], expected, atol=0.01 if kind == "jpeg" else 1e-6, rtol=0)


@pytest.mark.parametrize(
    ("size", "is_of_its_shape"),
    [
        ((100, 150), True),
        ((50, 75), True),
        ((33, 50), True),
        ((34, 50), True),
        ((150, 100), False),
        ((100, 140), False),
    ],
)
def test_a_mask_of_another_shape_is_the_failure_of_its_image(
    tmp_path: Path, size: tuple[int, int], is_of_its_shape: bool
) -> None:
    save(tmp_path / "photos" / "a.png", waves(100, 150))
    save(tmp_path / "masks" / "a.png", waves(*size))
    [image] = load(LoadSettings(), tmp_path / "photos", tmp_path / "masks").values()
    assert isinstance(image, LoadedImage) is is_of_its_shape
    if isinstance(image, Failure):
        assert image.is_final
        assert image.reason == (
            f"its mask a.png has {size[1]}x{size[0]} px, another shape than the 150x100 px of the image"
        )
