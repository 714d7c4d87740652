"""Are stored latents whole, and are they those of the images that they were made from?"""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from heapq import merge
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

from semdis_cli.errors import UnreadableImageError
from semdis_cli.events import Event, Failure, Planning, Problem, VerifyFinished
from semdis_cli.files.identity import Witness
from semdis_cli.files.url import Location
from semdis_cli.records import ImageRecord, SourceImage
from semdis_cli.sources.files import hash_image
from semdis_cli.sources.find import FoundImages
from semdis_cli.store.index import IndexRow, read_rows
from semdis_cli.store.manifest import INDEX_FILE
from semdis_cli.store.verifying.index_table import IndexTable
from semdis_cli.store.verifying.verify import ALL_DATA, NO_DATA, Verified, VerifySettings, verify_latents
from semdis_cli.store.writing.seen import SeenByKey, read_seen, seen_time_ns
from semdis_cli.wording import count

_HASHED_AT_ONCE = 1024

_Pair = tuple[ImageRecord, SourceImage]


def verify(path: Location, settings: VerifySettings, sources: FoundImages | None = None) -> Iterator[Event]:
    """Verify the set or shard at `path` and, with `sources`, hold its index against the images themselves.

    Where every byte of the latents is read, so is every byte of the images. Raises `StoreError` if there are no latents
    at `path`.
    """
    started, problems = time.perf_counter(), Counter[str]()
    for event in _all_events(path, settings, sources):
        if isinstance(event, Verified):
            seconds = round(time.perf_counter() - started, 3)
            yield VerifyFinished(problems.total(), _report(path, settings, event, problems) | {"elapsed_s": seconds})
            return
        if isinstance(event, Problem):
            problems[event.kind] += 1
        yield event


def _all_events(path: Location, settings: VerifySettings, sources: FoundImages | None) -> Iterator[Event | Verified]:
    """Give all events, and at last what was looked at."""
    # The latents
    verified = yield from verify_latents(path, settings)

    # The images
    if sources is not None and verified.table is not None and verified.table.is_sorted:
        yield from _compare_sources(path, sources, settings, verified.table)
    elif sources is not None:
        yield Problem(INDEX_FILE, "source", "missing or damaged: the sources cannot be compared with it")
    yield verified


def _report(path: Location, settings: VerifySettings, verified: Verified, problems: Counter[str]) -> dict[str, Any]:
    report = {
        "command": "verify",
        "latents": str(path),
        "is_whole": not problems,
        "problems": dict(sorted(problems.items())),
        "shards": verified.num_shards,
        "bytes_read": verified.num_bytes,
        "data": {NO_DATA: "none", ALL_DATA: "all"}.get(settings.sample, "sample"),
    }
    if verified.num_links:
        report["links"] = verified.num_links
    if verified.manifest is not None and verified.manifest.later_versions:
        report["versions"] = verified.manifest.versions()
    if (table := verified.table) is not None:
        report["images"] = {"ok": table.num_ok, "failed": table.num_failed, "removed": table.num_removed}
    return report


def _compare_sources(
    path: Location, sources: FoundImages, settings: VerifySettings, table: IndexTable
) -> Iterator[Problem | Planning]:
    """Yield a problem where an image of today is not that of the index; both are sorted by key.

    Those whose times say that they may have changed since the last run are read in any case.
    """
    found, num_hashed, total = _compare_sizes(path, sources), itertools.count(1), len(sources.images)
    may_have_changed = _doubts(path, sources, table)
    pool = ThreadPoolExecutor(settings.num_workers, thread_name_prefix="semdis-hash")
    try:
        while group := list(islice(found, _HASHED_AT_ONCE)):
            yield from (each for each in group if isinstance(each, Problem))
            pairs = [each for each in group if not isinstance(each, Problem)]
            in_doubt = [pair for pair in pairs if settings.sample == ALL_DATA or may_have_changed(pair[1])]
            compared = zip(num_hashed, pool.map(_compare_content, in_doubt), strict=False)
            yield from (problem or Planning("hashing the images", num, total) for num, problem in compared)
    finally:
        pool.shutdown(cancel_futures=True)


def _doubts(path: Location, sources: FoundImages, table: IndexTable) -> Callable[[SourceImage], bool]:
    """For images by rising keys: whether one may have changed since its times were noted. False where none were."""
    seen = SeenByKey(read_seen(path, table.file.sha256) if table.file is not None else iter(()))
    witness = Witness.of(sources.images, time.time_ns(), seen_time_ns(path))

    def may_have_changed(image: SourceImage) -> bool:
        known = seen.of(image)
        return known is not None and image.mtime_ns is not None and not witness.is_unchanged(image, known)

    return may_have_changed


def _compare_sizes(path: Location, sources: FoundImages) -> Iterator[Problem | _Pair]:
    """Each row that has latents with its image, which has the size of then, or a problem where that is not so."""
    rows = ((row.key, 0, row) for row in read_rows(path / INDEX_FILE))
    images = ((image.key, 1, image) for image in sources.images)
    failures = ((failure.key, 2, failure) for failure in sources.failures)
    everything: Iterable[tuple[str, int, IndexRow | SourceImage | Failure]] = merge(rows, images, failures)
    for key, group in groupby(everything, key=itemgetter(0)):
        members = [member for _, _, member in group]
        row = next((member for member in members if isinstance(member, IndexRow)), None)
        found = next((member for member in members if not isinstance(member, IndexRow)), None)
        what = _difference(row, found)
        if what is not None:
            yield Problem(key, "source", what)
        elif row is not None and row.record is not None and row.is_ok and isinstance(found, SourceImage):
            yield row.record, found


def _difference(row: IndexRow | None, found: SourceImage | Failure | None) -> str | None:
    """Return how an image differs from its row, without reading it; None: not at all."""
    what = None
    if row is None:
        what = "new: not in the index"
    elif found is None:
        what = None if row.is_removed else "missing: in the index, but not among the sources"
    elif isinstance(found, Failure):
        what = found.reason if row.error is None else None
    elif row.is_removed:
        what = "is there again, but marked as removed in the index"
    elif row.source is not None and row.source.num_bytes != found.num_bytes:
        what = f"changed: {count(found.num_bytes, 'byte')}, but {row.source.num_bytes:,} when it was encoded"
    return what


def _compare_content(pair: _Pair) -> Problem | None:
    """Return a problem if an image is not the one that its latents were made from."""
    record, source = pair
    try:
        digest = hash_image(source)
    except UnreadableImageError as error:
        return Problem(record.key, "source", str(error))
    except OSError as error:
        return Problem(record.key, "source", f"cannot be read ({error.strerror or error})")
    if digest != record.source.sha256:
        return Problem(record.key, "source", "changed: has another sha256 than when it was encoded")
    return None
