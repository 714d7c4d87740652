"""Which images' pictures are kept, and that they are whole."""

from pathlib import Path

import numpy as np
import pytest

from semdis_cli.errors import StoreError
from semdis_cli.files.late import LateFiles
from semdis_cli.images.images import read_image, write_image
from semdis_cli.pipeline.contenders.contender import Version
from semdis_cli.pipeline.measuring.kept_pictures import KeptPicture, PictureChoice, PictureKeeper, Trial, kept_pictures


def trial(key: str, seed: int = 0, size: tuple[int, int] = (5, 7)) -> Trial:
    rng = np.random.default_rng(seed)
    given, back = rng.integers(0, 256, (2, 3, *size), dtype=np.uint8)
    return Trial(key, given, (Version(back, 10),), rng.standard_normal((4, 1, 2)).astype(np.float32))


def keys_in(folder: Path) -> set[str]:
    return {one.key for one in kept_pictures(folder, 1)}


def test_pixels_and_latents_come_back_as_they_were(tmp_path: Path) -> None:
    one = trial("a/ü\udcff.jpg")
    PictureKeeper(tmp_path, PictureChoice(1.0, 0)).take([one], [30.0])
    (kept,) = kept_pictures(tmp_path, 1)
    assert (kept.key, kept.size) == (one.key, (5, 7))
    for path, pixels in ((kept.original, one.given), (kept.versions[0], one.versions[0].pixels)):
        assert np.array_equal(np.asarray(read_image(path.read_bytes()).pixels), pixels.transpose(1, 2, 0))
    assert np.allclose(kept.latents, one.latents, atol=1e-2)


def test_what_is_packed_has_the_same_pixels_in_the_file_that_any_writer_makes(tmp_path: Path) -> None:
    one = trial("a", size=(40, 50))
    one.given[:] = 7
    PictureKeeper(tmp_path, PictureChoice(1.0, 0)).take([one], [30.0])
    (kept,) = kept_pictures(tmp_path, 1)
    before = kept.original.read_bytes()
    packed = kept.packed(LateFiles(tmp_path))
    assert packed.original.read_bytes() == write_image(one.given.transpose(1, 2, 0), "png")
    assert packed.versions[0].read_bytes() == write_image(one.versions[0].pixels.transpose(1, 2, 0), "png")
    assert packed.original.stat().st_size < len(before) / 10
    assert kept.original.read_bytes() == before  # which is safe: another run may need it
    assert keys_in(tmp_path) == {"a"}


def test_a_picture_that_was_damaged_since_is_named(tmp_path: Path) -> None:
    PictureKeeper(tmp_path, PictureChoice(1.0, 0)).take([trial("a")], [30.0])
    (kept,) = kept_pictures(tmp_path, 1)
    kept.versions[0].write_bytes(b"no picture")
    with pytest.raises(StoreError, match="cannot be read") as raised:
        kept.packed(LateFiles(tmp_path))
    assert str(kept.versions[0]) in str(raised.value)


def test_all_are_kept_where_there_are_few() -> None:
    choice = PictureChoice.of(10, 10)
    assert all(choice.is_sampled(f"{number}") for number in range(10))
    assert choice.num_worst == 0


def test_of_many_about_the_wanted_number_is_sampled_evenly_and_a_quarter_is_left_for_the_worst() -> None:
    choice = PictureChoice.of(200, 20_000)
    sampled = [number for number in range(20_000) if choice.is_sampled(f"photos/{number:05}.jpg")]
    assert choice.num_worst == 50
    assert 110 < len(sampled) < 190
    assert 40 < sum(number < 10_000 for number in sampled) < 110


@pytest.mark.parametrize("at_once", [1, 4, 100])
def test_the_worst_are_kept_in_whatever_order_they_come(tmp_path: Path, at_once: int) -> None:
    scores = np.random.default_rng(1).permutation(100).astype(float)
    keeper = PictureKeeper(tmp_path, PictureChoice(0.0, 7))
    for start in range(0, 100, at_once):
        part = range(start, start + at_once)
        keeper.take([trial(f"{number}") for number in part], [scores[number] for number in part])
    assert keys_in(tmp_path) == {f"{number}" for number in range(100) if scores[number] < 7}


def test_the_sample_takes_no_place_of_the_worst(tmp_path: Path) -> None:
    choice = PictureChoice(0.5, 2)
    keeper = PictureKeeper(tmp_path, choice)
    keeper.take([trial(f"{number}") for number in range(40)], [float(number) for number in range(40)])
    others = [f"{number}" for number in range(40) if not choice.is_sampled(f"{number}")]
    assert keys_in(tmp_path) == {f"{n}" for n in range(40) if choice.is_sampled(f"{n}")} | set(others[:2])


def test_what_an_earlier_run_has_measured_counts(tmp_path: Path) -> None:
    PictureKeeper(tmp_path, PictureChoice(0.0, 2)).take([trial("a"), trial("b")], [10.0, 20.0])
    keeper = PictureKeeper(tmp_path, PictureChoice(0.0, 2))
    keeper.know("a", 10.0)
    keeper.know("b", 20.0)
    keeper.take([trial("c"), trial("d")], [15.0, 30.0])
    assert keys_in(tmp_path) == {"a", "c"}


def test_pictures_that_a_power_cut_left_torn_are_passed_over(tmp_path: Path) -> None:
    PictureKeeper(tmp_path, PictureChoice(1.0, 0)).take([trial("a"), trial("b"), trial("c")], [1.0, 2.0, 3.0])
    kept: dict[str, KeptPicture] = {one.key: one for one in kept_pictures(tmp_path, 1)}
    kept["a"].original.write_bytes(b"")
    kept["b"].versions[0].unlink()
    assert keys_in(tmp_path) == {"c"}
