"""Masks of images: which is whose, and that a change of one shows in the times of its image."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semdis_cli.files.identity import Witness
from semdis_cli.files.image_list import ImageList
from semdis_cli.records import SourceImage
from semdis_cli.sources.files import ON_DISK
from semdis_cli.sources.find import FoundImages
from semdis_cli.sources.masks import MaskFiles, find_masks
from semdis_cli.store.checks import MALFORMED
from semdis_cli.store.writing.seen import SeenFile
from tests.worlds import save_noise

PNG_START = b"\x89PNG\r\n\x1a\n"
OLD_NS = 1_600_000_000_123_456_789


def images_of(*keys: str, ctime_ns: int | None = OLD_NS + 7) -> list[SourceImage]:
    """Images that nobody reads, each with times of its own, but for a `ctime_ns` of 0 or None, which all have."""
    return [
        SourceImage(key, ON_DISK, f"/nowhere/{key}", 9, OLD_NS + number, ctime_ns and ctime_ns + number)
        for number, key in enumerate(keys)
    ]


def found(images: Sequence[SourceImage]) -> FoundImages:
    return FoundImages(ImageList(images), ())


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    for seed, name in enumerate(("a.png", "b.png")):
        save_noise(tmp_path / name, seed)
    time.sleep(2.1)  # a change of the last two seconds might not show
    return tmp_path


def are_unchanged(then: ImageList, now: ImageList) -> list[bool]:
    witness = Witness.of(now, time.time_ns())
    return [witness.is_unchanged(image, SeenFile.of(seen)) for seen, image in zip(then, now, strict=True)]


def test_a_change_of_a_mask_shows_in_the_times_of_its_image_alone(masks: Path) -> None:
    images = images_of("a.jpg", "b.jpg", "c.jpg")
    before = find_masks(masks, found(images)).stamped(images)
    assert [image.mtime_ns for image in before] == [image.mtime_ns for image in images]  # by which readers know a tar
    assert are_unchanged(before, find_masks(masks, found(images)).stamped(images)) == [True, True, True]
    os.utime(masks / "a.png", ns=(OLD_NS, OLD_NS))
    time.sleep(2.1)
    after = find_masks(masks, found(images)).stamped(images)
    assert are_unchanged(before, after) == [False, True, True]
    (masks / "b.png").rename(masks / "c.png")
    moved = find_masks(masks, found(images)).stamped(images)
    assert are_unchanged(after, moved) == [True, False, False]


@pytest.mark.parametrize("ctime_ns", [0, None])
def test_where_images_have_no_times_of_change_contents_are_compared(masks: Path, ctime_ns: int | None) -> None:
    images = images_of("a.jpg", "b.jpg", "c.jpg", ctime_ns=ctime_ns)
    before, after = (find_masks(masks, found(images)).stamped(images) for _ in range(2))
    assert are_unchanged(before, after) == [False, False, False]


def test_an_image_that_copies_its_times_is_compared(masks: Path) -> None:
    """As sshfs gives them: the time of modification for both, in whole seconds."""
    images = images_of("a.jpg", "b.jpg", "c.jpg")
    second = 1_600_000_000 * 10**9
    images[0] = replace(images[0], mtime_ns=second, ctime_ns=second)
    before, after = (find_masks(masks, found(images)).stamped(images) for _ in range(2))
    assert are_unchanged(before, after) == [False, True, True]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("a.png",), "a.png"),
        (("a.jpg.tif", "a.png"), "a.jpg.tif"),
        (("a.jpg", "a.jpg.tif", "a.png"), "a.jpg"),
        (("a.b.png", "b.png", "aa.png", "A.png", "sub/a.png"), None),
        (("._a.png",), None),
    ],
)
def test_a_mask_is_found_by_the_key_of_its_image(tmp_path: Path, names: tuple[str, ...], expected: str | None) -> None:
    for name in (*names, "other.png"):
        save_noise(tmp_path / Path(name).with_suffix(".png")).rename(tmp_path / name)
    images = images_of("a.jpg", "other.jpg")
    mask = find_masks(tmp_path, found(images)).of(images[0])
    assert (None if mask is None else mask.key) == expected


NAMES = [f"{stem}{end}" for stem in ("a", "b.c", "d/a") for end in ("", ".png", ".jpg", ".x.y")]


@given(names=st.sets(st.sampled_from(NAMES)))
def test_masks_that_are_looked_for_are_those_of_the_list(
    tmp_path_factory: pytest.TempPathFactory, names: set[str]
) -> None:
    folder = tmp_path_factory.mktemp("masks")
    for name in names | {"z.gif"}:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(PNG_START)
    keys = [f"{stem}{end}" for stem in ("a", "b", "b.c", "d/a", "d") for end in (".png", ".jpg", ".bmp", "")]
    listed = find_masks(folder, found(images_of("z.jpg")))
    planned = MaskFiles.planned(folder, json.loads(json.dumps(listed.describe())))
    for image in images_of(*keys):
        if len(listed.names.find(image.key)) < 2:  # with several the run is refused
            assert planned.of(image) == listed.of(image)


@pytest.mark.parametrize("suffix", ["/../x.png", ".png/../../x", "png", ".p\0g", 5, None])
def test_masks_of_a_plan_lie_in_their_folder(tmp_path: Path, suffix: object) -> None:
    fields = {"suffixes": [suffix], "note": "", "has_ctimes": True, "masks_have_ctimes": True}
    with pytest.raises(MALFORMED):
        MaskFiles.planned(tmp_path, fields)
