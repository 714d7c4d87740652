"""Tensors to columns: every tensor finds its image, sets grow on, and what is wrong costs nothing else."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from semdis_cli.columns.settings import AttachSettings
from semdis_cli.dataset.latent_dataset import LatentDataset
from semdis_cli.errors import NoSpaceError, StoreError, UsageError
from semdis_cli.events import ColumnsAttached, ColumnTrouble
from semdis_cli.files import atomic
from semdis_cli.option import OptionError
from semdis_cli.pipeline import attach_tensors
from semdis_cli.pipeline.attach import attach
from semdis_cli.records import View
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.verifying.summary import summarise
from semdis_cli.store.verifying.verify import NO_DATA
from semdis_cli.store.writing import state
from semdis_cli.store.writing import tensors as tensor_files
from semdis_cli.store.writing.journal import Journal
from tests.store import KEYS, contents, edit_manifest, flip_last_bit, make_plan, problems, write_set

WITH_LATENTS = [key for key in KEYS if "bad" not in key]
Json = dict[str, Any]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_set(tmp_path / "set")
    return tmp_path / "set"


def embedding(name: str, num_rows: int = 3, dtype: torch.dtype = torch.float16) -> Tensor:
    """A tensor that depends on its arguments alone."""
    generator = torch.Generator().manual_seed(sum(name.encode()) * 100 + num_rows)
    return torch.randn((num_rows, 4), generator=generator).to(dtype)


def save_npy(path: Path, tensor: Tensor) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, tensor.numpy())
    return path


def save(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), path)
    return path


def folder_of(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    """A folder with an array for each name."""
    for name, tensor in tensors.items():
        save_npy(path / f"{name}.npy", tensor)
    return path


def run(root: Path, *tensors: Path, whole: bool = True, **options: Any) -> tuple[list[tuple[str, str]], Json]:
    """The troubles and the report of a run; the places of files without the folder that they are in."""
    *events, last = attach(root, (), AttachSettings(tensors=tensors, **options))
    assert isinstance(last, ColumnsAttached)
    assert problems(root) == [] or not whole
    where = f"{root.parent}/"
    troubles = [event for event in events if isinstance(event, ColumnTrouble)]
    return [(one.key.replace(where, ""), one.reason.replace(where, "")) for one in troubles], last.report


def tensors_in(root: Path, name: str) -> dict[str, Tensor]:
    """The tensors that the set serves in a column, by key; those without one are left out."""
    dataset = LatentDataset(root, columns=[name], missing={name: None})
    return {item.key: item.columns[name] for item in dataset if item.columns[name] is not None}


def are_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    def facts(tensor: Tensor) -> tuple[Any, ...]:
        return tensor.dtype, tuple(tensor.shape), tensor.reshape(-1).view(torch.uint8).numpy().tobytes()

    return {key: facts(one[key]) for key in one} == {key: facts(other[key]) for key in other}


# --- tensors and images ---------------------------------------------------------------------------------------------


def test_arrays_find_their_images_by_the_whole_key_or_without_suffix(root: Path, tmp_path: Path) -> None:
    before = contents(root)
    files = {key: embedding(key, 2 + len(key) % 3) for key in WITH_LATENTS if not key.startswith("d")}
    files["d"] = embedding("d")  # of d.jpg and d.png
    troubles, report = run(root, folder_of(tmp_path / "t5", files), tensor_name="t5")
    expected = {key: files.get(key, files["d"]) for key in WITH_LATENTS}
    assert troubles == []
    assert are_equal(tensors_in(root, "t5"), expected)
    assert (report["tensors"], report["images"]["changed"]) == ({"t5": 8}, 8)
    assert report["found"] == {"used": 7, "second": 0, "unused": 0, "other": 0, "bad": 0, "missing": 0}
    after = contents(root)
    assert after.keys() - before.keys() == {"columns", "columns/00000000-t5.safetensors"}
    assert {name for name in before if before[name] != after[name]} == {"items.table", "manifest.json", "SHA256SUMS"}


def test_a_file_for_each_image_may_hold_several_columns_of_any_dtype(root: Path, tmp_path: Path) -> None:
    made = {
        key: {
            "t5": embedding(key, 1 + number, torch.bfloat16),
            "pooled": embedding(key)[0].float(),
            "mask": torch.arange(6) < number,
            "score": torch.tensor(number, dtype=torch.int64),
            "nothing": torch.tensor([float("nan"), float("-inf"), -0.0]),
        }
        for number, key in enumerate(WITH_LATENTS)
    }
    for key, tensors in made.items():
        save(tmp_path / "embeddings" / f"{key}.safetensors", tensors)
    troubles, report = run(root, tmp_path / "embeddings")
    assert (troubles, report["tensors"]) == ([], dict.fromkeys(sorted(made["a.png"]), 8))
    for name in made["a.png"]:
        assert are_equal(tensors_in(root, name), {key: tensors[name] for key, tensors in made.items()})
    assert {
        name: (facts["dtype"], facts["shape"], facts["lengths"]) for name, facts in summarise(root)["tensors"].items()
    } == {
        "t5": ("bfloat16", [None, 4], [1, 8]),
        "pooled": ("float32", [None], [4, 4]),
        "mask": ("bool", [None], [6, 6]),
        "score": ("int64", [], [1, 1]),
        "nothing": ("float32", [None], [3, 3]),
    }


def test_only_the_columns_that_were_asked_for_are_taken(root: Path, tmp_path: Path) -> None:
    for key in WITH_LATENTS:
        save(
            tmp_path / "all" / f"{key}.safetensors", {"a": embedding(key), "b": embedding(key), "label": embedding(key)}
        )
    troubles, report = run(root, tmp_path / "all", columns="a")
    assert (troubles, report["tensors"]) == ([], {"a": 8})
    troubles, report = run(root, tmp_path / "all")
    ways = "--columns says which of the others are wanted, --as that it is the name of an image"
    assert [reason for _, reason in troubles] == [f"has a name that no column can have; {ways}"]
    assert report["tensors"] == {"a": 8, "b": 8}
    with pytest.raises(UsageError, match="--columns e: there is no such tensor, only a"):
        run(root, tmp_path / "all", columns="a,e")


def test_files_of_many_name_the_images_by_their_keys(root: Path, tmp_path: Path) -> None:
    tensors = {key: embedding(key, 5) for key in WITH_LATENTS}
    first, second = dict(list(tensors.items())[:3]), dict(list(tensors.items())[3:])
    save(tmp_path / "big" / "0.safetensors", first)
    arrays: dict[str, Any] = {key: tensor.numpy() for key, tensor in second.items()}
    np.savez(tmp_path / "big" / "1.npz", **arrays)
    troubles, _ = run(root, tmp_path / "big", tensor_name="t5")
    assert troubles == []
    assert are_equal(tensors_in(root, "t5"), tensors)
    troubles, _ = run(root, tmp_path / "big" / "0.safetensors", tensor_name="other", is_partial=True)
    assert (troubles, tensors_in(root, "other").keys()) == ([], first.keys())


VIEWED: Json = {"preprocessing": {"geometry": {"size": [256, 512], "max_pixels": None, "crop_seed": 0}}}
VIEWS = [View(size, crop) for size in (256, 512) for crop in (1, 2)]


def test_a_tensor_of_a_file_is_that_of_all_its_views_unless_they_have_their_own(tmp_path: Path) -> None:
    keys = [view.key_of(file) for file in ("a.jpg", "b/c.jpg") for view in VIEWS]
    write_set(tmp_path / "set", make_plan(tuple(sorted(keys)), **VIEWED))
    files = {"a.jpg": embedding("all"), "a#512crop2.jpg": embedding("own"), "b/c": embedding("c")}
    troubles, _ = run(tmp_path / "set", folder_of(tmp_path / "t5", files), tensor_name="t5")
    expected = {key: files["a.jpg" if key.startswith("a") else "b/c"] for key in keys}
    expected["a#512crop2.jpg"] = files["a#512crop2.jpg"]
    assert troubles == []
    assert are_equal(tensors_in(tmp_path / "set", "t5"), expected)


# --- again, and taken away ------------------------------------------------------------------------------------------


def test_tensors_are_replaced_and_added_and_all_else_stays(root: Path, tmp_path: Path) -> None:
    first = {key: embedding(key) for key in WITH_LATENTS[:5]}
    run(root, folder_of(tmp_path / "first", first), tensor_name="t5", is_partial=True)
    second = {key: embedding(f"other {key}", 7) for key in WITH_LATENTS[4:]}
    troubles, report = run(root, folder_of(tmp_path / "second", second), tensor_name="t5", is_partial=True)
    assert (troubles, report["tensors"], report["images"]["changed"]) == ([], {"t5": 8}, 4)
    assert are_equal(tensors_in(root, "t5"), first | second)


def test_the_same_again_changes_nothing(root: Path, tmp_path: Path) -> None:
    source = folder_of(tmp_path / "t5", {key: embedding(key) for key in WITH_LATENTS})
    run(root, source, tensor_name="t5")
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    _, report = run(root, source, tensor_name="t5")
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()} == times
    assert report["images"]["changed"] == 0


def test_a_column_that_is_removed_leaves_nothing(root: Path, tmp_path: Path) -> None:
    before = contents(root)
    run(root, folder_of(tmp_path / "t5", {key: embedding(key) for key in WITH_LATENTS}), tensor_name="t5")
    _, report = run(root, remove="t5")
    after = contents(root)
    assert after.keys() == before.keys()
    assert {name for name in before if before[name] != after[name]} == {"manifest.json", "items.table", "SHA256SUMS"}
    assert (Manifest.read(root).tensors, report["images"]["changed"], report["tensors"]) == ({}, 8, {})


def test_another_kind_comes_with_remove(root: Path, tmp_path: Path) -> None:
    half = folder_of(tmp_path / "half", {key: embedding(key) for key in WITH_LATENTS})
    whole = folder_of(tmp_path / "float", {key: embedding(key, dtype=torch.float32) for key in WITH_LATENTS})
    run(root, half, tensor_name="t5")
    troubles, _ = run(root, whole, tensor_name="t5")
    assert len(troubles) == 8
    assert troubles[0] == ("float/a.png.npy", "is float32 [3, 4], but t5 is float16 [*, 4]")
    assert tensors_in(root, "t5")["a.png"].dtype == torch.float16
    troubles, _ = run(root, whole, tensor_name="t5", remove="t5")
    assert (troubles, tensors_in(root, "t5")["a.png"].dtype) == ([], torch.float32)


def test_captions_and_tensors_leave_each_other_alone(root: Path, tmp_path: Path) -> None:
    source = folder_of(tmp_path / "t5", {key: embedding(key) for key in WITH_LATENTS})
    run(root, source, tensor_name="t5")
    table = tmp_path / "captions.jsonl"
    table.write_text("".join(json.dumps({"key": key, "caption": key, "url": "x"}) + "\n" for key in WITH_LATENTS))
    [*_, last] = attach(root, [table], AttachSettings())
    assert isinstance(last, ColumnsAttached)
    assert (last.report["columns"], last.report["tensors"]) == ({"caption": 8, "url": 8}, {"t5": 8})
    run(root, source, tensor_name="t5 2".replace(" ", "-"))
    assert Manifest.read(root).columns.num_images == {"caption": 8, "url": 8}
    _, report = run(root, remove="url,t5-2")
    assert (report["columns"], report["tensors"]) == ({"caption": 8}, {"t5": 8})


# --- sets that grow -------------------------------------------------------------------------------------------------


def test_new_images_lack_the_tensor_and_gone_ones_have_it_again_when_they_return(root: Path, tmp_path: Path) -> None:
    tensors = {key: embedding(key) for key in WITH_LATENTS}
    run(root, folder_of(tmp_path / "t5", tensors), tensor_name="t5")
    column = Manifest.read(root).tensors["t5"]

    write_set(root, make_plan((*KEYS, "new.png")))
    assert problems(root) == []
    summary = summarise(root)["tensors"]["t5"]
    assert (summary["lengths"], summary["images"], summary["missing"], summary["files"]) == ([3, 3], 8, 1, 1)
    assert are_equal(tensors_in(root, "t5"), tensors)

    write_set(root, make_plan(tuple(key for key in KEYS if key != "c.png")))
    assert (problems(root), Manifest.read(root).tensors["t5"].num_images) == ([], 7)
    assert are_equal(tensors_in(root, "t5"), {key: tensors[key] for key in tensors if key != "c.png"})

    write_set(root, make_plan((*KEYS, "new.png")))
    assert Manifest.read(root).tensors["t5"] == column
    more = folder_of(tmp_path / "more", {"new.png": embedding("new")})
    troubles, _ = run(root, more, tensor_name="t5", is_partial=True)
    assert troubles == []
    assert are_equal(tensors_in(root, "t5"), tensors | {"new.png": embedding("new")})
    assert [file.name for file in Manifest.read(root).tensors["t5"].files] == [
        *("00000000-t5.safetensors", "00000001-t5.safetensors")
    ]


def test_an_image_that_changed_lacks_the_tensor_of_what_it_was(root: Path, tmp_path: Path) -> None:
    tensors = {key: embedding(key) for key in WITH_LATENTS}
    run(root, folder_of(tmp_path / "t5", tensors), tensor_name="t5")
    plan = make_plan()
    changed = type(plan)(plan.provenance, plan.keys, plan.shard_images, plan.failures, {"a.png": 5})
    write_set(root, changed)
    assert (problems(root), Manifest.read(root).num_superseded) == ([], 1)
    assert are_equal(tensors_in(root, "t5"), {key: tensors[key] for key in tensors if key != "a.png"})

    now = {"a.png": embedding("another"), "c.png": embedding("c, too")}
    run(root, folder_of(tmp_path / "now", now), tensor_name="t5", is_partial=True)
    assert are_equal(tensors_in(root, "t5"), tensors | now)
    [first, *rest] = Manifest.read(root).tensors["t5"].files
    assert (first.num_images, rest) == (8, [])  # the tensor of what a.png was is gone


def test_a_removed_image_keeps_its_tensor_when_others_are_replaced(root: Path, tmp_path: Path) -> None:
    tensors = {key: embedding(key) for key in WITH_LATENTS}
    run(root, folder_of(tmp_path / "t5", tensors), tensor_name="t5")
    write_set(root, make_plan(tuple(key for key in KEYS if key != "c.png")))
    run(root, folder_of(tmp_path / "now", {"a.png": embedding("now")}), tensor_name="t5", is_partial=True)
    write_set(root)
    assert are_equal(tensors_in(root, "t5"), tensors | {"a.png": embedding("now")})


def test_a_set_whose_tensors_are_damaged_does_not_grow_until_they_are_taken_away(root: Path, tmp_path: Path) -> None:
    run(root, folder_of(tmp_path / "t5", {key: embedding(key) for key in WITH_LATENTS}), tensor_name="t5")
    (root / "columns" / "00000000-t5.safetensors").unlink()
    with pytest.raises(StoreError, match=f"semdis attach {root} --remove t5"):
        write_set(root, make_plan((*KEYS, "new.png")))
    run(root, remove="t5")
    write_set(root, make_plan((*KEYS, "new.png")))
    assert problems(root) == []


def test_damaged_tensors_are_not_written_anew_as_if_they_were_whole(root: Path, tmp_path: Path) -> None:
    run(root, folder_of(tmp_path / "t5", {key: embedding(key) for key in WITH_LATENTS}), tensor_name="t5")
    flip_last_bit(root / "columns" / "00000000-t5.safetensors")
    before = contents(root)
    more = folder_of(tmp_path / "more", {"a.png": embedding("other")})
    with pytest.raises(StoreError, match=f"do not match the sha256 .* semdis attach {root} --remove t5"):
        run(root, more, tensor_name="t5", is_partial=True)
    assert contents(root) == before
    whole = folder_of(tmp_path / "whole", {key: embedding(key) for key in WITH_LATENTS})
    run(root, whole, tensor_name="t5", remove="t5")
    assert len(tensors_in(root, "t5")) == len(WITH_LATENTS)


# --- what is wrong --------------------------------------------------------------------------------------------------


def test_what_cannot_be_attached_is_listed_with_its_reason_and_costs_nothing_else(root: Path, tmp_path: Path) -> None:
    good = {key: embedding(key) for key in ("b/a.png", "b/c.png", "c.png", "d.jpg")}
    source = folder_of(tmp_path / "t5", {**good, "a.png": embedding("a.png", dtype=torch.float32)})
    save_npy(source / "d.png.npy", embedding("x")[0])  # of other rank
    save_npy(source / "b/c.npy", embedding("second"))
    save_npy(source / "nobody.npy", embedding("nobody"))
    whole = save_npy(source / "e.png.npy", embedding("e")).read_bytes()
    (source / "e.png.npy").write_bytes(whole[:-1])
    again = save_npy(tmp_path / "more" / "c.png.npy", embedding("again")).parent
    (source / "notes.txt").write_text("no tensor")
    troubles, report = run(root, source, again, tensor_name="t5")
    assert troubles == [
        (
            "t5/e.png.npy",
            f"cannot be used: has {len(whole) - 1} bytes, but its header describes {len(whole)}; truncated or damaged",
        ),
        ("more/c.png.npy", "is not used: t5/c.png.npy is about the same image"),
        ("e.png", "has no tensor t5"),
        ("ü.png", "has no tensor t5"),
        ("t5/b/c.npy", "is not used: its image has a tensor that is called by its whole key"),
        ("t5/nobody.npy", "is about no image of the set: none is called 'nobody'"),
        ("t5/a.png.npy", "is float32 [3, 4], but t5 is float16 [*, 4]"),
        ("t5/d.png.npy", "is float16 [4], but t5 is float16 [*, 4]"),
    ]
    assert are_equal(tensors_in(root, "t5"), good)
    assert report["found"] == {"used": 6, "second": 1, "unused": 1, "other": 2, "bad": 2, "missing": 2}


def test_a_file_that_is_cut_off_while_others_are_copied_costs_its_tensors(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {key: embedding(key) for key in WITH_LATENTS}
    run(root, folder_of(tmp_path / "t5", tensors), tensor_name="t5")
    now = folder_of(tmp_path / "now", {key: embedding(f"now {key}") for key in WITH_LATENTS})
    choose = attach_tensors.TensorJoin._choose_kinds

    def cut_off(join: attach_tensors.TensorJoin) -> None:
        choose(join)
        (now / "c.png.npy").write_bytes(b"")

    monkeypatch.setattr(attach_tensors.TensorJoin, "_choose_kinds", cut_off)
    troubles, _ = run(root, now, tensor_name="t5")
    assert troubles == [("now/c.png.npy", "cannot be used: is no array of NumPy")]
    expected = {key: embedding(f"now {key}") for key in WITH_LATENTS} | {"c.png": tensors["c.png"]}
    assert are_equal(tensors_in(root, "t5"), expected)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"tensor_name": None}, "--as is missing"),
        ({"tensor_name": "x", "columns": "a"}, "not with --as"),
        ({"columns": "none"}, "nor none"),
        ({"tensor_name": "caption"}, "is no name of a column of tensors"),
        ({"tensor_name": "a/b"}, "is no name of a column of tensors"),
        ({"tensor_name": "x", "captions": "text"}, "--captions is about tables"),
        ({"tensor_name": "x", "labels": "none"}, "--labels is about tables"),
        ({"tensor_name": "x", "on": "id"}, "--on is about tables"),
    ],
)
def test_options_that_contradict_each_other_are_refused(root: Path, tmp_path: Path, options: Json, reason: str) -> None:
    before = contents(root)
    with pytest.raises(OptionError, match=reason):
        run(root, folder_of(tmp_path / "t5", {"a.png": embedding("a")}), **options)
    assert contents(root) == before


def test_a_name_without_tensors_is_refused() -> None:
    with pytest.raises(OptionError, match="--as goes with --tensors"):
        AttachSettings(tensor_name="t5")


def test_sources_of_which_nothing_can_be_used_are_refused_and_the_set_stays(root: Path, tmp_path: Path) -> None:
    before = contents(root)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.npy").write_bytes(b"")
    (tmp_path / "old.pt").write_bytes(b"")
    for name, reason in (
        ("empty", "holds no .npy, .npz or .safetensors"),
        ("nowhere", "no such file or folder"),
        ("old.pt", "is no folder, .npy, .npz or .safetensors"),
        ("bad.npy", "there is no tensor to attach: .*bad.npy cannot be used: is no array of NumPy"),
    ):
        with pytest.raises(UsageError, match=reason):
            run(root, tmp_path / name, tensor_name="t5")
    for_each = save(tmp_path / "each" / "a.png.safetensors", {"t5": embedding("a")})
    with pytest.raises(
        UsageError, match=r"is called 't5', an image 'a.png'; without --as a file is about the image of"
    ):
        run(root, for_each, tensor_name="t5")
    with pytest.raises(
        UsageError, match=r"no tensor is about an image: the first one is called 'zzz', an image 'a.png'"
    ):
        run(root, folder_of(tmp_path / "others", {"zzz": embedding("a")}), tensor_name="t5")
    assert contents(root) == before


def test_a_column_that_is_there_already_and_holds_no_tensors_is_not_taken_over(root: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.jsonl"
    table.write_text("".join(json.dumps({"key": key, "score": 1}) + "\n" for key in WITH_LATENTS))
    list(attach(root, [table], AttachSettings()))
    source = folder_of(tmp_path / "t5", {key: embedding(key) for key in WITH_LATENTS})
    before = contents(root)
    with pytest.raises(UsageError, match="has a column 'score' that is none of tensors; --remove score takes it away"):
        run(root, source, tensor_name="score")
    assert contents(root) == before
    run(root, source, tensor_name="score", remove="score")
    before = contents(root)
    with pytest.raises(UsageError, match="would have two columns score, one of tensors"):
        list(attach(root, [table], AttachSettings()))
    assert contents(root) == before


def test_a_disk_without_room_is_refused_before_anything_is_written(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder_of(tmp_path / "t5", {key: embedding(key, 40_000) for key in WITH_LATENTS})
    before = contents(root)
    monkeypatch.setattr("semdis_cli.files.disk.free_bytes", lambda _: 2_500_000)
    with pytest.raises(NoSpaceError, match=r"needs 2\.4 MiB|needs 2\.\d MiB"):
        run(root, source, tensor_name="t5")
    assert contents(root) == before


# --- damage ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def attached(root: Path, tmp_path: Path) -> Path:
    run(root, folder_of(tmp_path / "t5", {key: embedding(key) for key in WITH_LATENTS}), tensor_name="t5")
    return root


FILE = "columns/00000000-t5.safetensors"


def test_a_flipped_bit_is_found_where_every_byte_is_read(attached: Path) -> None:
    flip_last_bit(attached / FILE)
    assert problems(attached, NO_DATA) == []
    [problem] = problems(attached)
    assert (problem.file, problem.kind) == (FILE, "data")
    with pytest.raises(StoreError, match="do not match the sha256"):
        LatentDataset(attached, columns=["t5"], verify=True)


def test_what_is_missing_cut_off_or_surplus_is_found_without_reading_all(attached: Path) -> None:
    good = (attached / FILE).read_bytes()
    (attached / FILE).write_bytes(good[:-1])
    [problem] = problems(attached, NO_DATA)
    assert (problem.file, problem.kind) == (FILE, "tensors")
    (attached / FILE).rename(attached / "columns/00000007-t5.safetensors")
    missing, surplus = sorted(problems(attached, NO_DATA), key=lambda problem: problem.kind)
    assert (missing.file, missing.kind) == (FILE, "missing")
    assert (surplus.file, surplus.kind) == ("columns/00000007-t5.safetensors", "surplus")
    assert "tensors of a run that was stopped" in surplus.what


def test_without_a_manifest_no_tensors_are_called_surplus(attached: Path) -> None:
    (attached / "manifest.json").unlink()
    (attached / "columns/notes.txt").write_text("no tensors")
    assert {problem.file for problem in problems(attached, NO_DATA)} == {"manifest.json", "columns/notes.txt"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda column: column.update(images=7), "7 images with the column 't5', but its files have 8"),
        (lambda column: column.update(dtype="bfloat16"), "its header is not that of the file that the manifest lists"),
        (lambda column: column["files"][0].update(lengths=[2, 3]), "the places of its tensors are not those"),
        (lambda column: column["files"][0].update(shards=[0, 9]), "the places of its tensors are not those"),
    ],
)
def test_a_manifest_that_says_something_else_is_found(attached: Path, change: Any, reason: str) -> None:
    edit_manifest(attached, lambda fields: change(fields["tensors"]["t5"]))
    assert any(reason in problem.what for problem in problems(attached, NO_DATA))


def test_other_files_in_the_folder_of_tensors_are_not_written_beside(attached: Path) -> None:
    (attached / "columns" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds other files"):
        write_set(attached, make_plan((*KEYS, "new.png")))
    assert (attached / "columns" / "mine.txt").read_text() == "mine"


# --- killed ---------------------------------------------------------------------------------------------------------


class KilledError(BaseException):
    """The end of a run."""


MOVES = ["00000001-t5.safetensors", "index.jsonl", "items.table", "SHA256SUMS", "manifest.json", "sweep", "journal"]


def attach_until(root: Path, source: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attach tensors, and be killed before the file `name` is moved, or another step is done."""
    move, remove, sweep = atomic.move, Journal.remove, tensor_files.sweep_tensors

    def stop_before(path: Path, folder: Path) -> None:
        if path.name == name:
            raise KilledError
        move(path, folder)

    def stop(journal: Journal) -> None:
        if name == "journal":
            raise KilledError
        remove(journal)

    def stop_sweeping(root: Path, manifest: Manifest | None) -> None:
        if name == "sweep" and manifest is not None and manifest.tensors["t5"].files[0].number:
            raise KilledError
        sweep(root, manifest)

    with monkeypatch.context() as patched:
        patched.setattr(state, "move", stop_before)
        patched.setattr(tensor_files, "move", stop_before)
        patched.setattr("semdis_cli.store.writing.attach.sweep_tensors", stop_sweeping)
        patched.setattr(Journal, "remove", stop)
        with pytest.raises(KilledError):
            run(root, source, tensor_name="t5", whole=False)


@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("then", ["attach", "encode", "remove"])
def test_a_run_that_is_killed_while_files_are_moved_is_done_again_or_undone(
    attached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, then: str
) -> None:
    before, old = contents(attached), tensors_in(attached, "t5")
    new = {key: embedding(f"new {key}", 5) for key in WITH_LATENTS}
    source = folder_of(tmp_path / "new", new)
    attach_until(attached, source, name, monkeypatch)
    is_done = name in {"sweep", "journal"}
    assert are_equal(tensors_in(attached, "t5"), new if is_done else old)
    if then == "encode":
        write_set(attached)
        assert is_done or contents(attached) == before
        assert are_equal(tensors_in(attached, "t5"), new if is_done else old)
    elif then == "attach":
        run(attached, source, tensor_name="t5")
        assert are_equal(tensors_in(attached, "t5"), new)
        assert [path.name for path in (attached / "columns").iterdir()] == ["00000001-t5.safetensors"]
    else:
        run(attached, remove="t5")
        assert not (attached / "columns").exists()
    assert problems(attached) == []
