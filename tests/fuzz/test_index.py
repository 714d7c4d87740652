"""Indexes that lie, at every door: what each door makes of them, and what only `verify` looks for."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from semdis_cli.dataset.latent_dataset import LatentDataset
from semdis_cli.files.json_text import to_line
from semdis_cli.store.index import IndexRow
from semdis_cli.store.reader import open_latents
from tests.fuzz import refusal
from tests.store import problems
from tests.store.test_verify import THIRD, Json, failed_row, lie_in_index, ok_rows, read_index, vouch

Change = Callable[[list[Json]], object]


@pytest.fixture
def root(tmp_path: Path, finished_set: Path) -> Path:
    """A set to be lied about."""
    return Path(shutil.copytree(finished_set, tmp_path / "latents"))


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
    "status unknown": (put(status="fine"), DAMAGED, DAMAGED, DAMAGED),
    "no status": (lambda rows: rows[0].pop("status"), DAMAGED, DAMAGED, DAMAGED),
    "key no text": (put(key=3), DAMAGED, DAMAGED, DAMAGED),
    "nothing in a row": (lambda rows: rows.append({}), DAMAGED, DAMAGED, DAMAGED),
}


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


TOUCHES: dict[str, Callable[[bytes], bytes]] = {
    "another key": lambda data: data.replace(b"b/c.png", b"b/x.png"),
    "a row less": lambda data: data.partition(b"\n")[2],
    "a row more": lambda data: data + to_line(IndexRow("../../x.png", error="hostile").to_json()),
    "a field more": lambda data: data.replace(b"{", b'{"extra":1,', 1),
    "another order": lambda data: b"".join(reversed(data.splitlines(keepends=True))),
}


@pytest.mark.parametrize("touch", [*TOUCHES, "missing"])
def test_an_index_that_was_touched_is_refused_by_name_and_told(root: Path, touch: str) -> None:
    path, reason = root / "index.jsonl", "does not match the sha256 in the manifest"
    if touch == "missing":
        path.unlink()
        reason = "cannot be read"
    else:
        path.write_bytes(TOUCHES[touch](path.read_bytes()))
    for door in (read, train):
        assert refusal(door, root).startswith(f"{path}: {reason}")
    assert "index.jsonl" in {problem.file for problem in problems(root)}
