"""Rules for a folder of latents: which files may lie in it, and beside it."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from semdis_cli.errors import UsageError
from semdis_cli.files.links import describe_absent
from semdis_cli.files.system_names import may_lie_beside
from semdis_cli.files.url import Location
from semdis_cli.store.checks import is_shard_name
from semdis_cli.store.item_table import ITEMS_FILE
from semdis_cli.store.manifest import (
    CHECKSUM_FILE,
    INDEX_FILE,
    JOURNAL_FOLDER,
    MANIFEST_FILE,
    REPORT_FILE,
    SHARD_FOLDER,
)
from semdis_cli.store.writing.journal import is_base_name
from semdis_cli.store.writing.seen import SEEN_FILE

_FILES = frozenset({MANIFEST_FILE, INDEX_FILE, CHECKSUM_FILE, REPORT_FILE, SEEN_FILE, ITEMS_FILE})
_FOLDERS = frozenset({SHARD_FOLDER, JOURNAL_FOLDER})


def check_latents_folder(root: Path) -> None:
    """Refuse a folder that holds something else than latents of ours, before any work. Raises `UsageError`.

    Ours is a folder with a manifest or a journal, and in it only what has our names, and what `lies_beside`. Files may
    be links: they are replaced, never written through. Folders may not.
    """
    check_outside_sets(root)
    if root.exists() and not root.is_dir():
        raise UsageError("cannot be written (not a folder)", place=root)
    for name in sorted(_FOLDERS):
        if (root / name).is_symlink():
            raise UsageError(
                "a link, through which would be written; give -o a copy of the set (cp -rL)", place=root / name
            )
    found = list_folder(root)  # first: a run that begins or ends there meanwhile makes a set of what is listed
    is_ours = (root / JOURNAL_FOLDER).is_dir() or (root / MANIFEST_FILE).is_file()  # the first goes once the second is
    strangers = [path for path in found if not (is_ours and _is_own(path))]
    if not strangers:
        shards = list_folder(root / SHARD_FOLDER)
        strangers += [path for path in shards if not (is_shard_name(path.name) and path.is_file())]
        strangers += [path for path in list_folder(root / JOURNAL_FOLDER) if not _is_of_journal(path)]
    strangers = [path for path in strangers if path.is_symlink() or path.exists()]  # that run removes files, too
    if strangers:
        raise UsageError(_describe_strangers(root, strangers, is_ours=is_ours))


def _describe_strangers(root: Path, strangers: Sequence[Path], *, is_ours: bool) -> str:
    """Say why a folder that holds `strangers` is none to write latents to."""
    for path in sorted(strangers):
        if absent := describe_absent(path):
            return f"{path}: {absent}"
    if not is_ours and (root / SHARD_FOLDER).is_dir() and (root / INDEX_FILE).is_file():
        return (
            f"{root}: parts of a set without its {MANIFEST_FILE}, as of a download that was cut short: semdis verify "
            f"{root} says what is there; complete it, or give another -o"
        )
    return f"{root}: holds other files ({min(strangers).name}, ...); give -o an empty or new folder"


def check_outside_sets(output: Path) -> None:
    """Refuse a folder to write that lies in a set of latents: the set would be none any more. Raises `UsageError`.

    So is one that cannot be: a name that is too long, links in a circle.
    """
    try:
        with suppress(FileNotFoundError):
            output.stat()
        parents = output.resolve().parents
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle behind a folder that is not there
        reason = error.strerror if isinstance(error, OSError) else "a link that leads to itself?"
        raise UsageError(f"cannot be written ({reason})", place=output) from error
    for folder in filter(_is_set, parents):
        raise UsageError(f"lies in {folder}, a set of latents; give -o a folder of its own", place=output)


def list_folder(folder: Path) -> list[Path]:
    """List what is in `folder`, if it is one, except what `lies_beside`. Raises `UsageError` where it cannot."""
    try:
        return [path for path in folder.iterdir() if not lies_beside(path)] if folder.is_dir() else []
    except FileNotFoundError:  # another run has just removed it
        return []
    except OSError as error:
        raise UsageError(f"cannot be looked into ({error.strerror or error})", place=folder) from error


def lies_beside(path: Location) -> bool:
    """Tell whether `path` may lie in any folder of ours: hidden, or put there by a system, NAS or hub, or a README."""
    is_hidden = path.name.startswith(".")
    return is_hidden or (may_lie_beside(path.name) and may_lie_beside(path.name, is_folder=path.is_dir()))


def _is_set(folder: Path) -> bool:
    """Tell whether `folder` holds a set of ours, finished or begun. Names alone tell: a damaged one is one too."""
    try:
        is_finished = (folder / MANIFEST_FILE).is_file() and (folder / INDEX_FILE).is_file()
        return is_finished or ((folder / JOURNAL_FOLDER).is_dir() and (folder / SHARD_FOLDER).is_dir())
    except OSError:  # what we may not look into
        return False


def _is_own(path: Path) -> bool:
    if path.name in _FOLDERS:
        return path.is_dir()
    return path.name in _FILES and path.is_file()


def _is_of_journal(path: Path) -> bool:
    if is_base_name(path.name):
        return path.is_dir() and not path.is_symlink()
    return path.suffix == ".jsonl" and path.is_file() and not path.is_symlink()  # it is added to in place
