"""A folder of latents being written: planned shards in, a finished and provable set out, resumable at any point.

A finished set can grow. A run on it keeps the latents of unchanged inputs where they are, adds shards for new and
changed ones, and marks those whose inputs are gone; until its manifest is written the set stays what it was.
"""

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from semdis_cli.events import ShardPublished
from semdis_cli.files.atomic import check_free_space, explaining, make_folder
from semdis_cli.files.lock import FolderLock
from semdis_cli.files.set_names import SHARD_FOLDER
from semdis_cli.files.url import Location
from semdis_cli.provenance import Provenance
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.versions import choose_record
from semdis_cli.store.writing.changes import Hashes
from semdis_cli.store.writing.far_set import FarSet
from semdis_cli.store.writing.finished import Base, check_latents_folder
from semdis_cli.store.writing.growth import Growth, renew_lists
from semdis_cli.store.writing.journal import CLASSES, LATER_VERSIONS, Journal
from semdis_cli.store.writing.plan import PlannedShard, SetPlan
from semdis_cli.store.writing.shard_writer import EncodedShard, ShardRows, WrittenShard, publish_shard
from semdis_cli.store.writing.state import SetState, adopt, find_done, find_state, move_lists, sweep_shards
from semdis_cli.store.writing.tensors import check_tensors, sweep_tensors

# Beyond the latents, each image's key is written four times (shard, journal, index, modification times), with figures.
_COPIES_OF_KEY = 4
_FIGURES_BYTES = 1600
_MOST_IN_STAGE = 3  # shards of a set in a store that are here at a time: one that is sent, one written, one to spare


class LatentSetWriter:
    """One output folder. Use as a context manager: entering locks it and finds out what it holds, in `base`.

    `provenance`: the settings that decide every byte, with `dtype` the stored one; after entering, as they are on
    record in the folder already. Then `begin` takes the plan. Raises on entering: `UsageError` if the folder is in use
    or what it holds was made with other settings (with `mix_versions` only if they make another kind of latents),
    `StoreError` if that is damaged. `later_versions`: more settings, for shards that were made by others; planned
    shards say which. `far`: the set is one in a store, and `root` its stage.
    """

    def __init__(
        self,
        root: Path,
        provenance: Provenance,
        *,
        mix_versions: bool = False,
        later_versions: Sequence[Provenance] = (),
        far: FarSet | None = None,
    ) -> None:
        self.root = root
        self._far = far
        self._place: Location = root if far is None else far.url  # where the shards end up
        self.provenance = provenance
        self.later_versions = tuple(later_versions)
        self._mix_versions = mix_versions
        self.finished: Manifest | None = None
        self._plan: SetPlan | None = None
        self._lock = FolderLock(root)
        self._journal = Journal(root)
        self._state = SetState(Base(self._place, root), None, {})
        self._done: dict[str, int] = {}  # of this run's plan: shard name -> offset of its line in the journal
        self._headers: dict[str, bytes] = {}  # sha256 of the header of each shard that was written now
        self.num_failed_before = 0  # inputs that failed in those of them that an earlier run had done

    def __enter__(self) -> Self:
        if self._far is not None:
            self._far.fetch()
        check_latents_folder(self.root)
        self._is_new = not self.root.exists()
        make_folder(self.root)
        with ExitStack() as on_failure:
            on_failure.callback(self._leave_no_empty_folder)
            on_failure.enter_context(self._lock)
            if self._far is not None:
                on_failure.enter_context(self._far.claimed(self._journal))
            with explaining(self.root):  # files of somebody else, or a disk that has become read-only
                self._state = find_state(self.root, self._place, self._journal)
                self._choose_records()
                if self._far is not None:
                    self._far.take_left((entry.name, entry.file) for entry in self._state.entries.values())
                self.base.check_shards()
                if self.base.manifest is not None:
                    check_tensors(self._place, self.base.manifest)
            self._held = on_failure.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._journal.close()
        self._held.close()

    def begin(self, plan: SetPlan, hashes: Hashes) -> bool:
        """Take up `plan`, where an earlier run left it if there was one.

        False if an earlier run had published shards under another plan: they are part of `base` now, so plan again.
        """
        self._plan = plan
        self.num_failed_before = plan.changes.num_failed
        state = self._state
        is_same = state.begun is not None and state.begun.get("plan_sha256") == plan.sha256
        if state.entries and not is_same:
            self._state = adopt(state, self._journal)
            return False
        is_done = plan.is_nothing and self.base.manifest is not None and self.base.folder == self.root
        if is_done:
            renewed = renew_lists(self.base, plan.changes)
            if self._far is not None:
                self._far.push(self.root, renewed)
            self.finished = self.base.manifest
            if self._journal.folder.is_dir():
                self._journal.remove()
        elif is_same:
            self._done, num_failed = find_done(state, self._journal, plan, hashes)
            self.num_failed_before += num_failed
            if len(self._done) < len(state.entries):
                self._done = self._journal.keep(self._done)  # a line must not vouch for a shard that is written anew
        else:
            self._start(plan)
        names = self.base.shard_names | self._done.keys()
        sweep_shards(self.root, names)
        sweep_tensors(self.root, self.base.manifest)
        if self._far is not None:
            self._far.sweep_shards(names)
        return True

    @property
    def base(self) -> Base:
        """The set that the run starts from."""
        return self._state.base

    @property
    def remaining(self) -> tuple[PlannedShard, ...]:
        """Planned shards that are not on disk yet, in order."""
        return (
            () if self.finished else tuple(shard for shard in self._begun_plan.shards if shard.name not in self._done)
        )

    @property
    def num_done(self) -> int:
        """Inputs whose outcome is on disk already; failures that were known beforehand do not count."""
        plan = self._begun_plan
        return plan.num_inputs - len(plan.failures) - sum(len(shard.images) for shard in self.remaining)

    def note(self) -> str:
        """Return what a person should know before the run goes on: a line, or nothing."""
        return "; ".join(filter(None, (self._describe_mixing(), self._describe_copy())))

    def _describe_mixing(self) -> str:
        first = self.base.manifest.provenance if self.base.manifest is not None else self.provenance
        differences = "; ".join(map(str, first.differences(self.provenance))) if self.remaining else ""
        return f"goes on with other versions than the set was begun with ({differences})" if differences else ""

    def _describe_copy(self) -> str:
        changes = self._begun_plan.changes
        if not changes.lacks_times or all(image.ctime_ns is None for image in changes.kept):
            return ""
        return (
            "nothing is noted of when its images were changed, as in a set that was copied or downloaded: their "
            f"contents were compared; semdis verify {self._place} --data says whether the set is whole"
        )

    def check_space(self) -> None:
        """Raise `NoSpaceError` unless the disk can hold what remains to be written."""
        copies = 3 * self.base.manifest.index.num_bytes if self.base.manifest else 0  # base, next index, times
        shards = list(map(self._written_bytes, self.remaining))
        needed = sum(shards) if self._far is None else _MOST_IN_STAGE * max(shards, default=0)
        check_free_space(self.root, copies + needed)

    def open_shard(self, planned: PlannedShard) -> ShardRows:
        """Begin to collect one planned shard.

        Raises `NoSpaceError` where the disk has become too full for it; one that is being published is not counted.
        """
        check_free_space(self.root, self._written_bytes(planned))
        return ShardRows(planned, self.provenance.layout)

    def publish(self, shard: EncodedShard) -> ShardPublished | None:
        """Write a shard, and note it; returns what to tell, nothing of a shard of failures alone."""
        written = self.write(shard)
        self.record(written)
        return written.published

    def write(self, shard: EncodedShard) -> WrittenShard:
        """Write a shard. It may be called in several threads at once."""
        self._lock.check()
        return publish_shard(shard, self.root / SHARD_FOLDER, self._records[shard.planned.version])

    def record(self, shard: WrittenShard) -> None:
        """Note a shard that is on disk, whoever wrote it. Only now does it count. For one shard after the other."""
        self._done[shard.name] = self._journal.append(shard.content)
        self._headers[shard.name] = shard.header_sha256
        if self._far is not None:
            self._far.take_left([(shard.name, shard.file)])

    def finish(self) -> Manifest:
        """Write index, checksums and, last, the manifest; a set to which nothing is to be added stays as it is."""
        if self.finished is not None:
            return self.finished
        self._lock.check()
        plan = self._begun_plan
        growth = Growth(
            base=self.base,
            journal=self._journal,
            places=tuple((shard.images[0].source.key, self._done[shard.name]) for shard in plan.shards),
            failures=plan.failures,
            changes=plan.changes,
            classes=plan.classes,
            left_out=plan.left_out,
            headers=self._headers,
        )
        written = self._journal.new_base_folder()
        make_folder(written)
        manifest = growth.write(written, self._records, plan.sha256)
        num_rows = manifest.num_ok + manifest.num_failed
        assert num_rows == plan.num_inputs, f"{num_rows} rows for {plan.num_inputs} inputs"
        if self._far is not None:
            self._far.push(written)
        move_lists(written, self.root)
        self._journal.remove()
        self.finished = manifest
        return manifest

    def _leave_no_empty_folder(self) -> None:
        """A run that was refused before it wrote anything leaves no trace."""
        if self._is_new:
            with suppress(OSError):  # not empty: it has begun
                self.root.rmdir()

    @property
    def _records(self) -> tuple[Provenance, ...]:
        return (self.provenance, *self.later_versions)

    @property
    def _begun_plan(self) -> SetPlan:
        assert self._plan is not None, "a set is written after `begin`"
        return self._plan

    def _choose_records(self) -> None:
        """Go on under the settings on record where they are the same. Raises `UsageError` where they are others."""
        choose = partial(choose_record, self._place, mix_versions=self._mix_versions)
        on_record = self._state.records(self._journal)
        self.provenance = choose(on_record, self.provenance)
        self.later_versions = tuple(choose([*on_record, self.provenance], later) for later in self.later_versions)

    def _start(self, plan: SetPlan) -> None:
        """Write the plan. An earlier one under which no shard was finished binds nobody."""
        make_folder(self._journal.folder)  # it is what tells the folder for ours, so it comes first
        make_folder(self.root / SHARD_FOLDER)
        if self.base.manifest is not None and self.base.folder == self.root:
            self._state = replace(self._state, base=self.base.copy_to(self._journal.new_base_folder()))
        name = self.base.folder.name if self.base.manifest is not None else None
        begun: dict[str, Any] = {"provenance": self.provenance.to_json(), "plan_sha256": plan.sha256, "base": name}
        if self.later_versions:
            begun[LATER_VERSIONS] = [record.to_json() for record in self.later_versions]
        if plan.classes:
            begun[CLASSES] = plan.classes
        self._journal.begin(begun)
        self._journal.sweep(name)

    def _written_bytes(self, shard: PlannedShard) -> int:
        """Return the bytes of a shard and of what is noted of its images: the latents exactly, the rest generously."""
        keys = sum(_COPIES_OF_KEY * 6 * len(key) for key, *_ in shard.facts())  # 6: a character as \\uXXXX
        return len(shard.images) * (self.provenance.layout.latent_bytes(shard.bucket) + _FIGURES_BYTES) + keys
