"""Images that are files of their own, and how a file or a stretch of one is opened."""

import hashlib
import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from semdis_cli.errors import PassingReadError, UnreadableImageError
from semdis_cli.files.disk import open_at_once
from semdis_cli.files.handles import Handle, close, open_far, pread
from semdis_cli.files.stretch import Stretch
from semdis_cli.files.url import Location, Url
from semdis_cli.records import SourceImage, Stamp

_CUT_OFF = "the tar was cut off while the run was going on; run again"
SMALL_BYTES = 1 << 18  # at most: is read at once, where a file object and its buffer would take longer


@dataclass(frozen=True, slots=True)
class FilesOnDisk:
    """Reader of images that are files of their own. The place of an image is the path of its file."""

    has_one_file = is_far = False

    def for_process(self) -> "FilesOnDisk":
        """Return what another process reads the images with."""
        return self

    def open(self, image: SourceImage) -> io.BufferedReader:
        """Open the file of an image. Raises `OSError`, and `UnreadableImageError` for what is no regular file."""
        return os.fdopen(open_regular(image.place), "rb")

    def stamp(self, image: SourceImage) -> Stamp:
        """Return size and times of the file of an image. Raises `OSError`."""
        return stamp_of(os.stat(image.place))  # noqa: PTH116 # a Path for each image would take longer than the call

    def locate(self, image: SourceImage) -> tuple[str, object]:
        """Return the path of the file, which holds nothing else."""
        return os.fspath(image.place), None


ON_DISK = FilesOnDisk()


def image_of_file(key: str, path: str, status: os.stat_result) -> SourceImage:
    """Return the image in a file of its own that has the status `status`."""
    return SourceImage(key, ON_DISK, path, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def regular_stamp(path: Location) -> Stamp:
    """Return size and times of a regular file. Raises `OSError`, and `UnreadableImageError` for anything else."""
    if isinstance(path, Url):
        open_far(path, anew=True)
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableImageError("is not a regular file")
    return stamp_of(status)


def stamp_of(status: os.stat_result) -> Stamp:
    """Return size and times of a file that has the status `status`."""
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def stamp_within(path: Location, image: SourceImage) -> Stamp:
    """Return the size of an image, and the times of the file that it lies in: in a store, of the listing.

    Raises `OSError`.
    """
    if isinstance(path, Url):
        return image.stamp
    return stamp_of(os.stat(path))._replace(num_bytes=image.num_bytes)  # noqa: PTH116 # as for files


def read_bytes(image: SourceImage) -> bytes:
    """Return all bytes of an image. Raises `OSError` and `UnreadableImageError`."""
    with image.reader.open(image) as file:
        data: bytes | None = file.read()
    if data is None:  # the disk has none yet; it was opened so that a pipe could not keep us
        raise PassingReadError("the disk does not give it now; run again")
    return data


def hash_image(image: SourceImage) -> str:
    """Return the sha256 (hex) of an image's bytes. Raises `OSError` and `UnreadableImageError`."""
    if image.reader.is_far:  # in one go: a store is asked for each piece
        return hashlib.sha256(read_bytes(image)).hexdigest()
    with image.reader.open(image) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def try_hash(image: SourceImage) -> str | None:
    """Return the sha256 (hex) of an image's bytes; None if they cannot be read."""
    try:
        return hash_image(image)
    except (OSError, UnreadableImageError):
        return None


def open_regular(path: Path | str) -> int:
    """Open a regular file for reading and return its descriptor; a pipe or device would hang or never end.

    Raises `OSError`, and `UnreadableImageError` for what is no regular file.
    """
    descriptor = open_at_once(path)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnreadableImageError("not a regular file")
    return descriptor


def open_section(path: Path | str, start: int, num_bytes: int) -> io.BufferedReader | io.BytesIO:
    """Open a stretch of a regular file as a file. Raises what `open_regular` raises, and `PassingReadError`."""
    return section_of(open_regular(path), start, num_bytes)


def open_handle(path: Location) -> Handle:
    """Open a file that holds many images. Raises what `open_regular` raises."""
    return open_far(path) if isinstance(path, Url) else open_regular(path)


def open_unchanged(path: Location, mtime_ns: int | None, what: str) -> Handle:
    """Open a regular file that holds many images, and is still the one that was listed; `what` it is called.

    Of one in a store the next run finds out: asking for each image would take as long as the image. Raises what
    `open_regular` raises, and `PassingReadError` if it was changed.
    """
    if isinstance(path, Url):
        return open_far(path)
    descriptor = open_regular(path)
    try:
        check_unchanged(os.fstat(descriptor), mtime_ns, what)
    except PassingReadError:
        os.close(descriptor)
        raise
    return descriptor


def check_unchanged(status: os.stat_result, mtime_ns: int | None, what: str) -> None:
    """Raise `PassingReadError` if a file, `what` it is called, has no more the mtime with which it was listed."""
    if status.st_mtime_ns != mtime_ns:
        raise PassingReadError(f"the {what} was changed while the run was going on; run again")


def section_of(descriptor: Handle, start: int, num_bytes: int) -> io.BufferedReader | io.BytesIO:
    """Return a stretch of an open file as a file; it is read at once if it is small. The descriptor gets closed.

    Raises `PassingReadError` if the file ends before.
    """
    if num_bytes > SMALL_BYTES:
        return io.BufferedReader(Section(descriptor, start, num_bytes))
    try:
        return io.BytesIO(read_whole(descriptor, start, num_bytes))
    finally:
        close(descriptor)


def read_whole(descriptor: Handle, start: int, num_bytes: int) -> bytes:
    """Read so many bytes from a place in a file. Raises `PassingReadError` if it ends before."""
    data = read_at(descriptor, start, num_bytes)
    if len(data) < num_bytes:
        raise PassingReadError(_CUT_OFF)
    return data


def read_at(descriptor: Handle, start: int, num_bytes: int) -> bytes:
    """Read so many bytes from a place in a file, fewer at its end."""
    data = pread(descriptor, num_bytes, start)
    while 0 < len(data) < num_bytes and (more := pread(descriptor, num_bytes - len(data), start + len(data))):
        data += more
    return data


class Section(Stretch):
    """Stretch of a file as a file. It reads at places of its own: those of one descriptor may be shared."""

    def __init__(self, descriptor: Handle, start: int, num_bytes: int) -> None:
        super().__init__(num_bytes)
        self._descriptor, self._start = descriptor, start

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override] # as io itself calls it
        """Fill `buffer` with what comes next, as far as it goes."""
        size = max(0, min(len(buffer), self._num_left))
        data = pread(self._descriptor, size, self._start + self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def readall(self) -> bytes:
        """Return all that is left of it. Raises `PassingReadError` if the file ends before."""
        data = super().readall() if isinstance(self._descriptor, int) else self.read(self._num_left)
        if self._num_left > 0:
            raise PassingReadError(_CUT_OFF)
        return data

    def fileno(self) -> int:
        """Return the descriptor of the file that it is a stretch of. Raises `io.UnsupportedOperation` in stores."""
        return self._descriptor if isinstance(self._descriptor, int) else super().fileno()

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            close(self._descriptor)
        super().close()
