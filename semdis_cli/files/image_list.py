# ruff: noqa: SLF001 (a list takes another one of its kind)
"""Images of a run in a few bytes each: a million of them as objects would take 400 MB, and long to make."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, islice, pairwise, repeat
from operator import attrgetter, eq, lt
from typing import NamedTuple, overload

from semdis_cli.records import WHOLE, ImageReader, SourceImage, Stamp, View

NO_TIME = -(1 << 63)
_AT_ONCE = 1 << 12
_KEY_CODEC = ("utf-8", "surrogatepass")


# Key, size, mtime and ctime of an image, as in `SourceImage`: what is compared from run to run.
Facts = tuple[str, int, int | None, int | None]


class FactColumns(NamedTuple):
    """Facts of some images, each fact of all of them in a column of its own."""

    keys: Sequence[str]
    num_bytes: Sequence[int]
    mtimes_ns: Sequence[int | None]
    ctimes_ns: Sequence[int | None]


class _Root(NamedTuple):
    """Root of images whose places are `start` and what follows the first `cut` characters of their keys.

    `start` None: their places are numbers. `view`: of each; then the keys are those of the files.
    """

    reader: ImageReader
    start: str | None
    cut: int = 0
    view: View = WHOLE


class ImageList(Sequence[SourceImage]):
    """Images of a run, made anew whenever they are asked for.

    An image whose place is the end of its key in some folder, as of a file, takes 36 bytes and its key; one whose place
    is a number, as of a member of a tar, 44. Of others the object itself is kept. `is_rising`: their keys rise, so that
    none comes twice.
    """

    def __init__(self, images: Iterable[SourceImage] = ()) -> None:
        self.is_rising = True
        self._last = ""
        self._text, self._ends, self._roots_of = bytearray(), array("Q"), array("I")
        self._figures = array("q")  # size, mtime, ctime of one after the other
        self._places = array("q")  # that are numbers; as many as images, up to the last one of them
        self._roots: list[_Root] = []
        self._numbers: dict[tuple[int, str | None, int, View], int] = {}  # of the roots
        self._others: dict[int, SourceImage] = {}
        for image in images:
            self.append(image)

    @classmethod
    def of(cls, images: Iterable[SourceImage]) -> "ImageList":
        """Return `images` as such a list; one that is such a list already is returned as it is."""
        return images if isinstance(images, ImageList) else cls(images)

    def append(self, image: SourceImage) -> None:
        """Add an image."""
        root = self._find_root(image)
        figures = image.num_bytes, image.mtime_ns, image.ctime_ns
        if root is None or not self._take((image.key,), figures):
            self._others[len(self)] = image
            root = 0
            self._take((image.key,), (0, None, None))
        elif self._roots[root].start is None:
            self._places.extend(repeat(0, len(self) - len(self._places)))
            self._places[-1] = image.place
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
            self._places.extend(repeat(0, len(self) - len(keys) - len(self._places)))
            self._places.extend(places)
            return
        numbers = iter(figures)
        for key, place, num_bytes, mtime_ns, ctime_ns in zip(keys, places, numbers, numbers, numbers, strict=True):
            self.append(SourceImage(key, reader, place, num_bytes or 0, mtime_ns, ctime_ns))

    def join(self, others: "ImageList") -> None:
        """Add all images of another list, in one go: none of them is made."""
        if not others:
            return
        begin, num_bytes = len(self), len(self._text)
        roots = [self.root(*root) for root in others._roots] or [0]  # as those have that are kept as objects
        self.is_rising = self.is_rising and others.is_rising and not (self and others._key(0) <= self._last)
        self._last = others._last
        self._text += others._text
        self._ends.extend(end + num_bytes for end in others._ends)
        self._figures.extend(others._figures)
        self._roots_of.extend(roots[number] for number in others._roots_of)
        if others._places:
            self._places.extend(repeat(0, begin - len(self._places)))
            self._places.extend(others._places)
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
            self._figures.extend([NO_TIME if figure is None else figure for figure in figures])
        except OverflowError:
            del self._figures[3 * len(self._ends) :]
            return False
        if (keys[0] <= self._last and self._ends) or not all(map(lt, keys, keys[1:])):
            self.is_rising = False
        self._last = keys[-1]
        start, text = len(self._text), "".join(keys)
        self._text += text.encode(*_KEY_CODEC)
        sizes = map(len, keys if text.isascii() else (key.encode(*_KEY_CODEC) for key in keys))
        self._ends.extend(islice(accumulate(sizes, initial=start), 1, None))
        return True

    def sorted(self) -> "ImageList":
        """Return the images by their keys; those of one key stay in their order."""
        return self if self.is_rising else ImageList(sorted(self, key=attrgetter("key")))

    def facts(self) -> Iterator[Facts]:
        """Yield what is compared of each image: quicker than the images."""
        return chain.from_iterable(zip(*columns, strict=True) for columns in self.fact_columns())

    def fact_columns(self) -> Iterator[FactColumns]:
        """Yield the facts of some thousands of images after the other, as columns: quicker still."""
        for first in range(0, len(self), _AT_ONCE):
            stop = min(first + _AT_ONCE, len(self))
            figures = self._figures[3 * first : 3 * stop]
            columns = FactColumns(self._keys(first, stop), figures[0::3], figures[1::3], figures[2::3])
            if NO_TIME in figures:  # as it is of the others
                stamps = [self._stamp(number) for number in range(first, stop)]
                columns = FactColumns(columns.keys, *map(list, zip(*stamps, strict=True)))
            yield columns

    def _keys(self, first: int, stop: int) -> list[str]:
        """Return the keys of some images."""
        begin, last = (self._ends[number - 1] if number else 0 for number in (first, stop))
        ends = [end - begin for end in self._ends[first:stop]]
        data = bytes(self._text[begin:last])
        if data.isascii():
            text = data.decode("ascii")
            return [text[start:end] for start, end in pairwise((0, *ends))]
        return [data[start:end].decode(*_KEY_CODEC) for start, end in pairwise((0, *ends))]

    def _stamp(self, number: int) -> Stamp:
        """Return size and times of an image."""
        if number in self._others:
            return self._others[number].stamp
        num_bytes, mtime_ns, ctime_ns = self._figures[3 * number : 3 * number + 3]
        return Stamp(num_bytes, _time(mtime_ns), _time(ctime_ns))

    def times(self) -> tuple[Sequence[int], Sequence[int]]:
        """Return all mtimes and all ctimes; `NO_TIME`, far below 0, where there is none."""
        if not self._others:
            return self._figures[1::3], self._figures[2::3]
        pairs = [(mtime_ns, ctime_ns) for _, _, mtime_ns, ctime_ns in self.facts()]
        mtimes, ctimes = zip(*pairs, strict=True)
        return [NO_TIME if time is None else time for time in mtimes], [
            NO_TIME if time is None else time for time in ctimes
        ]

    def __len__(self) -> int:
        return len(self._ends)

    def __bool__(self) -> bool:
        return bool(self._ends)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    @overload
    def __getitem__(self, index: int) -> SourceImage: ...
    @overload
    def __getitem__(self, index: slice) -> list[SourceImage]: ...

    def __getitem__(self, index: int | slice) -> SourceImage | list[SourceImage]:
        if isinstance(index, slice):
            return [self._image(number) for number in range(*index.indices(len(self)))]
        return self._image(range(len(self))[index])

    def __iter__(self) -> Iterator[SourceImage]:
        return map(self._image, range(len(self)))

    def _image(self, number: int) -> SourceImage:
        if self._others and number in self._others:
            return self._others[number]
        key = self._key(number)
        reader, first, cut, view = self._roots[self._roots_of[number]]
        place = self._places[number] if first is None else first + (view.file_of(key) or key)[cut:]
        return SourceImage(key, reader, place, *self._stamp(number), view)

    def _key(self, number: int) -> str:
        start = self._ends[number - 1] if number else 0
        return self._text[start : self._ends[number]].decode(*_KEY_CODEC)

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
