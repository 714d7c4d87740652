"""Decoded pixels -> image files: names, formats, and writing them beside all else that a run does."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np

from semdis_cli.errors import StoreError, UsageError
from semdis_cli.events import Failure
from semdis_cli.files.atomic import sweep_temporaries
from semdis_cli.files.disk import folder_identity
from semdis_cli.files.spelling import ANY, EXACT, Spelling, check_key, folders_of, numbered
from semdis_cli.files.together import Publisher
from semdis_cli.images.images import write_image, write_images
from semdis_cli.pipeline.workers import Timed, Workers, done_already, timed
from semdis_cli.settings import WriteSettings

T = TypeVar("T")
_PART_PIXELS = 1 << 19  # of images whose files one task makes: fewer, and handing tasks over would cost as much
_MAX_NAME_BYTES = 255
_MAX_KEY_BYTES = 3800  # a path may have 4095, with the folder before it


def output_names(keys: Iterable[str], suffix: str) -> dict[str, PurePosixPath]:
    """The file name of every key: its suffix replaced, or `suffix` appended where that name is another's or a folder's.

    `a.jpg` becomes `a.png`; `b.jpg` beside `b.webp` become `b.jpg.png` and `b.webp.png`. Raises `StoreError` for keys
    that are no relative paths.
    """
    replaced = {str(check_key(key)): f"{_without_suffix(key)}.{suffix}" for key in keys}
    taken = Counter(replaced.values())
    taken.update(folders_of(replaced))
    names = {key: name if taken[name] == 1 else f"{key}.{suffix}" for key, name in replaced.items()}
    if len(set(names.values())) != len(names):
        names = {key: f"{key}.{suffix}" for key in names}
    return {key: PurePosixPath(name) for key, name in names.items()}


def _without_suffix(key: str) -> str:
    """Leave out what pathlib calls the suffix; there may be a million keys, and this is many times faster."""
    start = key.rfind("/") + 1
    dot = key.rfind(".", start + 1)
    return key if dot in {-1, len(key) - 1} else key[:dot]


def renamed_record(renamed: Mapping[str, PurePosixPath]) -> dict[str, Any]:
    """For `report.json`: the files that have other names than their keys promise, if there are any."""
    return {"renamed": {key: str(name) for key, name in renamed.items()}} if renamed else {}


def too_long(names: Mapping[str, PurePosixPath]) -> list[Failure]:
    """The keys whose file name no file system would take; each costs its own image only."""
    reason = f"its name would be longer than {_MAX_NAME_BYTES} bytes, or its path than {_MAX_KEY_BYTES}"
    return [Failure(key, f"{reason}; rename the original") for key, name in names.items() if _is_too_long(name)]


def _is_too_long(name: PurePosixPath) -> bool:
    has_long_part = any(len(os.fsencode(part)) > _MAX_NAME_BYTES for part in name.parts)
    return has_long_part or len(os.fsencode(name)) > _MAX_KEY_BYTES


class StreamNames:
    """File names for keys that come one after the other, as `output_names` gives them but for what is not known yet.

    The first of several keys that would share a name gets it, the others keep their own suffix: `b.png`, `b.webp.png`.
    On a disk that does not tell some names apart (`spelling` asks it, if need be) they get numbers.
    """

    def __init__(self, suffix: str, spelling: Callable[[], Spelling] = lambda: EXACT) -> None:
        self.renamed: dict[str, PurePosixPath] = {}
        self._suffix = suffix
        self._spelling = cache(spelling)
        self._keys: set[str] = set()
        self._taken: set[str] = set()
        self._folders: set[str] = set()
        # By what any disk may take them for. Texts: there may be a million.
        self._alike: dict[str, tuple[str, ...]] = {}
        self._alike_folders: dict[str, tuple[str, ...]] = {}

    def claim(self, key: str) -> PurePosixPath:
        """The name of the next key. Raises `StoreError` if it is no relative path, came before, or no name is left."""
        path = check_key(key)
        if key in self._keys:
            raise StoreError(f"{key!r:.80} came before in the stream")
        for name in (path.with_suffix(f".{self._suffix}"), path.with_name(f"{path.name}.{self._suffix}")):
            if self._is_free(name):
                own = next(chosen for chosen in chain([name], numbered(name)) if not self._is_one_of_disk(chosen))
                self._take(key, own)
                self.renamed |= {key: own} if own != name else {}
                return own
        raise StoreError(f"{key!r:.80}: what it would be called is another image's, or a folder's")

    def _take(self, key: str, name: PurePosixPath) -> None:
        self._keys.add(key)
        for text, names, alike in (
            (str(name), self._taken, self._alike),
            *((str(parent), self._folders, self._alike_folders) for parent in name.parents),
        ):
            if text not in names:
                names.add(text)
                folded = ANY.fold_text(text)
                alike[folded] = (*alike.get(folded, ()), text)

    def _is_free(self, name: PurePosixPath) -> bool:
        is_taken = str(name) in self._taken or str(name) in self._folders
        return not is_taken and not any(
            str(parent) in self._taken or self._is_alike(parent, self._alike) for parent in name.parents
        )

    def _is_one_of_disk(self, name: PurePosixPath) -> bool:
        """Tell whether the disk would take `name` for one that is there."""
        return self._is_alike(name, self._alike) or self._is_alike(name, self._alike_folders)

    def _is_alike(self, name: PurePosixPath, names: Mapping[str, tuple[str, ...]]) -> bool:
        alike = names.get(ANY.fold(name))
        if alike is None:
            return False
        spelling = self._spelling()
        return any(spelling.fold(name) == spelling.fold_text(other) for other in alike)


Pictures = Sequence[tuple[str, np.ndarray]]  # keys, and the uint8 [3,H,W] of each


def image_file(pixels: np.ndarray, settings: WriteSettings) -> bytes:
    """The file of one image, uint8 [3,H,W]."""
    return write_image(pixels.transpose(1, 2, 0), settings.format, settings.quality)


@dataclass(frozen=True, slots=True)
class Written:
    """Images that are on disk, but for the `failures`, which it does not take; making the files took `seconds`."""

    seconds: float
    failures: list[Failure]


Writing = Future[Written]
NOTHING_WRITTEN: Writing = done_already(Written(0.0, []))


class ImageWriter:
    """Encodes and publishes images below `root`, under `names`."""

    def __init__(self, root: Path, names: Mapping[str, PurePosixPath], settings: WriteSettings) -> None:
        self.root, self.names, self.settings = root.resolve(), names, settings
        self._publisher = Publisher(self.root)
        self._seen: set[Path] = set()
        self._not_made: set[Path] = set()  # when they were seen
        self._swept: set[tuple[int, int]] = set()  # device and number of each folder

    def exists(self, key: str) -> bool:
        """Tell whether the image of `key` was written by an earlier run."""
        # No OSError for names that the disk does not take
        return os.path.isfile(f"{self.root}/{self.names[key]}")  # noqa: PTH113

    def sweep_beside(self, key: str) -> None:
        """Remove what a killed run left in the folder of the image of `key`, if nobody has looked there yet.

        A folder may have several names (links, spelling on some disks). One that this run makes holds nothing of a
        killed one.
        """
        folder = self._path(key).parent
        if folder in self._seen:
            return
        self._seen.add(folder)
        place = folder_identity(folder)
        if place is None:
            self._not_made.add(folder)
            return
        for other in tuple(self._not_made):
            made = folder_identity(other)
            if made is not None:
                self._not_made.discard(other)
                self._swept.add(made)
        if place not in self._swept and folder.resolve().is_relative_to(self.root):
            sweep_temporaries(folder)
        self._swept.add(place)

    def write(self, images: Pictures) -> Written:
        """Write images, those of a model call; they are on disk together. Raises `UsageError` and `NoSpaceError`."""
        return self._publish([timed(self._make, images)])

    def submit(self, images: Pictures, workers: Workers) -> Writing:
        """Have the images of a model call written soon, as by `write`; to be called in the thread of that call.

        Threads that compute make the files' bytes, threads that may wait put them on disk.
        """
        if not images:
            return NOTHING_WRITTEN
        made = workers.after_call(partial(timed, self._make), parts(images, images[0][1][0].size, workers.num_threads))
        return workers.submit_disk(lambda: self._publish([workers.result(part) for part in made]))

    def _make(self, images: Pictures) -> list[tuple[str, bytes]]:
        pixels = [one.transpose(1, 2, 0) for _, one in images]
        files = write_images(pixels, self.settings.format, self.settings.quality)
        return [(key, data) for (key, _), data in zip(images, files, strict=True)]

    def _publish(self, made: Sequence[Timed[list[tuple[str, bytes]]]]) -> Written:
        files = {key: (self._path(key), data) for part in made for key, data in part.value}
        for folder, path in {path.parent: path for path, _ in files.values()}.items():
            if not folder.resolve().is_relative_to(self.root):
                raise UsageError(f"a link leads out of {self.root}; remove it", place=path)
        refused = self._publisher.publish([*files.values()])
        failures = [Failure(key, str(error)) for key, error in zip(files, refused, strict=True) if error is not None]
        return Written(sum(part.seconds for part in made), failures)

    def _path(self, key: str) -> Path:
        return self.root / self.names[key]


def parts(images: Sequence[T], num_pixels: int, num_threads: int) -> list[Sequence[T]]:
    """Cut the images of a call, of `num_pixels` each, into parts for tasks: enough for all threads, else not many."""
    size = max(1, min(_PART_PIXELS // num_pixels, len(images) // num_threads))
    return [images[start : start + size] for start in range(0, len(images), size)]
