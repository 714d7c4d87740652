"""A set is what its manifest says, all of it, or every difference is told."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semdis_cli.errors import StoreError
from semdis_cli.events import Problem, ShardVerified, VerifyStarted
from semdis_cli.files.atomic import digest_file
from semdis_cli.files.json_text import to_line
from semdis_cli.records import Geometry
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.reader import open_latents
from semdis_cli.store.shard_header import read_shard_header
from semdis_cli.store.shards import STORE_DTYPES, Shard, read_shard, write_shard
from semdis_cli.store.statistics import ChannelSums
from semdis_cli.store.verifying.payload import read_payload
from semdis_cli.store.verifying.verify import ALL_DATA, NO_DATA, Sample, VerifySettings, verify_latents
from tests.store import (
    KEYS,
    PLAIN_DTYPES,
    contents,
    edit_manifest,
    make_plan,
    make_shard,
    peak_bytes,
    problems,
    with_keys,
    with_settings,
    write_set,
    write_some,
)

Json = dict[str, Any]
SIDE_FILES = {"seen.jsonl", "report.json", "items.table"}  # no part of the promise
FIRST, SECOND, THIRD = "00000000-1x2.safetensors", "00000001-1x2.safetensors", "00000002-2x2.safetensors"


@pytest.fixture
def root(finished_set: Path, tmp_path: Path) -> Path:
    """A set to be damaged."""
    return shutil.copytree(finished_set, tmp_path / "set")


@pytest.fixture(scope="module")
def scratch(finished_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set that is damaged and mended again."""
    return shutil.copytree(finished_set, tmp_path_factory.mktemp("sets") / "scratch")


def told(path: Path, sample: Sample = NO_DATA) -> list[tuple[str, str]]:
    """File and kind of every problem."""
    return [(problem.file, problem.kind) for problem in problems(path, sample)]


def only_problem(path: Path, sample: Sample = NO_DATA) -> Problem:
    (problem,) = problems(path, sample)
    return problem


def read_index(root: Path) -> list[Json]:
    return [json.loads(line) for line in (root / "index.jsonl").read_bytes().splitlines()]


def lie_in_index(root: Path, rows: list[Json], **totals: int) -> None:
    """Another index, and manifest and checksums that vouch for it: the lie of somebody who knows the format."""
    (root / "index.jsonl").write_bytes(b"".join(map(to_line, rows)))
    vouch(root, **totals)


def vouch(root: Path, **totals: int) -> None:
    """Make manifest and checksums agree with index and shards as they are."""

    def change(fields: Json) -> None:
        fields["index"] = file_json(root / "index.jsonl")
        for shard in fields["shards"]:
            shard.update(file_json(root / "shards" / shard["name"]))
        fields["totals"] |= totals

    edit_manifest(root, change)
    fields = json.loads((root / "manifest.json").read_bytes())
    sums = {"index.jsonl": fields["index"]["sha256"]}
    sums |= {f"shards/{shard['name']}": shard["sha256"] for shard in fields["shards"]}
    if b"manifest.json" in (root / "SHA256SUMS").read_bytes():
        sums["manifest.json"] = digest_file(root / "manifest.json").sha256
    (root / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))


def file_json(path: Path) -> Json:
    file = digest_file(path)
    return {"num_bytes": file.num_bytes, "sha256": file.sha256}


def rewrite_shard(root: Path, name: str, change: Callable[[Shard], Shard]) -> None:
    """Another content in a shard, for which all its own hashes vouch."""
    path = root / "shards" / name
    write_shard(path, change(read_shard(path)))


# --- whole sets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", list(STORE_DTYPES))
@pytest.mark.parametrize("sample", [NO_DATA, ALL_DATA, Sample(Fraction(3, 10))])
def test_a_whole_set_has_no_problem(tmp_path: Path, dtype: str, sample: Sample) -> None:
    write_set(tmp_path / "set", make_plan(dtype=dtype))
    before = contents(tmp_path)
    assert problems(tmp_path / "set", sample) == []
    assert contents(tmp_path) == before


def test_a_set_of_failures_alone_has_no_problem(tmp_path: Path) -> None:
    write_set(tmp_path / "set", make_plan(("bad.png", "c/bad.png")))
    assert problems(tmp_path / "set") == []


def test_every_shard_is_told_and_what_was_read_of_it(finished_set: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in (finished_set / "shards").iterdir()}
    events = list(verify_latents(finished_set, VerifySettings(ALL_DATA)))
    assert VerifyStarted(len(sizes), sum(sizes.values())) in events
    verified = [event for event in events if isinstance(event, ShardVerified)]
    assert [(event.name, event.num_bytes) for event in verified] == [
        (f"shards/{name}", size) for name, size in sorted(sizes.items())
    ]


def test_hidden_files_and_side_files_are_passed_over(root: Path) -> None:
    for name in (".DS_Store", ".semdis-lock", "report.json", "seen.jsonl", "shards/.hidden"):
        (root / name).write_bytes(b"anything")
    assert problems(root) == []


@pytest.mark.parametrize("sample", [NO_DATA, ALL_DATA])
def test_a_shard_on_its_own_is_verified(finished_set: Path, tmp_path: Path, sample: Sample) -> None:
    alone = tmp_path / "sent by mail.safetensors"
    shutil.copy(finished_set / "shards" / FIRST, alone)
    assert problems(alone, sample) == []
    alone.write_bytes(alone.read_bytes()[:-1])
    assert told(alone, sample) == [(alone.name, "shard")]


@pytest.mark.parametrize("name", ["missing", "empty folder"])
def test_what_is_no_set_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty folder").mkdir()
    with pytest.raises(StoreError, match="give the folder that semdis encode wrote"):
        problems(tmp_path / name, NO_DATA)


# --- flipped bytes --------------------------------------------------------------------------------------------------


def is_unproven(root: Path, path: Path, place: int) -> bool:
    """Whether a byte of the manifest is one that nothing else vouches for: SHA256SUMS may not list the manifest."""
    if path.name != "manifest.json" or b"manifest.json" in (root / "SHA256SUMS").read_bytes():
        return False
    lines = path.read_bytes()[: place + 1].splitlines()
    return b"plan_sha256" in lines[-1] or lines[-1].startswith(b"    ")


def is_in_payload(path: Path, place: int) -> bool:
    data = path.read_bytes()
    return path.suffix == ".safetensors" and place >= 8 + int.from_bytes(data[:8], "little")


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_any_flipped_byte_is_found_and_not_decoded(finished_set: Path, scratch: Path, data: st.DataObject) -> None:
    paths = sorted(path for path in finished_set.rglob("*") if path.is_file() and path.name not in SIDE_FILES)
    path = scratch / data.draw(st.sampled_from(paths)).relative_to(finished_set)
    before = path.read_bytes()
    place, mask = data.draw(st.integers(0, len(before) - 1)), data.draw(st.integers(1, 255))
    if is_unproven(scratch, path, place):
        return
    sample = ALL_DATA if is_in_payload(path, place) else NO_DATA
    path.write_bytes(before[:place] + bytes([before[place] ^ mask]) + before[place + 1 :])
    try:
        found, is_refused = problems(scratch, sample), not is_read_as(scratch, finished_set)
    finally:
        path.write_bytes(before)
    assert found
    # checksums are for other programs; and of the manifest the reader needs no more than it takes
    assert is_refused or path.name in {"SHA256SUMS", "manifest.json"}


def is_read_as(damaged: Path, whole: Path) -> bool:
    """Whether a set is read at all; then it is read as the whole one."""
    try:
        source = open_latents(damaged)
        shards = [source.read(stored) for stored in source.shards]
    except StoreError:
        return False
    others = open_latents(whole)
    assert source.keys == others.keys
    for shard, stored in zip(shards, others.shards, strict=True):
        other = others.read(stored)
        assert torch.equal(shard.latents.view(torch.uint8), other.latents.view(torch.uint8))
        assert list(shard.records) == list(other.records)
    return True


@pytest.mark.parametrize(
    ("written", "otherwise"),
    [
        (b"u00fc", b"u00fC"),
        (b'"BF16"', b'"BF1\\u0036"'),
        (b'"latents":', b'"latents": '),
        (b'{"__', b'{"latents":0,"__'),
    ],
)
def test_a_header_that_means_the_same_but_is_written_otherwise_is_told(
    tmp_path: Path, written: bytes, otherwise: bytes
) -> None:
    path = tmp_path / "shard"
    write_shard(path, make_shard(("\u00fc.png",)))
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    text = data[8:start].replace(written, otherwise)
    assert text != data[8:start]
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[start:])
    assert told(path) == [("shard", "shard")]


def test_without_data_a_flipped_bit_of_the_latents_is_not_looked_for(root: Path) -> None:
    path = root / "shards" / FIRST
    path.write_bytes(path.read_bytes()[:-1] + b"\x99")
    assert problems(root, NO_DATA) == []
    assert {problem.file for problem in problems(root)} == {f"shards/{FIRST}"}


@given(st.integers(0, 30), st.integers(0, 2**63 - 1), st.sampled_from([0, 5, 7, 50, 100]))
def test_a_sample_is_the_same_for_the_same_seed_and_of_the_size_asked_for(size: int, seed: int, percent: int) -> None:
    names = [f"{number:08d}" for number in range(100)]
    assert len(Sample(count=size, seed=seed).choose(names)) == size
    sample = Sample(Fraction(percent, 100), seed=seed)
    assert sample.choose(names) == sample.choose(names[::-1])
    assert len(sample.choose(names)) == percent
    assert len(sample.choose(names[:30])) == {0: 0, 5: 2, 7: 3, 50: 15, 100: 30}[percent]


def test_another_seed_gives_another_sample() -> None:
    names = [f"{number:08d}" for number in range(100)]
    assert Sample(count=10, seed=1).choose(names) != Sample(count=10, seed=2).choose(names)


def test_a_sample_reads_the_data_of_its_shards_alone(root: Path) -> None:
    for path in (root / "shards").iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"\x99")
    for seed in range(5):
        sample = Sample(count=1, seed=seed)
        chosen = sample.choose([f"shards/{path.name}" for path in (root / "shards").iterdir()])
        assert {problem.file for problem in problems(root, sample)} == chosen


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["cut off", "empty", "longer"])
def test_a_shard_of_another_size_is_told(root: Path, change: str) -> None:
    path = root / "shards" / FIRST
    data = path.read_bytes()
    path.write_bytes({"cut off": data[:-1], "empty": b"", "longer": data + b"\0"}[change])
    assert told(root) == [(f"shards/{FIRST}", "missing")]
    assert "the manifest says" in only_problem(root).what


@pytest.mark.parametrize("name", ["index.jsonl", "SHA256SUMS", f"shards/{FIRST}", f"shards/{THIRD}"])
def test_a_missing_file_is_told(root: Path, name: str) -> None:
    (root / name).unlink()
    assert name in {problem.file for problem in problems(root, NO_DATA)}


def test_all_problems_are_told_and_not_only_the_first(root: Path) -> None:
    (root / "shards" / FIRST).unlink()
    (root / "shards" / SECOND).write_bytes(b"short")
    third = root / "shards" / THIRD
    third.write_bytes(b"\0" + third.read_bytes()[1:])
    (root / "SHA256SUMS").write_bytes(b"")
    (root / "photo.jpg").write_bytes(b"not ours")
    files = {file for file, _ in told(root)}
    assert files == {f"shards/{name}" for name in (FIRST, SECOND, THIRD)} | {"SHA256SUMS", "photo.jpg"}


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("photo.jpg", "not a file of semdis"),
        ("shards/notes.txt", "not a file of semdis"),
        ("folder", "not a file of semdis"),
        (".0123456789abcdef.semdis-tmp", "a temporary file of a run that was stopped"),
        ("shards/.0123456789abcdef.semdis-tmp", "a temporary file of a run that was stopped"),
    ],
)
def test_a_surplus_file_is_told_with_what_it_seems_to_be(root: Path, name: str, guess: str) -> None:
    (root / name).mkdir() if name == "folder" else (root / name).write_bytes(b"whatever")
    assert told(root) == [(name, "surplus")]
    assert guess in only_problem(root).what


@pytest.mark.parametrize("name", ["shards/00000099-1x2.safetensors", "moved.safetensors"])
def test_a_renamed_shard_is_recognised(root: Path, name: str) -> None:
    (root / "shards" / FIRST).rename(root / name)
    missing, surplus = sorted(problems(root, NO_DATA), key=lambda problem: problem.kind)
    assert (missing.file, missing.kind) == (f"shards/{FIRST}", "missing")
    assert surplus.file == name
    assert f"seems to be shards/{FIRST} under another name" in surplus.what


def test_a_copy_and_a_strange_shard_are_told_apart(root: Path) -> None:
    shutil.copy(root / "shards" / FIRST, root / "shards" / "00000098-1x2.safetensors")
    write_shard(root / "shards" / "00000099-2x2.safetensors", make_shard(("strange.png",)))
    copy, stranger = problems(root, NO_DATA)
    assert f"a copy of shards/{FIRST}" in copy.what
    assert "'strange.png'" in stranger.what


def test_two_shards_that_changed_their_names_are_found(root: Path) -> None:
    """Their sizes could be equal; here their headers tell."""
    first, second = root / "shards" / FIRST, root / "shards" / SECOND
    second.write_bytes(first.read_bytes())
    vouch(root)
    assert (f"shards/{SECOND}", "rows") in told(root)


def test_links_pipes_and_folders_in_the_place_of_a_shard_are_told(root: Path) -> None:
    first, second, third = (root / "shards" / name for name in (FIRST, SECOND, THIRD))
    first.rename(root / ".elsewhere")
    first.symlink_to(root / ".elsewhere")
    second.unlink()
    os.mkfifo(second)
    third.unlink()
    third.mkdir()
    assert [problem.what for problem in problems(root)] == ["not a regular file", "not a regular file"]


@pytest.mark.parametrize(
    ("target", "advice"),
    [
        ("../../.git/annex/objects/x/y/SHA256E-s1--0/SHA256E-s1--0", "git annex get"),
        ("/home/me/data/.dvc/cache/files/md5/0a/1b", "dvc pull"),
        ("../../blobs/0a1b", "download the set again"),
        ("elsewhere", "its content is missing"),
    ],
)
def test_links_that_lead_nowhere_are_content_that_was_not_fetched(root: Path, target: str, advice: str) -> None:
    (root / "shards" / FIRST).unlink()
    (root / "shards" / FIRST).symlink_to(target)
    (root / "index.jsonl").unlink()
    (root / "index.jsonl").symlink_to(target)
    found = {problem.file: problem.what for problem in problems(root, NO_DATA)}
    assert found.keys() == {f"shards/{FIRST}", "index.jsonl"}
    assert all("which is not there" in what and advice in what for what in found.values())
    (root / "manifest.json").unlink()
    (root / "manifest.json").symlink_to(target)
    assert ("manifest.json", "missing") in told(root)
    with pytest.raises(StoreError, match=advice):
        Manifest.read(root)


@pytest.mark.parametrize(
    ("pointer", "advice"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 123\n", "git lfs pull"),
        (b"/annex/objects/SHA256E-s123--0a.safetensors\n", "git annex get"),
    ],
)
def test_a_pointer_in_the_place_of_a_shard_says_what_to_do(root: Path, pointer: bytes, advice: str) -> None:
    (root / "shards" / FIRST).write_bytes(pointer)
    [problem] = problems(root)
    assert advice in problem.what


def test_a_set_of_links_is_whole_and_what_hubs_and_systems_put_beside_is_no_part_of_it(root: Path) -> None:
    blobs = root.parent / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(path for path in root.rglob("*") if path.is_file())):
        path.rename(blobs / str(number))
        path.symlink_to(blobs / str(number))
    for name in ("README.md", ".gitattributes", "Thumbs.db", "shards/desktop.ini"):
        (root / name).write_text("")
    for name in ("lost+found", "@eaDir", "shards/@eaDir", ".cache"):
        (root / name).mkdir()
    assert told(root, ALL_DATA) == []


def test_a_pipe_in_the_place_of_a_list_does_not_keep_us(root: Path) -> None:
    for name in ("index.jsonl", "SHA256SUMS"):
        (root / name).unlink()
        os.mkfifo(root / name)
    assert {file for file, _ in told(root)} == {"index.jsonl", "SHA256SUMS"}


# --- checksums ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda text: text + text, "none of ours"),
        (lambda text: text.replace("index.jsonl", "../index.jsonl"), "no part of the set"),
        (lambda text: text.replace("\n", "\r\n"), "none of ours"),
        (lambda text: text[:-1], "none of ours"),
        (lambda text: "0" * 64 + text[64:], "another sha256"),
        (lambda text: "".join(line for line in text.splitlines(keepends=True) if "index" not in line), "is not listed"),
    ],
)
def test_checksums_that_disagree_are_told(root: Path, change: Callable[[str], str], what: str) -> None:
    path = root / "SHA256SUMS"
    path.write_bytes(change(path.read_text()).encode())
    assert {kind for _, kind in told(root)} == {"checksums"}
    assert any(what in problem.what for problem in problems(root, NO_DATA))


# --- shards that vouch for themselves -------------------------------------------------------------------------------


def test_a_shard_of_other_settings_is_told(root: Path) -> None:
    rewrite_shard(root, FIRST, lambda shard: with_settings(shard, whitened=False))
    vouch(root)
    assert told(root) == [(f"shards/{FIRST}", "shard")]
    assert "other settings" in only_problem(root).what


def test_a_shard_with_one_row_less_is_told(root: Path) -> None:
    rewrite_shard(root, FIRST, lambda shard: shard.select([0]))
    vouch(root)
    assert "the manifest says 2" in problems(root, NO_DATA)[0].what


def test_a_shard_with_swapped_keys_is_told(root: Path) -> None:
    rewrite_shard(root, FIRST, lambda shard: with_keys(shard, shard.keys[::-1]))
    vouch(root)
    assert [kind for _, kind in told(root)] == ["rows", "rows"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", PLAIN_DTYPES)
def test_latents_that_are_not_finite_are_told_with_their_key(tmp_path: Path, bad: float, dtype: str) -> None:
    root = tmp_path / "set"
    write_set(root, make_plan(dtype=dtype))

    def change(shard: Shard) -> Shard:
        shard.latents[1, 2, 1, 0] = bad
        return shard

    rewrite_shard(root, THIRD, change)
    vouch(root)
    assert problems(root, NO_DATA) == []
    (problem,) = problems(root)
    assert (problem.file, problem.kind) == (f"shards/{THIRD}", "data")
    assert "row 1 ('d.jpg') holds NaN or infinity" in problem.what


def test_latents_that_are_others_than_the_manifest_summed_up_are_told(root: Path) -> None:
    rewrite_shard(root, THIRD, lambda shard: replace(shard, latents=shard.latents * 1.25))
    vouch(root)
    assert problems(root, NO_DATA) == []
    assert told(root, ALL_DATA) == [("manifest.json", "statistics")]


# --- an index that lies ---------------------------------------------------------------------------------------------


def ok_rows(rows: list[Json]) -> list[Json]:
    return [row for row in rows if row["status"] == "ok"]


def failed_row(rows: list[Json]) -> Json:
    return next(row for row in rows if row["status"] == "failed")


def test_another_geometry_in_the_index_is_found(root: Path) -> None:
    rows = read_index(root)
    rows[0]["geometry"]["crop"] = [0, 0]
    lie_in_index(root, rows)
    assert "another geometry" in only_problem(root).what


def test_a_row_that_is_hidden_behind_other_totals_is_found_in_the_sums(root: Path) -> None:
    rows = read_index(root)
    del rows[0]
    lie_in_index(root, rows, ok=7, superseded=1)
    assert told(root) == [("manifest.json", "statistics")]


def test_lines_that_are_no_rows_are_told_one_by_one(root: Path) -> None:
    lines = (root / "index.jsonl").read_bytes().splitlines(keepends=True)
    lines[1], lines[4] = b"{}\n", b"\xff\n"
    (root / "index.jsonl").write_bytes(b"".join(lines))
    whats = [problem.what for problem in problems(root, NO_DATA) if problem.file == "index.jsonl"]
    assert [what.partition(":")[0] for what in whats[:2]] == ["line 2", "line 5"]
    assert "does not match the sha256" in whats[2]


# --- removed and superseded rows ------------------------------------------------------------------------------------


def sums_without(root: Path, name: str, row: int) -> ChannelSums:
    return Manifest.read(root).sums - ChannelSums.of(read_shard(root / "shards" / name).latents[row])


def set_sums(root: Path, sums: ChannelSums) -> None:
    mean, std = sums.mean_std()
    edit_manifest(root, lambda fields: fields.update(latents={"mean": mean, "std": std, "sums": sums.to_json()}))


@pytest.mark.parametrize("becomes", ["removed", "superseded"])
def test_rows_that_are_not_served_are_neither_problems_nor_summed_up(root: Path, becomes: str) -> None:
    rows = read_index(root)
    place = rows[0]["shard"], rows[0]["row"]
    if becomes == "removed":
        rows[0]["status"] = "removed"
    else:
        del rows[0]
    set_sums(root, sums_without(root, *place))
    lie_in_index(root, rows, ok=7, **{becomes: 1})
    assert problems(root) == []


def test_not_a_number_in_a_row_that_is_not_served_is_told_all_the_same(root: Path) -> None:
    rows = read_index(root)
    place = rows[0]["shard"], rows[0]["row"]
    rows[0]["status"] = "removed"
    set_sums(root, sums_without(root, *place))

    def change(shard: Shard) -> Shard:
        shard.latents[place[1]] = float("nan")
        return shard

    rewrite_shard(root, place[0], change)
    lie_in_index(root, rows, ok=7, removed=1)
    assert told(root, ALL_DATA) == [(f"shards/{place[0]}", "data")]


# --- the manifest ---------------------------------------------------------------------------------------------------


def test_sums_that_cannot_be_are_told(root: Path) -> None:
    sums = Manifest.read(root).sums
    set_sums(root, replace(sums, count=sums.count - 1))
    assert ("manifest.json", "statistics") in told(root)


def test_a_manifest_that_is_none_is_told_and_the_shards_are_still_looked_at(root: Path) -> None:
    (root / "manifest.json").write_bytes(b"{}")
    assert told(root, ALL_DATA) == [("manifest.json", "manifest")]
    path = root / "shards" / FIRST
    path.write_bytes(path.read_bytes()[:-1] + b"\x99")
    assert (f"shards/{FIRST}", "data") in told(root, ALL_DATA)


def test_a_manifest_that_was_formatted_anew_is_told(root: Path) -> None:
    path = root / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True, indent=2))
    assert told(root) == [("manifest.json", "manifest")]


def test_a_shard_that_is_listed_twice_is_told(root: Path) -> None:
    edit_manifest(root, lambda fields: fields["shards"].append(fields["shards"][1]))
    edit_manifest(root, lambda fields: fields["totals"].update(superseded=1))
    assert "lists a shard twice" in {problem.what for problem in problems(root, NO_DATA)}


@pytest.mark.parametrize("depth", range(20, 1100, 40))
def test_settings_that_are_nested_deeply_are_told(root: Path, depth: int) -> None:
    nested: Any = 0
    for _ in range(depth):
        nested = [nested]
    path = root / "manifest.json"
    text = path.read_text().replace('"whitened": true', '"whitened": ' + "[" * depth + "]" * depth)
    path.write_text(text)
    assert problems(root, NO_DATA)


# --- unfinished sets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_shards", range(5))
def test_an_unfinished_set_says_so_and_how_to_go_on(tmp_path: Path, num_shards: int) -> None:
    write_some(tmp_path, num_shards)
    before = contents(tmp_path)
    problem = only_problem(tmp_path, ALL_DATA)
    assert (problem.file, problem.kind) == ("manifest.json", "unfinished")
    assert "run the same semdis encode again" in problem.what
    assert contents(tmp_path) == before
    verified = [event for event in verify_latents(tmp_path, VerifySettings()) if isinstance(event, ShardVerified)]
    assert len(verified) == num_shards


def test_the_shards_of_an_unfinished_set_are_held_against_the_journal(tmp_path: Path) -> None:
    write_some(tmp_path, 3)
    first, second, third = (tmp_path / "shards" / name for name in (FIRST, SECOND, THIRD))
    first.write_bytes(first.read_bytes()[:-1] + b"\x99")
    second.unlink()
    rewrite_shard(tmp_path, THIRD, lambda shard: with_keys(shard, shard.keys[::-1]))
    assert third.exists()
    assert [(file, kind) for file, kind in told(tmp_path, ALL_DATA) if kind != "data"] == [
        ("manifest.json", "unfinished"),
        (f"shards/{SECOND}", "missing"),
        (f"shards/{THIRD}", "rows"),
        (f"shards/{THIRD}", "rows"),
    ]
    assert {file for file, kind in told(tmp_path, ALL_DATA) if kind == "data"} == {f"shards/{FIRST}", f"shards/{THIRD}"}


def test_a_torn_line_of_the_journal_is_none_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    write_some(tmp_path, 2)
    path = tmp_path / "journal" / "0.jsonl"
    data = path.read_bytes()
    path.write_bytes(data[:-5])
    assert told(tmp_path) == [("manifest.json", "unfinished"), (f"shards/{SECOND}", "surplus")]
    path.write_bytes(data.replace(b'"row":0', b'"row":1', 1))
    assert ("journal/0.jsonl", "journal") in told(tmp_path)


def test_a_set_that_is_growing_is_unfinished_and_its_own_shards_are_still_checked(root: Path) -> None:
    write_some(root, 1, make_plan((*KEYS, "new.png", "new2.png")))
    assert told(root, ALL_DATA) == [("journal", "unfinished")]
    first = root / "shards" / FIRST
    first.write_bytes(first.read_bytes()[:-1] + b"\x99")
    assert told(root, ALL_DATA)[1:] == [(f"shards/{FIRST}", "data")] * 2


def test_a_set_that_grew_shrank_and_changed_has_no_problem(root: Path) -> None:
    for keys in ((*KEYS[2:], "new.png"), KEYS[4:], (*KEYS, "newer.png"), KEYS[:1]):
        write_set(root, make_plan(keys))
        assert problems(root) == []
    plan = make_plan()
    write_set(root, replace(plan, more_bytes=dict.fromkeys(KEYS, 1)))
    assert problems(root) == []


# --- memory ---------------------------------------------------------------------------------------------------------


def one_sized(latents: torch.Tensor) -> Shard:
    """A shard with these latents, whose images filled their bucket."""
    size = latents.shape[2] * 16, latents.shape[3] * 16
    dtype = str(latents.dtype).removeprefix("torch.")
    shard = make_shard(tuple(f"{number}.png" for number in range(len(latents))), dtype=dtype)
    geometry = Geometry(size, size, (0, 0), size, size)
    return replace(shard, latents=latents, records=tuple(replace(one, geometry=geometry) for one in shard.records))


def test_latents_are_read_in_slices(tmp_path: Path) -> None:
    shard = one_sized(torch.ones(4, 3, 1024, 1024).to(torch.bfloat16))
    write_shard(tmp_path / "shard", shard)
    assert problems(tmp_path / "shard") == []
    peak = peak_bytes(lambda: problems(tmp_path / "shard"))
    assert peak < 40 * 2**20 < 2 * (tmp_path / "shard").stat().st_size


@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (700, 1600), (1, 1_100_000)])
def test_sums_and_bad_rows_do_not_depend_on_how_the_latents_are_cut(tmp_path: Path, grid: tuple[int, int]) -> None:
    """A plane may be smaller than a slice, or larger."""
    latents = torch.arange(2 * 3 * grid[0] * grid[1]).reshape(2, 3, *grid).remainder(1000).to(torch.float16)
    write_shard(tmp_path / "shard", one_sized(latents))
    header = read_shard_header(tmp_path / "shard")
    payload = read_payload(tmp_path / "shard", header, [1])
    expected = ChannelSums.of(latents[1])
    assert payload.sums.count == expected.count
    assert payload.sums.total == pytest.approx(expected.total)
    assert payload.sums.squares == pytest.approx(expected.squares)
    latents[0, 2, -1, -1] = float("nan")
    write_shard(tmp_path / "shard", one_sized(latents))
    payload = read_payload(tmp_path / "shard", read_shard_header(tmp_path / "shard"), [1])
    assert payload.bad_rows == (0,)
    assert payload.sums.total == pytest.approx(expected.total)
