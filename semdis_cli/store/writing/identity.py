"""Identity of source files: what size and times tell of a change, and where only the content can."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import eq
from pathlib import Path

from semdis_cli.records import SourceImage, is_telling, settled_before
from semdis_cli.store.writing.seen import SeenFile

_SECOND_NS = 10**9
# Earlier ones are what archives give their files: 1970 (tars made to be equal), 1980 (zip), 1985 (npm).
_FIRST_PLAUSIBLE_NS = 631_152_000 * _SECOND_NS  # 1990-01-01


@dataclass(frozen=True)
class Witness:
    """The worth of the times of all inputs of a run, taken together.

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
        times = [(image.mtime_ns, image.ctime_ns) for image in _files(images)]
        ctimes = {ctime for _, ctime in times}
        mtimes = Counter(mtime for mtime, _ in times)
        shared = frozenset(mtime for mtime, number in mtimes.items() if number > 1 and mtime is not None)
        return cls(shared, _are_kept(ctimes, len(times)), now_ns, seen_ns)

    def is_unchanged(self, image: SourceImage, seen: SeenFile | None) -> bool:
        """Tell whether the file is surely the one that was seen; if not, its content is to be compared."""
        if seen is None or seen.mtime_ns is None or seen[1:3] != (image.num_bytes, image.mtime_ns):
            return False
        if is_telling(image.ctime_ns) and is_telling(seen.ctime_ns):
            is_vouched_for = self.has_ctimes and vouches(image)
            return seen.ctime_ns == image.ctime_ns and (is_vouched_for or not self._is_in_doubt(image))
        is_old_record = is_telling(image.ctime_ns)  # written before ctimes were, or where there were none
        return not self._is_in_doubt(image) and (not is_old_record or self._is_older_than_record(image))

    def _is_in_doubt(self, image: SourceImage) -> bool:
        mtime_ns = image.mtime_ns
        if mtime_ns is None or not _FIRST_PLAUSIBLE_NS <= mtime_ns < settled_before(self.now_ns):
            return True
        return image.offset is None and mtime_ns in self.shared_mtimes

    def _is_older_than_record(self, image: SourceImage) -> bool:
        """Tell whether nothing has happened to the file since it was written down what it was."""
        if self.seen_ns is None or image.ctime_ns is None:
            return False
        return image.ctime_ns < settled_before(self.seen_ns)


def vouches(image: SourceImage) -> bool:
    """Tell whether the ctime of an image, on a file system that keeps them, is no copy of its mtime."""
    if not is_telling(image.ctime_ns):
        return False
    return image.ctime_ns != image.mtime_ns or image.ctime_ns % _SECOND_NS != 0


def all_vouch(images: Sequence[SourceImage]) -> bool:
    """Tell whether ctimes alone tell of every image whether it was changed."""
    ctimes = [image.ctime_ns or 0 for image in images]  # `vouches` in a few passes: there may be millions
    if min(ctimes, default=0) <= 0:
        return False
    mtimes = [image.mtime_ns for image in images]
    if any(map(eq, ctimes, mtimes)) and not all(map(vouches, images)):
        return False
    return len(ctimes) < 2 or ctimes.count(ctimes[0]) < len(ctimes)


def _are_kept(ctimes: set[int | None], num_files: int) -> bool:
    if not any(map(is_telling, ctimes)):
        return False
    return num_files < 2 or len(ctimes) > 1


def _files(images: Iterable[SourceImage]) -> Iterable[SourceImage]:
    """The images, but of those that lie in one tar the first."""
    tars: set[Path | str] = set()
    for image in images:
        if image.offset is None:
            yield image
        elif image.path not in tars:
            tars.add(image.path)
            yield image
