"""A share of a set that several processes write, each by itself: no one waits for another, and the last one finishes.

Shares are dealt out by the plan, which all of them make alike. Each has a file of its own in the journal, and a lock on
that. What one must not touch while others are at work, it does not: files of others, and the lists of the set.
"""

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, Self

from semdis_cli.errors import UsageError
from semdis_cli.files import disk
from semdis_cli.files.atomic import check_free_space, explaining, is_temporary, make_folder
from semdis_cli.files.lock import LOCK_FILE, BusyFolderError, FolderLock, drop_dead_parts, held_parts, other_run
from semdis_cli.files.set_names import JOURNAL_FOLDER, PLAN_FILE
from semdis_cli.provenance import Provenance
from semdis_cli.shares import Share
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.writing.changes import Hashes
from semdis_cli.store.writing.finish_set import finish_set, missing_shares
from semdis_cli.store.writing.finished import check_latents_folder
from semdis_cli.store.writing.journal import OUTLINE_FILE, Journal, describe_other
from semdis_cli.store.writing.outline import Outline, outline_of
from semdis_cli.store.writing.plan import PlannedShard, SetPlan
from semdis_cli.store.writing.set_writer import SetWriter, ShareOutcome
from semdis_cli.store.writing.state import Done, find_done, find_entries, find_state_of_others
from semdis_cli.store.writing.tensors import check_tensors

_HOW_ON = "run semdis encode once without --part, which takes up all shards that are there, or give another -o"


class SetShareWriter(SetWriter):
    """Share `share` of a set in `root`; used as `LatentSetWriter`, and raises the same.

    Entering raises `UsageError` also where the same share, or a run of the whole set, is at work.
    """

    def __init__(self, root: Path, provenance: Provenance, share: Share, *, mix_versions: bool = False) -> None:
        lock = FolderLock(root / JOURNAL_FOLDER, share.name)
        super().__init__(root, provenance, Journal(root, share), lock, mix_versions=mix_versions)
        self.share = share

    def __enter__(self) -> Self:
        check_latents_folder(self.root)
        is_new = not self.root.exists()
        with ExitStack() as on_failure:
            on_failure.callback(self._leave_no_empty_folders, is_new=is_new)
            self._take_lock(on_failure)
            with explaining(self.root):
                if held_parts(self.root, [""]):
                    raise other_run(self.root)
                self._state = find_state_of_others(self.root, self._place, self._journal)
                self._choose_records()
                self.base.check_shards()
                if self.base.manifest is not None:
                    check_tensors(self._place, self.base.manifest)
            self._held = on_failure.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._journal.close()
        self._held.close()

    def _take_lock(self, stack: ExitStack) -> None:
        for is_last in (False, True):
            make_folder(self._journal.folder)
            try:
                stack.enter_context(self._lock)
            except BusyFolderError as error:
                what = f"another semdis run is writing there (--part {self.share}); wait for it to end"
                raise BusyFolderError(what, place=self.root) from error
            except UsageError as error:  # another share, which was the last one to leave, has just removed the folder
                if is_last or not isinstance(error.__cause__, FileNotFoundError):
                    raise
            else:
                return

    def _leave_no_empty_folders(self, *, is_new: bool) -> None:
        with suppress(OSError):  # not empty: another share has begun
            self._journal.folder.rmdir()
            if is_new:
                self.root.rmdir()

    def begin(self, plan: SetPlan, hashes: Hashes) -> bool:
        """Take up `plan`, where an earlier run of this share left it if there was one; always True.

        Raises `UsageError` if there are shards of another plan, or a share that is at work has another one.
        """
        self._plan = plan
        if self._state.begun is not None and self._state.begun.get("plan_sha256") != plan.sha256:
            self._refuse(self._state.begun)
        if plan.is_nothing and self.base.manifest is not None and self.base.folder == self.root:
            self.finished = self.base.manifest
            with explaining(self.root):
                self._put_away(plan)
            return True
        self._find_done(plan, hashes)
        own = self._journal.own.read_plan()
        if own is None or own.get("plan_sha256") != plan.sha256:
            self._begin_journal(plan.sha256, plan.classes)
        with explaining(self.root):
            self._check_others(plan)
        if outline_of(self._outline_path) != plan.sha256:
            Outline.of(plan).write(self._outline_path)
        if self.remaining:  # of what was there, some is gone
            self._journal.unmark(self.share)
        return True

    def _put_away(self, plan: SetPlan) -> None:
        """Remove what killed runs have left beside a finished set, unless others are at work."""
        self._journal.drop_own()
        drop_dead_parts(self._journal.folder)
        names = [path.name for path in disk.list_names(self.root)]
        if self._journal.names() - {PLAN_FILE} or any(is_temporary(name) or name == LOCK_FILE for name in names):
            with suppress(BusyFolderError):
                self._finish_set(plan)

    def _finish_set(self, plan: SetPlan) -> Manifest:
        return finish_set(self.root, Outline.of(plan), self.provenance, {self.share: self._lock.token})

    def _find_done(self, plan: SetPlan, hashes: Hashes) -> None:
        """Find what is done already. Raises `UsageError` where another one has noted what does not hold any more."""
        entries = find_entries(self._journal, plan.sha256, self.share)
        self._state = replace(self._state, entries=entries)
        self._done = find_done(self._state, self._journal, self.planned, plan.changes, hashes)
        own, names = self._journal.own.path.name, {shard.name for shard in self.planned}
        lines = {done.line for done in self._done.values()}
        lost = [line for line, entry in entries.items() if entry.name in names and entry.name not in self._done]
        if others := sorted({line.file for line in lost if line.file != own}):
            what = f"{others[0]} has shards that are gone, or images of which have changed"
            raise UsageError(f"{what}; {_HOW_ON}", place=self.root)
        if any(line.file == own and line not in lines for line in entries):
            moved = self._journal.keep_own(line for line in lines if line.file == own)
            self._done = {
                name: done._replace(line=moved.get(done.line, done.line)) for name, done in self._done.items()
            }

    def _check_others(self, plan: SetPlan) -> None:
        """Refuse to go on where another one, which began just now, has another plan: each looks once it has begun."""
        over = self._journal.over(None if self.base.manifest is None else self.base.manifest.plan_sha256)
        others: dict[str, dict[str, Any]] = {}
        at_work: list[dict[str, Any]] = []
        for file in self._journal.files():
            begun, has_entries = file.look()
            if begun is None or begun.get("plan_sha256") in {*over, plan.sha256}:
                continue
            others[file.path.name.partition(".")[0]] = begun
            at_work += [begun] if has_entries else []
        at_work += [others[name] for name in held_parts(self._journal.folder, others)]
        if at_work:
            if not self._done:
                self._journal.drop_own()
            self._refuse(at_work[0])

    def _refuse(self, begun: dict[str, Any]) -> NoReturn:
        why = describe_other(self.provenance, begun)
        raise UsageError(f"{why} by another part or run; {_HOW_ON}", place=self.root)

    @property
    def _outline_path(self) -> Path:
        return self._journal.folder / OUTLINE_FILE

    @property
    def planned(self) -> Sequence[PlannedShard]:
        """The shards that are this share's to write, those that are on disk already included."""
        return self.share.deal(self._begun_plan.shards)

    @property
    def num_inputs(self) -> int:
        """Inputs in its shards."""
        return sum(len(shard.images) for shard in self.planned)

    @property
    def num_done(self) -> int:
        """Of these, inputs whose outcome is on disk already."""
        return self.num_inputs - sum(len(shard.images) for shard in self.remaining)

    @property
    def num_failed_before(self) -> int:
        """Inputs that failed in what an earlier run had done."""
        return self._num_failed

    @property
    def _num_failed(self) -> int:
        return sum(done.num_failed for done in self._own_done())

    def _own_done(self) -> list[Done]:
        return [self._done[shard.name] for shard in self.planned if shard.name in self._done]

    def outcome(self) -> ShareOutcome:
        """Return what is on disk of the share."""
        done = self._own_done()
        marked = {*self._journal.done_shares(self._begun_plan.sha256), self.share}
        return ShareOutcome(
            self.share,
            num_ok=sum(one.num_images for one in done) - self._num_failed,
            num_failed=self._num_failed,
            num_shards=sum(one.num_bytes > 0 for one in done),
            num_bytes=sum(one.num_bytes for one in done),
            missing=() if self.finished else tuple(missing_shares(marked)),
            report_path=self._journal.report_path(self.share),
        )

    def check_space(self) -> None:
        """Raise `NoSpaceError` unless the disk can hold what remains to be written."""
        check_free_space(self.root, sum(self._remaining_bytes()))

    def finish(self) -> Manifest | None:
        """Note that the share is done. Where it was the last one, finish the set, and return its manifest.

        None: others are missing, or one that has found the same finishes it. Raises what `LatentSetWriter` raises.
        """
        if self.finished is not None:
            return self.finished
        plan = self._begun_plan
        self._lock.check()
        self._journal.mark_done(self.share, plan.sha256, self._lock.token)
        if missing_shares(self._journal.done_shares(plan.sha256)):
            return None
        self._journal.close()
        try:
            self.finished = self._finish_set(plan)
        except BusyFolderError:
            return None
        return self.finished
