"""Indexes that lie, at every door: what each door makes of them, and what only `verify` looks for."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from semdis_cli.dataset.latent_dataset import LatentDataset
from semdis_cli.errors import StoreError
from semdis_cli.store.index import IndexRow, to_line
from semdis_cli.store.reader import open_latents
from tests.store import write_set
from tests.store.test_verify import THIRD, Json, failed_row, lie_in_index, ok_rows, problems, read_index, vouch

Change = Callable[[list[Json]], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished set, not to be changed."""
    root = tmp_path_factory.mktemp("sets") / "whole"
    write_set(root)
    return root


@pytest.fixture
def root(tmp_path: Path, whole: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(whole, tmp_path / "latents"))


def read(root: Path) -> None:
    source = open_latents(root)
    for stored in source.shards:
        source.read(stored)


def train(root: Path) -> None:
    list(LatentDataset(root))


def swap(name: str) -> Callable[[list[Json]], None]:
    def change(rows: list[Json]) -> None:
        one, other = ok_rows(rows)[:2]
        one[name], other[name] = other[name], one[name]

    return change


def put(**fields: Any) -> Change:
    return lambda rows: ok_rows(rows)[0].update(fields)


def leave_out(row: Json, **fields: Any) -> None:
    """Make a failure an input that a filter left out."""
    del row["error"]
    row.update({"status": "left_out", "reason": "min_size", "size": [9, 9]} | fields)


DAMAGED, TOTALS, UNKNOWN = "not an index row", "its totals and the index disagree", "not in the manifest"
NOT_THERE, SHARED, UNSORTED = "has no latents of", "two keys share a row", "not sorted by key"
BEYOND = "is beyond all shards"

# Index, manifest and checksums agree: the lies of somebody who knows the format. What `read`, `train` and `verify` say;
# nothing where that is not theirs to notice: it changes nothing of what they give.
LIES: dict[str, tuple[Change, str, str, str]] = {
    "rows swapped": (swap("row"), NOT_THERE, NOT_THERE, "but the index says"),
    "sha256 swapped": (swap("sha256"), "", "", "another sha256"),
    "another sha256": (put(sha256="0" * 64), "", "", "another sha256"),
    "another size": (put(num_bytes=7), "", "", "another num_bytes"),
    "other notes": (put(notes=[]), "", "", "another notes"),
    "one row for two keys": (put(row=1), SHARED, NOT_THERE, "stands for two keys"),
    "row behind the last": (put(row=2), NOT_THERE, NOT_THERE, "has 2 rows"),
    "row beyond all": (put(row=2**40), BEYOND, BEYOND, BEYOND),
    "row beyond 64 bits": (put(row=2**64), BEYOND, BEYOND, BEYOND),
    "row below zero": (put(row=-1), DAMAGED, DAMAGED, DAMAGED),
    "no row": (lambda rows: ok_rows(rows)[0].pop("row"), DAMAGED, DAMAGED, DAMAGED),
    "another shard": (put(shard=THIRD), SHARED, NOT_THERE, "but the index says"),
    "shard unknown": (put(shard="00000077-1x2.safetensors"), UNKNOWN, UNKNOWN, UNKNOWN),
    "shard elsewhere": (put(shard="../../x"), UNKNOWN, UNKNOWN, "is no shard name"),
    "another key": (put(key="0.png"), NOT_THERE, NOT_THERE, "but the index says '0.png'"),
    "key out of order": (put(key="zz.png"), NOT_THERE, UNSORTED, "not in the order of keys"),
    "key of another": (put(key="b/a.png"), TOTALS, UNSORTED, "comes twice"),
    "a row twice": (lambda rows: rows.insert(0, dict(rows[0])), "", UNSORTED, "comes twice"),
    "rows reversed": (lambda rows: rows.reverse(), "", UNSORTED, "not in the order of keys"),
    "first row left out": (lambda rows: rows.pop(0), TOTALS, TOTALS, "the index has 7"),
    "last row left out": (lambda rows: rows.pop(), TOTALS, TOTALS, "the index has 7"),
    "failure left out": (lambda rows: rows.remove(failed_row(rows)), "", "", "the index has 2"),
    "removed": (lambda rows: rows[0].update(status="removed"), TOTALS, TOTALS, "the index has 7"),
    "left out, without why": (put(status="left_out"), TOTALS, TOTALS, DAMAGED),
    "left out": (lambda rows: leave_out(failed_row(rows)), "", "", "the index has 1"),
    "left out by no size": (lambda rows: leave_out(failed_row(rows), size=[0, 9]), "", "", DAMAGED),
    "status unknown": (put(status="fine"), DAMAGED, DAMAGED, DAMAGED),
    "no status": (lambda rows: rows[0].pop("status"), DAMAGED, DAMAGED, DAMAGED),
    "key no text": (put(key=3), DAMAGED, DAMAGED, DAMAGED),
    "nothing in a row": (lambda rows: rows.append({}), DAMAGED, DAMAGED, DAMAGED),
}


def refusal(door: Callable[[Path], object], root: Path) -> str:
    """Why a set is refused; empty if it is not."""
    try:
        door(root)
    except StoreError as error:
        said = str(error)
    else:
        return ""
    assert said.startswith(f"{root}/")
    return said


@pytest.mark.parametrize("lie", list(LIES))
def test_an_index_that_lies_is_refused_or_told(root: Path, lie: str) -> None:
    change, at_read, at_train, at_verify = LIES[lie]
    rows = read_index(root)
    change(rows)
    lie_in_index(root, rows)
    for door, reason in ((read, at_read), (train, at_train)):
        said = refusal(door, root)
        assert reason in said
        assert bool(said) == bool(reason)
    assert any(at_verify in problem.what for problem in problems(root)), problems(root)


@pytest.mark.parametrize(
    "data", [b"", b"[]\n", b"null\n", b"{\n", b"\xff\n", b"[" * 100_000, b'{"status": NaN}\n'], ids=range(7)
)
def test_what_is_no_index_is_refused_and_told(root: Path, data: bytes) -> None:
    (root / "index.jsonl").write_bytes(data)
    vouch(root)
    for door in (read, train):
        assert ("line 1: " if data else TOTALS) in refusal(door, root)
    assert problems(root)


def edit_keys(root: Path) -> None:
    path = root / "index.jsonl"
    path.write_bytes(path.read_bytes().replace(b"b/c.png", b"b/x.png"))


def drop_row(root: Path) -> None:
    lines = (root / "index.jsonl").read_bytes().splitlines(keepends=True)
    (root / "index.jsonl").write_bytes(b"".join(lines[1:]))


def add_row(root: Path) -> None:
    with (root / "index.jsonl").open("ab") as file:
        file.write(to_line(IndexRow("../../x.png", error="hostile").to_json()))


def swap_rows(root: Path) -> None:
    lines = (root / "index.jsonl").read_bytes().splitlines(keepends=True)
    (root / "index.jsonl").write_bytes(b"".join(reversed(lines)))


def remove(root: Path) -> None:
    (root / "index.jsonl").unlink()


def add_field(root: Path) -> None:
    rows = read_index(root)
    rows[0]["extra"] = 1
    (root / "index.jsonl").write_bytes(b"".join(map(to_line, rows)))


@pytest.mark.parametrize("touch", [edit_keys, drop_row, add_row, add_field, swap_rows, remove])
def test_an_index_that_was_touched_is_refused_by_name_and_told(root: Path, touch: Callable[[Path], None]) -> None:
    touch(root)
    reason = "cannot be read" if touch is remove else "does not match the sha256 in the manifest"
    for door in (read, train):
        assert refusal(door, root).startswith(f"{root / 'index.jsonl'}: {reason}")
    assert "index.jsonl" in {problem.file for problem in problems(root)}
