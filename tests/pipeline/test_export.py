"""Out of a store and back: what trainers read is all there, and what comes back has the bytes that were there."""

import dataclasses
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from semdis_cli.errors import StoreError, UsageError
from semdis_cli.events import Event, Failure, RunFinished, RunStarted, ShardFailed
from semdis_cli.files.set_names import ITEMS_FILE
from semdis_cli.files.tar import TAR_END, tar_member
from semdis_cli.parts import LATENTS_FLIP, PARTS
from semdis_cli.pipeline.export import export
from semdis_cli.pipeline.gather import gather
from semdis_cli.records import FileDigest
from semdis_cli.settings import ExportSettings, ShardSettings
from semdis_cli.store.exchange.export import sample_base
from semdis_cli.store.exchange.samples import find_samples
from semdis_cli.store.index import read_rows
from semdis_cli.store.reader import open_latents
from semdis_cli.store.record import source_fields
from semdis_cli.store.shards import STORE_DTYPES, Shard, parse_shard, read_shard, write_shard
from tests.store import (
    GOOD_KEYS,
    SmallPlan,
    are_equal,
    flip_last_bit,
    lasting,
    make_plan,
    make_shard,
    problems,
    with_settings,
    write_set,
)
from tests.store.test_versions import NEW, OLD, write_mixed_set

WAYS: dict[str, dict[str, Any]] = {
    "safetensors": {"format": "safetensors"},
    "npy": {"format": "npy"},
    "tar of safetensors": {"format": "webdataset", "tar_member": "safetensors"},
    "tar of npy": {"format": "webdataset", "tar_member": "npy"},
}
Exported = Callable[[str], Path]
each_way = pytest.mark.parametrize("way", WAYS)
back_again = pytest.mark.parametrize("way", [way for way in WAYS if "npy" not in way])
NO_IMPORT = r"\.npy arrays, which cannot be imported; export the set as webdataset or safetensors for that"


def plan_of(keys: tuple[str, ...] = GOOD_KEYS, **changes: Any) -> SmallPlan:
    """A plan under which nothing fails."""
    return dataclasses.replace(make_plan(keys, **changes), failures=())


def export_to(output: Path, root: Path, way: str, **changes: Any) -> list[Event]:
    source = open_latents(root)
    return [*export(source, ExportSettings(**WAYS[way], **changes), output)]


def import_to(output: Path, source: Path, shard_images: int = 3) -> list[Event]:
    return [*gather(find_samples(source), ShardSettings(shard_images=shard_images), output)]


def keys_in(out: Path) -> set[str]:
    """The keys of the images in an export of safetensors, or whose records it has."""
    if (out / "latents.jsonl").exists():
        return {json.loads(line)["key"] for line in (out / "latents.jsonl").read_bytes().splitlines()}
    records = [sample["json"] for tar in out.glob("*.tar") for sample in webdataset(tar)]
    files = [path.relative_to(out).as_posix().removesuffix(".safetensors") for path in out.rglob("*.safetensors")]
    return {*files, *(json.loads(record)["key"] for record in records)}


def failures_of(events: list[Event]) -> dict[str, str]:
    return {event.key: event.reason for event in events if isinstance(event, Failure)}


def finished(events: list[Event]) -> RunFinished:
    assert isinstance(events[-1], RunFinished)
    return events[-1]


def latents_in(root: Path) -> dict[str, Shard]:
    """Each image of a set as a shard of its own."""
    source = open_latents(root)
    shards = [source.read(stored) for stored in source.shards]
    return {key: shard.select([row]) for shard in shards for row, key in enumerate(shard.keys)}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished set of eight images of two sizes in four shards; not to be touched."""
    root = tmp_path_factory.mktemp("sets") / "latents"
    write_set(root, plan_of())
    return root


@pytest.fixture(scope="module")
def exports(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The set, exported each way; not to be touched."""
    folder = tmp_path_factory.mktemp("exports")
    for way in WAYS:
        export_to(folder / way, root, way)
    return {way: folder / way for way in WAYS}


@pytest.fixture
def exported(exports: dict[str, Path], tmp_path: Path) -> Exported:
    """The set, exported in the way that is asked for, in a folder `out` that may be touched."""

    def copy(way: str) -> Path:
        return shutil.copytree(exports[way], tmp_path / "out")

    return copy


# --- there and back -------------------------------------------------------------------------------------------------


@back_again
@pytest.mark.parametrize("dtype", list(STORE_DTYPES))
def test_what_comes_back_has_the_bytes_that_were_there(tmp_path: Path, way: str, dtype: str) -> None:
    root = tmp_path / "latents"
    write_set(root, plan_of(dtype=dtype))
    assert finished(export_to(tmp_path / "out", root, way)).num_ok == len(GOOD_KEYS)
    assert finished(import_to(tmp_path / "back", tmp_path / "out")).num_ok == len(GOOD_KEYS)
    assert lasting(tmp_path / "back") == lasting(root)


@back_again
def test_a_set_with_failures_comes_back_without_them(tmp_path: Path, way: str) -> None:
    root = tmp_path / "latents"
    write_set(root)
    export_to(tmp_path / "out", root, way)
    import_to(tmp_path / "back", tmp_path / "out")
    ours, theirs = (
        {row.key: row for row in read_rows(tmp_path / name / "index.jsonl")} for name in ("back", "latents")
    )
    assert ours.keys() == {key for key, row in theirs.items() if row.is_ok} == set(GOOD_KEYS)
    assert [row.record for _, row in sorted(ours.items())] == [
        row.record for _, row in sorted(theirs.items()) if row.is_ok
    ]
    before, after = latents_in(root), latents_in(tmp_path / "back")
    assert all(are_equal(before[key], after[key]) for key in GOOD_KEYS)


key_parts = st.text(min_size=1, max_size=6).filter(lambda part: part not in {".", ".."}) | st.binary(
    min_size=1, max_size=6
).map(os.fsdecode)
hostile_parts = st.sampled_from(["a.b.c", ".hidden", "__a__", "two\nlines", "%2E", "é", "x" * 243, " ", "export.jso"])


def is_key(key: str) -> bool:
    try:
        name = os.fsencode(key)
    except UnicodeEncodeError:
        return False
    return b"\0" not in name and not {b"", b".", b".."} & {*name.split(b"/")} and os.fsdecode(name) == key


keys = st.lists(key_parts | hostile_parts, min_size=1, max_size=3).map("/".join).filter(is_key)


@back_again
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=st.lists(keys, min_size=1, max_size=5, unique=True))
def test_images_of_any_name_come_back(tmp_path_factory: pytest.TempPathFactory, way: str, keys: list[str]) -> None:
    folder = tmp_path_factory.mktemp("any")
    write_set(folder / "latents", plan_of(tuple(key.replace("bad", "good") for key in keys)))
    events = export_to(folder / "out", folder / "latents", way)
    lost = failures_of(events)
    assert all("another image's folder" in reason or "longer than 255" in reason for reason in lost.values())
    if not lost:
        import_to(folder / "back", folder / "out")
        assert lasting(folder / "back") == lasting(folder / "latents")


def test_only_what_is_to_be_served_leaves(tmp_path: Path) -> None:
    root = tmp_path / "latents"
    write_set(root, plan_of())
    write_set(root, dataclasses.replace(plan_of(GOOD_KEYS[1:]), more_bytes={"c.png": 7}))
    source = open_latents(root)
    assert source.keys == GOOD_KEYS[1:]
    export_to(tmp_path / "out", root, "safetensors")
    files = {path.relative_to(tmp_path / "out").as_posix(): path for path in tmp_path.glob("out/**/*.safetensors")}
    assert files.keys() == {f"{key}.safetensors" for key in GOOD_KEYS[1:]}
    assert read_shard(files["c.png.safetensors"]).records[0].source.num_bytes == len("c.png") + 7


def test_one_shard_alone_is_exported_as_well(root: Path, tmp_path: Path) -> None:
    shard = min((root / "shards").iterdir())
    assert finished(export_to(tmp_path / "out", shard, "tar of safetensors")).num_ok == 3
    import_to(tmp_path / "back", tmp_path / "out")
    assert (tmp_path / "back" / "shards" / shard.name).read_bytes() == shard.read_bytes()


# --- what others read -----------------------------------------------------------------------------------------------


def webdataset(path: Path) -> Iterator[dict[str, Any]]:
    """The samples of a tar, as webdataset groups them: adjacent files whose names are equal up to the first dot."""
    sample: dict[str, Any] = {}
    with tarfile.open(path, "r|") as tar:
        for member in tar:
            found = re.match(r"^((?:.*/|)[^.]+)[.]([^/]*)$", member.name)
            assert found is not None
            base, extension = found.groups()
            if sample and sample["__key__"] != base:
                yield sample
                sample = {}
            assert extension not in sample
            file = tar.extractfile(member)
            assert file is not None
            sample |= {"__key__": base, extension: file.read()}
    yield sample


def check_samples(samples: list[dict[str, Any]], root: Path) -> None:
    """Each image of the set is one sample, with its latents and what is known of it."""
    latents = latents_in(root)
    assert len(samples) == len(latents)
    for sample in samples:
        facts = json.loads(sample["json"])
        shard = latents.pop(facts["key"])
        assert sample["__key__"] == sample_base(facts["key"])
        if "npy" in sample:
            array = np.load(io.BytesIO(sample["npy"]), allow_pickle=False)  # noqa: TID251 # as others do
            assert np.array_equal(array, shard.latents[0].float().numpy())
        else:
            assert are_equal(parse_shard(sample["safetensors"], "sample"), shard)
        assert facts["geometry"] == shard.records[0].geometry.to_json()
        assert facts["source"] == source_fields(shard.records[0])
        assert facts["whitened"] is True


@pytest.mark.parametrize("member", ["safetensors", "npy"])
def test_webdataset_finds_each_image_with_all_that_is_known_of_it(root: Path, tmp_path: Path, member: str) -> None:
    export_to(tmp_path / "out", root, f"tar of {member}")
    check_samples([*webdataset(tmp_path / "out" / "000000.tar")], root)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves the tar open
@pytest.mark.parametrize("member", ["safetensors", "npy"])
def test_the_webdataset_package_finds_the_same(root: Path, tmp_path: Path, member: str) -> None:
    package = pytest.importorskip("webdataset")
    export_to(tmp_path / "out", root, f"tar of {member}")
    check_samples([*package.WebDataset(str(tmp_path / "out" / "000000.tar"), shardshuffle=False)], root)


def test_tars_are_about_as_large_as_asked_for(tmp_path: Path) -> None:
    keys = tuple(f"{number}.png" for number in range(450))
    write_set(tmp_path / "latents", plan_of(keys, shard_images=100))
    export_to(tmp_path / "out", tmp_path / "latents", "tar of safetensors", tar_mib=1)
    tars = sorted(path for path in (tmp_path / "out").iterdir() if path.suffix == ".tar")
    assert [tar.name for tar in tars] == [f"{number:06d}.tar" for number in range(len(tars))]
    assert len(tars) > 1
    assert all(0.5 < tar.stat().st_size / 2**20 <= 1 for tar in tars[:-1])
    check_samples([sample for tar in tars for sample in webdataset(tar)], tmp_path / "latents")
    import_to(tmp_path / "back", tmp_path / "out", shard_images=100)
    assert lasting(tmp_path / "back") == lasting(tmp_path / "latents")


# --- again, and after damage ----------------------------------------------------------------------------------------


@each_way
def test_a_second_run_touches_nothing(root: Path, tmp_path: Path, way: str) -> None:
    first = export_to(tmp_path / "out", root, way)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/**/*.*") if path.suffix in {".npy", ".tar"}}
    files = lasting(tmp_path / "out")
    second = export_to(tmp_path / "out", root, way)
    assert isinstance(first[0], RunStarted)
    assert isinstance(second[0], RunStarted)
    assert (first[0].num_done, second[0].num_done) == (0, len(GOOD_KEYS))
    assert lasting(tmp_path / "out") == files
    assert {path: path.stat().st_mtime_ns for path in before} == before


@each_way
def test_what_is_missing_is_made_again(root: Path, exported: Exported, tmp_path: Path, way: str) -> None:
    exported(way)
    files = lasting(tmp_path / "out")
    for path in [*tmp_path.glob("out/d.*"), *tmp_path.glob("out/*.tar"), *tmp_path.glob("out/latents.jsonl")]:
        path.unlink()
    assert lasting(tmp_path / "out") != files
    export_to(tmp_path / "out", root, way)
    assert lasting(tmp_path / "out") == files


@each_way
def test_a_damaged_shard_costs_its_own_images_until_it_is_mended(
    root: Path, exports: dict[str, Path], tmp_path: Path, way: str
) -> None:
    root = shutil.copytree(root, tmp_path / "latents")
    damaged = min((root / "shards").iterdir())
    good = damaged.read_bytes()
    damaged.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    events = export_to(tmp_path / "out", root, way)
    [failed] = [event for event in events if isinstance(event, ShardFailed)]
    assert (failed.name, failed.num_images) == (damaged.name, 3)
    assert (finished(events).num_ok, finished(events).num_failed) == (len(GOOD_KEYS) - 3, 3)
    assert len(keys_in(tmp_path / "out")) == len(GOOD_KEYS) - 3
    damaged.write_bytes(good)
    assert finished(export_to(tmp_path / "out", root, way)).num_failed == 0
    assert lasting(tmp_path / "out") == lasting(exports[way])


def test_latents_that_are_not_what_their_settings_say_do_not_leave(tmp_path: Path) -> None:
    shard = make_shard()
    shard.latents[0, 0, 0, 0] = float("inf")
    write_shard(tmp_path / "one", shard)
    events = export_to(tmp_path / "out", tmp_path / "one", "safetensors")
    [failed] = [event for event in events if isinstance(event, ShardFailed)]
    assert "not finite" in failed.reason
    assert not list(tmp_path.glob("out/**/*.safetensors"))


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same set with all parts that there are; not to be touched."""
    root = tmp_path_factory.mktemp("sets") / "latents"
    write_set(root, plan_of(parts=sorted(PARTS)))
    return root


def parts_read(out: Path, key: str, part: str) -> tuple[bytes, dict[str, Any]]:
    """The array of a part of an image, and its record."""
    if (out / "latents.jsonl").exists():
        lines = map(json.loads, (out / "latents.jsonl").read_bytes().splitlines())
        [record] = [line for line in lines if line["key"] == key]
        return (out / f"{key}.{part}.npy").read_bytes(), record
    samples = [sample for tar in out.glob("*.tar") for sample in webdataset(tar)]
    [sample] = [sample for sample in samples if sample["__key__"] == sample_base(key)]
    return sample[f"{part}.npy"], json.loads(sample["json"])


@pytest.mark.parametrize("way", [way for way in WAYS if "npy" in way])
def test_parts_are_arrays_beside_the_latents(rich: Path, tmp_path: Path, way: str) -> None:
    report = finished(export_to(tmp_path / "out", rich, way)).report
    assert report["lossless"] is True
    for key, shard in latents_in(rich).items():
        for part, stored in shard.parts.items():
            data, record = parts_read(tmp_path / "out", key, part)
            array = np.load(io.BytesIO(data), allow_pickle=False)  # noqa: TID251 # as others do
            dtype = np.float32 if part == LATENTS_FLIP else np.float16
            assert array.dtype == dtype
            assert np.array_equal(array, stored[0].float().numpy().astype(dtype))
            facts = {"shape": [*array.shape], "dtype": array.dtype.name, **FileDigest.of(data).to_json()}
            assert (record["parts"][part], record["exact"]) == (facts, True)


@back_again
def test_parts_are_in_the_shard_of_an_image_and_come_back(rich: Path, tmp_path: Path, way: str) -> None:
    assert finished(export_to(tmp_path / "out", rich, way)).report["lossless"] is True
    import_to(tmp_path / "back", tmp_path / "out")
    back, stored = latents_in(tmp_path / "back"), latents_in(rich)
    assert back.keys() == stored.keys()
    assert all(are_equal(shard, stored[key]) for key, shard in back.items())


@pytest.mark.parametrize("way", [way for way in WAYS if "npy" in way])
def test_what_is_missing_of_parts_is_made_again(rich: Path, tmp_path: Path, way: str) -> None:
    export_to(tmp_path / "out", rich, way)
    files = lasting(tmp_path / "out")
    for path in [*tmp_path.glob("out/d.png.mask.npy"), *tmp_path.glob("out/*.tar")]:
        path.unlink()
    second = export_to(tmp_path / "out", rich, way)
    assert isinstance(second[0], RunStarted)
    assert second[0].num_done == (len(GOOD_KEYS) - 1 if way == "npy" else 0)
    assert lasting(tmp_path / "out") == files


def test_names_that_the_files_of_parts_cannot_have_cost_their_own_image(tmp_path: Path) -> None:
    keys = ("a.png", "a.png.mask", "d.png", "d.png.mask.npy/e.png", "x" * 247)
    write_shard(tmp_path / "one", make_shard(keys, parts=["mask"]))
    failures = failures_of(export_to(tmp_path / "out", tmp_path / "one", "npy"))
    assert failures.keys() == {"a.png.mask", "d.png", "x" * 247}
    assert failures["a.png.mask"] == "its file's name is kept for a part of another image; export it as webdataset"
    assert keys_in(tmp_path / "out") == {"a.png", "d.png.mask.npy/e.png"}
    assert failures_of(export_to(tmp_path / "tars", tmp_path / "one", "tar of npy")) == {}


@each_way
def test_values_too_large_for_float16_cost_their_own_image(tmp_path: Path, way: str) -> None:
    shard = make_shard()
    shard.latents[0, 0, 0, 0] = 1e5
    write_shard(tmp_path / "one", shard)
    halved = {"dtype": "float16"} if "npy" in way else {}
    failures = failures_of(export_to(tmp_path / "out", tmp_path / "one", way, **halved))
    assert failures == ({"a.png": "its latents are too large for float16"} if "npy" in way else {})
    assert "b/c.png" in keys_in(tmp_path / "out")


def test_nothing_of_anybody_is_overwritten(root: Path, exported: Exported, tmp_path: Path) -> None:
    exported("npy")
    with pytest.raises(UsageError, match=r"made with other settings \(.*format: npy -> safetensors"):
        export_to(tmp_path / "out", root, "safetensors")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    with pytest.raises(UsageError, match="not empty"):
        export_to(tmp_path / "mine", root, "npy")


@pytest.mark.parametrize("way", ["safetensors", "npy"])
def test_a_link_in_the_folder_leads_no_file_out_of_it(root: Path, exported: Exported, tmp_path: Path, way: str) -> None:
    exported(way)
    shutil.rmtree(tmp_path / "out" / "b")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "b").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="a link leads out of"):
        export_to(tmp_path / "out", root, way)
    assert not list((tmp_path / "elsewhere").iterdir())


@each_way
def test_a_key_that_leads_out_of_the_folder_is_refused(tmp_path: Path, way: str) -> None:
    write_shard(tmp_path / "one", make_shard(("../../a.png",)))
    with pytest.raises(StoreError, match="would leave the output folder"):
        export_to(tmp_path / "out", tmp_path / "one", way)
    assert not (tmp_path / "out").exists()


def test_names_that_cannot_be_cost_their_own_image(tmp_path: Path) -> None:
    keys = ("a.png", "a.png.npy/b.png", "export.json/c.png", "x" * 253)
    write_shard(tmp_path / "one", make_shard(keys))
    failures = failures_of(export_to(tmp_path / "out", tmp_path / "one", "npy"))
    assert failures.keys() == {"a.png", "export.json/c.png", "x" * 253}
    assert keys_in(tmp_path / "out") == {"a.png.npy/b.png"}
    assert failures_of(export_to(tmp_path / "tars", tmp_path / "one", "tar of npy")) == {}


# --- what is not to be trusted --------------------------------------------------------------------------------------


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 7)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def edit_record(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"made up", b"made_up"))


def claim_a_long_header(path: Path) -> None:
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])


def remove_and_link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nowhere")


DAMAGES = [flip_last_bit, cut_short, empty, lengthen, edit_record, claim_a_long_header, remove_and_link_to_nothing]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_a_failure_and_the_others_come_in(
    exported: Exported, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    exported("safetensors")
    damage(tmp_path / "out" / "b" / "c.png.safetensors")
    events = import_to(tmp_path / "back", tmp_path / "out")
    rows = {row.key: row for row in read_rows(tmp_path / "back" / "index.jsonl")}
    assert finished(events).num_failed == 1
    [failed] = [row for row in rows.values() if not row.is_ok]
    assert failures_of(events) == {failed.key: failed.error}
    assert failed.key in {"b/c.png", "b/c.png.safetensors"}
    assert failed.error
    assert str(tmp_path) not in failed.error
    assert set(open_latents(tmp_path / "back").keys) == {*GOOD_KEYS} - {"b/c.png"}


def edit_tar(path: Path, edit: Callable[[str, bytes], bytes | None]) -> None:
    """Put together the members of a tar anew; those for which `edit` gives None are left out."""
    with tarfile.open(path) as tar:
        members = [(member.name, file.read()) for member in tar if (file := tar.extractfile(member))]
    edited = [(name, edit(name, data)) for name, data in members]
    path.write_bytes(b"".join(tar_member(name, data) for name, data in edited if data is not None) + TAR_END)


def test_a_damaged_member_is_a_failure_and_the_others_come_in(exported: Exported, tmp_path: Path) -> None:
    exported("tar of safetensors")
    bad = "b/c%2Epng.safetensors"
    edit_tar(
        tmp_path / "out" / "000000.tar", lambda name, data: data[:-1] + bytes([data[-1] ^ 1]) if name == bad else data
    )
    failures = failures_of(import_to(tmp_path / "back", tmp_path / "out"))
    assert failures.keys() == {"b/c.png"}
    assert "damaged" in failures["b/c.png"]
    assert set(open_latents(tmp_path / "back").keys) == {*GOOD_KEYS} - {"b/c.png"}


def test_a_tar_that_is_cut_short_gives_what_is_whole(exported: Exported, tmp_path: Path) -> None:
    exported("tar of safetensors")
    path = tmp_path / "out" / "000000.tar"
    os.truncate(path, path.stat().st_size * 2 // 3)
    failures = failures_of(import_to(tmp_path / "back", tmp_path / "out"))
    assert re.search(r"uncompressed tar \(.*(cut off|unexpected end)", failures["000000.tar"])
    assert 2 < len(open_latents(tmp_path / "back").keys) < len(GOOD_KEYS)


@pytest.mark.parametrize("way", ["npy", "tar of npy"])
def test_arrays_are_refused_by_what_they_are(exported: Exported, way: str) -> None:
    out = exported(way)
    for source in [out, *out.glob("*.tar")]:
        with pytest.raises(UsageError, match=f"^{source}: holds {NO_IMPORT}$"):
            find_samples(source)
    (out / "export.json").unlink()
    with pytest.raises(UsageError, match=f"^{out}: holds {NO_IMPORT}$"):
        find_samples(out)


def test_arrays_beside_what_can_be_imported_are_failures(
    exported: Exported, exports: dict[str, Path], tmp_path: Path
) -> None:
    out = exported("safetensors")
    shutil.copytree(exports["npy"], out / "arrays")
    shutil.copytree(exports["tar of npy"], out / "tars")
    events = import_to(tmp_path / "back", out)
    failures = failures_of(events)
    assert failures.keys() == {"arrays/export.json", "tars/000000.tar"}
    assert all(re.search(f"(holds|an export of) {NO_IMPORT}$", reason) for reason in failures.values())
    assert open_latents(tmp_path / "back").keys == GOOD_KEYS
    assert finished(events).report["images"]["missing"] == 0


def test_files_of_any_name_and_folder_come_in(root: Path, exported: Exported, tmp_path: Path) -> None:
    exported("safetensors")
    (tmp_path / "plain" / "deep").mkdir(parents=True)
    for number, path in enumerate(sorted(tmp_path.glob("out/**/*.safetensors"))):
        path.rename(tmp_path / "plain" / ("deep" if number % 2 else "") / f"{number}.safetensors")
    import_to(tmp_path / "back", tmp_path / "plain")
    assert lasting(tmp_path / "back") == lasting(root)


def test_a_tar_as_it_comes_from_a_pipe_comes_in(root: Path, exported: Exported, tmp_path: Path) -> None:
    exported("safetensors")
    names = [f"{key}.safetensors" for key in sorted(GOOD_KEYS, reverse=True)]
    members = [tar_member(name, (tmp_path / "out" / name).read_bytes()) for name in names]
    (tmp_path / "pipe.tar").write_bytes(b"".join(members) + TAR_END)
    import_to(tmp_path / "back", tmp_path / "pipe.tar")
    assert lasting(tmp_path / "back") == lasting(root)


def test_one_image_twice_is_refused_with_both_names(exported: Exported, tmp_path: Path) -> None:
    exported("safetensors")
    shutil.copy(tmp_path / "out" / "c.png.safetensors", tmp_path / "out" / "copy.safetensors")
    with pytest.raises(UsageError, match=r"^c\.png\.safetensors and copy\.safetensors are both 'c\.png'"):
        find_samples(tmp_path / "out")


def test_latents_of_two_kinds_are_refused_with_the_difference(exported: Exported, tmp_path: Path) -> None:
    exported("safetensors")
    other = with_settings(make_shard(("z.png",)), posterior={"kind": "sample", "seed": 1})
    write_shard(tmp_path / "out" / "z.safetensors", other)
    with pytest.raises(UsageError, match=r"z\.safetensors: made with other settings .*posterior\.kind: mode -> sample"):
        find_samples(tmp_path / "out")


def test_shards_of_several_images_links_and_pipes_are_failures(exported: Exported, tmp_path: Path) -> None:
    out = tmp_path / "out"
    exported("safetensors")
    write_shard(out / "two.safetensors", make_shard(("y.png", "z.png")))
    os.mkfifo(out / "pipe.safetensors")
    os.mkfifo(out / "pipe.tar")
    (out / "up").symlink_to(tmp_path)
    failures = failures_of(import_to(tmp_path / "back", out))
    assert failures.keys() == {"two", "pipe.safetensors", "pipe.tar", "up"}
    assert "it holds 2 images, not one" in failures["two"]


def test_a_failure_takes_no_good_images_key(exported: Exported, tmp_path: Path) -> None:
    exported("safetensors")
    (tmp_path / "out" / "d.png.safetensors").rename(tmp_path / "out" / "other.safetensors")
    (tmp_path / "out" / "d.png.safetensors").write_bytes(b"nothing")
    failures = failures_of(import_to(tmp_path / "back", tmp_path / "out"))
    assert failures.keys() == {"d.png?"}
    assert "d.png" in open_latents(tmp_path / "back").keys


def test_where_there_is_nothing_to_import_that_is_said(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source, reason in [
        (tmp_path / "empty", "no latents that semdis export"),
        (tmp_path / "missing", "no folder, .tar or .safetensors file"),
        (root, "a set of latents already"),
    ]:
        with pytest.raises(UsageError, match=reason):
            find_samples(source)


def test_an_export_that_was_not_finished_is_known(root: Path, tmp_path: Path) -> None:
    export_to(tmp_path / "files", root, "safetensors")
    (tmp_path / "files" / "c.png.safetensors").unlink()
    found = find_samples(tmp_path / "files")
    assert (len(found.samples), found.num_exported) == (len(GOOD_KEYS) - 1, len(GOOD_KEYS))


def test_an_export_below_the_source_that_holds_nothing_to_import_is_missed(
    exported: Exported, exports: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(exports["safetensors"], exported("safetensors") / "lost")
    for path in tmp_path.glob("out/lost/**/*.safetensors"):
        path.unlink()
    found = find_samples(tmp_path / "out")
    assert (found.num_exported, found.num_missing) == (2 * len(GOOD_KEYS), len(GOOD_KEYS))
    (tmp_path / "out" / "lost" / "export.json").write_text("{}")
    found = find_samples(tmp_path / "out")
    assert (found.num_exported, found.num_missing) == (len(GOOD_KEYS), 0)
    [failure] = found.failures
    assert failure.key == "lost/export.json"
    assert failure.reason.startswith("not the record of an export")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format":"safetensors","provenance":[],"num_images":1}', "\0"])
def test_a_touched_record_of_the_export_is_refused_by_name(exported: Exported, tmp_path: Path, text: str) -> None:
    exported("safetensors")
    (tmp_path / "out" / "export.json").write_text(text)
    with pytest.raises(StoreError, match=r"export\.json: not the record of an export"):
        find_samples(tmp_path / "out")


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_the_bytes_a_file_comes_in_as_it_was_or_is_a_failure(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "edited"
    folder.mkdir(exist_ok=True)
    shard = make_shard(("a.png",))
    write_shard(folder / "a.safetensors", shard)
    write_shard(folder / "b.safetensors", make_shard(("b.png",)))
    edited = bytearray((folder / "a.safetensors").read_bytes())
    for position, value in data.draw(st.lists(st.tuples(st.integers(0, len(edited) - 1), st.integers(0, 255)))):
        edited[position] = value
    (folder / "a.safetensors").write_bytes(edited[: data.draw(st.integers(0, len(edited)) | st.just(len(edited)))])
    found = find_samples(folder)
    for sample in found.samples:
        if sample.key == "a.png":
            try:
                assert are_equal(found.read(sample), shard)
            except StoreError:
                continue
    assert len(found.samples) + len(found.failures) == 2


@back_again
def test_latents_of_two_versions_leave_and_come_in_under_their_own_records(tmp_path: Path, way: str) -> None:
    root = write_mixed_set(tmp_path / "mixed")
    export_to(tmp_path / "out", root, way)
    import_to(tmp_path / "back", tmp_path / "out", shard_images=2)
    before, after = latents_in(root), latents_in(tmp_path / "back")
    assert {shard.provenance.sha256 for shard in before.values()} == {OLD.sha256, NEW.sha256}
    assert before.keys() == after.keys()
    assert all(are_equal(before[key], after[key]) for key in before)
    assert problems(tmp_path / "back") == []


# --- importing into a set -------------------------------------------------------------------------------------------


def test_importing_again_finds_everything_done_and_writes_a_missing_table(exported: Exported, tmp_path: Path) -> None:
    exported("tar of safetensors")
    import_to(tmp_path / "back", tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "back" / "shards").iterdir()}
    items = (tmp_path / "back" / ITEMS_FILE).read_bytes()
    (tmp_path / "back" / ITEMS_FILE).unlink()
    events = import_to(tmp_path / "back", tmp_path / "out")
    assert isinstance(events[0], RunStarted)
    assert events[0].num_done == len(GOOD_KEYS)
    assert (tmp_path / "back" / ITEMS_FILE).read_bytes() == items
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_an_imported_set_grows_with_what_is_exported_later(root: Path, exported: Exported, tmp_path: Path) -> None:
    exported("safetensors")
    moved = tmp_path / "out" / "c.png.safetensors"
    moved.rename(tmp_path / "kept")
    import_to(tmp_path / "back", tmp_path / "out")
    assert "c.png" not in open_latents(tmp_path / "back").keys
    (tmp_path / "kept").rename(moved)
    import_to(tmp_path / "back", tmp_path / "out")
    assert open_latents(tmp_path / "back").keys == GOOD_KEYS
    before, after = latents_in(root), latents_in(tmp_path / "back")
    assert all(are_equal(before[key], after[key]) for key in GOOD_KEYS)
