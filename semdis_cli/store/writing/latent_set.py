"""A folder of latents being written: planned shards in, a finished and provable set out, resumable at any point.

A finished set can grow. A run on it keeps the latents of unchanged inputs where they are, adds shards for new and
changed ones, and marks those whose inputs are gone; until its manifest is written the set stays what it was.
"""

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Self

from semdis_cli.errors import StoreError
from semdis_cli.files.atomic import check_free_space, explaining, make_folder
from semdis_cli.files.disk import has_other_names
from semdis_cli.files.lock import FolderLock
from semdis_cli.files.set_names import MANIFEST_FILE
from semdis_cli.provenance import Provenance
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.writing.changes import Hashes
from semdis_cli.store.writing.far_set import FarSet
from semdis_cli.store.writing.finished import check_latents_folder
from semdis_cli.store.writing.growth import Growth, renew_lists
from semdis_cli.store.writing.journal import Journal
from semdis_cli.store.writing.outline import Outline
from semdis_cli.store.writing.plan import SetPlan
from semdis_cli.store.writing.set_writer import SetWriter
from semdis_cli.store.writing.shard_writer import WrittenShard
from semdis_cli.store.writing.state import adopt, find_done, find_present, find_state, move_lists, sweep_shards
from semdis_cli.store.writing.tensors import check_tensors, sweep_tensors

_MOST_IN_STAGE = 3  # shards of a set in a store that are here at a time: one that is sent, one written, one to spare


class LatentSetWriter(SetWriter):
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
        super().__init__(
            root,
            provenance,
            Journal(root),
            FolderLock(root),
            mix_versions=mix_versions,
            later_versions=later_versions,
            place=None if far is None else far.url,
        )
        self._far = far
        self._outline: Outline | None = None
        self._num_failed_before = 0

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
                self._keep_shares_out()
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

    def _keep_shares_out(self) -> None:
        """Refuse a folder in which shares of a run are at work."""
        self._journal.keep_shares_out()

    def begin(self, plan: SetPlan, hashes: Hashes) -> bool:
        """Take up `plan`, where an earlier run left it if there was one.

        False if an earlier run had published shards under another plan: they are part of `base` now, so plan again.
        """
        self._plan = plan
        state = self._state
        is_same = state.begun is not None and state.begun.get("plan_sha256") == plan.sha256
        if state.entries and not is_same:
            self._state = adopt(state, self._journal)
            return False
        is_done = plan.is_nothing and self.base.manifest is not None and self.base.folder == self.root
        if is_done:
            renewed = renew_lists(self.base, plan.changes)
            if self._far is not None:
                self._far.push_names(self.root, renewed)
            self.finished = self.base.manifest
            if self._journal.folder.is_dir():
                self._journal.remove()
        elif is_same:
            self._done = find_done(state, self._journal, plan.shards, plan.changes, hashes)
            self._num_failed_before = sum(done.num_failed for done in self._done.values())
            if len(self._done) < len(state.entries):  # a line must not vouch for a shard that is written anew
                moved = self._journal.keep(done.line for done in self._done.values())
                self._done = {name: done._replace(line=moved[done.line]) for name, done in self._done.items()}
            self._take_over(plan.sha256, plan.classes)
        else:
            self._start(plan)
        names = self.base.shard_names | self._done.keys()
        sweep_shards(self.root, names)
        sweep_tensors(self.root, self.base.manifest)
        if self._far is not None:
            self._far.sweep_shards(names)
            self._far.sweep_lists()
        return True

    def resume(self, outline: Outline) -> list[str]:
        """Take up what was written under the plan of `outline`, to be finished; returns the names of missing shards.

        Raises `StoreError` where shards are others than outlined.
        """
        self._outline = outline
        if self._state.begun is not None and self._state.begun.get("plan_sha256") == outline.sha256:
            self._done = find_present(self._state)
        missing = [shard.name for shard in outline.shards if shard.name not in self._done]
        if not missing:
            outline.check_shards({name: done.num_images for name, done in self._done.items()}, self.root)
            self._take_over(outline.sha256, outline.classes)
        return missing

    @property
    def num_inputs(self) -> int:
        """All inputs; see `SetPlan`."""
        return self._begun_plan.num_inputs

    @property
    def num_failed_before(self) -> int:
        """Inputs that failed in what an earlier run had done."""
        return self._begun_plan.changes.num_failed + self._num_failed_before

    @property
    def num_done(self) -> int:
        """Inputs whose outcome is on disk already; failures that were known beforehand do not count."""
        plan = self._begun_plan
        return plan.num_inputs - len(plan.failures) - sum(len(shard.images) for shard in self.remaining)

    def check_space(self) -> None:
        """Raise `NoSpaceError` unless the disk can hold what remains to be written."""
        copies = 3 * self._changing_bytes()  # base, next index, times
        shards = self._remaining_bytes()
        needed = sum(shards) if self._far is None else _MOST_IN_STAGE * max(shards, default=0)
        check_free_space(self.root, copies + needed)

    def _changing_bytes(self) -> int:
        """Return the bytes of those pieces of the index that are going to give way to others, or to be copied."""
        plan, index = self._begun_plan, self.base.index
        if not all(has_other_names(self.base.folder / piece.name) for piece in index.pieces):
            return sum(piece.file.num_bytes for piece in index.pieces)  # the disk has no links
        changed = plan.changes.changed_pieces(index)
        keys = chain((one.key for one in plan.failures), (one.key for one in plan.left_out))
        changed |= set(map(index.number_of, keys))
        changed |= {number for number in range(len(index.pieces)) if plan.changes.encodes_in(index, number)}
        return sum(piece.file.num_bytes for number, piece in enumerate(index.pieces) if number in changed)

    def record(self, shard: WrittenShard) -> None:
        """Note a shard that is on disk, as `SetWriter.record`; one of a set in a store is sent there."""
        super().record(shard)
        if self._far is not None:
            self._far.take_left([(shard.name, shard.file)])

    def finish(self) -> Manifest:
        """Write index, checksums and, last, the manifest; a set to which nothing is to be added stays as it is."""
        if self.finished is not None:
            return self.finished
        self._lock.check()
        outline = Outline.of(self._begun_plan) if self._outline is None else self._outline
        growth = Growth(
            base=self.base,
            journal=self._journal,
            places=tuple((done.first_key, done.line) for done in (self._done[shard.name] for shard in outline.shards)),
            failures=outline.failures,
            changes=outline.changes,
            classes=outline.classes,
            left_out=outline.left_out,
            headers=self._headers,
            has_kept=outline.has_kept,
        )
        written = self._journal.new_base_folder()
        make_folder(written)
        manifest = growth.write(written, self._records, outline.sha256)
        num_rows = manifest.num_ok + manifest.num_failed
        if self._outline is not None:  # a file that may say anything
            outline.check_inputs(num_rows, self.root)
        if num_rows != outline.num_inputs and self.base.index.is_split:  # whose manifest was believed
            what = "its manifest and index disagree; damaged or edited"
            raise StoreError(what, place=self.base.folder / MANIFEST_FILE)
        assert num_rows == outline.num_inputs, f"{num_rows} rows for {outline.num_inputs} inputs"
        self._lock.check()  # all that took a while, and what another run has finished since must stay
        if self._far is not None:
            self._far.push(written, manifest)
        move_lists(written, self.root, manifest)
        self._journal.remove()
        self.finished = manifest
        return manifest

    def _leave_no_empty_folder(self) -> None:
        """A run that was refused before it wrote anything leaves no trace."""
        if self._is_new:
            with suppress(OSError):  # not empty: it has begun
                self.root.rmdir()

    def _start(self, plan: SetPlan) -> None:
        """Write the plan. An earlier one under which no shard was finished binds nobody."""
        self._begin(plan.sha256, plan.classes)
        self._journal.drop_shares([plan.sha256], others=True)

    def _take_over(self, plan_sha256: str, classes: tuple[str, ...]) -> None:
        """Begin a file of the whole set where only shares have one, beside these."""
        plan = self._journal.whole.read_plan()
        if plan is None or plan.get("plan_sha256") != plan_sha256:
            self._begin(plan_sha256, classes)

    def _begin(self, plan_sha256: str, classes: tuple[str, ...]) -> None:
        make_folder(self._journal.folder)
        if self.base.manifest is not None and self.base.folder == self.root:
            self._state = replace(self._state, base=self.base.linked_in(self._journal.new_base_folder()))
        self._begin_journal(plan_sha256, classes)
        self._journal.sweep(self.base.folder.name if self.base.manifest is not None else None)
