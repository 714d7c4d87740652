"""Output folders: what may lie in them, and one of images, claimed by a marker file that says what made them."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from semdis_cli.errors import StoreError, UsageError
from semdis_cli.files.atomic import make_folder, publish, sweep_temporaries
from semdis_cli.files.json_text import parse_json, strict_json
from semdis_cli.files.lock import FolderLock
from semdis_cli.files.set_names import is_set
from semdis_cli.files.system_names import may_lie_beside
from semdis_cli.files.url import Location
from semdis_cli.provenance import find_differences

_LATENTS_SHA256 = "latents_sha256"  # in the settings of what is made of latents: which ones
PLAN_SHA256 = "plan_sha256"  # in the settings of what is made of images: which ones, and how
_OF_IMAGES = (PLAN_SHA256, "images")
_OF_LATENTS = (_LATENTS_SHA256, "num_images", "raw_latents", "classes")  # what changes with them


@contextmanager
def claimed_folder(
    folder: Path, marker: str, settings: dict[str, Any], names: Iterable[PurePosixPath], flag: str = "-o"
) -> Iterator[None]:
    """Make `folder` ours while inside, with `settings` recorded in the file `marker`; an earlier equal run may go on.

    Temporary files that it left beside `names` (of the files to come, relative) are swept. Raises `UsageError` if the
    folder holds anything else, so that nothing of anybody's is overwritten, or if another run is at work in it.
    `flag`: the option that names the folder.
    """
    check_image_folder(folder, marker, flag)
    make_folder(folder)
    path = folder / marker
    with FolderLock(folder):
        if not path.exists():
            publish(path, [strict_json(settings, sort_keys=True, indent=1).encode() + b"\n"])
        _check_settings(path, settings, flag)
        sweep_folders(folder, names)
        yield


def sweep_folders(folder: Path, names: Iterable[PurePosixPath]) -> None:
    """Remove the temporary files of a killed process from `folder`, which is ours, and beside `names` in it."""
    for inner in {folder, *(folder / parent for parent in {name.parent for name in names})}:
        if _is_folder_within(inner, folder.resolve()):
            sweep_temporaries(inner)


def _is_folder_within(path: Path, root: Path) -> bool:
    """Tell whether `path` is a folder in `root` or below; where a link leads out of it, it is not."""
    try:
        return path.is_dir() and path.resolve().is_relative_to(root)
    except OSError:  # a name that no folder can have
        return False


def check_image_folder(folder: Path, marker: str, flag: str = "-o") -> None:
    """Refuse a folder that holds something and was not claimed before, ahead of any work. Raises `UsageError`.

    What `lies_beside` does not count. One that lies in a set of latents is refused too.
    """
    check_outside_sets(folder, flag)
    if folder.exists() and not folder.is_dir():
        raise UsageError("cannot be written (not a folder)", place=folder)
    is_taken = folder.is_dir() and bool(list_folder(folder))
    if is_taken and not (folder / marker).is_file():
        what = f"not empty, and not from an earlier run of this command; give {flag} a new folder"
        raise UsageError(what, place=folder)


def check_outside_sets(output: Path, flag: str = "-o") -> None:
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
    for folder in filter(is_set, parents):
        raise UsageError(f"lies in {folder}, a set of latents; give {flag} a folder of its own", place=output)


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


def claimed_settings(folder: Path, marker: str) -> dict[str, Any]:
    """The settings on record in a folder that was claimed; none if there are none that can be read."""
    try:
        before = parse_json((folder / marker).read_bytes())
    except (OSError, ValueError):  # whoever claims the folder says so
        return {}
    return before if isinstance(before, dict) else {}


def _check_settings(path: Path, settings: dict[str, Any], flag: str) -> None:
    try:
        before = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot be read ({error}); give {flag} a new folder", place=path) from error
    reasons = _describe_changes(before, json.loads(strict_json(settings)))
    if reasons:
        raise UsageError(f"{', and '.join(reasons)}; give {flag} a new folder", place=path.parent)


def _describe_changes(before: Any, now: dict[str, Any]) -> list[str]:
    """Why a folder that was made with the settings `before` is none for those of `now`."""
    if isinstance(before, dict) and (_kind_of(before), _kind_of(now)) in {("images", "latents"), ("latents", "images")}:
        return [f"made of {_kind_of(before)}, not of {_kind_of(now)}"]
    reasons = []
    if isinstance(before, dict) and before.get(_LATENTS_SHA256) != now.get(_LATENTS_SHA256):
        reasons.append("the latents have changed since, or are others")
        before, now = ({**record, **dict.fromkeys(_OF_LATENTS)} for record in (before, now))
    are_other_inputs = isinstance(before, dict) and any(before.get(name) != now.get(name) for name in _OF_IMAGES)
    if are_other_inputs:  # or the same ones with other settings, which decide the hash too: then these are to be told
        before, now = ({**record, **dict.fromkeys(_OF_IMAGES)} for record in (before, now))
    differences = list(map(str, find_differences(before, now)))
    if differences:
        reasons.append(f"made with other settings ({'; '.join(differences)})")
    elif are_other_inputs:
        reasons.append("made from other images, or some have changed since")
    return reasons


def _kind_of(settings: dict[str, Any]) -> str | None:
    """Return what a folder with these settings was made of, where they say it."""
    return "images" if PLAN_SHA256 in settings else "latents" if _LATENTS_SHA256 in settings else None
