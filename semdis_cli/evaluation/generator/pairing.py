"""Images that several sets of latents have in common: which one is which in each set, and which are held out."""

import hashlib
import re
from array import array
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from semdis_cli.dataset.latent_dataset import LatentDataset
from semdis_cli.errors import UsageError
from semdis_cli.events import Planning
from semdis_cli.stops import look
from semdis_cli.store.random_access import NO_LABEL
from semdis_cli.wording import count

Grid = tuple[int, int]

HELD_OUT_EACH, MAX_HELD_OUT, MIN_HELD_OUT = 10, 1024, 8
_KEYS_A_LOOK = 4096
_VIEW = re.compile(r"#(\d+)?(crop\d+)?(?=(\.[^./]*)?$)")  # the mark of one of several images of a file: `View`


@dataclass(frozen=True, eq=False)
class CommonImages:
    """The images that each of S sets has, N in the order of their keys.

    `items` [S,N]: number of each in each set. `words` [N]: a number that depends on the photograph alone. `sha256`: of
    the keys.
    """

    items: NDArray[np.int64]
    words: NDArray[np.uint64]
    sha256: str

    def __len__(self) -> int:
        return len(self.words)


def find_common(sets: Sequence[LatentDataset]) -> Generator[Planning, None, CommonImages]:
    """Find the images that all sets have. Yields how far it is."""
    items, words = [array("q") for _ in sets], array("Q")
    digest, total = hashlib.sha256(), min(map(len, sets))
    for key, numbers in _merged(sets):
        for column, number in zip(items, numbers, strict=True):
            column.append(number)
        words.append(photo_word(key))
        digest.update(key.encode(errors="surrogatepass") + b"\0")
        if len(words) % _KEYS_A_LOOK == 0:
            yield Planning("finding the images that all sets have", len(words), total)
    return CommonImages(np.array(items, dtype=np.int64), np.array(words, dtype=np.uint64), digest.hexdigest())


def _merged(sets: Sequence[LatentDataset]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield each key that all sets have and its number in each: all of them are in the order of keys."""
    walks = [zip(map(one.key, range(len(one))), range(len(one)), strict=True) for one in sets]
    heads = [next(walk, None) for walk in walks]
    while (found := [head for head in heads if head is not None]) and len(found) == len(sets):
        look()
        last = max(key for key, _ in found)
        are_equal = all(key == last for key, _ in found)
        if are_equal:
            yield last, tuple(number for _, number in found)
        heads = [
            next(walk, None) if are_equal or head[0] < last else head for walk, head in zip(walks, found, strict=True)
        ]


def photo_word(key: str) -> int:
    """Return 64 bits of a hash of a key, the same for all views of a file."""
    digest = hashlib.sha256(f"held out\0{_VIEW.sub('', key)}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")


def is_held_out(words: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Choose those to measure with, [N]: one in ten, 1,024 at most; all views of a photograph are on the same side.

    Raises `UsageError` for too few.
    """
    number = min(len(words) // HELD_OUT_EACH, MAX_HELD_OUT)
    chosen = words < np.partition(words, number)[number] if number else np.zeros(len(words), bool)
    if chosen.sum() < MIN_HELD_OUT:
        least = HELD_OUT_EACH * MIN_HELD_OUT
        raise UsageError(
            f"{count(len(words), 'image')} in all sets are too few photographs: one in {HELD_OUT_EACH} is held out, "
            f"and that takes {least} or more"
        )
    return chosen


@dataclass(frozen=True, eq=False)
class Labels:
    """The class of each image, [N], `NO_LABEL` without one; `names` of the classes; `origin`: the set they are from."""

    numbers: NDArray[np.int64]
    names: tuple[str, ...] = ()
    origin: str | None = None

    def text(self, image: int) -> str:
        """Name the class of an image."""
        number = int(self.numbers[image])
        return "none" if number == NO_LABEL else repr(self.names[number])


def common_labels(sets: Sequence[LatentDataset], common: CommonImages) -> Labels:
    """Return the labels of the first set that has some. Raises `UsageError` where another set has other labels.

    Classes are compared by name, so that each set may number them in its own way.
    """
    labels = Labels(np.full(len(common), NO_LABEL, np.int64))
    for one, items in zip(sets, common.items, strict=True):
        found = _labels_of(one, items)
        if not found.names:
            continue
        if not labels.names:
            labels = found
        else:
            _check_equal(labels, found, one, items)
    return labels


def _labels_of(one: LatentDataset, items: NDArray[np.int64]) -> Labels:
    """Return the labels of some items of a set, numbered in the order of those that there are."""
    try:
        given = one.labels[items]
    except UsageError:  # it has none
        return Labels(np.full(len(items), NO_LABEL, np.int64))
    present = [number for number in np.unique(given).tolist() if number != NO_LABEL]
    names = tuple(one.classes[number] if number < len(one.classes) else str(number) for number in present)
    numbers = np.full(len(items), NO_LABEL, np.int64)
    for new, old in enumerate(present):
        numbers[given == old] = new
    return Labels(numbers, names, str(one.path))


def _check_equal(labels: Labels, others: Labels, one: LatentDataset, items: NDArray[np.int64]) -> None:
    """Raise `UsageError` for an image that has another label in the set `one`."""
    known = {name: number for number, name in enumerate(labels.names)}
    renumbered = np.array([known.get(name, len(known)) for name in others.names] + [NO_LABEL])[others.numbers]
    wrong = np.flatnonzero(renumbered != labels.numbers)
    if len(wrong):
        first = int(wrong[0])
        here, there = (each.text(first) for each in (others, labels))
        key = one.key(int(items[first]))
        raise UsageError(
            f"{count(len(wrong), 'image')} with another label than in {labels.origin}: {key!r:.80} has {here:.60} "
            f"here, {there:.60} there",
            place=one.path,
        )


@dataclass(frozen=True, eq=False)
class Buckets:
    """Images that can share a batch in all sets at once: S grids a bucket.

    `numbers` [N]: the bucket of each image; `grids`: of each bucket its grid in each set.
    """

    numbers: NDArray[np.int32]
    grids: tuple[tuple[Grid, ...], ...]

    @cached_property
    def patches(self) -> tuple[int, ...]:
        """The side of a token in each set, so that an image has equally many tokens in all.

        Raises `UsageError` if there are none.
        """
        found = [_patches_of(grids) for grids in self.grids]
        for grids, patches in zip(self.grids, found, strict=True):
            if patches is None or patches != found[0]:
                raise UsageError(
                    f"grids of {' and '.join(f'{h}x{w}' for h, w in grids)} for one image: they cannot be cut into "
                    "equally many tokens; encode all sets from images of one size"
                )
        return found[0] or ()


def common_buckets(sets: Sequence[LatentDataset], common: CommonImages) -> Buckets:
    """Sort the images by their grids in all sets."""
    numbers = np.stack([one.bucket_numbers[items] for one, items in zip(sets, common.items, strict=True)])
    rows, inverse = np.unique(numbers, axis=1, return_inverse=True)
    grids = tuple(
        tuple(one.grids[number] for one, number in zip(sets, column, strict=True)) for column in rows.T.tolist()
    )
    return Buckets(inverse.reshape(-1).astype(np.int32), grids)


def _patches_of(grids: Sequence[Grid]) -> tuple[int, ...] | None:
    """Return the sides of tokens that make all grids as large as the smallest one; None if there are none."""
    h, w = min(grid[0] for grid in grids), min(grid[1] for grid in grids)
    patches = tuple(grid[0] // h for grid in grids)
    fits = all(grid == (h * patch, w * patch) for grid, patch in zip(grids, patches, strict=True))
    return patches if fits else None
