"""A folder of latents being written: planned shards in, a finished and provable set out, resumable at any point.

A finished set can grow. A run on it keeps the latents of unchanged inputs where they are, adds shards for new and
changed ones, and marks those whose inputs are gone; until its manifest is written the set stays what it was.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

from semdis_cli.errors import StoreError
from semdis_cli.files.atomic import (
    check_free_space,
    explain_write_error,
    make_folder,
    move,
    publish,
    sweep_temporaries,
)
from semdis_cli.files.identity import Witness
from semdis_cli.files.lock import FolderLock
from semdis_cli.files.url import Location
from semdis_cli.provenance import LatentLayout, Provenance
from semdis_cli.records import SourceImage
from semdis_cli.store.item_table import ITEMS_FILE, read_items
from semdis_cli.store.items import find_items
from semdis_cli.store.latent_set import LatentSet
from semdis_cli.store.manifest import (
    CHECKSUM_FILE,
    INDEX_FILE,
    MANIFEST_FILE,
    SHARD_FOLDER,
    Manifest,
    checksum_lines,
)
from semdis_cli.store.versions import choose_record
from semdis_cli.store.writing.changes import Hashes
from semdis_cli.store.writing.far_set import FarSet
from semdis_cli.store.writing.finished import NO_BASE, Base, shard_sizes, size_of
from semdis_cli.store.writing.folder import check_latents_folder, list_folder
from semdis_cli.store.writing.growth import Growth
from semdis_cli.store.writing.journal import Journal, JournalEntry, is_base_name
from semdis_cli.store.writing.plan import PlannedShard, SetPlan
from semdis_cli.store.writing.seen import SEEN_FILE, is_just_this, write_seen
from semdis_cli.store.writing.shard_writer import EncodedShard, ShardRows, publish_shard

# Beyond the latents, each image's key is written four times (shard, journal, index, modification times), with figures.
_COPIES_OF_KEY = 4
_FIGURES_BYTES = 1600
_LATER_VERSIONS = "later_versions"
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
        channels: int,
        *,
        mix_versions: bool = False,
        later_versions: Sequence[Provenance] = (),
        far: FarSet | None = None,
    ) -> None:
        self.root = root
        self._far = far
        self._set_root: Location = root if far is None else far.url  # where its shards are
        self.provenance = provenance
        self.later_versions = tuple(later_versions)
        self._mix_versions = mix_versions
        self.channels = channels
        self.base = Base(self._set_root, root)
        self.finished: Manifest | None = None
        self._plan: SetPlan | None = None
        self._lock = FolderLock(root)
        self._journal = Journal(root)
        self._begun: dict[str, Any] | None = None  # the plan of the run that the journal is of
        self._entries: dict[int, JournalEntry] = {}  # what that run published
        self._done: dict[str, int] = {}  # of this run's plan: shard name -> offset of its line in the journal
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
                self._far.check()
                self._far.claim()
                on_failure.callback(self._release)
            try:
                self._find_state()
            except OSError as error:  # files of somebody else, or a disk that has become read-only
                raise explain_write_error(self.root, error) from error
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
        is_same = self._begun is not None and self._begun.get("plan_sha256") == plan.sha256
        if self._entries and not is_same:
            self._adopt()
            return False
        is_done = plan.is_nothing and self.base.manifest is not None and self.base.folder == self.root
        if is_done:
            self._stay(plan)
        elif is_same:
            self._done = self._still_good(plan, hashes)
            if len(self._done) < len(self._entries):
                self._done = self._journal.keep(self._done)  # a line must not vouch for a shard that is written anew
        else:
            self._start(plan)
        self._sweep_shards()
        return True

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
            f"contents were compared; semdis verify {self._set_root} --data says whether the set is whole"
        )

    def check_space(self, layout: LatentLayout) -> None:
        """Raise `NoSpaceError` unless the disk can hold what remains to be written."""
        copies = 3 * self.base.manifest.index.num_bytes if self.base.manifest else 0  # base, next index, times
        shards = [_written_bytes(shard, layout) for shard in self.remaining]
        needed = sum(shards) if self._far is None else _MOST_IN_STAGE * max(shards, default=0)
        check_free_space(self.root, copies + needed)

    def open_shard(self, planned: PlannedShard, layout: LatentLayout) -> ShardRows:
        """Begin to collect one planned shard.

        Raises `NoSpaceError` where the disk has become too full for it; one that is being published is not counted.
        """
        check_free_space(self.root, _written_bytes(planned, layout))
        return ShardRows(planned, layout)

    def publish(self, shard: EncodedShard) -> JournalEntry:
        """Write a shard, and note it. It may be called in a thread of its own, for one shard after the other."""
        self._lock.check()
        entry = publish_shard(shard, self.root / SHARD_FOLDER, self._records[shard.planned.version])
        self.record(entry)
        if self._far is not None and entry.file is not None:
            self._far.take(self.root / SHARD_FOLDER / entry.name)
        return entry

    def record(self, entry: JournalEntry) -> None:
        """Note a shard that is on disk, whoever wrote it. Only now does it count."""
        self._done[entry.name] = self._journal.append(entry.to_json())

    def finish(self) -> Manifest:
        """Write index, checksums and, last, the manifest; a set to which nothing was added stays as it is."""
        self._lock.check()
        plan = self._begun_plan
        growth = Growth(
            base=self.base,
            journal=self._journal,
            places=tuple((shard.images[0].source.key, self._done[shard.name]) for shard in plan.shards),
            failures=plan.failures,
            changes=plan.changes,
        )
        written = self._new_base_folder()
        make_folder(written)
        manifest = growth.write(written, self._records, plan.sha256, self.channels)
        num_rows = manifest.num_ok + manifest.num_failed
        assert num_rows == plan.num_inputs, f"{num_rows} rows for {plan.num_inputs} inputs"
        if self._far is not None:
            self._far.push(written)
        for name in (INDEX_FILE, ITEMS_FILE, SEEN_FILE, CHECKSUM_FILE, MANIFEST_FILE):
            if name != ITEMS_FILE or (written / name).exists():  # a set with a damaged shard gets no table
                self._move(written / name)
        self._journal.remove()
        self.finished = manifest
        return manifest

    def _move(self, path: Path) -> None:
        """Put a file that is safely on disk into its place in the set's folder."""
        move(path, self.root)

    def _leave_no_empty_folder(self) -> None:
        """A run that was refused before it wrote anything leaves no trace."""
        if self._is_new:
            with suppress(OSError):  # not empty: it has begun
                self.root.rmdir()

    def _release(self) -> None:
        """Let others write to the store, unless this run has begun there and not ended."""
        if self._far is not None and not self._journal.folder.is_dir():
            self._far.release()

    @property
    def _records(self) -> tuple[Provenance, ...]:
        return (self.provenance, *self.later_versions)

    @property
    def _begun_plan(self) -> SetPlan:
        assert self._plan is not None, "a set is written after `begin`"
        return self._plan

    def _find_state(self) -> None:
        """Find what the folder holds: `base`, and the plan and the entries of a run that was stopped."""
        for folder in filter(Path.is_dir, (self.root, self.root / SHARD_FOLDER)):
            sweep_temporaries(folder)
        begun, entries = self._journal.read()
        finished = LatentSet.read(self._set_root, self.root) if (self.root / MANIFEST_FILE).exists() else None
        if begun is not None and finished is not None and finished.manifest.plan_sha256 == begun.get("plan_sha256"):
            begun, entries = None, {}  # finished: all that is missing is the journal's removal
            self._journal.remove()
        name = begun.get("base") if begun is not None else None
        if is_base_name(name):
            self.base = self._read_base(self._journal.folder / str(name))
        elif begun is None and finished is not None:
            self.base = Base(self._set_root, self.root, finished.check_index(is_locked=True))
        self._journal.sweep(name if is_base_name(name) else None)
        on_record = [*self.base.manifest.records] if self.base.manifest is not None else []
        if begun is not None and (entries or on_record):
            on_record += _records_of(begun)
        if begun is not None and any(entry.version >= len(_records_of(begun)) for entry in entries.values()):
            raise StoreError(
                f"a shard in the journal is of no known version; {self._journal.remedy()}", place=self.root
            )
        choose = partial(choose_record, self._set_root, mix_versions=self._mix_versions)
        self.provenance = choose(on_record, self.provenance)
        self.later_versions = tuple(choose([*on_record, self.provenance], later) for later in self.later_versions)
        self._send_left(entries.values())
        self.base.check_shards()
        self._begun, self._entries = begun, entries

    def _send_left(self, entries: Iterable[JournalEntry]) -> None:
        """Send the shards to the store that a run has published here, and was stopped."""
        for entry in entries if self._far is not None else ():
            path = self.root / SHARD_FOLDER / entry.name
            if self._far is not None and entry.file is not None and size_of(path) == entry.file.num_bytes:
                self._far.take(path)

    def _read_base(self, folder: Path) -> Base:
        try:
            return Base.read(self._set_root, folder)
        except StoreError as error:
            raise StoreError(
                f"the set as it was cannot be read ({error}); {self._journal.remedy()}", place=folder
            ) from error

    def _adopt(self) -> None:
        """Make what was published under another plan part of `base`, in a folder of the journal."""
        is_present = self._presence()
        present = {entry.name: offset for offset, entry in self._entries.items() if is_present(entry)}
        places = tuple((self._journal.read_entry(offset).rows[0].key, offset) for _, offset in sorted(present.items()))
        growth = Growth(base=self.base, journal=self._journal, places=places)
        folder = self._new_base_folder()
        make_folder(folder)
        assert self._begun is not None, "entries come after a plan"
        growth.write(folder, _records_of(self._begun), str(self._begun.get("plan_sha256")), self.channels)
        self.base = Base.read(self._set_root, folder)
        self._begun, self._entries = None, {}

    def _start(self, plan: SetPlan) -> None:
        """Write the plan. An earlier one under which no shard was finished binds nobody."""
        make_folder(self._journal.folder)  # it is what tells the folder for ours, so it comes first
        make_folder(self.root / SHARD_FOLDER)
        if self.base.manifest is not None and self.base.folder == self.root:
            self.base = self.base.copy_to(self._new_base_folder())
        name = self.base.folder.name if self.base.manifest is not None else None
        begun: dict[str, Any] = {"provenance": self.provenance.to_json(), "plan_sha256": plan.sha256, "base": name}
        if self.later_versions:
            begun[_LATER_VERSIONS] = [record.to_json() for record in self.later_versions]
        self._journal.begin(begun)
        self._journal.sweep(name)

    def _stay(self, plan: SetPlan) -> None:
        """Nothing is to be done; what follows from the set is set right, and the times of its files are renewed."""
        manifest = self.base.manifest
        assert manifest is not None, "an empty set is never done"
        renewed, checksums = [], list(checksum_lines(manifest))
        if _bytes_of(self.root / CHECKSUM_FILE) != b"".join(checksums):
            publish(self.root / CHECKSUM_FILE, checksums)
            renewed.append(CHECKSUM_FILE)
        renewed += self._renew_table()
        is_on_record = plan.changes.is_on_record
        if not is_on_record and not is_just_this(self.root, manifest.index.sha256, plan.changes.seen()):
            write_seen(self.root, manifest.index.sha256, plan.changes.seen())
            renewed.append(SEEN_FILE)
        if self._far is not None:
            self._far.push(self.root, renewed)
        if self._journal.folder.is_dir():
            self._journal.remove()
        self.finished = manifest

    def _renew_table(self) -> list[str]:
        """Write the table of a set that has none, or a damaged one, and return its name.

        None is written of a set with a damaged shard: whoever reads it says what is wrong.
        """
        latents = self.base.latents
        if latents is None or read_items(self.root, latents.manifest, latents.sha256) is not None:
            return []
        with suppress(StoreError):
            publish(self.root / ITEMS_FILE, find_items(latents).table.to_chunks(latents.sha256))
            return [ITEMS_FILE]
        return []

    def _sweep_shards(self) -> None:
        """Remove shards that nothing refers to: of a plan that was given up, or about to be written anew."""
        for path in list_folder(self.root / SHARD_FOLDER):
            if path.name not in self.base.shard_names and path.name not in self._done:
                try:
                    path.unlink()
                except OSError as error:
                    raise explain_write_error(path, error) from error
        if self._far is not None:
            self._far.remove_shards(lambda name: name in self.base.shard_names or name in self._done)

    def _still_good(self, plan: SetPlan, hashes: Hashes) -> dict[str, int]:
        """The shards of an earlier run under the same plan that are there, and whose images are still the same."""
        planned = {shard.name: shard for shard in plan.shards}
        done: dict[str, int] = {}
        num_failed: dict[str, int] = {}
        in_doubt: list[tuple[str, SourceImage, str | None]] = []
        sources = [image.source for shard in plan.shards for image in shard.images]
        witness = Witness.of([*sources, *plan.changes.kept], time.time_ns())
        is_present = self._presence()
        for offset, summary in self._entries.items():
            if is_present(summary) and summary.name in planned:
                entry = self._journal.read_entry(offset)
                done[entry.name] = offset
                num_failed[entry.name] = sum(row.error is not None for row in entry.rows)
                in_doubt += [(entry.name, *doubt) for doubt in _doubts(planned[entry.name], entry, witness)]
        digests = hashes([image for _, image, _ in in_doubt])
        for (name, _, sha256), digest in zip(in_doubt, digests, strict=True):
            if sha256 is None or digest != sha256:
                done.pop(name, None)
        self.num_failed_before += sum(num_failed[name] for name in done)
        return done

    def _presence(self) -> Callable[[JournalEntry], bool]:
        """Return what tells whether the file of an entry is there."""
        size = shard_sizes(self._set_root)
        return lambda entry: entry.file is None or size(entry.name) == entry.file.num_bytes

    def _new_base_folder(self) -> Path:
        return self._journal.folder / f"base-{secrets.token_hex(8)}"


def _records_of(begun: dict[str, Any]) -> list[Provenance]:
    """The settings under which a run has begun, by version. Raises `StoreError` for what no run notes."""
    try:
        return [Provenance.from_json(record) for record in (begun.get("provenance"), *begun.get(_LATER_VERSIONS, ()))]
    except (TypeError, ValueError) as error:
        raise StoreError(f"the plan of the run that was stopped does not say its settings ({error})") from error


def _doubts(planned: PlannedShard, entry: JournalEntry, witness: Witness) -> Iterator[tuple[SourceImage, str | None]]:
    """The images of a shard that may be others than then, with the sha256 of then if they were read."""
    images = {image.source.key: image.source for image in planned.images}
    for row, seen in zip(entry.rows, entry.seen, strict=True):
        if row.key in images and not witness.is_unchanged(images[row.key], seen):
            yield images[row.key], row.source.sha256 if row.source else None


def finished_base(root: Path, provenance: Provenance, *, mix_versions: bool = False) -> Base:
    """The finished set in `root`, not locked, or an empty one. Raises `UsageError` as `LatentSetWriter` does."""
    if not (root / MANIFEST_FILE).exists():
        return NO_BASE
    base = Base.read(root, root)
    if base.manifest is not None:
        choose_record(root, base.manifest.records, provenance, mix_versions=mix_versions)
    return base


def recorded_settings(root: Path) -> Provenance | None:
    """The settings of the set in `root`, finished or begun; None if there is none that can be read."""
    try:
        if (root / MANIFEST_FILE).is_file():
            return Manifest.read(root).provenance
        begun = Journal(root).read_plan()
        return None if begun is None else _records_of(begun)[0]
    except (StoreError, OSError):  # whoever is about to write there says so
        return None


def _bytes_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _written_bytes(shard: PlannedShard, layout: LatentLayout) -> int:
    """Return the bytes of a shard and of all that is noted of its images: the latents exactly, the rest generously."""
    keys = sum(_COPIES_OF_KEY * 6 * len(image.source.key) for image in shard.images)  # 6: a character as \\uXXXX
    return len(shard.images) * (layout.latent_bytes(shard.bucket) + _FIGURES_BYTES) + keys
