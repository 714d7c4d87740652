"""Pictures in a folder of their own that say which pixels of images count, found by the images' keys."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from posixpath import splitext

from semdis_cli.errors import UsageError
from semdis_cli.events import Tell, untold
from semdis_cli.files.identity import Witness, settled, vouches
from semdis_cli.files.image_list import ImageList
from semdis_cli.option import OptionError
from semdis_cli.records import SourceImage, Stamp
from semdis_cli.sources.find import FoundImages, find_images

_SEVERAL = -1
_NUMBER_BITS = 60  # less than any time of today in nanoseconds, so that it counts as one of the past


@dataclass(frozen=True)
class MaskFiles:
    """The masks of a run. `note`: a line on images without one; empty if there are none.

    `numbers`: of `files` by their paths in the folder, with and without the suffix. `has_ctimes`: both images and masks
    lie on disks that keep times of change.
    """

    files: ImageList
    numbers: Mapping[str, int]
    has_ctimes: bool
    note: str = ""

    def of(self, image: SourceImage) -> SourceImage | None:
        """Return the mask of an image, None if it has none: its file has the key, or that with another suffix."""
        number = _find(self.numbers, image.file_key)
        return None if number is None else self.files[number]

    def stamped(self, images: Sequence[SourceImage]) -> ImageList:
        """Return images, listed now, whose times of change are those of their masks too."""
        return ImageList(self._stamped(image) for image in images)

    def _stamped(self, image: SourceImage) -> SourceImage:
        mask = self.of(image)
        if mask is None:
            return image
        number = self._joined(image.stamp, mask, mask.stamp)
        return replace(image, ctime_ns=_number_of(image.key, time.time_ns()) if number is None else number)

    def stamp(self, image: SourceImage) -> Stamp:
        """Return size and times as in `stamped`, as they are now; none where they do not tell. Raises `OSError`."""
        stamp, mask = image.reader.stamp(image), self.of(image)
        if mask is None or stamp == image.stamp:  # what was listed, which has the times of the mask
            return stamp
        number = self._joined(stamp, mask, mask.reader.stamp(mask))
        return Stamp(stamp.num_bytes, None, stamp.ctime_ns) if number is None else stamp._replace(ctime_ns=number)

    def _joined(self, image: Stamp, mask: SourceImage, stamp: Stamp) -> int | None:
        """Join the times of an image and of its mask to one that shows a change of either, and another mask.

        It is a number that follows from them, as it follows from the ETag of a file in a store. None where one of the
        files has no times that vouch for it: then contents are to be compared, so `stamped` makes up another each time.
        """
        now_ns = time.time_ns()
        if settled(image, now_ns).mtime_ns is None or settled(stamp, now_ns).mtime_ns is None:
            return None
        if not (self.has_ctimes and vouches(image) and vouches(stamp)):
            return None
        return _number_of(image.ctime_ns, mask.key, *stamp)


def _number_of(*facts: object) -> int:
    digest = sha256(repr(facts).encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8]) >> (64 - _NUMBER_BITS) | 1


def find_masks(folder: Path, found: FoundImages, tell: Tell = untold) -> MaskFiles:
    """Find the masks of the images of a run in `folder`; `tell` hears of the listing.

    Raises `UsageError` if that is no folder or no image has a mask, and for an image that has two.
    """
    if not folder.is_dir():
        raise OptionError("--masks", f"names a folder of masks; {folder} is none")
    _check_apart(folder, found)
    files = ImageList.of(find_images([folder], tell=tell).images)
    numbers: dict[str, int] = {}
    for number, (key, *_) in enumerate(files.facts()):
        stem = splitext(key)[0]
        numbers[stem] = _SEVERAL if stem in numbers else number
    numbers |= {key: number for number, (key, *_) in enumerate(files.facts())}
    num_without, num_images = 0, 0
    for key in found.all_keys():
        mask = _find(numbers, key)
        num_without, num_images = num_without + (mask is None), num_images + 1
        if mask == _SEVERAL:
            raise UsageError(f"holds several masks of {key!r:.200}: keep one", place=folder)
    if num_without == num_images:
        example = next(iter(found.all_keys()), "")
        what = f"holds no mask of any image; that of {example!r:.200} is a picture of that path in it, with any suffix"
        raise UsageError(what, place=folder)
    now_ns = time.time_ns()
    has_ctimes = all(Witness.of(images, now_ns).has_ctimes for images in (found.images, files))
    note = f"{num_without:,} of {num_images:,} images have no mask in {folder}: all of them counts"
    return MaskFiles(files, numbers, has_ctimes, note if num_without else "")


def _check_apart(folder: Path, found: FoundImages) -> None:
    """Raise `UsageError` if pictures in `folder` are among the images."""
    for prefix, path, _ in found.origins:
        if path is not None and folder.resolve().is_relative_to(path.resolve()):
            within = folder.resolve().relative_to(path.resolve())
            start = prefix + "".join(f"{part}/" for part in within.parts)
            if any(key.startswith(start) for key in found.all_keys()):
                what = f"lies in {path}, so the masks would be encoded too; --exclude it, or move it beside"
                raise UsageError(what, place=folder)


def _find(numbers: Mapping[str, int], key: str) -> int | None:
    """Return the number of the mask of an image: `a.jpg` or `a.jpg.png` is that of `a.jpg`, else `a.png` is."""
    return numbers.get(key, numbers.get(splitext(key)[0]))
