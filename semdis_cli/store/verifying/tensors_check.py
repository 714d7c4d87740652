"""Columns of tensors, held against what the manifest says of them, and against the index."""

import hashlib
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from semdis_cli.errors import StoreError
from semdis_cli.events import Planning, Problem
from semdis_cli.files.links import describe_absent
from semdis_cli.files.set_names import COLUMN_FOLDER, MANIFEST_FILE
from semdis_cli.files.url import Location
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.shard_header import open_regular
from semdis_cli.store.tensors.file import PLACES_A_SHARD, Places, open_tables, place_of
from semdis_cli.store.tensors.kinds import TensorKind
from semdis_cli.store.tensors.listed import TensorFile, tensor_files
from semdis_cli.store.verifying.index_table import IndexTable
from semdis_cli.threads import WatchedThreads

_READ_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class _Outcome:
    """Outcome of one file: its places if they can be read, why not, and the bytes that were read."""

    places: Places | None
    problems: tuple[Problem, ...]
    num_bytes: int = 0


def check_tensors(
    root: Location,
    manifest: Manifest,
    index: IndexTable | None,
    choose: Callable[[Sequence[str]], Collection[str]],
    *,
    num_workers: int,
) -> Generator[Problem | Planning, None, int]:
    """Look at each file of each column; returns the bytes that were read.

    `index`: None where it cannot be used. `choose`: of the names of all files, those of which every byte is read, by
    `num_workers` threads.
    """
    files = list(tensor_files(manifest.tensors))
    chosen = choose([file.name for _, _, file in files])
    found: dict[str, list[Places | None]] = {name: [] for name in manifest.tensors}
    num_bytes = 0
    with WatchedThreads(num_workers if chosen else 1, "semdis-tensors") as pool:
        outcomes = pool.each(partial(_check, root, chosen), files)
        for number, ((name, _, _), outcome) in enumerate(zip(files, outcomes, strict=True), start=1):
            yield Planning("reading tensors", number, len(files))
            yield from outcome.problems
            found[name].append(outcome.places)
            num_bytes += outcome.num_bytes
    served = _served(manifest, index) if index is not None and files else None
    for name, tables in found.items():
        places = [table for table in tables if table is not None]
        if len(places) == len(tables):
            yield from _compare(name, manifest, np.sort(np.concatenate(places)), served)
    return num_bytes


def _check(root: Location, chosen: Collection[str], listed: tuple[str, TensorKind, TensorFile]) -> _Outcome:
    _, kind, entry = listed
    path, name = root / COLUMN_FOLDER / entry.name, f"{COLUMN_FOLDER}/{entry.name}"
    try:
        if not path.is_file():
            return _Outcome(None, (Problem(name, "missing", describe_absent(path) or "missing"),))
        with open_regular(path) as file:
            places, _ = open_tables(file, kind, entry)
            if entry.name not in chosen:
                return _Outcome(places, (), file.tell())
            file.seek(0)
            digest, num_bytes = hashlib.sha256(), 0
            while data := file.read(_READ_AT_ONCE):
                digest.update(data)
                num_bytes += len(data)
    except (OSError, StoreError) as error:
        what = error.reason if isinstance(error, StoreError) else f"cannot be read ({error.strerror or error})"
        return _Outcome(None, (Problem(name, "tensors", what),))
    if digest.hexdigest() == entry.file.sha256:
        return _Outcome(places, (), num_bytes)
    what = "its bytes do not match the sha256 in the manifest; damaged or edited"
    return _Outcome(places, (Problem(name, "data", what),), num_bytes)


def _served(manifest: Manifest, index: IndexTable) -> Places:
    """Return the places of the latents that are to be used, rising."""
    rows = [(shard.name, index.rows_of(shard.name).served_rows()) for shard in manifest.shards]
    found = [place_of(name, 0) + np.array(numbers, dtype=np.int64) for name, numbers in rows]
    return np.sort(np.concatenate([np.zeros(0, np.int64), *found]))


def _compare(name: str, manifest: Manifest, places: Places, served: Places | None) -> Generator[Problem, None, None]:
    """Hold the places of a column, which rise, against the shards and the index."""
    if (places[1:] == places[:-1]).any():
        yield Problem(MANIFEST_FILE, "tensors", f"the column {name!r} has two tensors of one image")
    num_rows = {int(shard.name[:8]): shard.num_images for shard in manifest.shards}
    shards, rows = np.divmod(places, PLACES_A_SHARD)
    known, of_known = np.unique(shards, return_inverse=True)
    limits = np.array([num_rows.get(shard, 0) for shard in known.tolist()], dtype=np.int64)
    if beyond := int((rows >= limits[of_known]).sum()):
        yield Problem(
            MANIFEST_FILE, "tensors", f"the column {name} has {beyond:,} tensors of latents that are not here"
        )
    if served is not None:
        said, has = manifest.tensors[name].num_images, int(np.isin(served, places).sum())
        if said != has:
            what = f"{said:,} images with the column {name!r}, but its files have {has:,}"
            yield Problem(MANIFEST_FILE, "tensors", what)
