"""Decoded pixels -> image files: names, formats, and a pool of threads that writes them."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from semdis_cli.atomic import make_folder, publish
from semdis_cli.data.images import ImageFormat, write_image
from semdis_cli.errors import UsageError
from semdis_cli.events import Failure
from semdis_cli.store.checks import check_key

_MAX_NAME_BYTES = 255


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
    reason = f"its name would be longer than {_MAX_NAME_BYTES} bytes; rename the original"
    return [Failure(key, reason) for key, name in names.items() if len(os.fsencode(name.name)) > _MAX_NAME_BYTES]


class ImageWriter:
    """Encodes and publishes images with `num_workers` threads; use as a context manager."""

    def __init__(
        self, root: Path, names: Mapping[str, PurePosixPath], settings: WriteSettings, num_workers: int
    ) -> None:
        self._root = root.resolve()
        self._names = names
        self._settings = settings
        self._pool = ThreadPoolExecutor(num_workers, thread_name_prefix="semdis-write")
        self._pending: list[Future[None]] = []

    def __enter__(self) -> "ImageWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def exists(self, key: str) -> bool:
        """Whether the image of `key` was written by an earlier run."""
        return self._path(key).is_file()

    def submit(self, key: str, pixels: np.ndarray) -> None:
        """Write one image, uint8 [3,H,W], soon. Errors come up in `drain`."""
        self._pending.append(self._pool.submit(self._write, key, pixels))

    def drain(self) -> None:
        """Wait until everything submitted is on disk. Raises what writing raised: `UsageError`, `NoSpaceError`."""
        pending, self._pending = self._pending, []
        for future in pending:
            future.result()

    def _path(self, key: str) -> Path:
        return self._root / self._names[key]

    def _write(self, key: str, pixels: np.ndarray) -> None:
        path = self._path(key)
        if not path.parent.resolve().is_relative_to(self._root):
            raise UsageError(f"{path}: a link leads out of {self._root}; remove it")
        make_folder(path.parent)
        data = write_image(pixels.transpose(1, 2, 0), self._settings.format, self._settings.quality)
        publish(path, [data])
