"""Names of decoded images, and how they come onto the disk."""

from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semdis_cli.errors import NoSpaceError, UsageError
from semdis_cli.files.spelling import check_key
from semdis_cli.images.images import read_image
from semdis_cli.pipeline.images_out import ImageWriter, output_names, parts
from semdis_cli.pipeline.workers import Workers
from semdis_cli.settings import WriteSettings
from tests.disks import fill_disk, small_disk

_PARTS = st.text("ab.p", min_size=1, max_size=4).filter(lambda part: part not in {".", ".."})
_KEYS = st.lists(_PARTS, min_size=1, max_size=3).map("/".join)


def names_by_pathlib(keys: list[str], suffix: str) -> dict[str, PurePosixPath]:
    """The rule of `output_names` in pathlib's words."""
    paths = {key: PurePosixPath(key) for key in keys}
    appended = {key: path.with_name(f"{path.name}.{suffix}") for key, path in paths.items()}
    dotted = {key: path.name.endswith(".") for key, path in paths.items()}  # has no suffix before Python 3.14
    replaced = {key: appended[key] if dotted[key] else path.with_suffix(f".{suffix}") for key, path in paths.items()}
    taken = Counter(replaced.values()) + Counter({folder for path in paths.values() for folder in path.parents})
    names = {key: name if taken[name] == 1 else appended[key] for key, name in replaced.items()}
    return names if len(set(names.values())) == len(names) else appended


@settings(max_examples=500, deadline=None)
@given(st.lists(_KEYS, max_size=8, unique=True), st.sampled_from(["png", "p"]))
def test_names_have_the_suffix_replaced_where_that_name_is_free(keys: list[str], suffix: str) -> None:
    assert [str(check_key(key)) for key in keys] == keys
    found = output_names(keys, suffix)
    assert list(found.items()) == list(names_by_pathlib(keys, suffix).items())


@given(st.integers(1, 300), st.integers(1, 1 << 21), st.integers(1, 64))
def test_parts_hold_every_image_once_and_keep_all_threads_busy(
    num_images: int, num_pixels: int, num_threads: int
) -> None:
    found = parts(range(num_images), num_pixels, num_threads)
    assert [number for part in found for number in part] == list(range(num_images))
    assert len(found) >= min(num_images, num_threads)
    assert all(len(part) == 1 or len(part) * num_pixels <= 1 << 19 for part in found)


def pictures(*keys: str) -> list[tuple[str, np.ndarray]]:
    generator = np.random.default_rng(0)
    return [(key, generator.integers(0, 256, (3, 24, 16), np.uint8)) for key in keys]


@pytest.mark.parametrize("num_model_threads", [None, 1])
def test_images_that_threads_write_are_those_that_one_writes(tmp_path: Path, num_model_threads: int | None) -> None:
    keys = [f"{folder}/{number}.jpg" for folder in ("a", "b") for number in range(9)]
    images, names = pictures(*keys), output_names(keys, "png")
    (tmp_path / "alone").mkdir()
    assert ImageWriter(tmp_path / "alone", names, WriteSettings()).write(images).failures == []
    (tmp_path / "threads").mkdir()
    writer = ImageWriter(tmp_path / "threads", names, WriteSettings())
    with Workers(2, num_model_threads) as workers:
        assert workers.result(workers.result(workers.submit_model(writer.submit, images, workers))).failures == []
        assert workers.result(writer.submit([], workers)).failures == []
    for key, pixels in images:
        data = (tmp_path / "threads" / names[key]).read_bytes()
        assert data == (tmp_path / "alone" / names[key]).read_bytes()
        assert np.array_equal(np.asarray(read_image(data).pixels), pixels.transpose(1, 2, 0))
        assert writer.exists(key)


def test_a_link_that_leads_out_is_refused_whichever_image_it_is_met_with(tmp_path: Path) -> None:
    for folder in ("out", "elsewhere"):
        (tmp_path / folder).mkdir()
    (tmp_path / "out" / "b").symlink_to(tmp_path / "elsewhere")
    keys = ["a.jpg", "b/c.jpg"]
    with pytest.raises(UsageError, match=r"out/b/c\.png: a link leads out of"):
        ImageWriter(tmp_path / "out", output_names(keys, "png"), WriteSettings()).write(pictures(*keys))
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_what_threads_cannot_write_is_raised_where_it_is_waited_for(tmp_path: Path) -> None:
    keys = ["a.jpg", "b.jpg"]
    with small_disk(tmp_path / "disk", "size=64k") as disk, Workers(2, 1) as workers:
        fill_disk(disk)
        writing = ImageWriter(disk, output_names(keys, "png"), WriteSettings()).submit(pictures(*keys), workers)
        with pytest.raises(NoSpaceError):
            workers.result(writing)
        wide = [(key, np.zeros((3, 1, 16384), np.uint8)) for key in keys]
        writing = ImageWriter(disk, output_names(keys, "webp"), WriteSettings("webp")).submit(wide, workers)
        with pytest.raises(UsageError, match="16383 px a side"):
            workers.result(writing)
