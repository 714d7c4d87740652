"""Prefixes of the keys of each source, so that a set that is to grow keeps the keys that it has.

A source of which the set holds images keeps the beginning under which it holds them; any other gets its own name. Which
that is tells the set itself: its keys, the sizes of the files and, where two sources could be meant, their contents.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush, merge
from itertools import islice, pairwise
from pathlib import Path
from typing import Protocol

from semdis_cli.files.image_list import ImageList
from semdis_cli.files.url import Location
from semdis_cli.records import HeldImage, SourceImage
from semdis_cli.sources.files import try_hash
from semdis_cli.sources.names import NamedPath
from semdis_cli.sources.source import Finds

_MAX_WANTED = 1 << 16  # keys that are looked for in a set, of all sources together
_LEAST_WANTED = 8  # of each source under each name
_CONFIRMED_BY = 8  # images of a source that are looked up before all of the set is read
_FIRST = 64  # rows of a set that are looked at before that
_HASHED = 4  # images of a source that are read to tell it from another


class HeldSet(Protocol):
    """Set that is to grow."""

    def find(self, key: str) -> HeldImage | None:
        """Return one image of it; None if it has none of that key or is unfinished."""

    def images(self) -> Iterator[HeldImage]:
        """Yield all of its images."""


@dataclass
class Listing:
    """Finds in a source. Their keys begin with `prefix`, and could with one of `others`, the shortest first."""

    naming: NamedPath | None
    prefix: str
    others: tuple[str, ...]
    found: Finds
    keeps: bool = field(default=False)  # the set holds images of it under `prefix`

    def key(self, image: SourceImage, prefix: str) -> str:
        """Return the key of an image, had its source that prefix."""
        return prefix + image.key[len(self.prefix) :]

    def rename(self, prefix: str) -> None:
        """Give all keys another beginning."""
        if prefix != self.prefix:
            found = self.found
            found.images = ImageList(replace(image, key=self.key(image, prefix)) for image in found.images)
            cut = len(self.prefix)
            found.failures[:] = [(replace(each, key=prefix + each.key[cut:]), path) for each, path in found.failures]
            self.prefix = prefix

    def sample(self, number: int) -> list[SourceImage]:
        """Choose about `number` of its images, evenly."""
        images = self.found.images
        return images[:: max(1, len(images) // number)]


def settle_prefixes(listings: Sequence[Listing], held: HeldSet | None) -> None:
    """Rename what the set `held` has under other keys, and what would get the keys of another source."""
    if held is not None:
        if _is_begun_with(listings, held) or all(_is_confirmed(listing, held) for listing in listings):
            return
        for at, prefix in _claims(listings, held.images()).items():
            listings[at].rename(prefix)
            listings[at].keeps = True
    by_prefix: dict[str, list[Listing]] = {}
    for listing in listings:
        by_prefix.setdefault(listing.prefix, []).append(listing)
    for listing in listings:
        if listing.prefix and not listing.keeps:
            _avoid_others(listing, by_prefix)


def _is_begun_with(listings: Sequence[Listing], held: HeldSet) -> bool:
    """Tell whether the first images of the set evidently are those of the only folder, under their paths in it."""
    if len(listings) != 1 or listings[0].prefix:
        return False
    sizes = {row.key: row.source.num_bytes for row in islice(held.images(), _FIRST) if row.source is not None}
    facts = listings[0].found.images.facts()
    return any(key in sizes and sizes[key] == num_bytes for key, num_bytes, *_ in facts)


def _is_confirmed(listing: Listing, held: HeldSet) -> bool:
    """Tell whether the set evidently holds images of a source under its prefix, and not without."""
    if not listing.found.images:
        return True
    is_there = False
    for image in listing.sample(_CONFIRMED_BY):
        is_there = is_there or _is_size_of(image, held.find(image.key))
        if listing.prefix and held.find(listing.key(image, "")) is not None:
            return False
    return is_there


def _is_size_of(image: SourceImage, row: HeldImage | None) -> bool:
    return row is not None and row.source is not None and row.source.num_bytes == image.num_bytes


_Claim = tuple[int, str]  # the place of a listing, and a prefix
_Matches = dict[_Claim, dict[str, tuple[SourceImage, HeldImage]]]  # by key


def _claims(listings: Sequence[Listing], rows: Iterable[HeldImage]) -> dict[int, str]:
    """Find the prefix of each source of which the set holds images; an image speaks for one source alone."""
    search = _Wanted(listings)
    same, other = search.find(rows)
    _drop_others_content(same, other)
    chosen: dict[int, str] = {}
    claimed: set[str] = set()
    for matches in (same, other):
        heap = [(-len(found), len(prefix), at, prefix) for (at, prefix), found in matches.items()]
        heapify(heap)
        while heap:
            number, length, at, prefix = heappop(heap)
            left = [key for key in matches[at, prefix] if key not in claimed]
            if at in chosen or not left:
                continue
            if len(left) < -number:
                heappush(heap, (-len(left), length, at, prefix))
                continue
            # Sizes that are others now, or a name that another source has already, prove little by themselves.
            is_doubtful = matches is other or prefix in chosen.values()
            if is_doubtful and (2 * len(left) < search.num_wanted[at] or _would_clash(listings, at, prefix, chosen)):
                continue
            chosen[at] = prefix
            claimed.update(left)
    return chosen


class _Wanted:
    """Images of all sources, by the keys that they may have in the set."""

    def __init__(self, listings: Sequence[Listing]) -> None:
        prefixes = [dict.fromkeys((listing.prefix, *listing.others)) for listing in listings]
        most = max(_LEAST_WANTED, _MAX_WANTED // max(1, sum(map(len, prefixes))))
        samples = [listing.sample(most) for listing in listings]
        self.num_wanted = [len(sample) for sample in samples]
        self._by_key: dict[str, list[tuple[_Claim, SourceImage]]] = {}
        for at, listing in enumerate(listings):
            for image in samples[at]:
                for prefix in prefixes[at]:
                    self._by_key.setdefault(listing.key(image, prefix), []).append(((at, prefix), image))

    def find(self, rows: Iterable[HeldImage]) -> tuple[_Matches, _Matches]:
        """Find what the set has of them: images that have their size of then, and all others."""
        same: _Matches = {}
        other: _Matches = {}
        for row in rows:
            for claim, image in self._by_key.get(row.key, ()):
                matches = same if _is_size_of(image, row) else other
                matches.setdefault(claim, {})[row.key] = image, row
        return same, other


def _drop_others_content(matches: _Matches, other: _Matches) -> None:
    """Drop those `matches` that have other contents than an image of the set to which two claims are laid."""
    counts = Counter(key for found in (*matches.values(), *other.values()) for key in found)
    for claim, found in list(matches.items()):
        contested = [key for key in found if counts[key] > 1]
        if contested and not any(_is_content_of(*found[key]) for key in contested[:_HASHED]):
            for key in contested:
                del found[key]
        if not found:
            del matches[claim]


def _is_content_of(image: SourceImage, row: HeldImage) -> bool:
    digest = try_hash(image)
    return row.source is not None and row.source.sha256 == digest


def _would_clash(listings: Sequence[Listing], at: int, prefix: str, chosen: Mapping[int, str]) -> bool:
    """Tell whether another source with that prefix has an image of the same name that is another file."""
    listing = listings[at]
    rivals = [listings[other] for other, taken in chosen.items() if taken == prefix]
    pairs = (pair for rival in rivals for pair in _of_one_name(listing, rival))
    return any(not is_same_file(mine, other) for mine, other in pairs)


def _of_one_name(one: Listing, other: Listing) -> Iterator[tuple[SourceImage, SourceImage]]:
    """Yield the images of two sources that have the same path in both."""
    images, others = one.found.images.sorted(), other.found.images.sorted()
    names = ((key[len(one.prefix) :], 0, place) for place, (key, *_) in enumerate(images.facts()))
    other_names = ((key[len(other.prefix) :], 1, place) for place, (key, *_) in enumerate(others.facts()))
    for (name, at, place), (next_name, next_at, next_place) in pairwise(merge(names, other_names)):
        if name == next_name and at < next_at:
            yield images[place], others[next_place]


def _avoid_others(listing: Listing, by_prefix: dict[str, list[Listing]]) -> None:
    """Put more folders before the name of a source that is new to the set, while another's keys begin with it."""
    longer = [name for name in listing.others if name.endswith(f"/{listing.prefix}")]  # the shortest first
    for prefix in (listing.prefix, *longer):
        heads = [prefix[:end] for end in range(len(prefix) + 1) if end == 0 or prefix[end - 1] == "/"]
        near = [other for head in heads for other in by_prefix.get(head, ()) if other is not listing]
        if not any(key.startswith(prefix) for other in near for key, *_ in other.found.images.facts()):
            by_prefix[listing.prefix].remove(listing)
            listing.rename(prefix)
            by_prefix.setdefault(prefix, []).append(listing)
            return


def is_same_file(one: SourceImage, other: SourceImage) -> bool:
    """Tell whether two images are the same bytes of one file."""
    (path, place), (other_path, other_place) = one.reader.locate(one), other.reader.locate(other)
    return (place, one.num_bytes) == (other_place, other.num_bytes) and is_same_path(path, other_path)


def is_same_path(one: Location | str, other: Location | str) -> bool:
    """Tell whether two paths lead to one file.

    A shared inode number proves it only where the contents are the same too: on some disks all files have one.
    """
    if one == other:
        return True
    one, other = Path(one), Path(other)
    try:
        if os.path.realpath(one) == os.path.realpath(other):
            return True
        return one.samefile(other) and _sha256(one) == _sha256(other)
    except OSError:
        return False


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
