"""Which files a set has: all that its lists name, with their sizes, and no others."""

import stat
from collections.abc import Collection, Generator, Iterator
from operator import itemgetter

from semdis_cli.errors import StoreError
from semdis_cli.events import Problem
from semdis_cli.files.atomic import is_temporary
from semdis_cli.files.claim import lies_beside
from semdis_cli.files.links import describe_absent, or_pointer
from semdis_cli.files.set_names import (
    COLUMN_FOLDER,
    INDEX_FOLDER,
    JOURNAL_FOLDER,
    LIST_FOLDERS,
    SET_FILES,
    SET_FOLDERS,
    SHARD_FOLDER,
)
from semdis_cli.files.url import Location
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.set_index import is_piece_name
from semdis_cli.store.shard_header import ShardHeader, read_shard_header
from semdis_cli.store.tensors.listed import column_of, tensor_files
from semdis_cli.store.verifying.index_table import compare_rows
from semdis_cli.store.verifying.shard_check import ShardTarget
from semdis_cli.wording import count

_OWN_NAMES = SET_FILES | SET_FOLDERS


def find_present(targets: Collection[ShardTarget]) -> Generator[Problem, None, list[ShardTarget]]:
    """The shards that are there with their sizes, as files or links to some; each of the others is a problem."""
    present = []
    for target in targets:
        what = _absence(target)
        if what is None:
            present.append(target)
        else:
            yield Problem(target.name, "missing", what)
    return present


def find_surplus(root: Location, targets: Collection[ShardTarget], manifest: Manifest | None) -> Iterator[Problem]:
    """Files in the set that are none of `targets` nor one of its lists or tensors, each with what it seems to be.

    Without a manifest nothing says which tensors are the set's: none is surplus.
    """
    names = {target.name for target in targets} | _OWN_NAMES
    places = [(path.name, path) for path in _list(root)]
    for folder in (SHARD_FOLDER, COLUMN_FOLDER, *sorted(LIST_FOLDERS)):
        places += [(f"{folder}/{path.name}", path) for path in _list(root / folder)]
    if manifest is None:
        names |= {name for name, path in places if _is_called_like_tensors(path) or _is_called_like_a_list(path)}
    else:
        names |= {*manifest.list_names}
        names |= {f"{COLUMN_FOLDER}/{file.name}" for _, _, file in tensor_files(manifest.tensors)}
    for name, path in sorted(places, key=itemgetter(0)):
        if name not in names and (is_temporary(path.name) or not lies_beside(path)):
            yield Problem(name, "surplus", f"no part of the set; {_guess(path, targets)}")


def count_links(root: Location, targets: Collection[ShardTarget]) -> int:
    """The files of the set that are links; a folder that is one counts as one."""
    own = [root / name for name in sorted(_OWN_NAMES - {JOURNAL_FOLDER})]
    return sum(path.is_symlink() for path in (*own, *(target.path for target in targets)))


def _absence(target: ShardTarget) -> str | None:
    """Why the file of `target` cannot be the one that it ought to be, from its size alone."""
    try:
        status = target.path.stat()
    except FileNotFoundError:
        return describe_absent(target.path) or "missing"
    except OSError as error:
        return f"cannot be looked at ({error.strerror})"
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    if target.expected is not None and status.st_size != target.expected.num_bytes:
        size = count(status.st_size, "byte")
        what = f"{size}, but the manifest says {target.expected.num_bytes:,}; truncated or replaced"
        return or_pointer(target.path, what)
    return None


def _guess(path: Location, targets: Collection[ShardTarget]) -> str:
    """Guess what a file that does not belong there is."""
    if is_temporary(path.name):
        return "a temporary file of a run that was stopped: the next semdis encode into the folder removes it"
    if _is_called_like_a_list(path) or _is_called_like_tensors(path):
        what = "tensors" if path.parent.name == COLUMN_FOLDER else "rows"
        return f"{what} of a run that was stopped: the next semdis attach or encode into the folder removes them"
    try:
        header = read_shard_header(path)
    except StoreError:
        return "not a file of semdis"
    for target in targets:
        if _is_same(path, header, target):
            is_there = target.path.is_file()
            return f"a copy of {target.name}" if is_there else f"seems to be {target.name} under another name"
    first = header.records[0].key
    return f"a shard of {len(header.records):,} latents that the set does not list, the first of {first!r:.80}"


def _is_called_like_tensors(path: Location) -> bool:
    return path.parent.name == COLUMN_FOLDER and column_of(path.name) is not None


def _is_called_like_a_list(path: Location) -> bool:
    return path.parent.name in LIST_FOLDERS and is_piece_name(f"{INDEX_FOLDER}/{path.name}")


def _is_same(path: Location, header: ShardHeader, target: ShardTarget) -> bool:
    """Tell whether the file at `path` agrees with all that is known of `target` but its bytes."""
    if target.expected is None or path.stat().st_size != target.expected.num_bytes:
        return False
    rows = target.named_rows()
    return bool(rows.numbers) and target.num_images == len(header.records) and not any(compare_rows(header, rows))


def _list(folder: Location) -> list[Location]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
