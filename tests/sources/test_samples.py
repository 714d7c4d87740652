"""Samples of WebDataset: what lies beside the images of a tar, in the tar and in its table, and folders of tars."""

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semdis_cli.errors import UnreadableImageError
from semdis_cli.records import MAX_BESIDE_BYTES
from semdis_cli.sources.files import read_bytes
from semdis_cli.sources.find import find_images
from semdis_cli.sources.members import Samples, split_sample
from tests.sources.found import columns_of
from tests.sources.test_tars import png, write_tar

SUFFIXES = ("txt", "json", "cls", "caption")


def offered(path: Path) -> dict[str, Mapping[str, object]]:
    return {image.key: columns_of(image) for image in find_images([path]).images}


def write_table(path: Path, **columns: Sequence[Any]) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table(columns), path, row_group_size=2)


def test_what_shares_the_name_up_to_the_first_dot_lies_beside_an_image(tmp_path: Path) -> None:
    members = [
        ("v1.0/0.txt", b"first"),  # before its image
        ("v1.0/0.jpg", png(1)),
        ("v1.0/0.json", b'{"a": 1}'),
        ("v1/0.jpg", png(2)),
        ("1.cls", b"7"),
        ("1.left.png", png(3)),
        ("1.right.png", png(4)),
        ("1.RIGHT.Txt", b"right"),
        ("2.png", png(5)),
        ("2.caption", b"x" * (MAX_BESIDE_BYTES + 9)),
        ("2.npy", b"not offered"),
        ("2.txt", b"old"),
        ("2.txt", b"new"),
        ("12.txt", b"of nothing"),
    ]
    assert offered(write_tar(tmp_path / "00000.tar", members)) == {
        "00000/v1.0/0.jpg": {"txt": b"first", "json": b'{"a": 1}'},
        "00000/v1/0.jpg": {},
        "00000/1.left.png": {"cls": b"7", "right.txt": b"right"},
        "00000/1.right.png": {"cls": b"7", "txt": b"right"},
        "00000/2.png": {"caption": b"x" * (MAX_BESIDE_BYTES + 1), "txt": b"new"},
    }


@given(st.text(st.sampled_from("ab./"), min_size=1, max_size=12))
def test_sample_and_suffix_give_the_name(name: str) -> None:
    sample, suffix = split_sample(name)
    assert name == (f"{sample}.{suffix}" if suffix or name != sample else sample)
    assert "." not in sample[sample.rfind("/") + 2 :]
    assert sample.count("/") == name.count("/")


@given(
    members=st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from(("png", "l.png", *SUFFIXES, "l.txt"))), unique=True
    )
)
def test_samples_are_found_in_any_order(members: list[tuple[str, str]]) -> None:
    samples = Samples()
    samples.begin()
    for place, (stem, suffix) in enumerate(members):
        if suffix.endswith("png"):
            samples.add_image(f"in/{stem}.{suffix}", place)
        else:
            samples.add_other(f"in/{stem}.{suffix}", place, 1)
    samples.finish()
    for place, (stem, suffix) in enumerate(members):
        if not suffix.endswith("png"):
            continue
        expected = {each: members.index((stem, each)) for each in (*SUFFIXES, "l.txt") if (stem, each) in members}
        if suffix == "l.png" and "l.txt" in expected:
            expected["txt"] = expected.pop("l.txt")
        assert {each.name: each.place for each in samples.beside(place)} == expected


def test_what_lies_beside_a_million_images_takes_little_memory() -> None:
    samples, number = Samples(), 20_000
    tracemalloc.start()
    samples.begin()
    for place in range(number):
        samples.add_image(f"{place:09d}.jpg", place)
        samples.add_other(f"{place:09d}.txt", place, 1)
        samples.add_other(f"{place:09d}.json", place, 1)
    samples.finish()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / number < 90  # bytes


def test_a_folder_of_img2dataset_is_searched_for_its_tars_and_their_tables_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "laion"
    for shard in range(2):
        members = [(f"{shard:05d}{n:04d}.jpg", png(shard + n + 1)) for n in (0, 2)]
        path = write_tar(folder / f"{shard:05d}.tar", [*members, (f"{shard:05d}0000.txt", b"in the tar")])
        write_table(
            path.with_suffix(".parquet"),
            key=[f"{shard:05d}{n:04d}" for n in range(3)],
            caption=[f"caption {n}" for n in range(3)],
            status=["success", "failed_to_download", "success"],
            width=[256, None, 256],
            exif=[b"bytes"] * 3,
        )
        path.with_name(f"{shard:05d}_stats.json").write_text('{"successes": 2}')
    found = find_images([folder])
    assert [image.key for image in found.images] == [
        "00000/000000000.jpg",
        "00000/000000002.jpg",
        "00001/000010000.jpg",
        "00001/000010002.jpg",
    ]
    assert found.failures == ()
    first, second, *_ = map(columns_of, found.images)
    facts = {"status": "success", "width": 256}
    assert first == {"txt": b"in the tar", "key": "000000000", "caption": "caption 0", **facts}
    assert second == {"key": "000000002", "caption": "caption 2", **facts}
    assert [image.key for image in find_images([folder / "00000.tar"]).images] == [
        image.key for image in found.images[:2]
    ]


def test_a_table_that_cannot_be_read_is_missed_only_where_nothing_else_lies_beside(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "00000.tar", [("0.png", png()), ("0.txt", b"a caption"), ("1.png", png(2))])
    path.with_suffix(".parquet").write_bytes(b"PAR1")
    first, second = find_images([path]).images
    assert columns_of(first) == {"txt": b"a caption"}
    with pytest.raises(UnreadableImageError, match="cannot be read as Parquet"):
        columns_of(second)
    assert read_bytes(second) == png(2)


def test_without_pyarrow_a_tar_beside_its_table_is_read(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "00000.tar", [("0.png", png()), ("0.txt", b"a caption")])
    path.with_suffix(".parquet").write_bytes(b"PAR1")
    script = (
        "import sys, importlib.util; find = importlib.util.find_spec;"
        "importlib.util.find_spec = lambda name, *more: None if name == 'pyarrow' else find(name, *more);"
        "from pathlib import Path; from semdis_cli.sources.find import find_images;"
        "[image] = find_images([Path(sys.argv[1])]).images; print(image.reader.columns(image))"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout == f"{ {'txt': b'a caption'} }\n"


def test_a_set_that_was_begun_with_a_folder_of_tars_has_the_keys_of_the_tars_themselves(tmp_path: Path) -> None:
    for shard in range(3):
        write_tar(tmp_path / "set" / f"{shard:05d}.tar", [(f"{shard}{n}.png", png(n + 1)) for n in range(2)])
    folder = find_images([tmp_path / "set"])
    tars = find_images(sorted((tmp_path / "set").iterdir()))
    assert [image.key for image in folder.images] == [image.key for image in tars.images]
    assert os.fspath(tmp_path / "set" / "00000.tar") == folder.images[0].reader.locate(folder.images[0])[0]
