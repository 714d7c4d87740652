"""Zips: which images are in them, by their central directory, and what lies beside each. None is unpacked to disk."""

import io
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import BinaryIO

from semdis_cli.errors import UnreadableImageError
from semdis_cli.events import Failure
from semdis_cli.files.handles import Handle, close
from semdis_cli.files.url import Location, Url
from semdis_cli.files.zip import (
    MAX_PACKED_BYTES,
    ZipMember,
    data_start,
    member_at,
    read_directory,
    read_member,
    read_start,
    walk_zip,
)
from semdis_cli.kinds.formats import SIGNATURE_BYTES, image_format
from semdis_cli.kinds.tiff_directories import is_picture
from semdis_cli.records import MAX_BESIDE_BYTES, SourceImage, Stamp
from semdis_cli.sources.files import SMALL_BYTES, Section, open_handle, open_unchanged, regular_stamp, stamp_within
from semdis_cli.sources.input_rules import InputRules, PassedOver
from semdis_cli.sources.members import Beside, Samples, last_of_each, leads_out, parts_of, passed_over
from semdis_cli.sources.names import NamedPath
from semdis_cli.sources.source import Finds, Search

ZIP_SUFFIX = ".zip"
_LABELS_FILE = "dataset.json"  # of StyleGAN and EDM2: {"labels": [[name, label], ...]}


@dataclass(frozen=True)
class Zip:
    """Source of the images in a zip. The images have the times of the zip, as in a tar."""

    path: Location
    naming: NamedPath

    def images(self, prefix: str, search: Search) -> Finds:
        """List the images in it; their keys are `prefix` and the names of the members."""
        listing = _Listing(ZipReader(self.path), prefix, search.rules)
        listing.reader.samples.begin()
        try:
            stamp = regular_stamp(self.path)
            with self.path.open("rb", buffering=1 << 20) as file:
                listing.read(file, stamp)
        except OSError as error:
            listing.finds.damage = f"cannot be read ({error.strerror or error})"
        except UnreadableImageError as error:
            listing.finds.damage = str(error)
        except ValueError as error:
            listing.finds.damage = f"cannot be read as a zip ({error})"
        return listing.finish()


@dataclass(eq=False)
class ZipReader:
    """Reader of the images in a zip. The place of an image is that of its entry in the zip's directory.

    `shift`: what is to be added to the places in there. `samples`: what lies beside the images. `labels_place`: that of
    EDM2's list of labels.
    """

    path: Location
    shift: int = 0
    samples: Samples = field(default_factory=Samples)
    labels_place: int | None = None
    mtime_ns: int | None = None
    has_one_file = True
    _labels: Mapping[str, object] | None = None
    _lock: Lock = field(default_factory=Lock)

    @property
    def is_far(self) -> bool:
        """Tell whether it lies in a store."""
        return isinstance(self.path, Url)

    def __reduce__(self) -> tuple[type["ZipReader"], tuple[object, ...]]:
        """Return how another process makes its own."""
        return ZipReader, (self.path, self.shift, Samples(), None, self.mtime_ns)

    def for_process(self) -> "ZipReader":
        """Return what another process reads the images with."""
        return self

    def open(self, image: SourceImage) -> io.BufferedReader | io.BytesIO:
        """Open an image, from its first byte to its last. Raises `OSError`, and `UnreadableImageError`."""
        return self._open(image.place)

    def stamp(self, image: SourceImage) -> Stamp:
        """Return the size of an image, and the times of the zip: in a store, of the listing. Raises `OSError`."""
        return stamp_within(self.path, image)

    def locate(self, image: SourceImage) -> tuple[str, object]:
        """Return the path of the zip, and which entry of its directory the image is."""
        return str(self.path), image.place

    def columns(self, image: SourceImage) -> Mapping[str, object]:
        """Return what lies beside an image, as `ColumnSource` says; `label` is that of EDM2's list."""
        found: dict[str, object] = {}
        for each in self.samples.beside(image.place):
            found[each.name] = self._read_beside(each)
        if self.labels_place is not None:
            label = self._all_labels().get("/".join(parts_of(self._member(image.place).name)))
            found |= {} if label is None else {"label": label}
        return found

    def has_image_bytes(self, member: ZipMember) -> bool:
        """Tell whether a member is an image by its content; a camera raw is none. Raises `OSError`."""
        if member.why_not is not None:
            return False
        try:
            name = image_format(self._start(member, SIGNATURE_BYTES))
            if name != "TIFF":
                return name is not None
            with self._open(member.place) as inside:
                return is_picture(inside)
        except UnreadableImageError:
            return False

    def _start(self, member: ZipMember, num_bytes: int) -> bytes:
        """Read the first bytes of a member."""
        descriptor = open_handle(self.path)
        try:
            return read_start(descriptor, member, num_bytes)
        except ValueError as error:
            raise UnreadableImageError(str(error)) from error
        finally:
            close(descriptor)

    def _read_beside(self, beside: Beside) -> bytes:
        if beside.num_bytes > MAX_BESIDE_BYTES:
            return self._start(self._member(beside.place), MAX_BESIDE_BYTES + 1)
        with self._open(beside.place) as file:
            return file.read()

    def _all_labels(self) -> Mapping[str, object]:
        with self._lock:
            if self._labels is None:
                assert self.labels_place is not None
                with self._open(self.labels_place) as file:
                    self._labels = parse_labels(file.read(MAX_PACKED_BYTES))
            return self._labels

    def _member(self, place: int) -> ZipMember:
        descriptor = open_unchanged(self.path, self.mtime_ns, "zip")
        try:
            return member_at(descriptor, place, self.shift)
        except ValueError as error:
            raise UnreadableImageError(str(error)) from error
        finally:
            close(descriptor)

    def _open(self, place: int) -> io.BufferedReader | io.BytesIO:
        descriptor = open_unchanged(self.path, self.mtime_ns, "zip")
        is_kept = False
        try:
            member = member_at(descriptor, place, self.shift)
            start = data_start(descriptor, member)
            is_kept = member.is_stored and member.num_bytes > SMALL_BYTES
            if is_kept:
                return io.BufferedReader(_CheckedSection(descriptor, start, member))
            return io.BytesIO(read_member(descriptor, member, start))
        except ValueError as error:
            raise UnreadableImageError(str(error)) from error
        finally:
            if not is_kept:
                close(descriptor)


class _CheckedSection(Section):
    """Stored member as a file, whose bytes are held against their checksum where all are read."""

    def __init__(self, descriptor: Handle, start: int, member: ZipMember) -> None:
        super().__init__(descriptor, start, member.num_bytes)
        self._member = member

    def readall(self) -> bytes:
        """Return all that is left of it. Raises `UnreadableImageError` if that is all of it, and damaged."""
        is_whole = self.tell() == 0
        data = super().readall()
        if is_whole and zlib.crc32(data) != self._member.crc:
            raise UnreadableImageError("its bytes do not fit the checksum in the zip")
        return data


def parse_labels(data: bytes) -> Mapping[str, object]:
    """Parse EDM2's list of labels: those by name that are no null. Raises `UnreadableImageError` for anything else."""
    try:
        pairs = json.loads(data)["labels"] or []
        return {"/".join(parts_of(name)): label for name, label in pairs if label is not None}
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise UnreadableImageError(f'{_LABELS_FILE} is no {{"labels": [[name, label], ...]}}') from error


@dataclass(slots=True)
class _Listing:
    """Members of a zip so far."""

    reader: ZipReader
    prefix: str
    rules: InputRules
    finds: Finds = field(default_factory=Finds)

    def read(self, file: BinaryIO, stamp: Stamp) -> None:
        """Take the members as they come. Raises `ValueError` where the zip is damaged."""
        directory = read_directory(file)
        self.reader.shift, self.reader.mtime_ns = directory.shift, stamp.mtime_ns
        for member in walk_zip(file, directory):
            if not member.name.endswith("/"):
                self._add(member, stamp)

    def _add(self, member: ZipMember, stamp: Stamp) -> None:
        parts = parts_of(member.name)
        kind: str | None = PassedOver.NO_IMAGE
        if parts and member.is_file:
            kind = passed_over(parts, self.rules, lambda: self.reader.has_image_bytes(member))
        if kind is not None:
            self._note_other(member, parts, kind)
            return
        key = self.prefix + "/".join(parts)
        reason = "its name leads out of the zip; pack it under another" if leads_out(member.name, parts) else None
        reason = reason or member.why_not
        if reason is not None:
            self.finds.failures.append((Failure(key, reason), self.reader.path))
            return
        self.reader.samples.add_image(member.name, member.place)
        self.finds.images.append(SourceImage(key, self.reader, member.place, member.num_bytes, *stamp[1:]))

    def _note_other(self, member: ZipMember, parts: list[str], kind: str) -> None:
        """Note what is no image, but may lie beside one."""
        self.finds.passed_over.add(kind)
        if member.is_file and member.why_not is None:
            self.reader.samples.add_other(member.name, member.place, member.num_bytes)
            if parts == [_LABELS_FILE]:
                self.reader.labels_place = member.place

    def finish(self) -> Finds:
        """Return what was found; of two members of one name the last one."""
        finds, images = self.finds, last_of_each(self.finds.images)
        finds.passed_over.add(PassedOver.REPLACED, len(finds.images) - len(images))
        finds.images = images
        if finds.failures:
            failed = {failure.key: (failure, path) for failure, path in finds.failures}
            finds.passed_over.add(PassedOver.REPLACED, len(finds.failures) - len(failed))
            for key, *_ in images.facts():
                finds.passed_over.add(PassedOver.REPLACED, failed.pop(key, None) is not None)
            finds.failures = list(failed.values())
        self.reader.samples.finish()
        return finds
