"""Figures by shard, as a run leaves them and another one finds them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semdis_cli.errors import StoreError
from semdis_cli.events import Failure, ImageMeasured
from semdis_cli.pipeline.measuring.figures import FIGURES_FOLDER, FigureRow, FigureSpool
from semdis_cli.records import PlannedImage, SourceImage
from semdis_cli.sources.files import FilesOnDisk
from semdis_cli.store.writing.plan import PlannedShard


def shard(name: str, *keys: str) -> PlannedShard:
    reader = FilesOnDisk()
    return PlannedShard(name, [PlannedImage(SourceImage(key, reader, key, 1), (16, 16)) for key in keys])


def measured(key: str, psnr: float) -> ImageMeasured:
    return ImageMeasured(key, ({"psnr_db": psnr},))


def spool_of(folder: Path, settings: dict[str, object] | None = None, num_features: int = 0) -> FigureSpool:
    return FigureSpool.open(folder, settings or {"a": 1}, num_features)


def test_rows_come_sorted_by_key_whatever_shard_they_were_in(tmp_path: Path) -> None:
    spool = spool_of(tmp_path)
    for event in (measured("c", 3), measured("a", 1), Failure("b", "broken"), measured("d", 4)):
        spool.take(event)
    spool.finish(shard("two", "c", "d"))
    spool.finish(shard("one", "a", "b"))
    spool.add_others([Failure("aa", "no image")])
    assert [(row.key, row.error) for row in spool.rows()] == [
        ("a", None), ("aa", "no image"), ("b", "broken"), ("c", None), ("d", None),
    ]  # fmt: skip


def test_a_shard_that_is_done_counts_for_the_next_run_with_equal_settings_alone(tmp_path: Path) -> None:
    spool = spool_of(tmp_path)
    spool.take(measured("a", 1))
    spool.finish(shard("one", "a"))
    again = spool_of(tmp_path)
    assert again.done == {"one"}
    assert list(again.rows()) == [FigureRow("a", ({"psnr_db": 1},))]
    assert not spool_of(tmp_path, {"a": 2}).done
    assert not spool_of(tmp_path, {"a": 1}).done  # what had other settings is gone


def test_images_of_shards_under_way_are_not_mixed_up(tmp_path: Path) -> None:
    spool = spool_of(tmp_path)
    spool.take(measured("a", 1))
    spool.take(measured("b", 2))
    spool.finish(shard("one", "a"))
    assert [row.key for row in spool.rows()] == ["a"]
    spool.finish(shard("two", "b"))
    assert [row.key for row in spool.rows()] == ["a", "b"]


def test_features_lie_in_the_order_of_the_rows_that_have_some(tmp_path: Path) -> None:
    spool = spool_of(tmp_path, num_features=4)
    rng = np.random.default_rng(0)
    features = {key: rng.standard_normal((2, 4)).astype(np.float32) for key in "abcde"}
    for key in "ebad":
        spool.take(measured(key, 1))
        spool.take_features(key, features[key])
    spool.take(Failure("c", "broken"))
    spool.finish(shard("one", "a", "b", "c"))
    spool.finish(shard("two", "d", "e"))
    spool.add_others([])
    found = np.concatenate(list(spool_of(tmp_path, num_features=4).features(1, num_rows=1)))
    assert np.array_equal(found, np.stack([features[key] for key in "abde"]))


def test_more_shards_than_files_may_be_open_are_merged_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semdis_cli.pipeline.measuring.figures._MOST_OPEN", 3)
    spool = spool_of(tmp_path)
    keys = [f"{number:02}" for number in range(20)]
    for number, key in enumerate(keys):
        spool.take(measured(key, number))
        spool.finish(shard(f"s{number * 7 % 20}", key))
    assert [row.key for row in spool.rows()] == keys
    assert [row.key for row in spool.rows()] == keys  # and once more


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    spool = spool_of(tmp_path)
    spool.take(measured("a", 1))
    spool.finish(shard("one", "a"))
    path = tmp_path / FIGURES_FOLDER / "one.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StoreError, match=r"one\.jsonl"):
        list(spool.rows())


@given(
    key=st.text(st.characters(exclude_categories=()), min_size=1, max_size=20).filter(
        lambda key: not any("\ud800" <= c <= "\udc7f" or "\udd00" <= c <= "\udfff" for c in key)
    ),
    values=st.dictionaries(st.sampled_from(["psnr_db", "ssim"]), st.floats(allow_nan=False, allow_infinity=False)),
    num=st.integers(1, 3),
)
def test_a_row_reads_back_as_it_was_written(key: str, values: dict[str, float], num: int) -> None:
    row = FigureRow(key, (values,) * num)
    assert FigureRow.of_line(row.to_line()) == row
    json.loads(row.to_line())


@pytest.mark.parametrize("line", [b"", b"[]\n", b"{}\n", b'{"key": 1}\n', b'{"key": "a", "figures": 3}\n', b"\xff\n"])
def test_what_is_no_row_is_a_value_error(line: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        FigureRow.of_line(line)


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:-3]), Path.unlink])
def test_damaged_features_are_told_in_a_line(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    spool = spool_of(tmp_path, num_features=4)
    spool.take(measured("a", 1))
    spool.take_features("a", np.ones((2, 4), np.float32))
    spool.finish(shard("one", "a"))
    path = tmp_path / FIGURES_FOLDER / "one.features"
    damage(path)
    with pytest.raises(StoreError, match=r"figures cannot be read .*; give -o a new folder") as caught:
        list(spool.features(1))
    assert caught.value.place == str(path)
