"""Stdin as a source: what comes in on a pipe, copied to a file without a name that can be read from any place."""

import io
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from semdis_cli.errors import NoSpaceError, UsageError
from semdis_cli.files.atomic import explain_write_error
from semdis_cli.files.disk import spool_file, temporary_folder
from semdis_cli.files.image_list import ImageList
from semdis_cli.files.tar import is_tar_start
from semdis_cli.kinds.formats import SIGNATURE_BYTES, image_format
from semdis_cli.kinds.recognise import describe
from semdis_cli.records import SourceImage, Stamp
from semdis_cli.sources.files import open_regular, open_section
from semdis_cli.sources.members import Samples, read_beside
from semdis_cli.sources.names import NamedPath
from semdis_cli.sources.source import Finds, Search
from semdis_cli.sources.tar_members import list_tar, unpacker_of

STDIN = Path("-")
STDIN_NAME = "stdin"
_START_BYTES = 512  # a tar's first block
_CHUNK_BYTES = 1 << 20
_SUFFIXES = {"JPEG": "jpg", "TIFF": "tif"}  # of the other formats: their names


@dataclass(frozen=True, slots=True)
class PipedSource:
    """Image or tar on stdin, of which only the first bytes were read.

    `suffix`: `tar`, or of the image's format. `is_only`: there is no other source.
    """

    stream: BinaryIO
    start: bytes
    suffix: str
    is_only: bool

    @property
    def is_single(self) -> bool:
        """Tell whether one image is all that there is."""
        return self.is_only and self.suffix != "tar"


class Spool:
    """Source of what came on stdin, an image or a tar: a copy that can be read as long as this object lives.

    It leaves no trace. Where the system can, it has no name from the start: no killed run leaves it behind, and no
    other run sweeps it. The place of an image is where its bytes begin.
    """

    has_one_file = True
    is_far = False

    def __init__(self, source: PipedSource, folder: Path | None) -> None:
        """Read `source` to its end, into `folder` or memory. Raises `NoSpaceError` if it fills up, or `UsageError`."""
        self.suffix = source.suffix
        self.samples = Samples()
        self.is_single = source.is_single
        try:
            spool = spool_file(folder)
            weakref.finalize(self, spool.file.close)
            self.num_bytes = _copy(source, spool.file)
        except OSError as error:
            place = folder or Path("stdin")
            explained = explain_write_error(place, error)
            if isinstance(explained, NoSpaceError):
                explained = NoSpaceError("no space left for what comes on stdin; make room and try again", place=place)
            raise explained from error
        self.path = spool.path

    @property
    def naming(self) -> NamedPath | None:
        """Return the name of a tar; an image has its key."""
        return NamedPath(Path("/", STDIN_NAME), (STDIN_NAME,)) if self.suffix == "tar" else None

    def images(self, prefix: str, search: Search) -> Finds:
        """List the image, or the images of the tar. Raises `UsageError` for a damaged tar."""
        title = Path(STDIN_NAME)
        if self.suffix != "tar":
            return Finds(ImageList([SourceImage(f"{prefix}{title}.{self.suffix}", self, 0, self.num_bytes)]))
        finds = list_tar(self.path, title, self, Stamp(self.num_bytes), prefix, search.rules)
        if finds.damage is not None:  # whoever fills the pipe has failed, and is to do it again
            raise UsageError(finds.damage, place=title)
        return finds

    def for_process(self) -> None:
        """Return nothing: the copy has no name by which another process could open it."""

    def open(self, image: SourceImage) -> io.BufferedReader | io.BytesIO:
        """Open an image, from its first byte to its last. Raises `OSError`."""
        return open_section(self.path, image.place, image.num_bytes)

    def stamp(self, image: SourceImage) -> Stamp:
        """Return the size of an image: the times of the copy say nothing."""
        return image.stamp

    def locate(self, image: SourceImage) -> tuple[str, object]:
        """Return the name of stdin, and where in it the image begins."""
        return STDIN_NAME, image.place

    def columns(self, image: SourceImage) -> Mapping[str, object]:
        """Return what lies beside an image in a tar, as `ColumnSource` says."""
        return read_beside(self.samples.beside(image.place), open_regular(self.path))


def peek_stdin(stream: BinaryIO, *, is_only: bool) -> PipedSource:
    """Look what is on stdin. Raises `UsageError` if it is neither an image nor an uncompressed tar."""
    start = stream.read(_START_BYTES)
    name = image_format(start[:SIGNATURE_BYTES])
    if is_tar_start(start):
        return PipedSource(stream, start, "tar", is_only)
    if name is not None:
        return PipedSource(stream, start, _SUFFIXES.get(name, name.lower()), is_only)
    if not start:
        raise UsageError("stdin is empty; give a tar or an image on it")
    program, kind = unpacker_of(start), describe(start)
    if program is not None:
        hint = f"; unpack it on the way: {program} photos.tar.* | semdis encode -"
    else:
        hint = f", but {kind.name}: {kind.advice}" if kind is not None else ""
    raise UsageError(f"stdin: neither a tar nor an image in a known format{hint}")


def spool_folder(output: Path | None) -> Path | None:
    """Choose a folder for a copy of stdin: on the disk of `output`, else for temporary files (None: there is none)."""
    if output is None:
        return temporary_folder()
    return next(folder for folder in (output, *output.absolute().parents) if folder.is_dir())


def _copy(source: PipedSource, file: BinaryIO) -> int:
    chunk, num_bytes = source.start, 0
    while chunk:
        num_bytes += len(chunk)
        left = memoryview(chunk)
        while left:  # a pipe or a nearly full disk takes less at a time
            left = left[file.write(left) :]
        chunk = source.stream.read(_CHUNK_BYTES)
    return num_bytes
