"""A set that shares of a run write, each by itself, is the one that a single run writes; or the difference is named."""

import random
import shutil
from pathlib import Path

import pytest

from semdis_cli.errors import StoreError, UsageError
from semdis_cli.files.lock import FolderLock
from semdis_cli.shares import Share
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.writing.finish_set import finish_by_journal
from semdis_cli.store.writing.latent_set import LatentSetWriter
from tests.store import (
    KEYS,
    NUM_SHARDS,
    contents,
    hashes_of,
    make_plan,
    problems,
    write_next,
    write_set,
    write_some,
)
from tests.store.shares import leave_unfinished, opened, write_share

GROWN = (*KEYS[2:], "f.png", "g bad.png", "h.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "latents"


# --- the same set ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_parts_in_any_order_make_the_set_that_one_run_makes(root: Path, finished_set: Path, count: int) -> None:
    shares = [f"{index}/{count}" for index in range(count)]
    random.Random(count).shuffle(shares)
    for share in shares[:-1]:
        assert write_share(root, share) is None
    assert write_share(root, shares[-1]) is not None
    assert contents(root) == contents(finished_set)


def test_parts_at_once_do_not_wait_for_each_other(root: Path, finished_set: Path) -> None:
    with opened(root, "0/2") as one, opened(root, "1/2") as other:
        write_next(one)
        write_next(other)
        write_next(other)
        assert other.finish() is None
        write_next(one)
        assert one.finish() is not None
    assert contents(root) == contents(finished_set)


def test_a_part_is_told_what_is_left_of_it_and_what_came_of_it(root: Path) -> None:
    with opened(root, "1/2") as latents:
        assert (latents.num_inputs, latents.num_done, len(latents.remaining)) == (3, 0, 2)
        write_next(latents)
        assert latents.num_done == 1
    with opened(root, "1/2") as latents:
        assert (latents.num_done, len(latents.remaining)) == (1, 1)
        write_next(latents)
        assert latents.finish() is None
        outcome = latents.outcome()
    assert (outcome.num_ok, outcome.num_failed, outcome.num_shards) == (3, 0, 2)
    assert outcome.missing == (Share(0, 2),)


def test_a_part_can_be_run_again_at_any_time(root: Path, finished_set: Path) -> None:
    write_share(root, "0/2")
    write_share(root, "0/2")
    before = contents(root)
    write_share(root, "1/2", most=1)
    write_share(root, "0/2")
    now, mark = contents(root), "journal/0-of-2.done"
    assert {**before, mark: now[mark]}.items() <= now.items()
    write_share(root, "1/2")
    for share in ("0/2", "1/2", "2/3"):
        assert write_share(root, share) is not None
    assert contents(root) == contents(finished_set)


@pytest.mark.parametrize("seed", range(12))
def test_parts_of_any_counts_that_stop_anywhere_make_the_same_set(root: Path, finished_set: Path, seed: int) -> None:
    draw = random.Random(seed)
    while True:
        count = draw.choice((2, 3, 7))
        if write_share(root, f"{draw.randrange(count)}/{count}", most=draw.randrange(3)) is not None:
            break
    assert contents(root) == contents(finished_set)


def test_more_parts_than_shards_are_done_when_all_have_looked(root: Path, finished_set: Path) -> None:
    shares = [f"{index}/9" for index in range(9)]
    assert [write_share(root, share) is None for share in shares] == [True] * 8 + [False]
    assert contents(root) == contents(finished_set)


# --- a set that grows -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3])
def test_parts_make_a_set_grow_as_one_run_does(root: Path, tmp_path: Path, finished_set: Path, count: int) -> None:
    shutil.copytree(finished_set, root)
    shutil.copytree(finished_set, tmp_path / "one")
    plan = make_plan(GROWN)
    write_set(tmp_path / "one", plan)
    for index in range(count):
        write_share(root, f"{index}/{count}", plan)
    assert contents(root) == contents(tmp_path / "one")
    assert problems(root) == []


def test_until_it_is_finished_a_growing_set_is_what_it_was(root: Path, finished_set: Path) -> None:
    shutil.copytree(finished_set, root)
    write_share(root, "0/2", make_plan(GROWN))
    now = contents(root)
    assert {name: now[name] for name in contents(finished_set)} == contents(finished_set)


def test_what_is_only_taken_away_needs_all_parts_too(root: Path, tmp_path: Path, finished_set: Path) -> None:
    shutil.copytree(finished_set, root)
    shutil.copytree(finished_set, tmp_path / "one")
    plan = make_plan(KEYS[:4])
    write_set(tmp_path / "one", plan)
    assert write_share(root, "0/2", plan) is None
    assert write_share(root, "1/2", plan) is not None
    assert contents(root) == contents(tmp_path / "one")


# --- finished by hand -----------------------------------------------------------------------------------------------


def test_a_set_is_finished_by_hand_without_its_sources(root: Path, finished_set: Path) -> None:
    leave_unfinished(root)
    finish_by_journal(root)
    assert contents(root) == contents(finished_set)
    finish_by_journal(root)
    assert contents(root) == contents(finished_set)


def test_a_set_that_grew_is_finished_by_hand(root: Path, tmp_path: Path, finished_set: Path) -> None:
    shutil.copytree(finished_set, root)
    shutil.copytree(finished_set, tmp_path / "one")
    write_set(tmp_path / "one", make_plan(GROWN))
    leave_unfinished(root, make_plan(GROWN))
    finish_by_journal(root)
    assert contents(root) == contents(tmp_path / "one")


def test_what_is_missing_is_named_by_its_parts(root: Path) -> None:
    write_share(root, "0/3")
    write_share(root, "1/3", most=0)
    with pytest.raises(UsageError, match=r"2 of 4 shards are not there; run again semdis encode with --part 1/3, 2/3$"):
        finish_by_journal(root)


def test_a_shard_that_was_lost_is_named_by_its_part(root: Path, finished_set: Path) -> None:
    leave_unfinished(root)
    (root / "shards/00000001-1x2.safetensors").unlink()
    with pytest.raises(UsageError, match=r"1 of 4 shards .* --part 1/2$"):
        finish_by_journal(root)
    write_share(root, "1/2")
    assert contents(root) == contents(finished_set)


def test_a_folder_without_parts_is_refused(root: Path, unfinished_set: Path) -> None:
    root.mkdir()
    with pytest.raises(StoreError, match="no run has begun there"):
        finish_by_journal(root)
    with pytest.raises(UsageError, match="a run of the whole set has begun there"):
        finish_by_journal(unfinished_set)


@pytest.mark.parametrize("damage", [b"", b"{}\n", b"\xff", b"[" * 5000])
def test_a_damaged_outline_is_refused_and_written_again_by_a_part(
    root: Path, finished_set: Path, damage: bytes
) -> None:
    leave_unfinished(root)
    outline = root / "journal/outline"
    whole = outline.read_bytes()
    outline.write_bytes(damage or whole[:-2])
    with pytest.raises(StoreError, match="outline: damaged"):
        finish_by_journal(root)
    outline.write_bytes(whole.replace(b'"num_inputs":', b'"num_inputs":1'))
    with pytest.raises(StoreError, match="does not match its sha256"):
        finish_by_journal(root)
    outline.unlink()
    assert write_share(root, "1/2") is not None
    assert contents(root) == contents(finished_set)


# --- beside a run of the whole --------------------------------------------------------------------------------------


def test_a_run_of_the_whole_takes_up_what_parts_have_done(root: Path, finished_set: Path) -> None:
    write_share(root, "1/2")
    with make_plan().open(root) as latents:
        assert [shard.name[:8] for shard in latents.remaining] == ["00000000", "00000002"]
    write_set(root)
    assert contents(root) == contents(finished_set)


def test_parts_take_up_what_a_run_of_the_whole_has_done(root: Path, finished_set: Path) -> None:
    write_some(root, 2)
    with opened(root, "1/2") as latents:
        assert [shard.name[:8] for shard in latents.remaining] == ["00000003"]
    write_share(root, "1/2")
    assert write_share(root, "0/2") is not None
    assert contents(root) == contents(finished_set)


def test_a_run_of_the_whole_with_other_inputs_makes_what_parts_have_done_its_own(root: Path) -> None:
    write_share(root, "1/2", make_plan(KEYS[:7]))
    write_set(root)
    manifest = Manifest.read(root)
    assert (manifest.num_ok, manifest.num_failed) == (8, 3)
    assert problems(root) == []
    assert not (root / "journal").exists()


def test_none_writes_while_another_does(root: Path) -> None:
    with opened(root, "0/2"):
        with pytest.raises(UsageError, match=r"other semdis runs are writing there \(--part 0/2\)"):
            write_set(root)
        with pytest.raises(UsageError, match="another semdis run is writing there"):
            write_share(root, "0/2")
    with make_plan().open(root), pytest.raises(UsageError, match="another semdis run is writing there"):
        write_share(root, "1/2")


def test_a_part_that_was_thought_dead_stops_once_the_whole_is_taken_over(root: Path) -> None:
    with opened(root, "0/2") as latents:
        lock = root / "journal/.semdis-lock-0-of-2"
        record = lock.read_bytes()
        lock.unlink()  # as of a machine that hung
        write_some(root, 1)
        with pytest.raises(UsageError, match="another semdis run has taken over"):
            write_next(latents)
        assert b"token" in record


# --- another plan ---------------------------------------------------------------------------------------------------

OTHERS = {
    "other settings": (make_plan(dtype="float32"), "other settings"),
    "other inputs": (make_plan(KEYS[:5]), "other inputs"),
    "another cut": (make_plan(shard_images=2), "another --shard-size"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_part_with_another_plan_is_refused_and_the_difference_is_named(
    root: Path, finished_set: Path, case: str
) -> None:
    plan, why = OTHERS[case]
    write_share(root, "0/2")
    before = contents(root)
    with pytest.raises(UsageError, match=why):
        write_share(root, "1/2", plan)
    assert contents(root) == before
    write_share(root, "1/2")
    assert contents(root) == contents(finished_set)


def test_of_parts_that_begin_at_once_with_two_plans_one_is_refused(root: Path, finished_set: Path) -> None:
    with opened(root, "0/2") as latents:
        with pytest.raises(UsageError, match="other inputs"), opened(root, "1/2", make_plan(KEYS[:5])):
            pass
        while latents.remaining:
            write_next(latents)
        assert latents.finish() is None
    assert write_share(root, "1/2") is not None
    assert contents(root) == contents(finished_set)


def test_a_plan_under_which_nothing_was_done_binds_nobody(root: Path, finished_set: Path) -> None:
    write_share(root, "0/2", make_plan(KEYS[:5]), most=0)
    write_share(root, "0/3")
    write_share(root, "1/3")
    write_share(root, "2/3")
    assert contents(root) == contents(finished_set)


# --- killed at the end ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_moved", range(6))
def test_a_part_killed_while_it_finishes_is_made_good_by_any_other(
    root: Path, finished_set: Path, monkeypatch: pytest.MonkeyPatch, num_moved: int
) -> None:
    write_share(root, "0/2")
    moved = []

    def move_some(folder: Path, target: Path, _: Manifest) -> None:
        for name in ("index.jsonl", "items.table", "seen.jsonl", "SHA256SUMS", "manifest.json")[:num_moved]:
            (folder / name).replace(target / name)
            moved.append(name)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("semdis_cli.store.writing.latent_set.move_lists", move_some)
        with pytest.raises(KeyboardInterrupt):
            write_share(root, "1/2")
    assert len(moved) == num_moved
    assert write_share(root, "0/2") is not None
    assert Manifest.read(root) == Manifest.read(finished_set)
    with LatentSetWriter(root, make_plan().provenance) as latents:
        assert latents.begin(make_plan().on(latents.base), hashes_of)
    assert contents(root) == contents(finished_set)


def test_while_one_finishes_another_leaves_it_to_that(root: Path) -> None:
    leave_unfinished(root)
    with FolderLock(root), pytest.raises(UsageError, match="another semdis run is writing there"):
        write_share(root, "1/2")
    with opened(root, "1/2") as latents, FolderLock(root):
        assert latents.finish() is None


def test_all_shards_count(root: Path) -> None:
    assert len(make_plan().shards) == NUM_SHARDS
    assert write_share(root, "0/1") is not None
