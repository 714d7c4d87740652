"""Hold the index of a set against the images of today, without reading these."""

import time
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import chain, groupby
from operator import itemgetter

from semdis_cli.events import Failure, Problem
from semdis_cli.files.identity import Witness
from semdis_cli.files.url import Location
from semdis_cli.records import ImageRecord, SourceImage
from semdis_cli.store.index import IndexRow, read_rows
from semdis_cli.store.verifying.index_table import IndexTable
from semdis_cli.store.writing.seen import SeenByKey, read_seen, seen_time_ns
from semdis_cli.wording import count

# A row that has latents, its image, which has the size of then, and whether its times say that it may have changed.
Match = tuple[ImageRecord, SourceImage, bool]


def compare_images(
    root: Location, table: IndexTable, images: Sequence[SourceImage], failures: Sequence[Failure]
) -> Iterator[Problem | Match]:
    """Yield each row of the set in `root` that has latents with its image, or a problem where that is another.

    `table`: its index, which can be read and is sorted by key, as `images` and `failures` are.
    """
    files = [(root / piece.seen_name, piece.file.sha256) for piece in table.pieces]
    seen = SeenByKey(chain.from_iterable(read_seen(path, sha256) for path, sha256 in files))
    witness = Witness.of(images, time.time_ns(), seen_time_ns(path for path, _ in files))
    rows = chain.from_iterable(read_rows(root / piece.name) for piece in table.pieces)
    for key, row, found in _side_by_side(rows, images, failures):
        what = _difference(row, found)
        if what is not None:
            yield Problem(key, "source", what)
        elif row is not None and row.record is not None and row.is_ok and isinstance(found, SourceImage):
            known = seen.of(found)
            is_noted = known is not None and found.mtime_ns is not None
            yield row.record, found, is_noted and not witness.is_unchanged(found, known)


def _side_by_side(
    index: Iterable[IndexRow], images: Sequence[SourceImage], failures: Sequence[Failure]
) -> Iterator[tuple[str, IndexRow | None, SourceImage | Failure | None]]:
    """Yield all keys of rows, images and failures, each with its row and what was found of it."""
    rows = ((row.key, 0, row) for row in index)
    found = ((image.key, 1, image) for image in images)
    failed = ((failure.key, 2, failure) for failure in failures)
    everything: Iterable[tuple[str, int, IndexRow | SourceImage | Failure]] = merge(rows, found, failed)
    for key, group in groupby(everything, key=itemgetter(0)):
        members = [member for _, _, member in group]
        row = next((member for member in members if isinstance(member, IndexRow)), None)
        yield key, row, next((member for member in members if not isinstance(member, IndexRow)), None)


def _difference(row: IndexRow | None, found: SourceImage | Failure | None) -> str | None:
    """Return how an image differs from its row, without reading it; None: not at all."""
    what = None
    if row is None:
        what = "new: not in the index"
    elif found is None:
        what = None if row.is_removed else "missing: in the index, but not among the sources"
    elif isinstance(found, Failure):
        what = found.reason if row.error is None else None
    elif row.is_removed and row.set_aside_by is None:
        what = "is there again, but marked as removed in the index"
    elif row.source is not None and row.source.num_bytes != found.num_bytes:
        what = f"changed: {count(found.num_bytes, 'byte')}, but {row.source.num_bytes:,} when it was encoded"
    return what
