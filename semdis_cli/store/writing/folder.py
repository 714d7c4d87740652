"""Rules for a folder of latents: which files may lie in it, and beside it."""

from collections.abc import Sequence
from pathlib import Path

from semdis_cli.errors import UsageError
from semdis_cli.files.claim import check_outside_sets, list_folder
from semdis_cli.files.links import describe_absent
from semdis_cli.files.set_names import INDEX_FILE, JOURNAL_FOLDER, MANIFEST_FILE, SET_FILES, SET_FOLDERS, SHARD_FOLDER
from semdis_cli.store.checks import is_shard_name
from semdis_cli.store.writing.journal import is_base_name


def check_latents_folder(root: Path) -> None:
    """Refuse a folder that holds something else than latents of ours, before any work. Raises `UsageError`.

    Ours is a folder with a manifest or a journal, and in it only what has our names, and what `lies_beside`. Files may
    be links: they are replaced, never written through. Folders may not.
    """
    check_outside_sets(root)
    if root.exists() and not root.is_dir():
        raise UsageError("cannot be written (not a folder)", place=root)
    for name in sorted(SET_FOLDERS):
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


def _is_own(path: Path) -> bool:
    if path.name in SET_FOLDERS:
        return path.is_dir()
    return path.name in SET_FILES and path.is_file()


def _is_of_journal(path: Path) -> bool:
    if is_base_name(path.name):
        return path.is_dir() and not path.is_symlink()
    return path.suffix == ".jsonl" and path.is_file() and not path.is_symlink()  # it is added to in place
