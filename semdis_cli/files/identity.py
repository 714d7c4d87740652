"""Identity of source files: what size and times tell of a change, and where only the content can.

Size and times of a file are a `Stamp`. One is noted of each image that is read, and held against that of a later run.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from semdis_cli.files.image_list import ImageList
from semdis_cli.files.images import NO_TIME, Images
from semdis_cli.records import WHOLE, SourceImage, Stamp

_SECOND_NS = 10**9
_FILES_AT_ONCE = 1 << 12
_CLOCK_GRAIN_NS = 2 * _SECOND_NS  # of the coarsest file systems
# Earlier ones are what archives give their files: 1970 (tars made to be equal), 1980 (zip), 1985 (npm).
_FIRST_PLAUSIBLE_NS = 631_152_000 * _SECOND_NS  # 1990-01-01


class Stamped(Protocol):
    """Whatever has size and times of a file, as a `Stamp` has them."""

    @property
    def num_bytes(self) -> int:
        """Size of the file."""

    @property
    def mtime_ns(self) -> int | None:
        """When it was modified; None: that cannot be told, contents are to be compared."""

    @property
    def ctime_ns(self) -> int | None:
        """When it was changed in any way; None: nobody looked."""


def settled(stamp: Stamp, now_ns: int) -> Stamp:
    """Return `stamp` if a later change of the file would show in its times, else one without `mtime_ns`.

    Where there is a `ctime_ns`, it has to be settled, and then `mtime_ns` may lie in the future: programs can set it.
    """
    num_bytes, mtime_ns, ctime_ns = stamp
    settled_ns = _settled_before(now_ns)
    may_change = is_telling(ctime_ns) and ctime_ns >= settled_ns
    may_be_future = is_telling(ctime_ns) and mtime_ns is not None and mtime_ns > now_ns
    if mtime_ns is None or may_change or not (mtime_ns < settled_ns or may_be_future):
        return Stamp(num_bytes, None, ctime_ns)
    return stamp


def is_telling(ctime_ns: int | None) -> TypeGuard[int]:
    """Tell whether `ctime_ns` is one at all: file systems that have none say 0."""
    return ctime_ns is not None and ctime_ns > 0


def _settled_before(now_ns: int) -> int:
    """Return the time before which times of files are settled: a change that is still to come cannot get one of them.

    That is not so for the last two seconds, nor for the future.
    """
    return now_ns - _CLOCK_GRAIN_NS


@dataclass(frozen=True)
class Witness:
    """Worth of the times of all inputs of a run, taken together.

    A time of change (ctime) cannot be set by programs, so it vouches for a file whatever else its times are: unless
    the file system has none (0, or one for all files) or makes it up from the other time (equal, in whole seconds). A
    time of modification (mtime) can be set. It is in doubt if it is before 1990 or in the future, or if several files
    have it, as after unpacking: then, without a ctime that vouches, only the content tells.

    `shared_mtimes`: those of several files. `has_ctimes`: the file system keeps them. `seen_ns`: when that was written
    down with which files are compared; None if that is not known.
    """

    shared_mtimes: frozenset[int]
    has_ctimes: bool
    now_ns: int
    seen_ns: int | None = None

    @classmethod
    def of(cls, images: Sequence[SourceImage], now_ns: int, seen_ns: int | None = None) -> "Witness":
        """Judge the times of `images`. The images of one tar are one file."""
        return cls.of_all([images], now_ns, seen_ns)

    @classmethod
    def of_all(cls, some: Iterable[Sequence[SourceImage]], now_ns: int, seen_ns: int | None = None) -> "Witness":
        """Judge the times of all images in several sequences."""
        mtimes, have_ctimes, num_files, first_ctime, differ = array("q"), False, 0, NO_TIME, False
        for mtimes_ns, ctimes_ns in _times_of_files(some):
            mtimes.frombytes(mtimes_ns.tobytes())
            first_ctime = first_ctime if num_files else int(ctimes_ns[0])
            num_files += len(ctimes_ns)
            have_ctimes = have_ctimes or bool((ctimes_ns > 0).any())
            differ = differ or bool((ctimes_ns != first_ctime).any())
        return cls(_shared(mtimes), have_ctimes and (num_files < 2 or differ), now_ns, seen_ns)

    def is_unchanged(self, image: SourceImage, seen: Stamped | None) -> bool:
        """Tell whether the file is surely the one that was seen; if not, its content is to be compared."""
        if seen is None or seen.mtime_ns is None:
            return False
        if (seen.num_bytes, seen.mtime_ns) != (image.num_bytes, image.mtime_ns):
            return False
        if is_telling(image.ctime_ns) and is_telling(seen.ctime_ns):
            is_vouched_for = self.has_ctimes and vouches(image)
            return seen.ctime_ns == image.ctime_ns and (is_vouched_for or not self._is_in_doubt(image))
        is_old_record = is_telling(image.ctime_ns)  # written before ctimes were, or where there were none
        return not self._is_in_doubt(image) and (not is_old_record or self._is_older_than_record(image))

    def _is_in_doubt(self, image: SourceImage) -> bool:
        mtime_ns = image.mtime_ns
        if mtime_ns is None or not _FIRST_PLAUSIBLE_NS <= mtime_ns < _settled_before(self.now_ns):
            return True
        return mtime_ns in self.shared_mtimes and not image.reader.has_one_file

    def _is_older_than_record(self, image: SourceImage) -> bool:
        """Tell whether nothing has happened to the file since it was written down what it was."""
        if self.seen_ns is None or image.ctime_ns is None:
            return False
        return image.ctime_ns < _settled_before(self.seen_ns)


def vouches(image: Stamped) -> bool:
    """Tell whether the ctime of an image, on a file system that keeps them, is no copy of its mtime."""
    if not is_telling(image.ctime_ns):
        return False
    return image.ctime_ns != image.mtime_ns or image.ctime_ns % _SECOND_NS != 0


def all_vouch(images: Sequence[SourceImage]) -> bool:
    """Tell whether ctimes alone tell of every image whether it was changed."""
    first, differ = None, False
    for mtimes, ctimes in ImageList.of(images).times():  # `vouches`, of many at once: there may be millions
        if ctimes.min() <= 0 or ((ctimes == mtimes) & (ctimes % _SECOND_NS == 0)).any():
            return False
        first = ctimes[0] if first is None else first
        differ = differ or bool((ctimes != first).any())
    return first is not None and (len(images) < 2 or differ)


_Times = NDArray[np.int64]


def _times_of_files(some: Iterable[Sequence[SourceImage]]) -> Iterator[tuple[_Times, _Times]]:
    """Yield mtimes and ctimes of all files of images, some at a time."""
    others = []
    for images in some:
        if isinstance(images, Images) and images.are_files:
            yield from images.times()
        else:
            others.append(images)
    files = iter(_files(chain.from_iterable(others)))
    while found := list(islice(files, _FILES_AT_ONCE)):
        yield from ImageList.of(found).times()


def _shared(mtimes: "array[int]") -> frozenset[int]:
    """Return the times that come more than once."""
    times = np.asarray(mtimes)
    times.sort()
    shared = np.unique(times[1:][times[1:] == times[:-1]])
    return frozenset(shared[shared != NO_TIME].tolist())


def _files(images: Iterable[SourceImage]) -> Iterator[SourceImage]:
    """Yield the images, but of those that lie in one file, and of the views of one, the first."""
    met: set[object] = set()
    for image in images:
        if not image.reader.has_one_file and image.view == WHOLE:
            yield image
        elif not image.reader.has_one_file:
            if image.file not in met:
                met.add(image.file)
                yield image
        elif id(image.reader) not in met:
            met.add(id(image.reader))
            yield image
