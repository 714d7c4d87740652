"""What trainers read: each format by a reader that was written from its layout, and every value as ours is."""

import dataclasses
import io
import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from semdis_cli.dataset.latent_dataset import LatentDataset
from semdis_cli.errors import UsageError
from semdis_cli.events import Event, Failure, RunFinished, RunStarted, ShardFailed
from semdis_cli.parts import LATENTS_FLIP, LOG_SNR, LOG_SNR_FLIP, QUANTISED
from semdis_cli.pipeline.export import export
from semdis_cli.pipeline.export_sinks import lightningdit
from semdis_cli.pipeline.export_sinks.kohya import crop_ltrb
from semdis_cli.pipeline.export_sinks.mar import class_folders
from semdis_cli.records import Geometry
from semdis_cli.settings import ExportSettings
from semdis_cli.store.exchange.arrays import holds_tensors, tensor_chunks
from semdis_cli.store.exchange.samples import find_samples
from semdis_cli.store.reader import open_latents
from semdis_cli.store.shards import STORE_DTYPES
from tests.store import flip_last_bit, geometry_of, lasting, make_plan, values_of, write_set
from tests.store.labelled import CLASSES, LABELS, WHITENING, raw_in, write_labelled
from tests.test_readme import PROJECT, Example, run

Array = NDArray[Any]
PAGE = PROJECT / "docs" / "commands" / "export.md"
WAYS: dict[str, dict[str, Any]] = {
    "lightningdit": {"format": "lightningdit", "twins": "same"},
    "edm2": {"format": "edm2", "std": "zero"},
    "mar": {"format": "mar", "twins": "same", "std": "zero"},
    "kohya": {"format": "kohya"},
}
each_way = pytest.mark.parametrize("way", WAYS)


def export_to(output: Path, root: Path, way: str, **changes: Any) -> list[Event]:
    return [*export(open_latents(root), ExportSettings(**{**WAYS[way], **changes}), output)]


def failures_of(events: list[Event]) -> dict[str, str]:
    return {event.key: event.reason for event in events if isinstance(event, Failure)}


def finished(events: list[Event]) -> RunFinished:
    assert isinstance(events[-1], RunFinished)
    return events[-1]


def equal(array: Array, tensor: Tensor) -> bool:
    """Whether they are the same to the last bit."""
    return array.dtype == np.float32 and np.array_equal(array, tensor.numpy())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images of one size and three classes in four shards; not to be touched."""
    return write_labelled(tmp_path_factory.mktemp("sets") / "latents")


def test_raw_latents_are_those_that_a_latent_dataset_gives(root: Path) -> None:
    dataset = LatentDataset(root, whitened=False, dtype=torch.float32)
    assert all(torch.equal(item.latents, raw_in(root)[item.key]) for item in dataset)


# --- LightningDiT ---------------------------------------------------------------------------------------------------


def lightningdit_items(folder: Path) -> Iterator[dict[str, Tensor]]:
    """All items, in the order of the sorted files; each is looked up by slices of three tensors."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            [num_items] = file.get_slice("labels").get_shape()
            assert not file.metadata()
            for number in range(num_items):
                names = "latents", "latents_flip", "labels"
                yield {name: file.get_slice(name)[number : number + 1].squeeze(0) for name in names}


@pytest.mark.parametrize("dtype", list(STORE_DTYPES))
def test_lightningdit_reads_raw_latents_with_labels_and_statistics(tmp_path: Path, dtype: str) -> None:
    raw = raw_in(write_labelled(tmp_path / "set", dtype=dtype))
    events = export_to(tmp_path / "out", tmp_path / "set", "lightningdit")
    assert (finished(events).num_ok, finished(events).num_failed) == (len(LABELS), 0)
    items = [*lightningdit_items(tmp_path / "out")]
    assert len(items) == len(raw)
    for item, (key, latents) in zip(items, raw.items(), strict=True):
        assert torch.equal(item["latents"], latents)
        assert torch.equal(item["latents_flip"], latents)
        assert (item["labels"].dtype, int(item["labels"])) == (torch.int64, LABELS[key])
    statistics = torch.load(tmp_path / "out" / "latents_stats.pt", weights_only=True)  # noqa: TID251 # as that does
    values = torch.stack([*raw.values()]).double()
    for name, expected in (("mean", values.mean((0, 2, 3))), ("std", values.std((0, 2, 3), correction=0))):
        assert (statistics[name].dtype, statistics[name].shape) == (torch.float32, (1, 3, 1, 1))
        torch.testing.assert_close(statistics[name].flatten().double(), expected, rtol=2e-7, atol=1e-7)


def test_files_of_lightningdit_are_cut_alike_and_those_that_are_whole_are_kept(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lightningdit, "_FILE_IMAGES", 5)
    export_to(tmp_path / "out", root, "lightningdit")
    names = ["000000.safetensors", "000001.safetensors", "000002.safetensors"]
    assert sorted(path.name for path in tmp_path.glob("out/*.safetensors")) == names
    assert [int(item["labels"]) for item in lightningdit_items(tmp_path / "out")] == [
        LABELS[key] for key in raw_in(root)
    ]
    before = lasting(tmp_path / "out")
    (tmp_path / "out" / names[1]).unlink()
    kept = (tmp_path / "out" / names[0]).stat().st_mtime_ns
    events = export_to(tmp_path / "out", root, "lightningdit")
    assert isinstance(events[0], RunStarted)
    assert events[0].num_done == len(LABELS) - 5
    assert lasting(tmp_path / "out") == before
    assert (tmp_path / "out" / names[0]).stat().st_mtime_ns == kept


def test_float16_loses_digits_on_request_and_what_is_too_large_costs_its_image(tmp_path: Path) -> None:
    whitening = {"mean": [0.0, 0.0, 0.0], "std": [2.0, 4e4, 1.0]}
    raw = raw_in(write_labelled(tmp_path / "set", whitening=whitening))
    events = export_to(tmp_path / "out", tmp_path / "set", "lightningdit", dtype="float16")
    too_large = {key for key, latents in raw.items() if not latents.half().isfinite().all()}
    assert too_large
    assert len(too_large) < len(raw)
    assert failures_of(events) == dict.fromkeys(too_large, "its latents are too large for float16")
    assert finished(events).report["lossless"] is False
    left = [latents.half() for key, latents in raw.items() if key not in too_large]
    items = [item["latents"] for item in lightningdit_items(tmp_path / "out")]
    assert all(torch.equal(one, other) for one, other in zip(items, left, strict=True))


# --- EDM2 -----------------------------------------------------------------------------------------------------------


def edm2_items(folder: Path) -> list[tuple[str, Array, int | None]]:
    """Name, array and label of each: all `.npy` at any depth, sorted, labels by their paths with slashes."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.npy"))
    labels = json.loads((folder / "dataset.json").read_text())["labels"]
    by_name = dict(labels or [])
    arrays = [np.load(folder / name, allow_pickle=False) for name in names]  # noqa: TID251 # as that does
    return [(name, array, by_name[name] if labels else None) for name, array in zip(names, arrays, strict=True)]


def test_edm2_reads_mean_and_deviation_with_labels(root: Path, tmp_path: Path) -> None:
    export_to(tmp_path / "out", root, "edm2")
    items, raw = edm2_items(tmp_path / "out"), raw_in(root)
    assert [name for name, _, _ in items] == [f"00000/img-mean-std-{number:08d}.npy" for number in range(12)]
    for (_, array, label), key in zip(items, sorted(raw), strict=True):
        assert equal(array, torch.cat([raw[key], torch.zeros_like(raw[key])]))
        assert label == LABELS[key]


def test_edm2_gets_no_image_without_label_where_others_have_one(tmp_path: Path) -> None:
    labels = {**LABELS, "dog/2.jpg": None}
    events = export_to(tmp_path / "out", write_labelled(tmp_path / "set", labels), "edm2")
    assert failures_of(events) == {"dog/2.jpg": "has no label, which EDM2 needs of each image"}
    assert [label for _, _, label in edm2_items(tmp_path / "out")] == [0] * 4 + [1] * 3 + [2] * 4


def test_edm2_gets_a_set_without_labels_as_such_and_that_is_said(tmp_path: Path) -> None:
    events = export_to(tmp_path / "out", write_labelled(tmp_path / "set", dict.fromkeys(LABELS), ()), "edm2")
    assert isinstance(events[0], RunStarted)
    assert events[0].note == "no image has a label, so EDM2 reads a set without classes"
    assert [label for _, _, label in edm2_items(tmp_path / "out")] == [None] * 12


def test_the_labels_of_edm2_are_there_before_the_first_image(root: Path, tmp_path: Path) -> None:
    run = export(open_latents(root), ExportSettings(**WAYS["edm2"]), tmp_path / "out")
    assert isinstance(next(run), RunStarted)
    assert not [*tmp_path.glob("out/**/*.npy")]
    assert len(json.loads((tmp_path / "out" / "dataset.json").read_text())["labels"]) == len(LABELS)
    run.close()  # type: ignore[attr-defined]


@pytest.mark.skipif(shutil.which("zip") is None, reason="zip is not installed")
def test_edm2_reads_the_zip_that_the_page_makes(root: Path, tmp_path: Path) -> None:
    export_to(tmp_path / "edm2", root, "edm2")
    [command] = re.findall(r"`(\(cd edm2 && zip [^`]+)`", PAGE.read_text(encoding="utf-8"))
    assert run(Example(1, ("bash", "-c", command), "", 0), tmp_path) == ""
    with zipfile.ZipFile(tmp_path / "edm2.zip") as archive:
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}
        labels = dict(json.loads(archive.read("dataset.json"))["labels"])
        names = sorted(name for name in archive.namelist() if name.endswith(".npy"))
        items = [(name, np.load(archive.open(name), allow_pickle=False), labels[name]) for name in names]  # noqa: TID251 # same
        assert {*archive.namelist()} == {*names, "dataset.json"}
    assert len(items) == len(LABELS)
    for (name, array, label), (other, expected, known) in zip(items, edm2_items(tmp_path / "edm2"), strict=True):
        assert (name, label) == (other, known)
        assert np.array_equal(array, expected)


# --- MAR ------------------------------------------------------------------------------------------------------------


def mar_items(folder: Path) -> Iterator[tuple[Path, dict[str, Array], int]]:
    """Path, arrays and label of each: folders are classes, numbered as they are sorted."""
    for label, inner in enumerate(sorted(path.name for path in folder.iterdir() if path.is_dir())):
        for path in sorted((folder / inner).rglob("*.npz")):
            with np.load(path, allow_pickle=False) as arrays:  # noqa: TID251 # as that does
                yield path, dict(arrays), label


def test_mar_reads_mean_and_log_variance_in_folders_of_classes(root: Path, tmp_path: Path) -> None:
    export_to(tmp_path / "out", root, "mar")
    raw = raw_in(root)
    for path, arrays, label in mar_items(tmp_path / "out"):
        key = path.relative_to(tmp_path / "out").as_posix().removesuffix(".npz")
        latents = raw.pop(key)
        assert label == LABELS[key]
        for name in ("moments", "moments_flip"):
            assert equal(arrays[name], torch.cat([latents, torch.full_like(latents, -30)]))
    assert not raw


def test_latents_of_mar_are_scaled_channel_by_channel_by_the_lines_of_the_page(root: Path, tmp_path: Path) -> None:
    export_to(tmp_path / "mar", root, "mar")
    with (tmp_path / "mar" / "export.json").open() as file:
        raw = json.load(file)["raw_latents"]
    mean, std = (torch.tensor(raw[name]).view(1, -1, 1, 1) for name in ("mean", "std"))
    moments = torch.stack([torch.from_numpy(arrays["moments"]) for _, arrays, _ in mar_items(tmp_path / "mar")])
    scaled = (moments.chunk(2, dim=1)[0] - mean) / std
    torch.testing.assert_close(scaled.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(scaled.std((0, 2, 3), correction=0), torch.ones(3), rtol=1e-5, atol=0)
    torch.testing.assert_close(scaled * std + mean, moments[:, :3], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("classes", "folders"),
    [
        (("eel", "cat", "dog"), ["0", "1", "2"]),
        (("a/b", "c", "d"), ["0", "1", "2"]),
        ((), ["0", "1", "2"]),
        (("..", "c", "d"), ["0", "1", "2"]),
    ],
)
def test_classes_whose_names_would_change_their_numbers_are_numbers(
    tmp_path: Path, classes: tuple[str, ...], folders: list[str]
) -> None:
    export_to(tmp_path / "out", write_labelled(tmp_path / "set", LABELS, classes), "mar")
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == folders
    found = {path.relative_to(tmp_path / "out" / str(label)): label for path, _, label in mar_items(tmp_path / "out")}
    assert {path.as_posix().removesuffix(".npz"): label for path, label in found.items()} == LABELS


@given(labels=st.sets(st.integers(0, 2000), min_size=1), classes=st.lists(st.text(max_size=3), unique=True))
def test_folders_of_classes_sort_as_their_numbers(labels: set[int], classes: list[str]) -> None:
    folders = class_folders(classes, labels)
    assert [folders[label] for label in sorted(labels)] == sorted(set(folders.values()))
    assert not {"", ".", ".."} & set(folders.values())
    assert not any("/" in name or "\0" in name for name in folders.values())


def test_classes_without_images_are_said_where_numbers_follow_from_folders(tmp_path: Path) -> None:
    root = write_labelled(tmp_path / "set", {"cat.jpg": 0, "dog.jpg": 2, "eel.jpg": 5}, tuple("abcdef"))
    events = export_to(tmp_path / "out", root, "mar")
    assert isinstance(events[0], RunStarted)
    assert events[0].note == (
        "3 classes without images, the first is 1: MAR numbers the folders that it finds, so those behind change places"
    )
    assert {path.parent.name for path, _, _ in mar_items(tmp_path / "out")} == {"a", "c", "f"}


# --- kohya ----------------------------------------------------------------------------------------------------------


def test_kohya_reads_latents_with_original_size_and_crop(root: Path, tmp_path: Path) -> None:
    export_to(tmp_path / "out", root, "kohya")
    for key, latents in raw_in(root).items():
        height, width = geometry_of((32, 32)).source
        path = tmp_path / "out" / f"{key.removesuffix('.jpg')}_{width:04d}x{height:04d}_semdis.npz"
        with np.load(path, allow_pickle=False) as arrays:  # noqa: TID251 # as that does
            assert sorted(arrays) == ["crop_ltrb_2x2", "latents_2x2", "original_size_2x2"]
            assert equal(arrays["latents_2x2"], latents)
            assert arrays["original_size_2x2"].tolist() == [width, height]
            assert arrays["crop_ltrb_2x2"].tolist() == [2, 1, 32 - (45 - 2 - 31), 32 - (50 - 1 - 31)]


def test_kohya_of_one_size_has_names_without_the_grid(root: Path, tmp_path: Path) -> None:
    export_to(tmp_path / "out", root, "kohya", arch="sdxl")
    with np.load(tmp_path / "out" / "cat" / "0_0090x0100_sdxl.npz", allow_pickle=False) as arrays:  # noqa: TID251 # same
        assert sorted(arrays) == ["crop_ltrb", "latents", "original_size"]


def test_kohya_takes_several_sizes_and_two_images_of_one_name_cost_the_second(tmp_path: Path) -> None:
    keys = ("a.jpg", "a.png", "c.jpg", "d.e.jpg")
    plan = make_plan(keys, whitened=False)
    write_set(tmp_path / "set", dataclasses.replace(plan, failures=()))
    events = export_to(tmp_path / "out", tmp_path / "set", "kohya")
    reason = "its file would have the name of another image's; export it as webdataset"
    assert failures_of(events) == {"a.png": reason}
    assert sorted(path.name for path in tmp_path.glob("out/*.npz")) == [
        "a_0090x0100_semdis.npz",
        "c_0090x0100_semdis.npz",
        "d.e_0090x0100_semdis.npz",
    ]


sides = st.integers(1, 500)


@given(sides, sides, sides, st.integers(0, 200), st.integers(0, 200), st.integers(0, 31))
def test_the_crop_of_the_mirrored_image_follows_from_the_width_less_right(
    source: int, height: int, width: int, before: int, behind: int, padding: int
) -> None:
    resized, bucket = (height + before + behind, width + before + behind), (height + padding, width + padding)
    left, top, right, bottom = crop_ltrb(Geometry((source, source), resized, (before, before), (height, width), bucket))
    assert (left, top) == (before, before)
    mirrored = resized[1] - (before + width)  # where the image begins in the mirrored resized one
    assert (bucket[1] - right, bucket[0] - bottom) == (mirrored, mirrored)


# --- all of them ----------------------------------------------------------------------------------------------------


@each_way
def test_the_record_of_the_export_says_how_to_scale_and_the_classes(root: Path, tmp_path: Path, way: str) -> None:
    export_to(tmp_path / "out", root, way)
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    values = torch.stack([*raw_in(root).values()]).double()
    np.testing.assert_allclose(record["raw_latents"]["mean"], values.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(record["raw_latents"]["std"], values.std((0, 2, 3), correction=0), rtol=1e-6)
    assert (record["format"], record["dtype"], record["classes"]) == (way, "float32", list(CLASSES))


@each_way
def test_a_raw_set_leaves_as_it_is(tmp_path: Path, way: str) -> None:
    root = write_labelled(tmp_path / "set", whitened=False)
    assert finished(export_to(tmp_path / "out", root, way)).num_ok == len(LABELS)
    if way == "lightningdit":
        items = [item["latents"] for item in lightningdit_items(tmp_path / "out")]
        assert all(torch.equal(one, other) for one, other in zip(items, raw_in(root).values(), strict=True))


@each_way
def test_a_set_that_does_not_say_how_it_was_whitened_is_refused_before_work(tmp_path: Path, way: str) -> None:
    root = write_labelled(tmp_path / "set", whitening=None)
    with pytest.raises(UsageError, match="does not say how its latents were whitened"):
        export_to(tmp_path / "out", root, way)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("way", ["lightningdit", "mar"])
def test_a_set_without_labels_is_refused_before_work(tmp_path: Path, way: str) -> None:
    root = write_labelled(tmp_path / "set", dict.fromkeys(LABELS), ())
    with pytest.raises(UsageError, match=r"has no labels, which (LightningDiT|MAR) needs"):
        export_to(tmp_path / "out", root, way)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("way", ["lightningdit", "mar"])
def test_an_image_without_label_is_a_failure_that_says_so(tmp_path: Path, way: str) -> None:
    root = write_labelled(tmp_path / "set", {**LABELS, "cat/0.jpg": None})
    events = export_to(tmp_path / "out", root, way)
    assert list(failures_of(events)) == ["cat/0.jpg"]
    assert (finished(events).num_ok, finished(events).num_failed) == (len(LABELS) - 1, 1)


@pytest.mark.parametrize("way", ["lightningdit", "edm2", "mar"])
def test_latents_of_several_sizes_are_refused_before_work(tmp_path: Path, way: str) -> None:
    root = write_labelled(tmp_path / "set", {"a.jpg": 0, "c.jpg": 1, "d.jpg": 1}, ())
    with pytest.raises(UsageError, match=r"holds latents of 2 sizes \(2x2 \(2\), 1x2 \(1\)\), but .* reads one"):
        export_to(tmp_path / "out", root, way)
    assert not (tmp_path / "out").exists()


def test_edm2_refuses_latents_that_are_not_square(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds latents of 1x2, but EDM2 reads square ones"):
        export_to(tmp_path / "out", write_labelled(tmp_path / "set", {"a.jpg": 0}, ()), "edm2")


@pytest.mark.parametrize(
    ("way", "changes", "reason"),
    [
        ("lightningdit", {"twins": "mirrored"}, "holds no latents of mirrored images"),
        ("mar", {"twins": "mirrored"}, "holds no latents of mirrored images"),
        ("mar", {"std": "posterior"}, "holds no deviations of the posterior"),
        ("edm2", {"std": "posterior"}, "holds no deviations of the posterior"),
    ],
)
def test_what_the_set_does_not_hold_is_not_made_up(
    root: Path, tmp_path: Path, way: str, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        export_to(tmp_path / "out", root, way, **changes)
    assert not (tmp_path / "out").exists()


@each_way
def test_a_second_run_touches_nothing(root: Path, tmp_path: Path, way: str) -> None:
    export_to(tmp_path / "out", root, way)
    before, suffixes = lasting(tmp_path / "out"), {".safetensors", ".npy", ".npz"}
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/**/*.*") if path.suffix in suffixes}
    events = export_to(tmp_path / "out", root, way)
    assert isinstance(events[0], RunStarted)
    assert events[0].num_done == len(LABELS)
    assert lasting(tmp_path / "out") == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


@each_way
def test_a_damaged_shard_costs_its_own_images_until_it_is_mended(root: Path, tmp_path: Path, way: str) -> None:
    export_to(tmp_path / "whole", root, way)
    write_labelled(tmp_path / "set")
    damaged = min((tmp_path / "set" / "shards").iterdir())
    flip_last_bit(damaged)
    events = export_to(tmp_path / "out", tmp_path / "set", way)
    [failed] = [event for event in events if isinstance(event, ShardFailed)]
    assert (failed.name, failed.num_images) == (damaged.name, 3)
    assert (finished(events).num_ok, finished(events).num_failed) == (len(LABELS) - 3, 3)
    flip_last_bit(damaged)
    assert finished(export_to(tmp_path / "out", tmp_path / "set", way)).num_failed == 0
    assert lasting(tmp_path / "out") == lasting(tmp_path / "whole")


@each_way
def test_an_export_of_a_set_that_has_grown_is_refused(tmp_path: Path, way: str) -> None:
    root = write_labelled(tmp_path / "set")
    export_to(tmp_path / "out", root, way)
    before = lasting(tmp_path / "out")
    write_labelled(root, {**LABELS, "fox/9.jpg": 3}, (*CLASSES, "fox"))
    with pytest.raises(UsageError, match=r"the latents have changed since, or are others; give -o a new folder$"):
        export_to(tmp_path / "out", root, way)
    assert lasting(tmp_path / "out") == before
    assert finished(export_to(tmp_path / "new", root, way)).num_ok == len(LABELS) + 1


@pytest.mark.parametrize("way", ["edm2", "kohya"])
def test_one_shard_alone_leaves_too(root: Path, tmp_path: Path, way: str) -> None:
    shard = min((root / "shards").iterdir())
    assert finished(export_to(tmp_path / "out", shard, way)).num_ok == 3


@each_way
def test_an_export_for_a_trainer_is_not_imported(root: Path, tmp_path: Path, way: str) -> None:
    export_to(tmp_path / "out" / "inner", root, way)
    with pytest.raises(
        UsageError, match=f"an export for {way}, which cannot be imported; export the set as webdataset"
    ):
        find_samples(tmp_path / "out" / "inner")
    if way == "edm2":
        with pytest.raises(UsageError, match=r"holds \.npy arrays, which cannot be imported"):
            find_samples(tmp_path / "out")
        return
    found = find_samples(tmp_path / "out")
    assert not found.samples
    reason = f"an export for {way}, which cannot be imported; export the set as webdataset or safetensors for that"
    assert Failure("inner/export.json", reason) in found.failures


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_file_of_tensors_is_known_by_its_header_and_size(tmp_path: Path) -> None:
    tensors = {"labels": torch.arange(3), "latents": torch.rand(3, 2, 1, 1), "halves": torch.rand(3, 1).half()}
    data = b"".join(tensor_chunks(tensors))
    (tmp_path / "file").write_bytes(data)
    with safe_open(tmp_path / "file", framework="pt") as file:
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in tensors.items())
    shapes = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    assert holds_tensors(tmp_path / "file", shapes)
    assert not holds_tensors(tmp_path / "file", {**shapes, "latents": (torch.float32, (2, 3, 1, 1))})
    assert not holds_tensors(tmp_path / "missing", shapes)
    (tmp_path / "file").write_bytes(data[:-1])
    assert not holds_tensors(tmp_path / "file", shapes)


def test_an_npz_has_the_same_bytes_each_time(root: Path, tmp_path: Path) -> None:
    export_to(tmp_path / "out", root, "mar")
    data = (tmp_path / "out" / "cat" / "0.jpg.npz").read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}


# --- twins and deviations -------------------------------------------------------------------------------------------

DRAWN = {"twins": "mirrored", "std": "posterior"}


@pytest.fixture(scope="module", params=["bfloat16", *QUANTISED])
def rich(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The same with latents of mirrored images and the log-SNR of both posteriors; not to be touched."""
    parts = [LATENTS_FLIP, LOG_SNR, LOG_SNR_FLIP]
    return write_labelled(tmp_path_factory.mktemp("sets") / "latents", parts=parts, dtype=request.param)


def parts_in(root: Path) -> dict[str, dict[str, Tensor]]:
    """For each image the raw latents of its twin, and the variances of both posteriors in float64, by part."""
    source = open_latents(root)
    mean, std = (torch.tensor(WHITENING[name])[:, None, None] for name in ("mean", "std"))
    return {
        key: {
            LATENTS_FLIP: values_of(shard, row, LATENTS_FLIP) * std + mean,
            **{name: 1 / (1 + shard.parts[name][row].double().exp()) for name in (LOG_SNR, LOG_SNR_FLIP)},
        }
        for shard in map(source.read, source.shards)
        for row, key in enumerate(shard.keys)
    }


def test_lightningdit_gets_the_latents_of_mirrored_images(rich: Path, tmp_path: Path) -> None:
    export_to(tmp_path / "out", rich, "lightningdit", twins="mirrored")
    parts = parts_in(rich)
    with safe_open(tmp_path / "out" / "000000.safetensors", framework="pt") as file:
        twins = file.get_tensor("latents_flip")
    assert all(equal(twin.numpy(), parts[key][LATENTS_FLIP]) for twin, key in zip(twins, keys_in(rich), strict=True))


def keys_in(root: Path) -> list[str]:
    """The keys in the order of the shards."""
    return [key for stored in open_latents(root).shards for key in stored.rows]


def test_edm2_gets_the_deviation_of_the_posterior(rich: Path, tmp_path: Path) -> None:
    export_to(tmp_path / "out", rich, "edm2", std="posterior")
    raw, parts = raw_in(rich), parts_in(rich)
    for (_, array, _), key in zip(edm2_items(tmp_path / "out"), sorted(raw), strict=True):
        assert equal(array[:3], raw[key])
        np.testing.assert_allclose(array[3:], parts[key][LOG_SNR].sqrt().numpy(), rtol=1e-6)


def test_mar_gets_twins_and_the_variances_of_both(rich: Path, tmp_path: Path) -> None:
    export_to(tmp_path / "out", rich, "mar", **DRAWN)
    raw, parts = raw_in(rich), parts_in(rich)
    items = list(mar_items(tmp_path / "out"))
    assert len(items) == len(raw)
    for path, arrays, _ in items:
        key = path.relative_to(tmp_path / "out").as_posix().removesuffix(".npz")
        assert equal(arrays["moments"][:3], raw[key])
        assert equal(arrays["moments_flip"][:3], parts[key][LATENTS_FLIP])
        for name, part in (("moments", LOG_SNR), ("moments_flip", LOG_SNR_FLIP)):
            np.testing.assert_allclose(arrays[name][3:], parts[key][part].log().clamp(min=-30).numpy(), rtol=1e-5)


def test_kohya_gets_the_latents_of_mirrored_images(rich: Path, tmp_path: Path) -> None:
    export_to(tmp_path / "out", rich, "kohya")
    height, width = geometry_of((32, 32)).source
    raw = raw_in(rich)
    for key, part in parts_in(rich).items():
        path = tmp_path / "out" / f"{key.removesuffix('.jpg')}_{width:04d}x{height:04d}_semdis.npz"
        with np.load(path, allow_pickle=False) as arrays:  # noqa: TID251 # as that does
            assert equal(arrays["latents_2x2"], raw[key])
            assert equal(arrays["latents_flipped_2x2"], part[LATENTS_FLIP])


@pytest.mark.parametrize(("stride", "is_right"), [(16, True), (8, False)])
def test_the_crop_of_kohyas_mirrored_image_wants_the_stride_of_the_model(
    rich: Path, tmp_path: Path, stride: int, is_right: bool
) -> None:
    export_to(tmp_path / "out", rich, "kohya")
    geometry = geometry_of((32, 32))
    cut_right = geometry.resized[1] - geometry.crop[1] - geometry.image[1]  # what mirrored pixels begin behind
    for path in tmp_path.glob("out/*/*.npz"):
        with np.load(path, allow_pickle=False) as arrays:  # noqa: TID251 # as that does
            target_size = (
                arrays["latents_flipped_2x2"].shape[2] * stride,
                arrays["latents_flipped_2x2"].shape[1] * stride,
            )
            crop_left = target_size[0] - arrays["crop_ltrb_2x2"][2]
        assert ((target_size, crop_left) == (geometry.bucket[::-1], cut_right)) is is_right


@pytest.mark.parametrize(
    ("way", "options", "left_out"),
    [
        ("lightningdit", {"twins": "mirrored"}, [LOG_SNR, LOG_SNR_FLIP]),
        ("lightningdit", {"twins": "same"}, [LATENTS_FLIP, LOG_SNR, LOG_SNR_FLIP]),
        ("edm2", {"std": "posterior"}, [LATENTS_FLIP, LOG_SNR_FLIP]),
        ("edm2", {"std": "zero"}, [LATENTS_FLIP, LOG_SNR, LOG_SNR_FLIP]),
        ("mar", {"twins": "mirrored", "std": "posterior"}, []),
        ("mar", {"twins": "same", "std": "posterior"}, [LATENTS_FLIP, LOG_SNR_FLIP]),
        ("kohya", {}, [LOG_SNR, LOG_SNR_FLIP]),
    ],
)
def test_parts_that_a_trainer_has_no_place_for_are_said(
    rich: Path, tmp_path: Path, way: str, options: dict[str, Any], left_out: list[str]
) -> None:
    events = export_to(tmp_path / "out", rich, way, **options)
    assert isinstance(events[0], RunStarted)
    assert events[0].note == (f"{way} has no place for {', '.join(left_out)}: left out" if left_out else "")
    report = finished(events).report
    assert (report["lossless"], report.get("parts_left_out", [])) == (not left_out, left_out)
