# ruff: noqa: SLF001 (a list takes another one of its kind)
"""Images of a run in a few bytes each: a million of them as objects would take 400 MB, and long to make."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from heapq import merge
from itertools import accumulate, chain, islice, pairwise, repeat
from operator import lt
from typing import NamedTuple

import numpy as np

from semdis_cli.files.growing import GrowingArray
from semdis_cli.files.images import NO_TIME, FactColumns, Facts, Images
from semdis_cli.records import WHOLE, ImageReader, SourceImage, Stamp, View

_TEXT_AT_ONCE = 1 << 20
_SORTED_AT_ONCE = 1 << 18
_MOST_BETWEEN = 8  # images that are passed by to have one: it takes a tenth of looking for it alone
_KEY_CODEC = ("utf-8", "surrogatepass")


class _Root(NamedTuple):
    """Root of images whose places are `start` and what follows the first `cut` characters of their keys.

    `start` None: their places are numbers. `view`: of each; then the keys are those of the files.
    """

    reader: ImageReader
    start: str | None
    cut: int = 0
    view: View = WHOLE


def _columns(rows: Iterable[Facts]) -> FactColumns:
    keys, num_bytes, mtimes_ns, ctimes_ns = list(zip(*rows, strict=True)) or ((), (), (), ())
    return FactColumns(keys, num_bytes, mtimes_ns, ctimes_ns)


class ImageList(Images):
    """Images of a run, as they are found.

    An image whose place is the end of its key in some folder, as of a file, takes 36 bytes and its key; one whose place
    is a number, as of a member of a tar, 44. Of others the object itself is kept. `is_rising`: their keys rise, so that
    none comes twice.
    """

    def __init__(self, images: Iterable[SourceImage] = ()) -> None:
        self.is_rising = True
        self._last = ""
        self._text, self._ends, self._roots_of = GrowingArray("B"), GrowingArray("Q"), GrowingArray("I")
        self._figures = GrowingArray("q")  # size, mtime, ctime of one after the other
        self._places = GrowingArray("q")  # that are numbers; as many as images, up to the last one of them
        self._roots: list[_Root] = []
        self._numbers: dict[tuple[int, str | None, int, View], int] = {}  # of the roots
        self._others: dict[int, SourceImage] = {}
        for image in images:
            self.append(image)

    @classmethod
    def of(cls, images: Iterable[SourceImage]) -> Images:
        """Return `images` as such a sequence; one that is one already is returned as it is."""
        return images if isinstance(images, Images) else cls(images)

    def append(self, image: SourceImage) -> None:
        """Add an image."""
        root = self._find_root(image)
        figures = image.num_bytes, image.mtime_ns, image.ctime_ns
        if root is None or not self._take((image.key,), figures):
            self._others[len(self)] = image
            root = 0
            self._take((image.key,), (0, None, None))
        elif self._roots[root].start is None:
            self._add_places((image.place,))
        self._roots_of.append(root)

    def extend(self, root: int, keys: Sequence[str], figures: Sequence[int]) -> None:
        """Add images whose places follow from their keys and the `root`; `figures`: size, mtime, ctime of each."""
        if self._take(keys, figures):
            self._roots_of.extend((root,) * len(keys))
            return
        reader, start, cut, view = self._roots[root]
        numbers = iter(figures)
        for key, num_bytes, mtime_ns, ctime_ns in zip(keys, numbers, numbers, numbers, strict=True):
            place = (start or "") + key[cut:]
            self.append(SourceImage(key, reader, place, num_bytes, mtime_ns, ctime_ns, view))

    def extend_numbered(
        self, reader: ImageReader, keys: Sequence[str], places: Sequence[int], figures: Sequence[int | None]
    ) -> None:
        """Add images of one reader whose places are numbers; `figures`: size, mtime, ctime of each."""
        root = self.root(reader, None)
        if not keys:
            return
        if max(places) < 1 << 63 and self._take(keys, figures):
            self._roots_of.extend((root,) * len(keys))
            self._add_places(places)
            return
        numbers = iter(figures)
        for key, place, num_bytes, mtime_ns, ctime_ns in zip(keys, places, numbers, numbers, numbers, strict=True):
            self.append(SourceImage(key, reader, place, num_bytes or 0, mtime_ns, ctime_ns))

    def _add_places(self, places: Sequence[int]) -> None:
        """Note the places of the last images, whose keys are there already."""
        self._places.extend(repeat(0, len(self) - len(places) - len(self._places)))
        self._places.extend(places)

    def join(self, others: "ImageList") -> None:
        """Add all images of another list, in one go: none of them is made."""
        if not others:
            return
        begin, num_bytes = len(self), len(self._text)
        roots = np.array([self.root(*root) for root in others._roots] or [0])  # as those have that are kept as objects
        self.is_rising = self.is_rising and others.is_rising and not (self and others._key(0) <= self._last)
        self._last = others._last
        for first, stop in others.stretches():
            self._ends.extend(array("Q", (np.asarray(others._ends.part(first, stop)) + num_bytes).tobytes()))
            self._roots_of.extend(
                array("I", roots[np.asarray(others._roots_of.part(first, stop))].astype("I").tobytes())
            )
            self._figures.extend(others._figures.part(3 * first, 3 * stop))
        for first in range(0, len(others._text), _TEXT_AT_ONCE):
            self._text.add_bytes(others._text.part(first, first + _TEXT_AT_ONCE).tobytes())
        if others._places:
            self._places.extend(repeat(0, begin - len(self._places)))
            self._places.extend(others._places.part(0, len(others._places)))
        self._others |= {begin + number: image for number, image in others._others.items()}

    def root(self, reader: ImageReader, start: str | None, cut: int = 0, view: View = WHOLE) -> int:
        """Return the number of a root for `extend`, whose images are no views."""
        number = self._numbers.setdefault((id(reader), start, cut, view), len(self._roots))
        if number == len(self._roots):
            self._roots.append(_Root(reader, start, cut, view))
        return number

    def _take(self, keys: Sequence[str], figures: Sequence[int | None]) -> bool:
        """Add keys and figures; False, and nothing is added, if one of these is beyond 64 bits."""
        try:
            self._figures.extend(array("q", [NO_TIME if figure is None else figure for figure in figures]))
        except OverflowError:
            return False
        if (keys[0] <= self._last and self._ends) or not all(map(lt, keys, keys[1:])):
            self.is_rising = False
        self._last = keys[-1]
        start, text = len(self._text), "".join(keys)
        self._text.add_bytes(text.encode(*_KEY_CODEC))
        sizes = map(len, keys if text.isascii() else (key.encode(*_KEY_CODEC) for key in keys))
        self._ends.extend(islice(accumulate(sizes, initial=start), 1, None))
        return True

    def sorted(self) -> "ImageList":
        """Return the images by their keys; those of one key stay in their order."""
        return self if self.is_rising else ImageList(self.pick(_order_of(self)))

    def pick(self, places: Sequence[int]) -> Images:
        """Return the images at those places."""
        return Picked(self, places)

    def changed(self, images: Iterable[SourceImage]) -> Images:
        """Return the same images, but for those of the keys of `images`."""
        return Picked(self, range(len(self)), {image.key: image for image in images})

    @property
    def are_files(self) -> bool:
        """Tell whether each has a file of its own, as far as that follows from where it was found."""
        return self.are_whole and not any(root.reader.has_one_file for root in self._roots)

    @property
    def are_whole(self) -> bool:
        """Tell whether none is one of several views, as far as that follows from where it was found."""
        return not self._others and all(root.view == WHOLE for root in self._roots)

    def some(self, first: int, stop: int) -> list[SourceImage]:
        """Return the images from one place up to another."""
        return self._made(range(first, stop), self.facts_of(first, stop), self._roots_of.part(first, stop))

    def made(self, numbers: Sequence[int], facts: FactColumns) -> list[SourceImage]:
        """Make images of their `facts`."""
        return self._made(numbers, facts, map(self._roots_of.__getitem__, numbers))

    def _made(self, numbers: Sequence[int], facts: FactColumns, roots: Iterable[int]) -> list[SourceImage]:
        images = []
        for number, root, key, num_bytes, mtime_ns, ctime_ns in zip(numbers, roots, *facts, strict=True):
            if self._others and number in self._others:
                images.append(self._others[number])
                continue
            reader, start, cut, view = self._roots[root]
            place = self._places[number] if start is None else start + (view.file_of(key) or key)[cut:]
            images.append(SourceImage(key, reader, place, num_bytes, mtime_ns, ctime_ns, view))
        return images

    def facts_of(self, first: int, stop: int) -> FactColumns:
        """Return what is compared of them."""
        figures, keys = self._figures.part(3 * first, 3 * stop), self._keys(first, stop)
        if NO_TIME not in figures:
            return FactColumns(keys, figures[0::3], figures[1::3], figures[2::3])
        stamps = [self._stamp(first + number, figures[3 * number : 3 * number + 3]) for number in range(stop - first)]
        return FactColumns(keys, *map(list, zip(*stamps, strict=True)))

    def _keys(self, first: int, stop: int) -> list[str]:
        """Return the keys of some images."""
        begin = self._ends[first - 1] if first else 0
        ends = self._ends.part(first, stop)
        data = self._text.part(begin, ends[-1] if ends else begin).tobytes()
        stretches = pairwise((0, *(end - begin for end in ends)))
        if data.isascii():
            text = data.decode("ascii")
            return [text[start:end] for start, end in stretches]
        return [data[start:end].decode(*_KEY_CODEC) for start, end in stretches]

    def _stamp(self, number: int, figures: Sequence[int]) -> Stamp:
        """Return size and times of an image."""
        if number in self._others:
            return self._others[number].stamp
        num_bytes, mtime_ns, ctime_ns = figures
        return Stamp(num_bytes, _time(mtime_ns), _time(ctime_ns))

    def __len__(self) -> int:
        return len(self._ends)

    def __reduce__(self) -> tuple[object, ...]:
        return ImageList, (list(self),)

    def _key(self, number: int) -> str:
        return self._keys(number, number + 1)[0]

    def _find_root(self, image: SourceImage) -> int | None:
        """Return the root of an image; None if its place is no number, and no text whose end is that of the key."""
        place, view = image.place, image.view
        if type(place) is int and 0 <= place < 1 << 63:
            return self.root(image.reader, None, 0, view)
        if type(place) is not str:
            return None
        key = image.file_key
        if self._roots:
            reader, start, cut, last_view = self._roots[-1]
            if (
                reader is image.reader
                and last_view == view
                and start is not None
                and place.startswith(start)
                and place[len(start) :] == key[cut:]
            ):
                return len(self._roots) - 1
        name = key[key.rfind("/") + 1 :]
        if not place.endswith(name):
            return None
        same = len(name)
        while same < min(len(place), len(key)) and place[-same - 1] == key[-same - 1]:
            same += 1
        return self.root(image.reader, place[: len(place) - same], len(key) - same, view)


def _time(value: int) -> int | None:
    return None if value == NO_TIME else value


class Picked(Images):
    """Images of a list by their `numbers` in that; in the place of some are others of the same keys."""

    def __init__(
        self, images: ImageList, numbers: Sequence[int], changed: Mapping[str, SourceImage] | None = None
    ) -> None:
        self._images, self._changed = images, changed or {}
        self._numbers = numbers if isinstance(numbers, range | array) else array("I", numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def __reduce__(self) -> tuple[object, ...]:
        return ImageList, (list(self),)

    def pick(self, places: Sequence[int]) -> Images:
        """Return the images at those places."""
        if isinstance(places, range) and places.step > 0:
            numbers = self._numbers[places.start : places.stop : places.step]
        else:
            numbers = array("I", [self._numbers[place] for place in places])
        return Picked(self._images, numbers, self._changed)

    def changed(self, images: Iterable[SourceImage]) -> Images:
        """Return the same images, but for those of the keys of `images`."""
        return Picked(self._images, self._numbers, {**self._changed, **{image.key: image for image in images}})

    @property
    def are_files(self) -> bool:
        """Tell whether each has a file of its own."""
        return self._images.are_files

    @property
    def are_whole(self) -> bool:
        """Tell whether none is one of several views."""
        return self._images.are_whole

    def some(self, first: int, stop: int) -> list[SourceImage]:
        """Return the images from one place up to another."""
        numbers = self._numbers[first:stop]
        images = self._images.made(numbers, self._facts_of(numbers))
        return [self._changed.get(image.key, image) for image in images] if self._changed else images

    def facts_of(self, first: int, stop: int) -> FactColumns:
        """Return what is compared of them."""
        facts = self._facts_of(self._numbers[first:stop])
        if self._changed.keys().isdisjoint(facts.keys):
            return facts
        return _columns((image.key, *image.stamp) for image in self.some(first, stop))

    def _facts_of(self, numbers: Sequence[int]) -> FactColumns:
        """Return the facts of images of the list, quickly if they lie near each other."""
        if not numbers:
            return _columns(())
        first, stop = min(numbers), max(numbers) + 1
        if isinstance(numbers, range) and numbers.step == 1:
            return self._images.facts_of(first, stop)
        if stop - first > _MOST_BETWEEN * len(numbers):
            rows = (zip(*self._images.facts_of(number, number + 1), strict=True) for number in numbers)
            return _columns(chain.from_iterable(rows))
        columns, places = self._images.facts_of(first, stop), [number - first for number in numbers]
        return FactColumns(
            [columns.keys[place] for place in places],
            [columns.num_bytes[place] for place in places],
            [columns.mtimes_ns[place] for place in places],
            [columns.ctimes_ns[place] for place in places],
        )


def _order_of(images: ImageList) -> "array[int]":
    """Return the numbers of images by their keys: a part of them is sorted at a time, and then all parts are merged."""
    parts = []
    for first in range(0, len(images), _SORTED_AT_ONCE):
        keys = images.facts_of(first, stop := min(first + _SORTED_AT_ONCE, len(images))).keys
        parts.append(array("I", sorted(range(first, stop), key=lambda number: keys[number - first])))
    keyed = (zip((key for key, *_ in images.pick(part).facts()), part, strict=True) for part in parts)
    return array("I", (number for _, number in merge(*keyed)))
