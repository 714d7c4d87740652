"""What a folder of latents holds when a run takes it up: a finished set, or what stopped runs have left of one."""

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semdis_cli.errors import StoreError
from semdis_cli.files.atomic import explain_write_error, move, sweep_temporaries
from semdis_cli.store.item_table import ITEMS_FILE
from semdis_cli.store.latent_set import LatentSet
from semdis_cli.store.manifest import CHECKSUM_FILE, INDEX_FILE, MANIFEST_FILE, SHARD_FOLDER
from semdis_cli.store.writing.finished import Base
from semdis_cli.store.writing.folder import list_folder
from semdis_cli.store.writing.journal import Journal, JournalEntry, is_base_name
from semdis_cli.store.writing.seen import SEEN_FILE


@dataclass(frozen=True)
class SetState:
    """The set `base` from which a run starts; `begun` is the plan of one that was stopped, and `entries` its shards.

    The entries go by their offsets in the journal, and are without their rows.
    """

    base: Base
    begun: dict[str, Any] | None
    entries: dict[int, JournalEntry]


def find_state(root: Path, journal: Journal) -> SetState:
    """Find what the folder holds, under its lock; temporary files of killed runs are swept. Raises `StoreError`."""
    for folder in filter(Path.is_dir, (root, root / SHARD_FOLDER)):
        sweep_temporaries(folder)
    begun, entries = journal.read()
    finished = LatentSet.read(root) if (root / MANIFEST_FILE).exists() else None
    if begun is not None and finished is not None and finished.manifest.plan_sha256 == begun.get("plan_sha256"):
        begun, entries = None, {}  # finished: all that is missing is the journal's removal
        journal.remove()
    base, name = Base(root), begun.get("base") if begun is not None else None
    if is_base_name(name):
        base = _read_base(root, journal, str(name))
    elif begun is None and finished is not None:
        base = Base(root, finished.check_index(is_locked=True))
    journal.sweep(name if is_base_name(name) else None)
    return SetState(base, begun, entries)


def _read_base(root: Path, journal: Journal, name: str) -> Base:
    folder = journal.folder / name
    try:
        return Base.read(root, folder)
    except StoreError as error:
        raise StoreError(f"the set as it was cannot be read ({error}); {journal.remedy()}", place=folder) from error


def move_lists(folder: Path, root: Path) -> None:
    """Put lists that are safely on disk in `folder` into their places in the set's folder, the manifest last."""
    may_be_absent = {
        ITEMS_FILE,
        SEEN_FILE,
    }  # a set with a damaged shard gets no table, one that was copied may lack times
    for name in (INDEX_FILE, ITEMS_FILE, SEEN_FILE, CHECKSUM_FILE, MANIFEST_FILE):
        if name not in may_be_absent or (folder / name).exists():
            move(folder / name, root)


def sweep_shards(root: Path, names: Container[str]) -> None:
    """Remove shards of other `names`: of a plan that was given up, or about to be written anew."""
    for path in list_folder(root / SHARD_FOLDER):
        if path.name not in names:
            try:
                path.unlink()
            except OSError as error:
                raise explain_write_error(path, error) from error
