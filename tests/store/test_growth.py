"""A finished set that grows: only what changed is encoded, a stale latent is never served, and any kill is survived."""

import hashlib
import itertools
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from semdis_cli.dataset.latent_dataset import LatentDataset
from semdis_cli.errors import StoreError, UsageError
from semdis_cli.events import Failure
from semdis_cli.files import atomic
from semdis_cli.provenance import Provenance
from semdis_cli.records import EncodedImage, FileDigest, ImageRecord, PlannedImage, SourceImage
from semdis_cli.sources.files import ON_DISK
from semdis_cli.store.latent_set import open_set
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.reader import open_latents
from semdis_cli.store.statistics import ChannelSums
from semdis_cli.store.writing import index_writer, state
from semdis_cli.store.writing.changes import ALL, Choice
from semdis_cli.store.writing.comparison import find_changes
from semdis_cli.store.writing.finished import Base
from semdis_cli.store.writing.journal import Journal
from semdis_cli.store.writing.latent_set import LatentSetWriter
from semdis_cli.store.writing.plan import PlannedShard, SetPlan, plan_sha256, plan_shards
from semdis_cli.store.writing.shard_writer import ShardRows
from tests.store import CHANNELS, MTIME_NS, PROVENANCE, bucket_of, contents, ctime_of, geometry_of, latents_of

RECORD = Provenance.from_json(PROVENANCE)
LAYOUT = RECORD.layout


@dataclass(frozen=True)
class File:
    """A source file. `content` decides its latents, "bad" cannot be read; all contents have one size."""

    content: str = "v0"
    mtime_ns: int | None = MTIME_NS
    num_bytes: int = 100

    def ctime_ns(self, key: str) -> int:
        """Return when it was last changed: later where it was modified later."""
        return ctime_of(key) + (self.mtime_ns or 0) - MTIME_NS


class KilledError(Exception):
    """What a run is stopped with."""


@dataclass
class Folder:
    """Source files and the set that is made of them."""

    root: Path
    files: dict[str, File] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    choice: Choice = ALL
    encoded: list[str] = field(default_factory=list)
    hashed: list[str] = field(default_factory=list)

    def put(self, **files: str) -> "Folder":
        """Add or replace files by content; a new content comes with a new time."""
        for name, content in files.items():
            mtime_ns = MTIME_NS + int(hashlib.sha256(content.encode()).hexdigest()[:4], 16)
            self.files[f"{name}.png"] = File(content, mtime_ns)
        return self

    def change(self, changes: Sequence[tuple[str, str]], *, is_time_lost: bool) -> None:
        """Put files, or take those away whose content is "gone"."""
        for name, content in changes:
            self.put(**{name: content})
            key = f"{name}.png"
            if content == "gone":
                del self.files[key]
            elif is_time_lost:
                self.files[key] = replace(self.files[key], mtime_ns=None)

    def run(self, kill_after: int | None = None) -> Manifest:
        """Bring the set up to date; raises `KilledError` after so many shards."""
        self.encoded, self.hashed = [], []
        with self._begun() as (latents, _):
            for number, planned in enumerate(latents.remaining):
                if number == kill_after:
                    raise KilledError
                self._write(latents, planned)
            if kill_after is not None:
                raise KilledError
            return latents.finish()

    def kill(self, num_shards: int) -> None:
        """Run until so many shards are published, all of them at most."""
        with pytest.raises(KilledError):
            self.run(num_shards)

    @contextmanager
    def _begun(self) -> Iterator[tuple[LatentSetWriter, SetPlan]]:
        with LatentSetWriter(self.root, RECORD) as latents:
            plan = self._plan(latents.base)
            while not latents.begin(plan, self._hashes):
                plan = self._plan(latents.base)
            yield latents, plan

    def _plan(self, base: Base) -> SetPlan:
        sources = [
            SourceImage(key, ON_DISK, key, file.num_bytes, file.mtime_ns, file.ctime_ns(key))
            for key, file in sorted(self.files.items())
        ]
        changes = find_changes(base, sources, self.failures, self._hashes, self.choice)
        images = [PlannedImage(source, bucket_of(source.key)) for source in changes.to_encode]
        shards = plan_shards(images, LAYOUT, shard_bytes=2**20, shard_images=2, first_number=base.next_number)
        sha256 = plan_sha256(RECORD, shards, self.failures, base, changes)
        return SetPlan(tuple(shards), self.failures, changes, sha256)

    def _hashes(self, sources: Sequence[SourceImage]) -> list[str | None]:
        self.hashed += [source.key for source in sources]
        return [sha256_of(self.files[source.key].content) for source in sources]

    def _write(self, latents: LatentSetWriter, planned: PlannedShard) -> None:
        rows = latents.open_shard(planned)
        for image in planned.images:
            self._encode(image, rows)
        latents.publish(rows.finish())

    def _encode(self, image: PlannedImage, rows: ShardRows) -> None:
        key, file = image.source.key, self.files[image.source.key]
        self.encoded.append(key)
        if file.content.startswith("bad"):
            rows.add_failure(Failure(key, "is truncated", file.num_bytes, file.mtime_ns, file.ctime_ns(key)))
            return
        source = FileDigest(file.num_bytes, sha256_of(file.content))
        record = ImageRecord(key, geometry_of(image.bucket), source)
        latents = latents_of(key + file.content, image.bucket).bfloat16()
        rows.add(EncodedImage(record, latents, file.mtime_ns, file.ctime_ns(key)))

    def check(self) -> None:
        """The set is finished, serves what the files hold now, and nothing else is left in its folder."""
        self.check_served()
        manifest = Manifest.read(self.root)
        assert sorted(path.name for path in (self.root / "shards").iterdir()) == [s.name for s in manifest.shards]
        assert not (self.root / "journal").exists()

    def check_served(self) -> None:
        """What is served is just what the files hold, and the manifest tells the truth about it."""
        source, manifest = open_latents(self.root), Manifest.read(self.root)
        good = {key: file for key, file in self.files.items() if not file.content.startswith("bad")}
        assert list(source.keys) == sorted(good)
        sums = ChannelSums.zero(CHANNELS)
        for stored in source.shards:
            shard = source.read(stored)
            for latents, record in zip(shard.latents, shard.records, strict=True):
                key = record.key
                assert torch.equal(latents, latents_of(key + good[key].content, bucket_of(key)).bfloat16()), key
                assert record.source.sha256 == sha256_of(good[key].content)
                sums = sums + ChannelSums.of(latents)
        assert (manifest.num_ok, manifest.num_failed) == (len(good), len(self.files) - len(good) + len(self.failures))
        assert manifest.sums.count == sums.count
        np.testing.assert_allclose(manifest.sums.total, sums.total, atol=1e-9)
        np.testing.assert_allclose(manifest.sums.squares, sums.squares, atol=1e-9)


def sha256_of(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


@pytest.fixture(params=[index_writer.PIECE_ROWS, 2], ids=["one file", "pieces"], autouse=True)
def piece_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Rows that a piece of an index has: as many as always, or so few that these sets have several."""
    monkeypatch.setattr(index_writer, "PIECE_ROWS", request.param)
    return int(request.param)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Five files and their finished set: two shards of one bucket, one of the other."""
    folder = Folder(tmp_path / "latents").put(a="v0", b="v0", b2="v0", d="v0", e="v0")
    folder.run()
    folder.check()
    return folder


def statuses(folder: Folder) -> dict[str, str]:
    return {row.key: row.status for row in open_set(folder.root).rows()}


def index_of(folder: Folder) -> bytes:
    """Return all lines of the index, in order."""
    return b"".join(Path(str(path)).read_bytes() for path in open_set(folder.root).index_paths)


def times_of(folder: Folder) -> list[Path]:
    """Return the files with the times of source files."""
    return [folder.root / piece.seen_name for piece in Manifest.read(folder.root).index_files.pieces]


# --- what is encoded, and what is not -------------------------------------------------------------------------------


def test_a_finished_set_is_recognised_without_a_look_into_any_file(folder: Folder) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.root.rglob("*")}
    folder.run()
    assert (folder.encoded, folder.hashed) == ([], [])
    assert {path: path.stat().st_mtime_ns for path in folder.root.rglob("*")} == before


def test_new_images_get_new_shards_and_the_old_ones_are_not_touched(folder: Folder) -> None:
    before = contents(folder.root / "shards")
    folder.put(a1="v0", f="v0").run()
    assert folder.encoded == ["a1.png", "f.png"]
    assert contents(folder.root / "shards") == {**contents(folder.root / "shards"), **before}
    assert sorted(set(contents(folder.root / "shards")) - set(before)) == [
        "00000003-1x2.safetensors",
        "00000004-2x2.safetensors",
    ]
    folder.check()


def test_a_changed_image_is_encoded_again_and_only_its_new_latents_are_served(folder: Folder) -> None:
    manifest = folder.put(b="v1").run()
    assert folder.encoded == ["b.png"]
    assert (manifest.num_ok, manifest.num_superseded, manifest.num_latents) == (5, 1, 6)
    folder.check()


def test_a_shard_of_the_set_opened_by_its_path_serves_no_stale_latents_either(folder: Folder) -> None:
    folder.put(b="v1")
    del folder.files["a.png"]
    folder.run()
    first, last = (folder.root / "shards" / f"0000000{number}-1x2.safetensors" for number in (0, 3))
    assert open_latents(first).keys == ()
    assert open_latents(last).keys == ("b.png",) == tuple(LatentDataset(last).key(item) for item in range(1))
    assert len(LatentDataset(first)) == 0
    alone = folder.root.parent / first.name
    shutil.copy(first, alone)
    assert open_latents(alone).keys == ("a.png", "b.png")


def test_a_change_that_neither_size_nor_time_shows_is_found_where_the_time_is_not_known(folder: Folder) -> None:
    folder.files["b.png"] = File("v1", mtime_ns=None)
    folder.run()
    assert (folder.hashed, folder.encoded) == (["b.png"], ["b.png"])
    folder.check()


def test_a_change_of_size_needs_no_look_into_the_file(folder: Folder) -> None:
    folder.files["b.png"] = File("v1", MTIME_NS, num_bytes=101)
    folder.run()
    assert (folder.hashed, folder.encoded) == ([], ["b.png"])
    folder.check()


def test_a_touched_file_is_looked_into_once_and_not_encoded(folder: Folder) -> None:
    before = contents(folder.root)
    folder.files["b.png"] = replace(folder.files["b.png"], mtime_ns=MTIME_NS + 5)
    folder.run()
    assert (folder.hashed, folder.encoded) == (["b.png"], [])
    folder.run()
    assert folder.hashed == []
    after, times = contents(folder.root), {path.relative_to(folder.root).as_posix(): None for path in times_of(folder)}
    assert after != before
    assert {**after, **times} == {**before, **times}


@pytest.mark.parametrize("damage", ["", "{}\n", '{"index": 7}\n', "[[[\n", "[1,2,3]\n"])
def test_without_the_times_every_file_is_looked_into_and_none_encoded(folder: Folder, damage: str) -> None:
    whole = {seen: seen.read_bytes() for seen in times_of(folder)}
    for seen, data in whole.items():
        seen.write_bytes((data.splitlines(keepends=True)[0] if damage.startswith("[1") else b"") + damage.encode())
    folder.run()
    assert (len(folder.hashed), folder.encoded) == (5, [])
    assert {seen: seen.read_bytes() for seen in times_of(folder)} == whole


def test_removed_images_are_marked_and_not_served_and_come_back_without_being_encoded(folder: Folder) -> None:
    index, gone = index_of(folder), folder.files.pop("b.png")
    manifest = folder.run()
    assert (manifest.num_ok, manifest.num_removed, manifest.num_superseded) == (4, 1, 0)
    assert statuses(folder)["b.png"] == "removed"
    folder.check()
    folder.run()
    assert folder.hashed == []
    folder.files["b.png"] = gone
    manifest = folder.run()
    assert (folder.hashed, folder.encoded, manifest.num_removed) == (["b.png"], [], 0)
    assert index_of(folder) == index
    folder.check()


def test_a_removed_image_that_comes_back_changed_is_encoded(folder: Folder) -> None:
    del folder.files["b.png"]
    folder.run()
    manifest = folder.put(b="v1").run()
    assert folder.encoded == ["b.png"]
    assert (manifest.num_ok, manifest.num_removed, manifest.num_superseded) == (5, 0, 1)
    folder.check()


def test_a_bad_file_is_tried_again_when_it_changes_and_not_before(folder: Folder) -> None:
    folder.put(c="bad").run()
    assert folder.encoded == ["c.png"]
    folder.check()
    folder.run()
    assert folder.encoded == []
    folder.put(c="v0").run()
    assert folder.encoded == ["c.png"]
    folder.check()


def test_a_failure_that_may_pass_is_tried_again_and_leaves_the_set_as_it_is(folder: Folder) -> None:
    folder.files["c.png"] = File("bad", mtime_ns=None)
    folder.run()
    before = contents(folder.root)
    folder.run()
    assert folder.encoded == ["c.png"]
    assert contents(folder.root) == before


def test_a_good_image_that_became_bad_is_not_served_any_more(folder: Folder) -> None:
    manifest = folder.put(b="bad").run()
    assert statuses(folder)["b.png"] == "failed"
    assert (manifest.num_ok, manifest.num_superseded) == (4, 1)
    folder.check()


def test_an_input_that_is_found_unusable_takes_the_place_of_its_latents(folder: Folder) -> None:
    del folder.files["b.png"]
    folder.failures = (Failure("b.png", "is a folder"),)
    folder.run()
    assert statuses(folder)["b.png"] == "failed"
    folder.check()
    before = contents(folder.root)
    folder.run()
    assert contents(folder.root) == before


def test_a_failed_input_that_is_gone_is_forgotten(folder: Folder) -> None:
    folder.put(c="bad").run()
    del folder.files["c.png"]
    folder.run()
    assert "c.png" not in statuses(folder)
    folder.check()


def test_inputs_that_have_nothing_in_common_with_the_set_are_refused(folder: Folder) -> None:
    before = contents(folder.root)
    folder.files = {"other.png": File()}
    with pytest.raises(
        UsageError, match="holds latents of other images: none of its 5 is among the inputs that can be"
    ):
        folder.run()
    assert contents(folder.root) == before


def test_a_failure_that_has_passed_and_whose_input_is_gone_is_forgotten(folder: Folder) -> None:
    folder.failures = (Failure("c.png", "cannot be read"),)
    folder.run()
    assert statuses(folder)["c.png"] == "failed"
    folder.failures = ()
    folder.run()
    assert "c.png" not in statuses(folder)
    folder.check()


def test_inputs_that_can_none_of_them_be_looked_at_cost_no_latents(folder: Folder) -> None:
    before = contents(folder.root)
    folder.failures = tuple(Failure(key, "cannot be read (No such device)") for key in sorted(folder.files))
    files, folder.files = folder.files, {}
    with pytest.raises(UsageError, match="none of its 5 is among the inputs that can be read"):
        folder.run()
    assert contents(folder.root) == before
    folder.files, folder.failures = files, ()
    folder.run()
    assert folder.encoded == []


def test_failures_that_are_kept_are_counted(folder: Folder) -> None:
    folder.put(c="bad", f="bad").run()
    for change in ({}, {"a1": "v0"}):
        with folder.put(**change)._begun() as (latents, _):
            assert latents.num_failed_before == 2


def test_latents_that_are_damaged_are_not_taken_out_of_the_statistics(folder: Folder) -> None:
    [shard] = folder.root.glob("shards/00000000-*")
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x7f")
    before = contents(folder.root)
    del folder.files["b.png"]
    with pytest.raises(StoreError, match="do not match the sha256 in the manifest"):
        folder.run()
    assert {name: data for name, data in contents(folder.root).items() if not name.startswith("journal")} == before


# --- stopped while growing ------------------------------------------------------------------------------------------


def grow(folder: Folder) -> Folder:
    """Two shards' worth of news of each bucket, a change, a removal and a file that is bad."""
    del folder.files["e.png"]
    return folder.put(a="v1", a1="v0", a2="v0", b3="bad", d1="v0", d2="v0", d3="v0", d4="v0")


@pytest.mark.parametrize("num_shards", range(5))
def test_a_growing_set_that_is_stopped_serves_what_it_did_and_ends_with_the_same_bytes(
    folder: Folder, tmp_path: Path, num_shards: int
) -> None:
    whole = Folder(tmp_path / "whole", dict(folder.files))
    shutil.copytree(folder.root, whole.root)
    grow(whole).run()
    whole.check()

    served = dict(folder.files)
    grow(folder).kill(num_shards)
    Folder(folder.root, served).check_served()
    folder.kill(0)
    folder.run()
    folder.check()
    assert contents(folder.root) == contents(whole.root)


@pytest.mark.parametrize("num_shards", range(4))
def test_an_unfinished_set_whose_inputs_change_keeps_what_it_has(tmp_path: Path, num_shards: int) -> None:
    folder = Folder(tmp_path / "latents").put(a="v0", b="v0", b2="v0", d="v0", e="v0")
    folder.kill(num_shards)
    done = folder.encoded
    folder.put(a1="v0", e="v1")
    del folder.files["b.png"]
    folder.run()
    assert set(folder.encoded) == set(folder.files) - (set(done) - {"e.png"})
    folder.check()


def test_inputs_that_change_after_every_shard_are_all_encoded_in_the_end(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "latents")
    for number in range(8):
        folder.put(**{f"{letter}{number}": "v0" for letter in "ad"}).kill(1)
    folder.put(a0="v1").run()
    folder.check()


def test_a_file_that_changes_after_its_shard_was_published_is_encoded_again_by_the_next_run(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "latents").put(a="v0", b="v0", b2="v0", d="v0", e="v0")
    folder.kill(2)
    folder.files["a.png"] = File("v1", MTIME_NS + 9)  # of the same size: the plan is the same
    folder.run()
    assert folder.encoded == ["a.png", "b.png", "d.png", "e.png"]
    folder.check()


def test_a_file_that_was_bad_when_its_shard_was_noted_is_tried_again_if_it_changes(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "latents").put(a="bad", b="v0", d="v0")
    folder.kill(1)
    folder.put(a="v0").run()
    folder.check()


def test_a_shard_whose_images_have_all_become_bad_leaves_no_file(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "latents").put(a="v0", b="v0", d="v0")
    folder.kill(1)
    folder.put(a="bad", b="bad").run()
    folder.check()


def test_an_unfinished_set_whose_images_have_all_been_replaced_is_none_to_be_refused(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "latents").put(a="v0", d="v0")
    folder.kill(1)
    folder.files = {"e.png": File()}
    folder.run()
    folder.check()


def test_a_line_does_not_vouch_for_a_shard_that_was_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(tmp_path / "latents").put(a="v0", b="v0", d="v0")
    folder.kill(1)
    folder.files["a.png"] = File("v1", MTIME_NS + 9)  # of the same size

    def stop(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "append", stop)
        with pytest.raises(KilledError):
            folder.run()
    folder.put(e="v0").run()
    folder.check()


def test_the_checksums_are_right_after_a_change_that_was_begun_and_taken_back(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, gone = contents(folder.root), folder.files.pop("b.png")
    real = atomic.move

    def stop_at_manifest(path: Path, root: Path) -> None:
        if path.name == "manifest.json":
            raise KilledError
        real(path, root)

    with monkeypatch.context() as patched:
        patched.setattr(state, "move", stop_at_manifest)
        with pytest.raises(KilledError):
            folder.run()
    folder.files["b.png"] = gone
    folder.run()
    assert contents(folder.root) == before


def test_inputs_of_another_set_are_refused_after_a_growth_that_was_killed(folder: Folder) -> None:
    folder.put(a1="v0").kill(1)
    folder.files = {"other.png": File()}
    with pytest.raises(UsageError, match="holds latents of other images"):
        folder.run()


def test_a_copy_of_the_set_that_is_gone_is_named_and_the_advice_helps(folder: Folder) -> None:
    folder.put(a1="v0", d1="v0").kill(1)
    [base] = folder.root.glob("journal/base-*")
    shutil.rmtree(base)
    with pytest.raises(StoreError, match=rf"delete {folder.root / 'journal'}: the set is what it was before"):
        folder.run()
    shutil.rmtree(folder.root / "journal")
    folder.run()
    folder.check()


@pytest.mark.parametrize("piece_rows", [index_writer.PIECE_ROWS], indirect=True)
def test_a_set_killed_between_the_index_and_the_manifest_is_refused_until_the_next_run(
    folder: Folder, tmp_path: Path
) -> None:
    grow(folder).kill(9)
    unfinished = tmp_path / "unfinished"
    shutil.copytree(folder.root, unfinished)
    folder.run()
    for there in itertools.combinations(["index.jsonl", "seen.jsonl", "SHA256SUMS"], 1):
        torn = Folder(tmp_path / there[0], folder.files)
        shutil.copytree(unfinished, torn.root)
        shutil.copy(folder.root / there[0], torn.root)
        if there[0] == "index.jsonl":
            with pytest.raises(StoreError, match=r"index\.jsonl: does not match the sha256 in the manifest"):
                open_latents(torn.root)
        torn.run()
        assert contents(torn.root) == contents(folder.root)


def test_copies_of_the_set_that_killed_runs_left_are_swept(folder: Folder) -> None:
    shutil.copytree(folder.root, folder.root / "journal" / "base-0123456789abcdef", ignore=lambda *_: ["journal"])
    folder.run()
    folder.check()


def test_a_damaged_journal_of_a_growing_set_costs_the_growth_and_not_the_set(folder: Folder) -> None:
    grow(folder).kill(1)
    journal = folder.root / "journal" / "0.jsonl"
    journal.write_bytes(journal.read_bytes()[:-30] + b"nonsense" + journal.read_bytes()[-22:])
    with pytest.raises(StoreError, match=rf"delete {folder.root / 'journal'}: the set is what it was before"):
        folder.run()
    shutil.rmtree(folder.root / "journal")
    folder.run()
    folder.check()


@pytest.mark.parametrize("is_left", [True, False])
def test_an_image_comes_back_once_its_filter_is_lifted_whatever_else_is_gone(folder: Folder, *, is_left: bool) -> None:
    """An input that failed and is gone is no image that was set aside, though there are as many inputs as before."""
    folder.failures = (Failure("bb.png", "cannot be read (Permission denied)"),)
    folder.run()
    folder.choice = Choice(lambda image, _: "min-size" if image.key == "b.png" else None)
    folder.run()
    assert (statuses(folder)["b.png"], statuses(folder)["bb.png"]) == ("removed", "failed")
    folder.choice = ALL
    folder.failures = folder.failures if is_left else ()
    folder.run()
    assert (statuses(folder)["b.png"], "bb.png" in statuses(folder)) == ("ok", is_left)
    folder.check()


# --- anything in any order ------------------------------------------------------------------------------------------

CHANGE = st.tuples(
    st.sampled_from(["a", "b", "c", "d", "e", "f"]), st.sampled_from(["v0", "v1", "v2", "bad", "bad2", "gone"])
)
STEP = st.tuples(st.lists(CHANGE, max_size=4), st.one_of(st.none(), st.integers(0, 3)), st.booleans())


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEP, min_size=1, max_size=6))
def test_whatever_happens_to_the_files_between_runs_that_are_killed_the_set_serves_what_they_hold(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[list[tuple[str, str]], int | None, bool]]
) -> None:
    folder = Folder(tmp_path_factory.mktemp("any") / "latents").put(constant="v0")
    for changes, kill_after, is_time_lost in steps:
        folder.change(changes, is_time_lost=is_time_lost)
        if kill_after is None:
            folder.run()
            folder.check()
        else:
            folder.kill(kill_after)
    folder.run()
    folder.check()
    shutil.rmtree(folder.root)
