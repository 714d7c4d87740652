"""State of a folder of latents when a run takes it up: a finished set, or what stopped runs have left of one."""

import time
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semdis_cli.errors import StoreError
from semdis_cli.files.atomic import explaining, make_folder, move, sweep_temporaries
from semdis_cli.files.claim import list_folder
from semdis_cli.files.identity import Witness
from semdis_cli.files.set_names import COLUMN_FOLDER, ITEMS_FILE, MANIFEST_FILE, SEEN_FILE, SET_LISTS, SHARD_FOLDER
from semdis_cli.files.url import Location
from semdis_cli.provenance import Provenance
from semdis_cli.records import SourceImage
from semdis_cli.store.columns import check_classes, grown_classes
from semdis_cli.store.latent_set import LatentSet
from semdis_cli.store.writing.changes import Hashes
from semdis_cli.store.writing.finished import Base, shard_sizes
from semdis_cli.store.writing.growth import Growth
from semdis_cli.store.writing.journal import CLASSES, Journal, JournalEntry, is_base_name, records_of
from semdis_cli.store.writing.plan import PlannedShard, SetPlan


@dataclass(frozen=True)
class SetState:
    """The set `base` from which a run starts; `begun` is the plan of one that was stopped, and `entries` its shards.

    The entries go by their offsets in the journal, and are without their rows.
    """

    base: Base
    begun: dict[str, Any] | None
    entries: dict[int, JournalEntry]

    def records(self, journal: Journal) -> list[Provenance]:
        """Return the settings on record, those of the set first. Raises `StoreError` for what no run notes."""
        base = [] if self.base.manifest is None else list(self.base.manifest.records)
        # A plan under which nothing was done binds nobody.
        begun = records_of(self.begun) if self.begun is not None and (base or self.entries) else []
        if any(entry.version >= len(begun) for entry in self.entries.values()):
            raise StoreError(f"a shard in the journal is of no known version; {journal.remedy()}", place=self.base.root)
        return base + begun


def find_state(root: Path, place: Location, journal: Journal) -> SetState:
    """Find what the folder holds, under its lock; temporary files of killed runs are swept. Raises `StoreError`.

    `place`: where its shards are.
    """
    for folder in filter(Path.is_dir, (root, root / SHARD_FOLDER, root / COLUMN_FOLDER)):
        sweep_temporaries(folder)
    begun, entries = journal.read()
    finished = LatentSet.read(place, root) if (root / MANIFEST_FILE).exists() else None
    if begun is not None and finished is not None and finished.manifest.plan_sha256 == begun.get("plan_sha256"):
        begun, entries = None, {}  # finished: all that is missing is the journal's removal
        journal.remove()
    base, name = Base(place, root), begun.get("base") if begun is not None else None
    if is_base_name(name):
        base = _read_base(place, journal, str(name))
    elif begun is None and finished is not None:
        base = Base(place, root, finished.check_index(is_locked=True))
    journal.sweep(name if is_base_name(name) else None)
    return SetState(base, begun, entries)


def _read_base(root: Location, journal: Journal, name: str) -> Base:
    folder = journal.folder / name
    try:
        return Base.read(root, folder)
    except StoreError as error:
        raise StoreError(f"the set as it was cannot be read ({error}); {journal.remedy()}", place=folder) from error


def adopt(state: SetState, journal: Journal) -> SetState:
    """Make what was published under another plan part of the base, in a folder of the journal."""
    assert state.begun is not None, "entries come after a plan"
    root = state.base.root
    is_present = _presence(root)
    present = {entry.name: offset for offset, entry in state.entries.items() if is_present(entry)}
    places = tuple((journal.read_entry(offset).first_key, offset) for _, offset in sorted(present.items()))
    folder = journal.new_base_folder()
    make_folder(folder)
    growth = Growth(state.base, journal, places, classes=_classes_of(state.begun, state.base))
    growth.write(folder, records_of(state.begun), str(state.begun.get("plan_sha256")))
    return SetState(Base.read(root, folder), None, {})


def _classes_of(begun: Mapping[str, Any], base: Base) -> tuple[str, ...]:
    """Return the names of labels with which a run on `base` has begun. Raises `StoreError` for what no run notes."""
    before = base.manifest.columns.classes if base.manifest is not None else ()
    try:
        return grown_classes(before, check_classes(begun.get(CLASSES, [])))
    except ValueError as error:
        raise StoreError(f"the plan of the run that was stopped does not say its classes ({error})") from error


def find_done(state: SetState, journal: Journal, plan: SetPlan, hashes: Hashes) -> tuple[dict[str, int], int]:
    """Find shards of an earlier run under the same plan that are there, and whose images are still the same.

    Returns the offset of each in the journal, by name, and the number of images that failed in them.
    """
    planned = {shard.name: shard for shard in plan.shards}
    done: dict[str, int] = {}
    num_failed: dict[str, int] = {}
    in_doubt: list[tuple[str, SourceImage, str | None]] = []
    witness = Witness.of_all([*(shard.sources for shard in plan.shards), plan.changes.kept], time.time_ns())
    is_present = _presence(state.base.root)
    for offset, summary in state.entries.items():
        if is_present(summary) and summary.name in planned:
            entry = journal.read_entry(offset)
            done[entry.name] = offset
            num_failed[entry.name] = sum(row.error is not None for row, _ in entry.rows)
            in_doubt += [(entry.name, *doubt) for doubt in _doubts(planned[entry.name], entry, witness)]
    digests = hashes([image for _, image, _ in in_doubt])
    for (name, _, sha256), digest in zip(in_doubt, digests, strict=True):
        if sha256 is None or digest != sha256:
            done.pop(name, None)
    return done, sum(num_failed[name] for name in done)


def _doubts(planned: PlannedShard, entry: JournalEntry, witness: Witness) -> Iterator[tuple[SourceImage, str | None]]:
    """The images of a shard that may be others than then, with what they were made from if they were read."""
    images = {image.source.key: image.source for image in planned.images}
    for row, seen in entry.rows:
        if row.key in images and not witness.is_unchanged(images[row.key], seen):
            yield images[row.key], row.content


def _presence(root: Location) -> Callable[[JournalEntry], bool]:
    """Return what tells whether the file of an entry is there."""
    size = shard_sizes(root)
    return lambda entry: entry.file is None or size(entry.name) == entry.file.num_bytes


def move_lists(folder: Path, root: Path) -> None:
    """Put lists that are safely on disk in `folder` into their places in the set's folder, the manifest last."""
    for name in SET_LISTS:
        # A set with a damaged shard gets no table, one that was copied may lack times.
        if name not in {ITEMS_FILE, SEEN_FILE} or (folder / name).exists():
            move(folder / name, root)


def sweep_shards(root: Path, names: Container[str]) -> None:
    """Remove shards of other `names`: of a plan that was given up, or about to be written anew."""
    for path in list_folder(root / SHARD_FOLDER):
        if path.name not in names:
            with explaining(path):
                path.unlink()
