"""Sequences of images that are made whenever they are asked for, and what is compared of them from run to run."""

from abc import abstractmethod
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, starmap
from operator import eq
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from semdis_cli.records import SourceImage

NO_TIME = -(1 << 63)
_AT_ONCE, _MADE_AT_ONCE = 1 << 12, 1 << 8


# Key, size, mtime and ctime of an image, as in `SourceImage`: what is compared from run to run.
Facts = tuple[str, int, int | None, int | None]


class FactColumns(NamedTuple):
    """Facts of some images, each fact of all of them in a column of its own."""

    keys: Sequence[str]
    num_bytes: Sequence[int]
    mtimes_ns: Sequence[int | None]
    ctimes_ns: Sequence[int | None]


class Images(Sequence[SourceImage]):
    """Images of a run, made anew whenever they are asked for."""

    @abstractmethod
    def some(self, first: int, stop: int) -> list[SourceImage]:
        """Return the images from one place up to another."""

    @abstractmethod
    def facts_of(self, first: int, stop: int) -> FactColumns:
        """Return what is compared of them: quicker than the images."""

    @abstractmethod
    def pick(self, places: Sequence[int]) -> "Images":
        """Return the images at those places, which take 4 bytes each, none if it is a range."""

    @abstractmethod
    def changed(self, images: Iterable[SourceImage]) -> "Images":
        """Return the same images, but for those of the keys of `images`, which take their places."""

    @property
    @abstractmethod
    def are_files(self) -> bool:
        """Tell whether each of them surely has a file of its own."""

    @property
    @abstractmethod
    def are_whole(self) -> bool:
        """Tell whether surely none is one of several views of its file."""

    def facts(self) -> Iterator[Facts]:
        """Yield what is compared of each image: quicker than the images."""
        return chain.from_iterable(zip(*columns, strict=True) for columns in self.fact_columns())

    def fact_columns(self) -> Iterator[FactColumns]:
        """Yield the facts of some thousands of images after the other, as columns: quicker still."""
        return (self.facts_of(first, stop) for first, stop in self.stretches())

    def times(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield all mtimes and all ctimes, some thousands after the other; `NO_TIME`, far below 0, where there is none.

        One beyond 64 bits is the last one within.
        """
        for columns in self.fact_columns():
            yield _as_times(columns.mtimes_ns), _as_times(columns.ctimes_ns)

    def place_of(self, key: str, first: int = 0) -> int:
        """Return the first place, from `first` on, whose key is not below `key`; they are sorted by key."""
        return bisect_left(range(len(self)), key, first, key=lambda place: self.facts_of(place, place + 1).keys[0])

    def stretches(self) -> Iterator[tuple[int, int]]:
        """Yield the places of some thousands of images after the other: the first, and that after the last."""
        return ((first, min(first + _AT_ONCE, len(self))) for first in range(0, len(self), _AT_ONCE))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    @overload
    def __getitem__(self, index: int) -> SourceImage: ...
    @overload
    def __getitem__(self, index: slice) -> list[SourceImage]: ...

    def __getitem__(self, index: int | slice) -> SourceImage | list[SourceImage]:
        numbers = range(len(self))[index]
        if isinstance(numbers, int):
            return self.some(numbers, numbers + 1)[0]
        if numbers.step == 1:
            return self.some(numbers.start, numbers.stop)
        return [self.some(number, number + 1)[0] for number in numbers]

    def __iter__(self) -> Iterator[SourceImage]:
        stretches = ((first, min(first + _MADE_AT_ONCE, len(self))) for first in range(0, len(self), _MADE_AT_ONCE))
        return chain.from_iterable(starmap(self.some, stretches))


def _as_times(values: Sequence[int | None]) -> NDArray[np.int64]:
    if isinstance(values, array):
        return np.asarray(values)
    within = (NO_TIME if value is None else max(NO_TIME + 1, min(value, -NO_TIME - 1)) for value in values)
    return np.fromiter(within, np.int64, len(values))
