"""What came with an image: kept in the index through all that a set goes through, and never in a shard."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from semdis_cli.events import Problem
from semdis_cli.store.index import read_rows
from semdis_cli.store.verifying.verify import ALL_DATA, VerifySettings, verify_latents
from tests.store import KEYS, SmallPlan, contents, make_plan, write_next, write_set

COLUMNS: dict[str, dict[str, Any]] = {
    "a.png": {"caption": 'a cat, \U0001f600 and "quotes"', "score": 0.5},
    "d.png": {"tags": ["one", {"two": None}], "label": 3},
}


def write_with_columns(root: Path, plan: SmallPlan, num_shards: int = 100) -> None:
    """Write a set whose images have columns, or the first shards of it."""
    with plan.open(root) as latents:
        for _ in latents.remaining[:num_shards]:
            write_next(latents, COLUMNS)
        if not latents.remaining:
            _ = latents.finished or latents.finish()


def columns_in(root: Path) -> dict[str, dict[str, Any]]:
    """The columns in the index, by key."""
    records = [row.record for row in read_rows(root / "index.jsonl") if row.record is not None]
    return {record.key: dict(record.columns) for record in records if record.columns}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_with_columns(tmp_path / "set", make_plan())
    return tmp_path / "set"


def test_columns_are_in_the_index_and_no_byte_of_a_shard_knows_them(root: Path, tmp_path: Path) -> None:
    write_set(tmp_path / "plain", make_plan())
    ours, plain = contents(root), contents(tmp_path / "plain")
    lists = {"index.jsonl", "seen.jsonl", "manifest.json", "SHA256SUMS"}  # the others name the index's sha256
    assert {name for name in plain if ours[name] != plain[name]} == lists
    assert columns_in(root) == COLUMNS
    lines = [json.loads(line) for line in (root / "index.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("columns", None)
    assert lines == [json.loads(line) for line in (tmp_path / "plain" / "index.jsonl").read_text().splitlines()]


def test_columns_survive_growth_removal_and_return(root: Path) -> None:
    plan = make_plan()
    write_set(root, replace(plan, keys=tuple(key for key in KEYS if key != "a.png")))
    assert columns_in(root) == COLUMNS
    write_set(root, replace(plan, keys=(*KEYS, "new.png")))
    assert columns_in(root) == COLUMNS


def test_columns_survive_a_run_that_was_stopped(root: Path, tmp_path: Path) -> None:
    write_with_columns(tmp_path / "other", make_plan(), num_shards=2)
    write_with_columns(tmp_path / "other", make_plan())
    assert contents(tmp_path / "other") == contents(root)


def test_a_set_with_columns_is_whole(root: Path) -> None:
    assert [event for event in verify_latents(root, VerifySettings(ALL_DATA)) if isinstance(event, Problem)] == []
