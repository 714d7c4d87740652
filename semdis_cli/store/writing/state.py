"""State of a folder of latents when a run takes it up: a finished set, or what stopped runs have left of one."""

import time
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Self

from semdis_cli.errors import StoreError
from semdis_cli.files.atomic import digest_file, explaining, make_folder, move, sweep_temporaries
from semdis_cli.files.claim import list_folder
from semdis_cli.files.growing import GrowingArray
from semdis_cli.files.identity import Witness
from semdis_cli.files.image_list import ImageList
from semdis_cli.files.set_names import (
    CHECKSUM_FILE,
    COLUMN_FOLDER,
    INDEX_FILE,
    LIST_FOLDERS,
    MANIFEST_FILE,
    SEEN_FILE,
    SHARD_FOLDER,
)
from semdis_cli.files.url import Location
from semdis_cli.provenance import Provenance
from semdis_cli.records import FileDigest, SourceImage
from semdis_cli.shares import Share
from semdis_cli.store.columns import check_classes, grown_classes
from semdis_cli.store.latent_set import LatentSet
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.writing.changes import Changes, Hashes
from semdis_cli.store.writing.finished import Base, shard_sizes
from semdis_cli.store.writing.growth import Growth
from semdis_cli.store.writing.journal import Journal, Line, is_base_name
from semdis_cli.store.writing.journal_file import CLASSES, JournalEntry, records_of
from semdis_cli.store.writing.plan import PlannedShard


@dataclass(frozen=True)
class SetState:
    """The set `base` from which a run starts; `begun` is the plan of one that was stopped, and `entries` its shards.

    The entries go by their lines in the journal, and are without their rows. `adopted`: the hash of a plan whose shards
    have become part of `base`.
    """

    base: Base
    begun: dict[str, Any] | None
    entries: dict[Line, JournalEntry]
    adopted: str | None = None

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
    inner = (SHARD_FOLDER, COLUMN_FOLDER, *LIST_FOLDERS)
    for folder in filter(Path.is_dir, (root, *(root / name for name in inner))):
        sweep_temporaries(folder)
    finished = LatentSet.read(place, root) if (root / MANIFEST_FILE).exists() else None
    sha256 = None if finished is None else finished.manifest.plan_sha256
    begun, entries = journal.read(sha256)
    if begun is None and journal.whole.read_plan() is not None:
        journal.remove()  # finished: all that is missing is the journal's removal
    journal.drop_shares(journal.over(sha256))
    base, name = _find_base(root, place, journal, begun, finished)
    journal.sweep(name)
    if finished is not None:
        sweep_lists(root, finished.manifest)
    return SetState(base, begun, entries)


def find_state_of_others(root: Path, place: Location, journal: Journal) -> SetState:
    """Find what the folder holds for a share of a run: other shares may be at work, so nothing is touched.

    `begun` is a plan of which shards are there, `entries` are left to `find_entries`. Raises `StoreError`.
    """
    finished = LatentSet.read(place, root) if (root / MANIFEST_FILE).exists() else None
    over = journal.over(None if finished is None else finished.manifest.plan_sha256)
    plan = journal.whole.read_plan()
    whole = None if plan is None or plan.get("plan_sha256") in over else plan
    base, _ = _find_base(root, place, journal, whole, finished)
    begun = [plan for file in journal.files() for plan, has_more in [file.look()] if plan is not None and has_more]
    return SetState(base, next((plan for plan in begun if plan.get("plan_sha256") not in over), None), {})


def find_entries(journal: Journal, plan_sha256: str, share: Share) -> dict[Line, JournalEntry]:
    """Return the entries that count for a share under a plan, without their rows.

    Those of its own file, of a run that had the whole set, and of shares of another count: those of the same count have
    no shard in common with it.
    """
    entries: dict[Line, JournalEntry] = {}
    for file in journal.files():
        plan = file.read_plan()
        other = Share.named(file.path.name.partition(".")[0])
        if plan is None or plan.get("plan_sha256") != plan_sha256:
            continue
        if file is journal.own or other is None or other.count != share.count:
            found = file.read()[1] if file is journal.own else file.read_whole_lines()
            entries |= {Line(file.path.name, offset): entry for offset, entry in found.items()}
    return entries


def _find_base(
    root: Path, place: Location, journal: Journal, begun: Mapping[str, Any] | None, finished: LatentSet | None
) -> tuple[Base, str | None]:
    """Return the set that a run starts from, and the name of its copy in the journal, if it lies there."""
    name = begun.get("base") if begun is not None else None
    if is_base_name(name):
        return _read_base(place, journal, str(name)), str(name)
    if finished is not None:
        return Base(place, root, finished.check_index(is_locked=True)), None
    return Base(place, root), None


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
    places = tuple((done.first_key, done.line) for _, done in sorted(find_present(state).items()))
    folder = journal.new_base_folder()
    make_folder(folder)
    growth = Growth(state.base, journal, places, classes=_classes_of(state.begun, state.base))
    growth.write(folder, records_of(state.begun), str(state.begun.get("plan_sha256")))
    return SetState(Base.read(root, folder), None, {}, str(state.begun.get("plan_sha256")))


def _classes_of(begun: Mapping[str, Any], base: Base) -> tuple[str, ...]:
    """Return the names of labels with which a run on `base` has begun. Raises `StoreError` for what no run notes."""
    before = base.manifest.columns.classes if base.manifest is not None else ()
    try:
        return grown_classes(before, check_classes(begun.get(CLASSES, [])))
    except ValueError as error:
        raise StoreError(f"the plan of the run that was stopped does not say its classes ({error})") from error


class Done(NamedTuple):
    """A shard of a plan that is on disk: its line in the journal, and what is known of its rows."""

    line: Line
    first_key: str
    num_images: int
    num_failed: int
    num_bytes: int

    @classmethod
    def of(cls, line: Line, entry: JournalEntry) -> Self:
        """Return that of an entry."""
        num_bytes = 0 if entry.file is None else entry.file.num_bytes
        return cls(line, entry.first_key, entry.num_images, entry.num_failed, num_bytes)


def find_done(
    state: SetState, journal: Journal, shards: Sequence[PlannedShard], changes: Changes, hashes: Hashes
) -> dict[str, Done]:
    """Find those of `shards` that an earlier run under the same plan has written, by name.

    They are there, and their images are still the same.
    """
    planned = {shard.name: shard for shard in shards}
    done: dict[str, Done] = {}
    in_doubt, then = ImageList(), GrowingArray("B")  # of each, its shard and what it was made from: a line
    witness = Witness.of_all(chain((shard.sources for shard in shards), [changes.kept]), time.time_ns())
    for line, summary in _present(state):
        if summary.name in planned:
            entry = journal.read_entry(line)
            done[entry.name] = Done.of(line, entry)
            for image, content in _doubts(planned[entry.name], entry, witness):
                in_doubt.append(image)
                then.add_bytes(f"{entry.name} {content or ''}\n".encode())
    for said, digest in zip(then.lines(), hashes(in_doubt), strict=True):
        name, content = said.decode().removesuffix("\n").split(" ", 1)
        if not content or digest != content:
            done.pop(name, None)
    return done


def find_present(state: SetState) -> dict[str, Done]:
    """Find shards of an earlier run that are there, by name, without a look at their images."""
    return {entry.name: Done.of(line, entry) for line, entry in _present(state)}


def _present(state: SetState) -> Iterator[tuple[Line, JournalEntry]]:
    """Yield the entries whose files are there.

    Of two about one shard, which two processes have written by mistake, only the one that the file is of.
    """
    is_present = _presence(state.base.root)
    files: dict[str, set[FileDigest | None]] = defaultdict(set)
    for entry in state.entries.values():
        files[entry.name].add(entry.file)
    for line, entry in state.entries.items():
        is_one = len(files[entry.name]) == 1
        if is_present(entry) and (is_one or digest_file(state.base.root / SHARD_FOLDER / entry.name) == entry.file):
            yield line, entry


def _doubts(planned: PlannedShard, entry: JournalEntry, witness: Witness) -> Iterator[tuple[SourceImage, str | None]]:
    """The images of a shard that may be others than then, with what they were made from if they were read."""
    images = {image.key: image for image in planned.sources}
    for row, seen in entry.rows:
        if row.key in images and not witness.is_unchanged(images[row.key], seen):
            yield images[row.key], row.content


def _presence(root: Location) -> Callable[[JournalEntry], bool]:
    """Return what tells whether the file of an entry is there."""
    size = shard_sizes(root)
    return lambda entry: entry.file is None or size(entry.name) == entry.file.num_bytes


def move_lists(folder: Path, root: Path, manifest: Manifest) -> None:
    """Put lists that are safely on disk in `folder` into their places in the set's folder, the manifest last.

    Those of before that are none of the set's any more are removed then.
    """
    needed = {CHECKSUM_FILE, MANIFEST_FILE, *(piece.name for piece in manifest.index_files.pieces)}
    for name in manifest.list_names:
        # A set with a damaged shard gets no table, one that was copied may lack times.
        if name in needed or (folder / name).exists():
            make_folder((root / name).parent)
            move(folder / name, (root / name).parent)
    sweep_lists(root, manifest)


def sweep_lists(root: Path, manifest: Manifest) -> None:
    """Remove lists that are none of the set's: of one before it, or of a run that was stopped while it finished."""
    names = manifest.list_names
    folders = [name for name in sorted(LIST_FOLDERS) if (root / name).is_dir()]
    found = [f"{folder}/{path.name}" for folder in folders for path in list_folder(root / folder)]
    for name in (*found, *(name for name in (INDEX_FILE, SEEN_FILE) if (root / name).exists())):
        if name not in names:
            with explaining(root / name):
                (root / name).unlink()
    for folder in folders:
        with suppress(OSError):  # not empty
            (root / folder).rmdir()


def sweep_shards(root: Path, names: Container[str]) -> None:
    """Remove shards of other `names`: of a plan that was given up, or about to be written anew."""
    for path in list_folder(root / SHARD_FOLDER):
        if path.name not in names:
            with explaining(path):
                path.unlink()
