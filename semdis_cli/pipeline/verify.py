"""Are stored latents whole, and are they those of the images that they were made from?"""

import itertools
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from semdis_cli.errors import UnreadableImageError
from semdis_cli.events import Event, Planning, Problem, VerifyFinished
from semdis_cli.files.url import Location
from semdis_cli.records import ImageRecord, SourceImage
from semdis_cli.sources.files import hash_image
from semdis_cli.sources.find import FoundImages
from semdis_cli.sources.views import in_views
from semdis_cli.store.verifying.verify import (
    ALL_DATA,
    NO_DATA,
    Helpers,
    Verified,
    VerifySettings,
    verify_latents,
)
from semdis_cli.threads import WatchedThreads

_HASHED_AT_ONCE = 1024

_Pair = tuple[ImageRecord, SourceImage]


def verify(
    path: Location,
    settings: VerifySettings,
    sources: FoundImages | None = None,
    helpers: Helpers | None = None,
) -> Iterator[Event]:
    """Verify the set or shard at `path` and, with `sources`, hold its index against the images themselves.

    Where every byte of the latents is read, so is every byte of the images. `helpers`: as of `verify_latents`.
    Raises `StoreError` if there are no latents at `path`, and what `helpers` raise.
    """
    started, problems = time.perf_counter(), Counter[str]()
    for event in _all_events(path, settings, sources, helpers):
        if isinstance(event, Verified):
            seconds = round(time.perf_counter() - started, 3)
            yield VerifyFinished(problems.total(), _report(path, settings, event, problems) | {"elapsed_s": seconds})
            return
        if isinstance(event, Problem):
            problems[event.kind] += 1
        yield event


def _all_events(
    path: Location, settings: VerifySettings, sources: FoundImages | None, helpers: Helpers | None
) -> Iterator[Event | Verified]:
    """Give all events, and at last what was looked at."""
    # The latents
    verified = yield from verify_latents(path, settings, helpers)

    # The images
    if sources is not None:
        yield from _compare_sources(verified, _in_views(verified, sources), settings)
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
    if verified.table is not None:
        report["images"] = verified.table.counts
    return report


def _in_views(verified: Verified, sources: FoundImages) -> FoundImages:
    """Return the images that the set would have of these files."""
    images, failures = in_views(sources.images, sources.failures, verified.views())
    return replace(sources, images=images, failures=tuple(failures))


def _compare_sources(
    verified: Verified, sources: FoundImages, settings: VerifySettings
) -> Iterator[Problem | Planning]:
    """Yield a problem where an image of today is not that of the index; both are sorted by key.

    Those whose times say that they may have changed since the last run are read in any case.
    """
    compared, total = verified.compare(sources.images, sources.failures), len(sources.images)
    num_hashed = itertools.count(1)
    with WatchedThreads(settings.num_workers, "semdis-hash") as pool:
        while group := list(islice(compared, _HASHED_AT_ONCE)):
            yield from (each for each in group if isinstance(each, Problem))
            matches = [each for each in group if not isinstance(each, Problem)]
            to_read = [
                (record, image)
                for record, image, may_have_changed in matches
                if settings.sample == ALL_DATA or may_have_changed
            ]
            outcomes = zip(num_hashed, pool.each(_compare_content, to_read), strict=False)
            yield from (problem or Planning("hashing the images", num, total) for num, problem in outcomes)


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
