"""Pictures in a folder of their own that say which pixels of images count, found by the images' keys."""

import os
import stat
import time
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from posixpath import splitext
from typing import Any, Protocol, Self

import numpy as np

from semdis_cli.errors import UsageError
from semdis_cli.events import Tell, untold
from semdis_cli.files.identity import Witness, settled, vouches
from semdis_cli.files.image_list import ImageList
from semdis_cli.files.images import Images
from semdis_cli.files.json_text import escape_name, unescape_name
from semdis_cli.option import OptionError
from semdis_cli.records import SourceImage, Stamp
from semdis_cli.sources.files import ON_DISK, image_of_file
from semdis_cli.sources.find import FoundImages, find_images
from semdis_cli.sources.folders import Folder
from semdis_cli.sources.input_rules import InputRules
from semdis_cli.sources.plain_values import check_flag, check_list, check_text

_NUMBER_BITS = 60  # less than any time of today in nanoseconds, so that it counts as one of the past


@dataclass(frozen=True)
class _Names:
    """Paths of `files` in their folder, with and without the suffix, by their hashes: there may be millions."""

    files: Images
    hashes: "array[int]"
    numbers: "array[int]"

    @classmethod
    def of(cls, files: Images) -> Self:
        """Return the names of `files`."""
        hashes, numbers = array("q"), array("q")
        for number, (key, *_) in enumerate(files.facts()):
            for name in {key, _stem(key)}:
                hashes.append(hash(name))
                numbers.append(number)
        order = np.lexsort((numbers, hashes))
        return cls(files, *(array("q", np.asarray(each)[order].tobytes()) for each in (hashes, numbers)))

    def find(self, key: str) -> Sequence[SourceImage]:
        """Return the masks of an image: `a.jpg` is that of `a.jpg`, else `a.jpg.png`, else `a.png`; one, or none."""
        exact = [file for file in self._called(key) if file.key == key]
        return exact or self._with_stem(key) or self._with_stem(_stem(key))

    def _with_stem(self, name: str) -> list[SourceImage]:
        return [file for file in self._called(name) if _stem(file.key) == name]

    def _called(self, name: str) -> Iterator[SourceImage]:
        number = bisect_left(self.hashes, hash(name))
        while number < len(self.hashes) and self.hashes[number] == hash(name):
            yield self.files[self.numbers[number]]
            number += 1


def _stem(key: str) -> str:
    return splitext(key)[0]


NO_NAMES = _Names.of(ImageList())


class MaskNames(Protocol):
    """Finds the masks of images. Safe to use from several threads."""

    def find(self, key: str) -> Sequence[SourceImage]:
        """Return the masks of a file by its key: one, or none."""


@dataclass(frozen=True)
class NamesOnDisk:
    """Finds masks in a `folder` that was listed before, by looking for each: `suffixes` are those that they have."""

    folder: Path
    suffixes: tuple[str, ...]

    def find(self, key: str) -> Sequence[SourceImage]:
        """Return the mask of an image, as `_Names` does."""
        starts = ((start, f"{start}{suffix}") for start in (key, _stem(key)) for suffix in self.suffixes)
        names = (key, *(name for start, name in starts if _stem(name) == start))
        return next(([file] for name in names if (file := self._look(name)) is not None), [])

    def _look(self, name: str) -> SourceImage | None:
        path = f"{self.folder}/{name}"
        try:
            status = os.stat(path)  # noqa: PTH116 (a Path for each would take longer than the call)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:  # whoever reads it says why
            return SourceImage(name, ON_DISK, path, 0)
        return image_of_file(name, path, status) if stat.S_ISREG(status.st_mode) else None


@dataclass(frozen=True)
class MaskFiles:
    """The masks of a run. `note`: a line on images without one; empty if there are none.

    `has_ctimes`, `masks_have_ctimes`: images, and masks, lie on disks that keep times of change.
    """

    names: MaskNames
    has_ctimes: bool
    masks_have_ctimes: bool
    note: str = ""

    def of(self, image: SourceImage) -> SourceImage | None:
        """Return the mask of an image, None if it has none: its file has the key, or that with another suffix."""
        return next(iter(self.names.find(image.file_key)), None)

    def describe(self) -> dict[str, Any]:
        """Return what a plan in a file says of masks that were listed, as plain values."""
        assert isinstance(self.names, _Names), "masks are listed for a plan"
        suffixes = sorted({splitext(key)[1] for key, *_ in self.names.files.facts()})
        times = {"has_ctimes": self.has_ctimes, "masks_have_ctimes": self.masks_have_ctimes}
        return {"suffixes": list(map(escape_name, suffixes)), "note": self.note} | times

    @classmethod
    def planned(cls, folder: Path, fields: Mapping[str, Any]) -> "MaskFiles":
        """Return the masks in a folder that `describe` has described; none of another folder is found.

        Raises `ValueError`, `LookupError` or `TypeError` for anything else.
        """
        suffixes = tuple(unescape_name(check_text(suffix)) for suffix in check_list(fields["suffixes"]))
        for suffix in filter(None, suffixes):
            if suffix[0] != "." or "/" in suffix or "\0" in suffix:
                raise ValueError(f"{suffix!r:.40} is no suffix")
        times = check_flag(fields["has_ctimes"]), check_flag(fields["masks_have_ctimes"])
        return cls(NamesOnDisk(folder, suffixes), *times, check_text(fields["note"]))

    def found_by(self, names: MaskNames) -> "MaskFiles":
        """Return the same, of images whose masks are found by `names`."""
        return replace(self, names=names)

    def stamped(self, images: Sequence[SourceImage]) -> ImageList:
        """Return images, listed now, whose times of change are those of their masks too."""
        return ImageList(self._stamped(image) for image in images)

    def _stamped(self, image: SourceImage) -> SourceImage:
        mask = self.of(image)
        if mask is None and self.has_ctimes:
            return image
        # Where images have none, those that are made up must not vouch for the others.
        number = None if mask is None else self._joined(image.stamp, mask, mask.stamp)
        return replace(image, ctime_ns=_number_of(image.key, time.time_ns()) if number is None else number)

    def stamp(self, image: SourceImage) -> Stamp:
        """Return size and times as in `stamped`, as they are now; none where they do not tell. Raises `OSError`."""
        stamp, mask = image.reader.stamp(image), self.of(image)
        if mask is None or stamp == image.stamp:  # what was listed, which has the times of the mask
            return stamp
        try:
            number = self._joined(stamp, mask, mask.reader.stamp(mask))
        except OSError:  # whoever reads it says so
            number = None
        return stamp._replace(mtime_ns=None) if number is None else stamp._replace(ctime_ns=number)

    def _joined(self, image: Stamp, mask: SourceImage, stamp: Stamp) -> int | None:
        """Join the times of an image and of its mask to one that shows a change of either, and another mask.

        It is a number that follows from them, as it follows from the ETag of a file in a store. None where one of the
        files has no times that vouch for it: then contents are to be compared, so `stamped` makes up another each time.
        """
        now_ns = time.time_ns()
        if settled(image, now_ns).mtime_ns is None or settled(stamp, now_ns).mtime_ns is None:
            return None
        if not (self.has_ctimes and self.masks_have_ctimes and vouches(image) and vouches(stamp)):
            return None
        return _number_of(image.ctime_ns, mask.key, *stamp)


def _number_of(*facts: object) -> int:
    digest = sha256(repr(facts).encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8]) >> (64 - _NUMBER_BITS) | 1


def find_masks(folder: Path, found: FoundImages, tell: Tell = untold) -> MaskFiles:
    """Find the masks of the images of a run in `folder`; `tell` hears of the listing.

    Raises `UsageError` if that is no folder or no image has a mask, and for an image that has two.
    """
    if Folder.at(folder) is None:
        raise OptionError("--masks", f"names a folder of masks; {folder} is none")
    _check_apart(folder, found)
    names = _Names.of(_list(folder, tell))
    num_without, num_images = 0, 0
    for key in found.all_keys():
        files = names.find(key)
        num_without, num_images = num_without + (not files), num_images + 1
        if len(files) > 1:
            called = " and ".join(file.key for file in files[:2])
            raise UsageError(f"holds several masks of {key!r:.200}, {called:.200}: keep one", place=folder)
    if num_without == num_images:
        example = next(iter(found.all_keys()), "")
        what = f"holds no mask of any image; that of {example!r:.200} is a picture of that path in it, with any suffix"
        raise UsageError(what, place=folder)
    now_ns = time.time_ns()
    has_ctimes, have_ctimes = (Witness.of(each, now_ns).has_ctimes for each in (found.images, names.files))
    note = f"no mask in {folder} for {num_without:,} of {num_images:,} images: these count whole"
    return MaskFiles(names, has_ctimes, have_ctimes, note if num_without else "")


def _list(folder: Path, tell: Tell) -> Images:
    """List the pictures in a folder, with those that cannot be looked at: whoever reads them says why."""
    found = find_images([folder], rules=InputRules(all_files=True), tell=tell)
    unusable = [SourceImage(one.key, ON_DISK, os.fspath(folder / one.key), 0) for one in found.failures]
    return ImageList([*found.images, *unusable]).sorted() if unusable else ImageList.of(found.images)


def _check_apart(folder: Path, found: FoundImages) -> None:
    """Raise `UsageError` if pictures in `folder` are among the images."""
    for prefix, path, _ in found.origins:
        if path is not None and folder.resolve().is_relative_to(path.resolve()):
            within = folder.resolve().relative_to(path.resolve())
            start = prefix + "".join(f"{part}/" for part in within.parts)
            if any(key.startswith(start) for key in found.all_keys()):
                what = f"lies in {path}, so the masks would be encoded too; --exclude it, or move it beside"
                raise UsageError(what, place=folder)
