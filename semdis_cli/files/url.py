"""URLs: folders and files of a store that fsspec opens, read as if they were paths.

Names are taken as they are. Many functions of fsspec (`cat`, `get`, `rm`, `mv`, `expand_path`) take a name with `[1]`
for a pattern, and find another file or none; those that are used here do not.
"""

import errno
import io
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from semdis_cli.errors import UsageError
from semdis_cli.files.stores import SCHEMES, FarFile, asking, connect, far_file, pages_below, without_secrets
from semdis_cli.files.stretch import Stretch

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_BUFFER_BYTES = 1 << 16  # headers of most images
_BLOCK_BYTES = 4 << 20  # of what is read from one end to the other


@dataclass(frozen=True, slots=True)
class Url(os.PathLike[str]):
    """Location in a store, with those of pathlib's methods that reading a set needs.

    `text`: as the user gave it, secrets and all; `inner`: what was put behind it. As a string or a path, for messages,
    it has no secrets. Methods raise `OSError`, and `SemdisError` where the package for it is missing.
    """

    text: str
    inner: str = ""

    def __str__(self) -> str:
        return without_secrets(self.text).rstrip("/") + self.inner

    def __fspath__(self) -> str:
        return str(self)

    def __truediv__(self, name: str) -> "Url":
        return Url(self.text, f"{self.inner}/{name}")

    # ---- Names ----

    @property
    def parts(self) -> tuple[str, ...]:
        """The names from the host or bucket on; the query of a web address is none."""
        rest = self.text.partition("://")[2]
        if self.is_web:
            rest = rest.partition("?")[0].partition("#")[0]
        host, _, path = f"{rest}{self.inner}".partition("/")
        return tuple(filter(None, (host.rpartition("@")[2], *path.split("/"))))

    @property
    def name(self) -> str:
        """The last name."""
        return self.parts[-1] if self.parts else ""

    @property
    def suffix(self) -> str:
        """The end of the name from its last dot on."""
        return Path(self.name).suffix

    @property
    def is_web(self) -> bool:
        """Tell whether it is that of a web server."""
        return self.text.partition("://")[0].lower() in {"http", "https"}

    @property
    def is_folder_name(self) -> bool:
        """Tell whether it ends in a slash."""
        return not self.inner and self.text.endswith("/")

    @property
    def path(self) -> str:
        """Return the path within the store."""
        return f"{connect(self.text)[1].rstrip('/')}{self.inner}"

    @property
    def parent(self) -> "Url":
        """The folder that it lies in."""
        if self.inner:
            return Url(self.text, self.inner.rpartition("/")[0])
        return Url(self.text.rstrip("/").rpartition("/")[0])

    def absolute(self) -> "Url":
        """Return the same: no URL is relative."""
        return self

    # ---- Questions ----

    def file(self) -> FarFile:
        """Return what the store tells of the file now."""
        return far_file(self._info(), self.path)

    def stat(self) -> os.stat_result:
        """Return size, times and kind as those of a local file; the time of change follows from the ETag."""
        info = self._info()
        if info["type"] == "directory":
            return os.stat_result((stat.S_IFDIR | 0o755, *(0,) * 9))
        far = far_file(info, self.path)
        times = {"st_mtime_ns": far.mtime_ns or 0, "st_ctime_ns": far.tag_ns or 0}
        return os.stat_result((stat.S_IFREG | 0o644, *(0,) * 5, far.num_bytes, *(0,) * 3), times)

    def exists(self) -> bool:
        """Tell whether there is something. Raises `UsageError` where the store does not say."""
        return self._kind() is not None

    def is_file(self) -> bool:
        """Tell whether there is a file. Raises as `exists`."""
        return self._kind() == "file"

    def is_dir(self) -> bool:
        """Tell whether there is a folder. Raises as `exists`."""
        return self._kind() == "directory"

    def is_symlink(self) -> bool:
        """Return False: stores have no links."""
        return False

    def _kind(self) -> str | None:
        try:
            return str(self._info()["type"])
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UsageError(f"cannot be reached ({error.strerror})", place=self) from error

    def _info(self) -> dict[str, Any]:
        with asking(self.text) as store:
            store.invalidate_cache()  # it is asked because it may have changed
            info: dict[str, Any] = store.info(self.path)
            return info

    # ---- Listing ----

    def files(self) -> Iterator[FarFile]:
        """Yield all files in it, however deep, in one listing; none if there is no such folder.

        Of S3 memory holds a page of it at a time, of other stores all of it.
        """
        with asking(self.text) as store:
            store.invalidate_cache()
        pages = pages_below(self.text, self.path)
        yield from (far_file(info, name) for page in pages for name, info in page)

    def iterdir(self) -> Iterator["Url"]:
        """Yield what lies directly in it."""
        with asking(self.text) as store:
            store.invalidate_cache()
            names = [str(info["name"]).rstrip("/") for info in store.ls(self.path, detail=True)]
        yield from (self / name.rpartition("/")[2] for name in names if name != self.path)

    def glob(self, pattern: str) -> Iterator["Url"]:
        """Yield what lies directly in it and matches `*` and an end; none if it is not there."""
        try:
            yield from (each for each in self.iterdir() if each.name.endswith(pattern[1:]))
        except FileNotFoundError:
            return

    # ---- Content ----

    def read_bytes(self) -> bytes:
        """Return all bytes of the file."""
        far = self.file()
        return self.read(far.path, 0, far.num_bytes)

    def read(self, path: str, start: int, num_bytes: int, *, is_all: bool = True) -> bytes:
        """Return a stretch of the file at `path` in the store. `is_all`: there is nothing behind it.

        Raises `OSError` if it is of another length.
        """
        if not num_bytes:
            return b""
        end = start + num_bytes + is_all  # one more, so that it shows if there is more
        with asking(self.text) as store:
            if store.async_impl:
                data: bytes = store.cat_file(path, start=start, end=end)
            else:  # its files would read 5 MiB ahead
                data = store.cat_file(path, start=start, end=end, cache_type="none")
        if len(data) != num_bytes:
            raise OSError(errno.EIO, "the store gave other bytes than were asked for: it was changed meanwhile, or cut")
        return data

    def open(self, mode: str = "rb", buffering: int = _BLOCK_BYTES) -> io.BufferedReader:
        """Open the file for reading; `buffering`: the least that is read at a time, for most from end to end."""
        assert mode == "rb", "stores are written by `put` alone"
        far = self.file()
        return self.open_range(far.path, 0, far.num_bytes, is_all=True, buffer_bytes=buffering)

    def open_range(
        self, path: str, start: int, num_bytes: int, *, is_all: bool, buffer_bytes: int = _BUFFER_BYTES
    ) -> io.BufferedReader:
        """Open a stretch of the file at `path` in the store, so much at a time. `is_all`: as `read`."""
        return io.BufferedReader(_FarStretch(self, path, start, num_bytes, is_all=is_all), buffer_bytes)

    # ---- Writing ----

    def put(self, file: Path) -> None:
        """Write a copy of a local file, and make sure that it is there whole."""
        with asking(self.text) as store:
            store.put_file(os.fspath(file), self.path)
        found, num_bytes = self.file().num_bytes, file.stat().st_size
        if found != num_bytes:
            raise OSError(errno.EIO, f"the store has {found:,} of {num_bytes:,} bytes")

    def put_bytes(self, data: bytes) -> None:
        """Write a small file."""
        with asking(self.text) as store:
            store.pipe_file(self.path, data)

    def unlink(self) -> None:
        """Remove the file."""
        with asking(self.text) as store:
            store.rm_file(self.path)


Location: TypeAlias = Path | Url


def parse_location(text: str) -> Location:
    """Return a URL for what looks like one, else a path. Raises `UsageError` for `file://`."""
    match = _SCHEME.match(text)
    if match is None:
        return Path(text)
    if match[1].lower() in {"file", "local"}:
        raise UsageError("give the path of a local file as it is, without file://")
    return Url(text)


def was_url(path: Path) -> bool:
    """Tell whether a path was made of a URL, where none is taken: of `s3://bucket` that leaves `s3:/bucket`."""
    scheme = str(path).partition(":/")[0]
    return scheme != str(path) and scheme in SCHEMES


class _FarStretch(Stretch):
    """Stretch of a file of a store as a file, of which each call reads what it is asked for."""

    def __init__(self, url: Url, path: str, start: int, num_bytes: int, *, is_all: bool) -> None:
        super().__init__(num_bytes)
        self._url, self._path, self._start, self._is_all = url, path, start, is_all

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override] # as io itself calls it
        """Fill `buffer` with what comes next, as far as it goes."""
        data = self._read(min(len(buffer), self._num_left))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        """Return all that is left of it."""
        return self._read(self._num_left)

    def _read(self, num_bytes: int) -> bytes:
        if num_bytes <= 0:
            return b""
        is_end = self._is_all and self._position + num_bytes == self._num_bytes
        data = self._url.read(self._path, self._start + self._position, num_bytes, is_all=is_end)
        self._position += num_bytes
        return data
