"""What came with an image: kept in the index through all that a set goes through, and never in a shard."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import default_collate

from semdis_cli.dataset.latent_dataset import LatentDataset
from semdis_cli.errors import StoreError
from semdis_cli.events import Problem
from semdis_cli.files.atomic import PublishedFile
from semdis_cli.store.columns import SetColumns
from semdis_cli.store.index import read_rows, to_line
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.verifying.verify import ALL_DATA, VerifySettings, verify_latents
from semdis_cli.store.writing.latent_set import LatentSetWriter
from semdis_cli.store.writing.plan import SetPlan, plan_sha256
from tests.store import CHANNELS, KEYS, SmallPlan, contents, hashes_of, make_plan, write_next, write_set

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
    lists = {"index.jsonl", "items.table", "seen.jsonl", "manifest.json", "SHA256SUMS"}  # bound to the index
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


def test_a_dataset_serves_columns_with_the_latents(root: Path) -> None:
    items = {item.key: item.columns for item in LatentDataset(root)}
    assert {key: columns for key, columns in items.items() if columns} == COLUMNS
    shard = next(iter(sorted((root / "shards").iterdir())))
    assert {str(item.columns) for item in LatentDataset(shard)} == {"{}"}


def test_columns_are_collated_by_name(tmp_path: Path) -> None:
    captions = {key: {"caption": f"a picture of {key}"} for key in KEYS}
    with make_plan().open(tmp_path / "set") as latents:
        while latents.remaining:
            write_next(latents, captions)
        _ = latents.finished or latents.finish()
    dataset = LatentDataset(tmp_path / "set")
    batch = default_collate([dataset[0], dataset[1]])
    assert batch.columns == {"caption": ["a picture of a.png", "a picture of b/a.png"]}
    write_set(tmp_path / "plain", make_plan())
    plain = LatentDataset(tmp_path / "plain")
    assert default_collate([plain[0], plain[1]]).columns == {}


def test_a_set_whose_index_lies_about_columns_is_refused_by_name(root: Path) -> None:
    rows = [json.loads(line) for line in (root / "index.jsonl").read_text().splitlines()]
    rows[0]["columns"] = ["a caption"]
    (root / "index.jsonl").write_bytes(b"".join(map(to_line, rows)))
    manifest = Manifest.read(root)
    vouching = replace(manifest, index=PublishedFile.of(root / "index.jsonl"))
    (root / "manifest.json").write_bytes(vouching.to_bytes())
    with pytest.raises(StoreError, match=r"index\.jsonl: line 1: not an index row"):
        list(read_rows(root / "index.jsonl"))
    with pytest.raises(StoreError, match=r"index\.jsonl: has no item 0"):
        LatentDataset(root)[0]


# --- the manifest ---------------------------------------------------------------------------------------------------


def problems(root: Path) -> list[tuple[str, str, str]]:
    """What `verify` finds: file, kind, and what it is."""
    found = verify_latents(root, VerifySettings(ALL_DATA))
    return [(event.file, event.kind, event.what) for event in found if isinstance(event, Problem)]


def test_the_manifest_counts_the_images_that_have_each_column(root: Path, tmp_path: Path) -> None:
    assert Manifest.read(root).columns == SetColumns({"caption": 1, "score": 1, "tags": 1, "label": 1})
    write_set(root, replace(make_plan(), keys=tuple(key for key in KEYS if key != "a.png")))
    assert Manifest.read(root).columns == SetColumns({"tags": 1, "label": 1})
    write_set(root, make_plan())
    assert Manifest.read(root).columns == SetColumns({"caption": 1, "score": 1, "tags": 1, "label": 1})
    write_set(tmp_path / "plain")
    assert "columns" not in json.loads((tmp_path / "plain" / "manifest.json").read_bytes())


def test_verify_holds_the_counts_and_the_classes_against_the_index(root: Path) -> None:
    manifest = Manifest.read(root)
    wrong = replace(manifest, columns=SetColumns({"caption": 2, "score": 1, "label": 1}, ("cat", "dog", "owl")))
    (root / "manifest.json").write_bytes(wrong.to_bytes())
    assert [problem for problem in problems(root) if problem[1] == "columns"] == [
        ("manifest.json", "columns", "2 images with the column 'caption', but the index has 1"),
        ("manifest.json", "columns", "0 images with the column 'tags', but the index has 1"),
        ("index.jsonl", "columns", "has labels beyond the 3 classes of the manifest"),
    ]


def write_classes(root: Path, keys: tuple[str, ...], classes: tuple[str, ...], num_shards: int = 100) -> None:
    """Write a set, or the first shards of it, whose labels have names."""
    plan = make_plan(keys)

    def planned(latents: LatentSetWriter) -> SetPlan:
        small = plan.on(latents.base)
        parts = plan.provenance, small.shards, small.failures, latents.base, small.changes, classes
        return replace(small, classes=classes, sha256=plan_sha256(*parts))

    with LatentSetWriter(root, plan.provenance, CHANNELS) as latents:
        while not latents.begin(planned(latents), hashes_of):
            pass
        for _ in latents.remaining[:num_shards]:
            write_next(latents, {key: {"label": len(classes) - 1} for key in keys})
        if not latents.remaining:
            _ = latents.finished or latents.finish()


def test_classes_keep_their_numbers_and_new_ones_are_appended(tmp_path: Path) -> None:
    write_classes(tmp_path / "set", KEYS[:3], ("cat", "dog"))
    assert Manifest.read(tmp_path / "set").columns == SetColumns({"label": 2}, ("cat", "dog"))
    write_classes(tmp_path / "set", KEYS, ("cat", "dog", "bee"))
    assert Manifest.read(tmp_path / "set").columns == SetColumns({"label": 8}, ("cat", "dog", "bee"))
    write_set(tmp_path / "set", make_plan((*KEYS, "new.png")))  # a run that knows of no labels
    assert Manifest.read(tmp_path / "set").columns == SetColumns({"label": 8}, ("cat", "dog", "bee"))
    assert problems(tmp_path / "set") == []


def test_classes_of_a_run_that_was_stopped_and_whose_inputs_changed_are_kept(tmp_path: Path) -> None:
    write_classes(tmp_path / "set", KEYS, ("cat", "dog"), num_shards=1)
    write_set(tmp_path / "set", make_plan((*KEYS, "new.png")))
    assert Manifest.read(tmp_path / "set").columns == SetColumns({"label": 2}, ("cat", "dog"))
    assert problems(tmp_path / "set") == []


@pytest.mark.parametrize(
    "columns",
    [
        pytest.param([], id="a list"),
        pytest.param({"": {"images": 1}}, id="no name"),
        pytest.param({"a\ud800": {"images": 1}}, id="a name that is no text"),
        pytest.param({"a": 1}, id="a number"),
        pytest.param({"a": {"images": -1}}, id="fewer images than none"),
        pytest.param({"a": {"images": 9}}, id="more images than there are"),
        pytest.param({"label": {"images": 1, "classes": "cat"}}, id="a class for a letter"),
        pytest.param({"label": {"images": 1, "classes": ["cat", "cat"]}}, id="two classes of one name"),
        pytest.param({"label": {"images": 1, "classes": [1]}}, id="a class that is a number"),
    ],
)
def test_a_manifest_with_columns_that_are_none_is_refused(root: Path, columns: object) -> None:
    fields = json.loads((root / "manifest.json").read_bytes()) | {"columns": columns}
    (root / "manifest.json").write_text(json.dumps(fields))
    with pytest.raises(StoreError, match=r"manifest\.json: not a manifest of format 1"):
        Manifest.read(root)
