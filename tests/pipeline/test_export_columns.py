"""Captions, labels and all else that came with images, in what other programs read."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semdis_cli.parts import PARTS
from semdis_cli.store.exchange.columns import ExportColumns
from semdis_cli.store.exchange.export import sample_base
from semdis_cli.store.reader import open_latents
from semdis_cli.store.shards import parse_shard
from tests.extras import needs
from tests.pipeline.test_export import export_to, finished, import_to, latents_in, plan_of, webdataset
from tests.store import GOOD_KEYS, are_equal, lasting, make_plan, write_next, write_set
from tests.store.labelled import LabelledPlan

# What readers that look at the first samples take wrongly: kinds that come late, whole numbers before others.
COLUMNS: dict[str, dict[str, Any]] = {
    "a.png": {"caption": "", "label": 0, "score": 6},
    "b/a.png": {"caption": 'a cat,\n\U0001f600 and "quotes"', "label": 2, "score": 6},
    "b/c.png": {"label": 1, "score": 6},
    "c.png": {"caption": "a dog", "label": 2, "score": 7},
    "d.jpg": {"caption": "a bird", "score": 6.9, "tags": ["one", {"two": None}]},
    "d.png": {"caption": "two", "label": 2, "flag": True, "url": "https://example.org/é"},
}
NAMES = ("caption", "flag", "label", "score", "tags", "url")


def write_columns(
    root: Path,
    columns: dict[str, dict[str, Any]],
    keys: tuple[str, ...] = GOOD_KEYS,
    classes: tuple[str, ...] = (),
    shard_images: int = 3,
    **settings: Any,
) -> Path:
    """A finished set whose images have columns."""
    plan = LabelledPlan(make_plan(**settings).provenance, keys, shard_images, failures=(), classes=classes)
    with plan.open(root) as latents:
        while latents.remaining:
            write_next(latents, columns)
        latents.finish()
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of eight images of two sizes in four shards, not to be touched."""
    return write_columns(tmp_path_factory.mktemp("sets") / "latents", COLUMNS)


def expected(key: str) -> dict[str, Any]:
    """All columns of an image as exports have them."""
    return {name: COLUMNS.get(key, {}).get(name) for name in NAMES}


# --- columns of one kind --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "kind", "written"),
    [
        ([1, 2], "int", [1, 2]),
        ([True, False], "bool", [True, False]),
        ([1, 2.5], "float", [1.0, 2.5]),
        (["a", ["b", "c"]], "texts", [["a"], ["b", "c"]]),
        (["a", 1], "json", ["a", 1]),
        ([True, 1], "json", [True, 1]),
        ([2**53 + 1, 0.5], "json", [2**53 + 1, 0.5]),
        ([["a", None], {}], "json", [["a", None], {}]),
        ([None, "a"], "text", [None, "a"]),
    ],
)
def test_a_column_has_one_kind_for_all_images(tmp_path: Path, values: list[Any], kind: str, written: list[Any]) -> None:
    columns = {key: {"it": value} for key, value in zip(("a.png", "e.png"), values, strict=True)}
    source = open_latents(write_columns(tmp_path / "set", columns))
    found = ExportColumns.of(source)
    assert found.kinds == {"it": kind}
    ours = [found.of_image(key)["it"] for key in ("a.png", "e.png")]
    assert (ours, list(map(type, ours))) == (written, list(map(type, written)))
    assert found.of_image("c.png") == {"it": None}
    assert not found.is_complete("it")


def test_one_shard_alone_has_no_columns(root: Path) -> None:
    found = ExportColumns.of(open_latents(min((root / "shards").iterdir())))
    assert (found.kinds, found.of_image("a.png")) == ({}, {})


# --- webdataset -----------------------------------------------------------------------------------------------------


def check_samples(samples: Iterator[dict[str, Any]], root: Path) -> None:
    """Each sample has a member of each kind, and what they say is what the set says."""
    latents = latents_in(root)
    for sample in samples:
        facts = json.loads(sample["json"])
        key = facts["key"]
        assert {name for name in sample if not name.startswith("__")} == {"safetensors", "json", "txt", "cls"}
        assert sample["__key__"] == sample_base(key)
        assert are_equal(parse_shard(sample["safetensors"], "sample"), latents.pop(key))
        assert facts["columns"] == expected(key)
        assert sample["txt"].decode() == (COLUMNS.get(key, {}).get("caption") or "")
        assert int(sample["cls"]) == COLUMNS.get(key, {}).get("label", -1)
    assert latents == {}


def test_each_sample_of_a_webdataset_has_its_caption_and_label(root: Path, tmp_path: Path) -> None:
    export_to(tmp_path / "out", root, "tar of safetensors")
    check_samples(webdataset(tmp_path / "out" / "000000.tar"), root)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves the tar open
def test_the_webdataset_package_decodes_the_arrays_of_parts(tmp_path: Path) -> None:
    needs("webdataset")
    from webdataset import WebDataset

    write_set(tmp_path / "set", plan_of(parts=sorted(PARTS)))
    export_to(tmp_path / "out", tmp_path / "set", "tar of npy")
    samples = [*WebDataset(str(tmp_path / "out" / "000000.tar"), shardshuffle=False).decode()]
    stored = latents_in(tmp_path / "set")
    assert {sample["json"]["key"] for sample in samples} == stored.keys()
    for sample in samples:
        for name, part in stored[sample["json"]["key"]].parts.items():
            assert np.array_equal(sample[f"{name}.npy"], part[0].float().numpy())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves the tar open
def test_the_webdataset_package_decodes_them(root: Path, tmp_path: Path) -> None:
    needs("webdataset")
    from webdataset import WebDataset

    export_to(tmp_path / "out", root, "tar of safetensors")
    path = str(tmp_path / "out" / "000000.tar")
    check_samples(iter(WebDataset(path, shardshuffle=False)), root)
    decoded = {sample["json"]["key"]: sample for sample in WebDataset(path, shardshuffle=False).decode()}
    assert (decoded["c.png"]["txt"], decoded["c.png"]["cls"]) == ("a dog", 2)


def test_of_several_captions_the_first_is_the_text_and_the_record_has_all(tmp_path: Path) -> None:
    root = write_columns(tmp_path / "set", {"a.png": {"caption": ["one", "two"]}, "c.png": {"caption": "three"}})
    export_to(tmp_path / "out", root, "tar of npy")
    samples = {json.loads(sample["json"])["key"]: sample for sample in webdataset(tmp_path / "out" / "000000.tar")}
    assert {key: sample["txt"] for key, sample in samples.items() if sample["txt"]} == {
        "a.png": b"one",
        "c.png": b"three",
    }
    assert json.loads(samples["a.png"]["json"])["columns"] == {"caption": ["one", "two"]}
    assert json.loads(samples["c.png"]["json"])["columns"] == {"caption": ["three"]}
    assert "cls" not in samples["a.png"]


def test_a_tar_without_its_columns_is_made_again(root: Path, tmp_path: Path) -> None:
    export_to(tmp_path / "out", root, "tar of safetensors")
    whole = lasting(tmp_path / "out")
    write_set(tmp_path / "plain", plan_of())
    export_to(tmp_path / "other", tmp_path / "plain", "tar of safetensors")
    (tmp_path / "out" / "000000.tar").write_bytes((tmp_path / "other" / "000000.tar").read_bytes())
    export_to(tmp_path / "out", root, "tar of safetensors")
    assert lasting(tmp_path / "out") == whole


def test_the_table_beside_arrays_has_the_columns(root: Path, tmp_path: Path) -> None:
    export_to(tmp_path / "out", root, "npy")
    lines = [json.loads(line) for line in (tmp_path / "out" / "latents.jsonl").read_text().splitlines()]
    assert {line["key"]: line["columns"] for line in lines} == {key: expected(key) for key in GOOD_KEYS}


def test_what_has_columns_comes_in_again_without_them(root: Path, tmp_path: Path) -> None:
    export_to(tmp_path / "out", root, "tar of safetensors")
    assert finished(import_to(tmp_path / "back", tmp_path / "out")).num_ok == len(GOOD_KEYS)
