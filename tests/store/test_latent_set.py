"""A set that is being written: stopped anywhere it is completed to the same bytes, and nothing is mixed into it."""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from semdis_cli.errors import NoSpaceError, StoreError, UsageError
from semdis_cli.events import Failure
from semdis_cli.files.lock import LOCK_FILE
from semdis_cli.provenance import find_differences
from semdis_cli.store.index import IndexRow, read_rows
from semdis_cli.store.reader import open_latents
from semdis_cli.store.statistics import ChannelSums
from semdis_cli.store.writing.entry_text import render_entry
from semdis_cli.store.writing.latent_set import LatentSetWriter
from semdis_cli.store.writing.plan import SetPlan
from semdis_cli.store.writing.shard_writer import WrittenShard
from tests.disks import fill_disk, small_disk
from tests.store import CHANNELS, KEYS, NUM_SHARDS, SmallPlan, contents, make_plan, write_next, write_set, write_some

JOURNAL = Path("journal", "0.jsonl")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "latents"


def journal_lines(root: Path) -> list[bytes]:
    return (root / JOURNAL).read_bytes().splitlines(keepends=True)


def write_all(latents: LatentSetWriter) -> None:
    while latents.remaining:
        write_next(latents)
    latents.finish()


# --- one run --------------------------------------------------------------------------------------------------------


def test_a_finished_set_has_its_shards_index_checksums_and_manifest_and_nothing_else(finished_set: Path) -> None:
    shards = [f"shards/0000000{number}-{grid}.safetensors" for number, grid in enumerate(["1x2", "1x2", "2x2", "2x2"])]
    assert sorted(contents(finished_set)) == sorted(
        ["SHA256SUMS", "index.jsonl", "items.table", "manifest.json", "seen.jsonl", "shards", *shards]
    )


def test_every_input_has_one_row_in_the_order_of_keys(finished_set: Path) -> None:
    rows = list(read_rows(finished_set / "index.jsonl"))
    assert [row.key for row in rows] == sorted([*KEYS, "b/b.png", "z.png"])
    assert {row.key: row.error for row in rows if not row.is_ok} == {
        "b/bad.png": "is truncated",
        "b/b.png": "is a folder",
        "z.png": "is empty",
    }


def test_a_failure_leaves_no_gap_in_the_rows_of_its_shard(finished_set: Path) -> None:
    places = {row.key: (row.shard, row.row) for row in read_rows(finished_set / "index.jsonl")}
    assert places["a.png"] == ("00000000-1x2.safetensors", 0)
    assert places["b/a.png"] == ("00000000-1x2.safetensors", 1)
    assert places["b/bad.png"] == (None, None)
    assert places["b/c.png"] == ("00000001-1x2.safetensors", 0)


def test_a_shard_whose_images_all_failed_is_no_file_but_has_its_rows(root: Path) -> None:
    manifest = write_set(root, make_plan(("a bad.png", "b bad.png", "c.png"), shard_images=2))
    assert [path.name for path in (root / "shards").iterdir()] == ["00000001-2x2.safetensors"]
    assert (manifest.num_ok, manifest.num_failed) == (1, 4)
    keys = [row.key for row in read_rows(root / "index.jsonl")]
    assert keys == ["a bad.png", "b bad.png", "b/b.png", "c.png", "z.png"]


def test_a_set_of_failures_alone_is_finished_too(root: Path) -> None:
    manifest = write_set(root, make_plan(("bad.png",)))
    assert (manifest.num_ok, manifest.num_failed, manifest.shards) == (0, 3, ())
    assert manifest.sums == ChannelSums.zero(CHANNELS)
    assert open_latents(root).keys == ()


def test_an_exception_within_a_shard_leaves_nothing_of_it(root: Path) -> None:
    plan = make_plan()

    def stop(latents: LatentSetWriter) -> None:
        latents.open_shard(plan.shards[0]).add_failure(Failure("a.png", "is empty"))
        raise KeyError("any")

    with pytest.raises(KeyError), plan.open(root) as latents:
        stop(latents)
    assert contents(root / "shards") == {}
    assert len(journal_lines(root)) == 1


def test_a_shard_is_not_published_without_a_row_for_each_of_its_images(root: Path) -> None:
    plan = make_plan()
    with plan.open(root) as latents:
        rows = latents.open_shard(plan.shards[0])
        rows.add_failure(Failure("a.png", "is empty"))
        with pytest.raises(AssertionError, match="each of its images has a row"):
            latents.publish(rows.finish())
    assert contents(root / "shards") == {}


# --- stopped, and continued -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_shards", range(NUM_SHARDS + 1))
def test_a_run_that_stopped_after_any_shard_is_completed_to_the_same_bytes(
    root: Path, finished_set: Path, num_shards: int
) -> None:
    write_some(root, num_shards)
    with make_plan().open(root) as latents:
        assert len(latents.remaining) == NUM_SHARDS - num_shards
        assert latents.num_done == [0, 3, 4, 7, 9][num_shards]
    write_set(root)
    assert contents(root) == contents(finished_set)


def test_a_run_that_stops_after_every_shard_gets_there(root: Path, finished_set: Path) -> None:
    for _ in range(NUM_SHARDS):
        write_some(root, 1)
    write_set(root)
    assert contents(root) == contents(finished_set)


def torn(root: Path, kept: int) -> None:
    """Cut the journal down to its first bytes, as a power failure may; -1: to all but the last."""
    os.truncate(root / JOURNAL, kept if kept >= 0 else (root / JOURNAL).stat().st_size - 1)


def test_a_journal_torn_anywhere_is_continued(root: Path, unfinished_set: Path) -> None:
    shutil.copytree(unfinished_set, root)
    lines = journal_lines(root)
    ends = {sum(map(len, lines[:number])) + near for number in range(len(lines)) for near in (-1, 0, 1)}
    for kept in sorted({*range(0, sum(map(len, lines)), 9), *ends} - {-1}, reverse=True):
        torn(root, kept)
        with make_plan().open(root) as latents:
            whole = sum(sum(map(len, lines[: number + 1])) <= kept for number in range(len(lines)))
            assert len(latents.remaining) == NUM_SHARDS - max(0, whole - 1)
        assert journal_lines(root) == lines[: max(1, whole)]


SHARD = "shards/00000002-2x2.safetensors"
LEFT: dict[str, Callable[[Path], object]] = {
    **{f"a journal of {kept} bytes": partial(torn, kept=kept) for kept in (0, 1, 200, 700, 1500, -1)},
    "no shard where one was noted": lambda root: (root / SHARD).unlink(),
    "a shard cut short": lambda root: os.truncate(root / SHARD, 100),
    "an empty shard": lambda root: os.truncate(root / SHARD, 0),
    "half a shard": lambda root: (root / "shards/.00000001-1x2.safetensors.7.semdis-tmp").write_bytes(b"half a fi"),
    "half an index": lambda root: (root / ".index.jsonl.7.semdis-tmp").write_bytes(b"half a fi"),
}


@pytest.mark.parametrize("left", LEFT)
def test_what_a_killed_run_left_before_the_index_is_completed_to_the_same_bytes(
    root: Path, unfinished_set: Path, finished_set: Path, left: str
) -> None:
    shutil.copytree(unfinished_set, root)
    LEFT[left](root)
    if "shard" in left and "half" not in left:
        with make_plan().open(root) as latents:
            assert [f"shards/{shard.name}" for shard in latents.remaining] == [SHARD]
    write_set(root)
    assert contents(root) == contents(finished_set)


@pytest.mark.parametrize("number", range(1, NUM_SHARDS + 1))
def test_a_shard_that_was_published_but_not_noted_is_published_again(
    root: Path, unfinished_set: Path, finished_set: Path, number: int
) -> None:
    shutil.copytree(unfinished_set, root)
    lines = journal_lines(root)
    (root / JOURNAL).write_bytes(b"".join(lines[:number] + lines[number + 1 :]))
    with make_plan().open(root) as latents:
        assert latents.remaining == (make_plan().shards[number - 1],)
    write_set(root)
    assert contents(root) == contents(finished_set)


@pytest.mark.parametrize("there", [["index.jsonl"], ["index.jsonl", "SHA256SUMS"]])
def test_a_run_killed_before_the_manifest_is_completed(
    root: Path, unfinished_set: Path, finished_set: Path, there: list[str]
) -> None:
    shutil.copytree(unfinished_set, root)
    for name in there:
        shutil.copy(finished_set / name, root / name)
    write_set(root)
    assert contents(root) == contents(finished_set)


@pytest.mark.parametrize("has_journal", [True, False], ids=["with its journal", "with an empty folder of the journal"])
def test_a_finished_set_that_was_not_tidied_up_is(
    root: Path, unfinished_set: Path, finished_set: Path, has_journal: bool
) -> None:
    shutil.copytree(finished_set, root)
    shutil.copytree(unfinished_set / "journal", root / "journal", ignore=lambda *_: [] if has_journal else ["0.jsonl"])
    with make_plan().open(root) as latents:
        assert latents.remaining == ()
        assert latents.finished is not None
    assert contents(root) == contents(finished_set)


def test_a_set_that_is_complete_is_left_as_it_is(root: Path, finished_set: Path) -> None:
    shutil.copytree(finished_set, root)
    (root / "report.json").write_text("{}")  # of an earlier run, and no stranger
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    assert write_set(root) == write_set(root)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()} == before
    assert contents(root) == {**contents(finished_set), "report.json": b"{}"}


# --- damage ---------------------------------------------------------------------------------------------------------


def test_a_finished_set_without_one_of_its_shards_is_refused_and_the_advice_helps(
    root: Path, finished_set: Path
) -> None:
    shutil.copytree(finished_set, root)
    (root / SHARD).unlink()
    with pytest.raises(StoreError, match=r"00000002-2x2\.safetensors: missing.*delete .* and encode the set again"):
        write_set(root)
    shutil.rmtree(root)
    write_set(root)
    assert contents(root) == contents(finished_set)


def test_a_finished_set_with_a_shard_cut_short_is_refused(root: Path, finished_set: Path) -> None:
    shutil.copytree(finished_set, root)
    os.truncate(root / SHARD, 100)
    with pytest.raises(StoreError, match=r"00000002-2x2\.safetensors: missing, or not of the size in manifest\.json"):
        write_set(root)


@pytest.mark.parametrize("name", ["index.jsonl", "SHA256SUMS"])
def test_a_finished_set_without_its_index_or_checksums_is_not_called_finished(
    root: Path, finished_set: Path, name: str
) -> None:
    shutil.copytree(finished_set, root)
    (root / name).unlink()
    try:
        write_set(root)
    except StoreError as error:
        message = str(error)
        assert name in message
    else:
        assert contents(root) == contents(finished_set)


# --- other settings, other inputs, other folders --------------------------------------------------------------------


def plans_that_differ() -> dict[str, tuple[SmallPlan, str]]:
    return {
        "dtype": (make_plan(dtype="float32"), r"other settings \(dtype: bfloat16 -> float32\)"),
        "nested": (
            make_plan(preprocessing={"geometry": {"size": 256, "max_pixels": None}}),
            r"other settings \(preprocessing\.geometry\.size: None -> 256\)",
        ),
        "two settings": (
            make_plan(whitened=False, posterior={"kind": "sample", "seed": 3}),
            r"other settings \(posterior\.kind: mode -> sample; posterior\.seed: None -> 3; whitened: True -> False\)",
        ),
    }


@pytest.mark.parametrize("num_shards", [1, 2, None], ids=["begun", "half done", "finished"])
@pytest.mark.parametrize("difference", list(plans_that_differ()))
def test_other_settings_are_refused_with_the_difference_and_nothing_is_touched(
    root: Path, finished_set: Path, num_shards: int | None, difference: str
) -> None:
    if num_shards is None:
        shutil.copytree(finished_set, root)
    else:
        write_some(root, num_shards)
    before = contents(root)
    plan, message = plans_that_differ()[difference]
    with pytest.raises(UsageError, match=message):
        write_set(root, plan)
    assert contents(root) == before
    write_set(root)
    assert contents(root) == contents(finished_set)


def test_a_plan_under_which_nothing_was_finished_binds_nobody(root: Path, finished_set: Path) -> None:
    write_some(root, 0, make_plan(dtype="float32"))
    write_some(root, 0, make_plan(KEYS[1:], shard_images=1))
    write_set(root)
    assert contents(root) == contents(finished_set)


def test_differences_are_named_by_their_path() -> None:
    before = {"same": 1, "gone": 2, "in": {"a": [1, 2], "same": None}}
    now = {"same": 1, "new": 3, "in": {"a": [1, 3], "same": None}}
    found = list(map(str, find_differences(before, now)))
    assert found == ["gone: 2 -> None", "in.a: [1, 2] -> [1, 3]", "new: None -> 3"]
    assert find_differences(before, before) == []


@pytest.mark.parametrize(
    "stranger",
    [
        "photo.jpg",
        "index.jsonl",
        "report.json",
        "shards/00000000-2x2.safetensors",
        "journal/2026.md",
        "photos/photo.jpg",
        "manifest.json.bak",
        "shards/photo.jpg",
        "shards/model-00001-of-00002.safetensors",
    ],
)
def test_a_folder_with_other_files_is_refused_and_nothing_is_made_in_it(root: Path, stranger: str) -> None:
    (root / stranger).parent.mkdir(parents=True)
    (root / stranger).write_bytes(b"precious")
    before = contents(root)
    with pytest.raises(UsageError, match=r"holds other files .*give -o an empty or new folder"):
        write_set(root)
    assert contents(root) == before


def test_an_empty_folder_and_one_whose_parents_are_missing_are_taken(tmp_path: Path, finished_set: Path) -> None:
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "empty", tmp_path / "a" / "b" / "latents"):
        write_set(root)
        assert contents(root) == contents(finished_set)


def test_a_file_in_the_place_of_the_folder_is_refused(root: Path) -> None:
    root.write_bytes(b"precious")
    with pytest.raises(UsageError, match="cannot be written"):
        write_set(root)
    assert root.read_bytes() == b"precious"


def test_no_shard_of_a_plan_that_was_given_up_gets_into_a_finished_set(root: Path, finished_set: Path) -> None:
    write_some(root, len(KEYS), make_plan(shard_images=1))
    shutil.rmtree(root / "journal")
    before = contents(root / "shards")
    try:
        write_set(root)
    except UsageError:
        assert contents(root / "shards") == before
    else:
        assert contents(root) == contents(finished_set)


def test_a_row_too_few_is_found_before_there_is_a_manifest(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SetPlan, "num_inputs", len(KEYS) + 3)  # two failures were known beforehand
    with pytest.raises(AssertionError, match="11 rows for 12 inputs"):
        write_set(root)
    assert not (root / "manifest.json").exists()


# --- two at once ----------------------------------------------------------------------------------------------------


def test_a_second_writer_is_refused_while_the_first_is_at_work(root: Path, finished_set: Path) -> None:
    with make_plan().open(root) as latents:
        write_next(latents)
        before = contents(root)
        with pytest.raises(UsageError, match="another semdis run is writing there; wait for it to end"):
            write_set(root)
        assert contents(root) == before
        write_all(latents)
    assert contents(root) == contents(finished_set)


@pytest.mark.parametrize("num_shards", [1, NUM_SHARDS], ids=["before a shard", "before the lists"])
def test_a_run_that_was_taken_for_dead_writes_neither_shards_nor_lists(root: Path, num_shards: int) -> None:
    with make_plan().open(root) as latents:
        for _ in range(num_shards):
            write_next(latents)
        (root / LOCK_FILE).write_bytes(b"of another run")
        before = contents(root)
        with pytest.raises(UsageError, match="another semdis run has taken over; this one stops, what it wrote stays"):
            write_all(latents)
        assert contents(root) == before


def test_a_writer_that_stopped_lets_the_next_one_in(root: Path, finished_set: Path) -> None:
    write_some(root, 1)
    with pytest.raises(UsageError, match="other settings"):
        write_set(root, make_plan(dtype="float32"))
    write_set(root)
    assert contents(root) == contents(finished_set)


# --- no space -------------------------------------------------------------------------------------------------------


def test_a_disk_that_cannot_hold_what_is_left_is_refused_before_the_first_shard(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        with make_plan().open(disk / "small") as latents:
            latents.check_space()
        with make_plan(channels=1_000_000).open(disk / "large") as latents:
            with pytest.raises(NoSpaceError, match=r"needs 53\.4 MiB, but the disk has [0-9,.]+ [KM]iB free"):
                latents.check_space()
            assert contents(disk / "large" / "shards") == {}


def test_a_disk_that_fills_up_keeps_what_is_published_and_the_run_can_go_on(tmp_path: Path, finished_set: Path) -> None:
    with small_disk(tmp_path / "disk", "size=256k") as disk:
        root = disk / "latents"
        write_some(root, 1)
        before, padding = contents(root), fill_disk(disk)
        with pytest.raises(NoSpaceError, match="no space left on the disk; make room and run the same command again"):
            write_set(root)
        assert contents(root) == before
        padding.unlink()
        write_set(root)
        assert contents(root) == contents(finished_set)


def test_a_journal_that_was_edited_since_the_run_wrote_it_ends_the_run(tmp_path: Path) -> None:
    path = tmp_path / "journal" / "0.jsonl"
    with make_plan().open(tmp_path) as latents:
        for _ in range(NUM_SHARDS):
            write_next(latents)
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join([*lines[:2], lines[2].replace(b'"num_bytes":', b'"num_bytes":1', 1), *lines[3:]]))
        place = f"the line at byte {len(lines[0]) + len(lines[1])} was changed"
        with pytest.raises(StoreError, match=rf"0\.jsonl: {place}; delete .* and encode the set again"):
            latents.finish()


def test_a_disk_that_fills_up_at_the_journal_is_reported_as_full_and_the_run_can_go_on(
    tmp_path: Path, finished_set: Path
) -> None:
    name, rows = "00000000-1x2.safetensors", [IndexRow(f"{number}.png", error="is empty") for number in range(100)]
    content = render_entry(name, None, [(row.to_line().data, None) for row in rows], ChannelSums.zero(CHANNELS), 0)

    def note_on_full_disk(root: Path) -> None:
        with make_plan().open(root) as latents:
            fill_disk(root.parent)
            latents.record(WrittenShard(name, None, "0.png", 0, 100, content, b""))

    with small_disk(tmp_path / "disk", "size=256k") as disk:
        root = disk / "latents"
        with pytest.raises(NoSpaceError, match=r"0\.jsonl: no space left on the disk"):
            note_on_full_disk(root)
        (disk / "padding").unlink()
        write_set(root)
        assert contents(root) == contents(finished_set)
