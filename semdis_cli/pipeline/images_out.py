"""Decoded pixels -> image files: names, formats, and writing them beside all else that a run does."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from semdis_cli.atomic import make_folder, publish, sweep_temporaries
from semdis_cli.data.images import ImageFormat, write_image
from semdis_cli.errors import StoreError, UsageError
from semdis_cli.events import Failure
from semdis_cli.pipeline.overlap import Timed, Urgency, Workers, timed
from semdis_cli.store.checks import check_key

_MAX_NAME_BYTES = 255
_MAX_KEY_BYTES = 3800  # a path may have 4095, with the folder before it


@dataclass(frozen=True)
class WriteSettings:
    """`format` of the files; `quality` 1..100 for jpg and webp (PNG is lossless and ignores it)."""

    format: ImageFormat = "png"
    quality: int = 95


def output_names(keys: Iterable[str], suffix: str) -> dict[str, PurePosixPath]:
    """The file name of every key: its suffix replaced, or `suffix` appended where that name is another's or a folder's.

    `a.jpg` becomes `a.png`; `b.jpg` beside `b.webp` become `b.jpg.png` and `b.webp.png`. Raises `StoreError` for keys
    that are no relative paths.
    """
    paths = {key: check_key(key) for key in keys}
    appended = {key: path.with_name(f"{path.name}.{suffix}") for key, path in paths.items()}
    replaced = {key: path.with_suffix(f".{suffix}") for key, path in paths.items()}
    taken = Counter(replaced.values()) + Counter({folder for path in paths.values() for folder in path.parents})
    names = {key: name if taken[name] == 1 else appended[key] for key, name in replaced.items()}
    return names if len(set(names.values())) == len(names) else appended


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
    """

    def __init__(self, suffix: str) -> None:
        self._suffix = suffix
        self._taken: dict[str, str] = {}  # name -> its key
        self._folders: set[str] = set()

    def claim(self, key: str) -> PurePosixPath:
        """The name of the next key. Raises `StoreError` if it is no relative path, came before, or no name is left."""
        path = check_key(key)
        for name in (path.with_suffix(f".{self._suffix}"), path.with_name(f"{path.name}.{self._suffix}")):
            if self._taken.get(str(name)) == key:
                raise StoreError(f"{key!r:.80} came before in the stream")
            if self._is_free(name):
                self._taken[str(name)] = key
                self._folders.update(map(str, name.parents))
                return name
        raise StoreError(f"{key!r:.80}: what it would be called is another image's, or a folder's")

    def _is_free(self, name: PurePosixPath) -> bool:
        taken = self._taken
        return not (str(name) in taken or str(name) in self._folders or any(str(p) in taken for p in name.parents))


def image_file(pixels: np.ndarray, settings: WriteSettings) -> bytes:
    """The file of one image, uint8 [3,H,W]."""
    return write_image(pixels.transpose(1, 2, 0), settings.format, settings.quality)


class ImageWriter:
    """Encodes and publishes images below `root`, under `names`, with the threads of `workers`."""

    def __init__(
        self, root: Path, names: Mapping[str, PurePosixPath], settings: WriteSettings, workers: Workers
    ) -> None:
        self._root = root.resolve()
        self._names = names
        self._settings = settings
        self._workers = workers
        self._seen: set[Path] = set()
        self._not_made: set[Path] = set()  # when they were seen
        self._swept: set[tuple[int, int]] = set()  # device and number of each folder

    def exists(self, key: str) -> bool:
        """Whether the image of `key` was written by an earlier run."""
        return self._path(key).is_file()

    def sweep_beside(self, key: str) -> None:
        """Remove what a killed run left in the folder of the image of `key`, if nobody has looked there yet.

        A folder may have several names (links, spelling on some disks). One that this run makes holds nothing of a
        killed one.
        """
        folder = self._path(key).parent
        if folder in self._seen:
            return
        self._seen.add(folder)
        place = _place(folder)
        if place is None:
            self._not_made.add(folder)
            return
        for other in tuple(self._not_made):
            made = _place(other)
            if made is not None:
                self._not_made.discard(other)
                self._swept.add(made)
        if place not in self._swept and folder.resolve().is_relative_to(self._root):
            sweep_temporaries(folder)
        self._swept.add(place)

    def submit(self, key: str, pixels: np.ndarray) -> "Future[float]":
        """Write one image, uint8 [3,H,W], soon; the result is the seconds that making its bytes took.

        The future raises what writing raised: `UsageError`, `NoSpaceError`. Threads that compute make the file's bytes,
        threads that may wait put them on disk.
        """
        made = self._workers.submit(Urgency.WRITE, timed, image_file, pixels, self._settings)
        return self._workers.submit_disk_after(made, partial(self._publish, self._path(key)))

    def _publish(self, path: Path, made: Timed[bytes]) -> float:
        if not path.parent.resolve().is_relative_to(self._root):
            raise UsageError(f"{path}: a link leads out of {self._root}; remove it")
        make_folder(path.parent)
        publish(path, [made.value])
        return made.seconds

    def _path(self, key: str) -> Path:
        return self._root / self._names[key]


def _place(folder: Path) -> tuple[int, int] | None:
    """What a folder is known by, whatever it is called; None if there is none of that name."""
    if not folder.is_dir():
        return None
    status = folder.stat()
    return status.st_dev, status.st_ino
