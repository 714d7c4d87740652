"""Files with the same bytes among the inputs of a run: the first by key is taken alone."""

import time
from array import array
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from semdis_cli.events import LeftOut
from semdis_cli.files.identity import settled
from semdis_cli.files.images import Images
from semdis_cli.files.planned_images import PlannedImages
from semdis_cli.records import SourceImage, View
from semdis_cli.store.writing.changes import DEDUPE, Changes, Contents, Hashes


class WithoutTwins(NamedTuple):
    """A plan without twins: its changes, its new images, and those that have lost the twin they were left out for."""

    changes: Changes
    planned: PlannedImages
    alone: list[SourceImage]


class _Candidate(NamedTuple):
    """An input that may have a twin.

    `status`: of its row in the set, "" of a new one. `was_twin`: it was left out as one.
    """

    key: str
    image: SourceImage
    status: str
    sha256: str | None
    was_twin: bool = False


def drop_twins(changes: Changes, planned: PlannedImages, hashes: Hashes) -> WithoutTwins:
    """Leave out of a plan all but the first by key of the files with the same bytes.

    Only files whose size another one has are read, and no file that the set has the sha256 of. One that failed may
    be the first, and stays a failure.
    """
    twins = _find_twins(changes.contents, planned.images, hashes)
    keys = {twin.key for twin in twins}
    new = [twin for twin in twins if not twin.status]
    set_aside = {twin.key: DEDUPE for twin in twins if twin.status in {"ok", "removed"} and not twin.was_twin}
    rows = zip(changes.contents.images, changes.contents.statuses, changes.contents.are_twins, strict=True)
    lost = [(image, status) for image, status, was_twin in rows if was_twin and image.key not in keys]
    alone = {image.key: image for image, status in lost if status == "left_out"}
    returned = {image.key for image, status in lost if status == "removed"}
    counts = Counter(changes.num_left_out) + Counter({DEDUPE: len(set_aside)}) - Counter({DEDUPE: len(lost)})
    changed = replace(
        changes,
        kept=changes.kept.pick(_places_without(changes.kept, alone)) if alone else changes.kept,
        returned=(changes.returned - keys) | returned,
        left_out=(*changes.left_out, *map(_left_out, new)),
        num_left_out=counts,
        set_aside={**changes.set_aside, **set_aside},
    )
    left = planned.pick(_places_without(planned.images, keys)) if keys else planned
    return WithoutTwins(changed, left, [*alone.values()])


def _places_without(images: Images, keys: Container[str]) -> "array[int]":
    """Return the places of those images that have none of `keys`."""
    return array("I", (place for place, (key, *_) in enumerate(images.facts()) if key not in keys))


def _left_out(twin: _Candidate) -> LeftOut:
    return LeftOut(twin.key, DEDUPE, *settled(twin.image.stamp, time.time_ns()), sha256=twin.sha256)


def _find_twins(known: Contents, new: Sequence[SourceImage], hashes: Hashes) -> list[_Candidate]:
    """Find the files that are no longer the first with their bytes, failed ones left aside; with the sha256 of each."""
    taken, firsts = [], set[tuple[View, str]]()
    for candidate in _with_digests(_candidates(known, new), hashes):
        if candidate.sha256 is None:
            continue  # whoever reads it says why it cannot be read
        content = candidate.image.view, candidate.sha256
        if content not in firsts:
            firsts.add(content)
        elif candidate.status != "failed":
            taken.append(candidate)
    return taken


def _candidates(known: Contents, new: Sequence[SourceImage]) -> list[_Candidate]:
    """List the files of which another has the size, by key."""
    sizes = [num_bytes for _, num_bytes, _, _ in known.images.facts()] + [image.num_bytes for image in new]
    values, counts = np.unique(np.array(sizes, dtype=np.int64), return_counts=True)
    shared = set(values[counts > 1].tolist())
    rows = zip(known.images, known.statuses, known.digests, map(bool, known.are_twins), strict=True)
    found = [
        _Candidate(image.key, image, status, sha256, was_twin)
        for image, status, sha256, was_twin in rows
        if image.num_bytes in shared
    ]
    found += [_Candidate(image.key, image, "", None) for image in new if image.num_bytes in shared]
    return sorted(found, key=itemgetter(0))


def _with_digests(candidates: list[_Candidate], hashes: Hashes) -> list[_Candidate]:
    unknown = [number for number, candidate in enumerate(candidates) if candidate.sha256 is None]
    for number, digest in zip(unknown, hashes([candidates[number].image for number in unknown]), strict=True):
        candidates[number] = candidates[number]._replace(sha256=digest)
    return candidates
