"""A folder of latents being written, whoever writes it: planned shards in, files and lines of the journal out."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from semdis_cli.events import ShardPublished
from semdis_cli.files.atomic import make_folder
from semdis_cli.files.lock import FolderLock
from semdis_cli.files.set_names import SHARD_FOLDER
from semdis_cli.files.url import Location
from semdis_cli.provenance import Provenance
from semdis_cli.shares import Share
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.versions import choose_record
from semdis_cli.store.writing.finished import Base
from semdis_cli.store.writing.journal import ADOPTED, Journal
from semdis_cli.store.writing.journal_file import CLASSES, LATER_VERSIONS
from semdis_cli.store.writing.plan import PlannedShard, SetPlan
from semdis_cli.store.writing.shard_writer import EncodedShard, ShardFolder, ShardRows, WrittenShard, written_bytes
from semdis_cli.store.writing.state import Done, SetState


@dataclass(frozen=True)
class ShareOutcome:
    """Outcome of a share: images, shards and their bytes; the shares that are `missing` still.

    `report_path`: where its report is to be, as long as the set is not finished.
    """

    share: Share
    num_ok: int
    num_failed: int
    num_shards: int
    num_bytes: int
    missing: tuple[Share, ...]
    report_path: Path


class SetWriter:
    """Writer of a set or a share of it. `place`: where its shards end up; `lock`: what keeps others from the same.

    `provenance`, `mix_versions`, `later_versions`: as in `LatentSetWriter`.
    """

    def __init__(
        self,
        root: Path,
        provenance: Provenance,
        journal: Journal,
        lock: FolderLock,
        *,
        mix_versions: bool,
        later_versions: Sequence[Provenance] = (),
        place: Location | None = None,
    ) -> None:
        self.root = root
        self._place: Location = root if place is None else place
        self.provenance = provenance
        self.later_versions = tuple(later_versions)
        self._mix_versions = mix_versions
        self.finished: Manifest | None = None
        self._plan: SetPlan | None = None
        self._lock = lock
        self._journal = journal
        self._state = SetState(Base(self._place, root), None, {})
        self._done: dict[str, Done] = {}  # of this run's plan, by the names of shards
        self._headers: dict[str, bytes] = {}  # sha256 of the header of each shard that was written now

    @property
    def base(self) -> Base:
        """The set that the run starts from."""
        return self._state.base

    @property
    def planned(self) -> Sequence[PlannedShard]:
        """The shards that are this run's to write, those that are on disk already included."""
        return self._begun_plan.shards

    @property
    def remaining(self) -> tuple[PlannedShard, ...]:
        """Planned shards that are not on disk yet, in order."""
        return () if self.finished else tuple(shard for shard in self.planned if shard.name not in self._done)

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

    @property
    def shard_folder(self) -> ShardFolder:
        """Return what writes shards in other processes."""
        return ShardFolder(self.root, self._records)

    def open_shard(self, planned: PlannedShard) -> ShardRows:
        """Begin to collect one planned shard, as `ShardFolder` does."""
        return self.shard_folder.open_shard(planned)

    def publish(self, shard: EncodedShard) -> ShardPublished | None:
        """Write a shard, and note it; returns what to tell, nothing of a shard of failures alone."""
        written = self.write(shard)
        self.record(written)
        return written.published

    def check(self) -> None:
        """Raise `UsageError` if another run took the folder: to be looked at for each shard."""
        self._lock.check()

    def write(self, shard: EncodedShard) -> WrittenShard:
        """Write a shard. It may be called in several threads at once."""
        self.check()
        return self.shard_folder.write(shard)

    def record(self, shard: WrittenShard) -> None:
        """Note a shard that is on disk, whoever wrote it. Only now does it count. For one shard after the other."""
        self._lock.check()
        line = self._journal.append(shard.content)
        num_images, num_bytes = shard.num_ok + shard.num_failed, 0 if shard.file is None else shard.file.num_bytes
        self._done[shard.name] = Done(line, shard.first_key, num_images, shard.num_failed, num_bytes)
        self._headers[shard.name] = shard.header_sha256

    def outcome(self) -> ShareOutcome | None:
        """Return what the share of a run has come to; None where that writes the whole set."""
        return None

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

    def _begin_journal(self, plan_sha256: str, classes: tuple[str, ...]) -> None:
        """Write the plan as the first line of the run's file of the journal."""
        make_folder(self._journal.folder)  # it is what tells the folder for ours, so it comes first
        make_folder(self.root / SHARD_FOLDER)
        is_in_journal = self.base.manifest is not None and self.base.folder != self.root
        name = self.base.folder.name if is_in_journal else None
        begun: dict[str, Any] = {"provenance": self.provenance.to_json(), "plan_sha256": plan_sha256, "base": name}
        if self.later_versions:
            begun[LATER_VERSIONS] = [record.to_json() for record in self.later_versions]
        if classes:
            begun[CLASSES] = classes
        if self._state.adopted is not None:
            begun[ADOPTED] = self._state.adopted
        self._journal.begin(begun)

    def _remaining_bytes(self) -> list[int]:
        """Return the bytes that each remaining shard is going to have."""
        return [written_bytes(shard, self.provenance.layout) for shard in self.remaining]
