"""Members of a tar: which of them are images, and where their bytes lie."""

import io
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO, NamedTuple, Protocol

from semdis_cli.events import Failure
from semdis_cli.files.image_list import ImageList
from semdis_cli.files.tar import walk_tar
from semdis_cli.files.url import Location
from semdis_cli.files.zip import MAX_PACKED_BYTES
from semdis_cli.kinds.formats import SIGNATURE_BYTES, has_image_suffix, image_format
from semdis_cli.kinds.tiff_directories import is_picture
from semdis_cli.records import ImageReader, SourceImage, Stamp
from semdis_cli.sources.files import open_handle, section_of
from semdis_cli.sources.input_rules import DEFAULT_RULES, InputRules, PassedOver, Tally, is_plain_member
from semdis_cli.sources.members import Samples, leads_out, parts_of, passed_over
from semdis_cli.sources.source import Finds

_UNPACKERS = {b"\x1f\x8b": "zcat", b"BZh": "bzcat", b"\xfd7zXZ\0": "xzcat", b"\x28\xb5\x2f\xfd": "zstdcat"}
_CONTINUED = b"M"  # the rest of a file that begins in another volume (GNU)
_NO_FILES = frozenset({b"D", b"V"})  # the list of a folder, and the name of a volume (GNU)


class _Link(NamedTuple):
    """Hard link to a name in the tar."""

    target: str


def unpacker_of(start: bytes) -> str | None:
    """Return the program that unpacks a compressed file that begins with `start`; None if it is none."""
    return next((program for magic, program in _UNPACKERS.items() if start.startswith(magic)), None)


class TarReader(ImageReader, Protocol):
    """Reader of the images in a tar, which knows what lies beside them."""

    @property
    def samples(self) -> Samples:
        """Return where what lies beside them is noted."""


def list_tar(
    path: Location, title: Location, reader: TarReader, stamp: Stamp, prefix: str, rules: InputRules = DEFAULT_RULES
) -> Finds:
    """List the images of the tar at `path`, which is called `title`; their keys are `prefix` and the member's name.

    `reader` opens them, and they get the times of `stamp`.

    A member is an image by its suffix or, failing that, by its first bytes; what `rules` pass over in a folder is
    passed over here. A hard link stands for the file it leads to; a symbolic one is passed over. Of two members of one
    name the last one counts, as when the tar is unpacked. A leading slash is left out, as tar does then; a name with
    `..` in it is a failure. What is no whole uncompressed tar has a `damage`.
    """
    reader.samples.begin()
    members = TarMembers(path, reader, stamp, prefix, rules)
    try:
        with path.open("rb") as file:
            damage = _compression(title, file) or members.read_all(file, "an uncompressed tar")
    except OSError as error:
        damage = f"cannot be read ({error.strerror or error})"
    return members.finish(title, damage)


@dataclass(slots=True)
class TarMembers:
    """Members of a tar so far, by their keys: of two of one name the last one counts."""

    path: Location
    reader: TarReader
    stamp: Stamp
    prefix: str
    rules: InputRules
    is_packed: bool = False
    found: dict[str, SourceImage | Failure | _Link] = field(default_factory=dict)
    passed_over: Tally = field(default_factory=Tally)

    def read_all(self, file: BinaryIO, what: str) -> str | None:
        """Take the members as they come; say why `what` the file should be is damaged or cut off, if it is."""
        num_bytes = None if self.is_packed else file.seek(0, io.SEEK_END)
        file.seek(0)
        try:
            for member in walk_tar(file):
                is_cut = num_bytes is not None and member.offset_data + _packed_size(member) > num_bytes
                if member.isreg() and is_cut:
                    return f"cannot be read as {what} (cut off in {member.name!r:.80})"
                if not member.isdir() and member.type not in _NO_FILES:
                    self._add(member, file)
        except ValueError as error:
            return f"cannot be read as {what} ({error})"
        return None

    def finish(self, title: Location, damage: str | None) -> Finds:
        """Return what was found in the tar that is called `title`."""
        self.reader.samples.finish()
        found = [each for each in self.followed() if isinstance(each, SourceImage)]
        images = ImageList()
        images.extend_numbered(
            self.reader,
            [image.key for image in found],
            [image.place for image in found],
            [figure for image in found for figure in image.stamp],
        )
        failures: list[tuple[Failure, Location | str]] = [
            (each, title) for each in self.found.values() if isinstance(each, Failure)
        ]
        return Finds(images, failures, self.passed_over, damage)

    def _add(self, member: tarfile.TarInfo, file: BinaryIO) -> None:
        """Sort one member in; its first bytes may be read off `file`."""
        is_plain = member.isreg() and not self.rules.has_patterns and is_plain_member(member.name)
        parts = [member.name] if is_plain else parts_of(member.name)
        key = self.prefix + "/".join(parts)
        if self.found.pop(key, None) is not None:
            self.passed_over.add(PassedOver.REPLACED)
        kind = None if is_plain else self._kind(member, parts, file)
        if kind is not None:
            self.passed_over.add(kind)
            if member.isreg():
                self.reader.samples.add_other(member.name, member.offset_data, member.size)
        else:
            self.found[key] = self._taken(member, parts, key)

    def _kind(self, member: tarfile.TarInfo, parts: Sequence[str], file: BinaryIO) -> str | None:
        """Return the kind by which a member is passed over, if it is."""
        if not parts or not (
            member.isreg() or member.islnk() or (member.type == _CONTINUED and has_image_suffix(member.name))
        ):
            return PassedOver.NO_IMAGE
        if member.islnk():
            return self.rules.judge(parts).kind
        return passed_over(parts, self.rules, lambda: self._has_image_bytes(member, file))

    def _taken(self, member: tarfile.TarInfo, parts: Sequence[str], key: str) -> "SourceImage | Failure | _Link":
        """Return what a member that is not passed over comes to."""
        if reason := _unusable(member, parts, is_packed=self.is_packed):
            return Failure(key, reason)
        if not member.islnk():
            _, mtime_ns, ctime_ns = self.stamp
            self.reader.samples.add_image(member.name, member.offset_data)
            return SourceImage(key, self.reader, member.offset_data, member.size, mtime_ns, ctime_ns)
        link = _Link("/".join(parts_of(member.linkname)))
        target = self.found.get(self.prefix + link.target)  # as it is now: a later one of its name is another file
        return replace(target, key=key) if isinstance(target, SourceImage) else link

    def _has_image_bytes(self, member: tarfile.TarInfo, file: BinaryIO) -> bool:
        """Tell whether a member is an image by its content; a camera raw is none."""
        file.seek(member.offset_data)
        name = image_format(file.read(min(SIGNATURE_BYTES, member.size)))
        if name != "TIFF" or (self.is_packed and member.size > MAX_PACKED_BYTES):
            return name is not None
        file.seek(member.offset_data)
        if self.is_packed:
            return is_picture(io.BytesIO(file.read(member.size)))
        with section_of(open_handle(self.path), member.offset_data, member.size) as inside:
            return is_picture(inside)

    def followed(self) -> Iterator[SourceImage | Failure]:
        """Yield what was found, in order; hard links as what they lead to."""
        for key, each in self.found.items():  # none is added or taken away
            if not isinstance(each, _Link):
                yield each
                continue
            target = self.found.get(self.prefix + each.target)
            if isinstance(target, SourceImage):
                self.found[key] = image = replace(target, key=key)
                yield image
            elif has_image_suffix(key):
                reason = f"is a link to {each.target!r:.80}, which is no image of this tar"
                self.found[key] = Failure(key, reason)
            else:
                self.passed_over.add(PassedOver.NO_IMAGE)


def _unusable(member: tarfile.TarInfo, parts: Sequence[str], *, is_packed: bool) -> str | None:
    """Say why an image's member cannot be used, if so."""
    if leads_out(member.name, parts):
        return "its name leads out of the tar; pack it under another"
    if member.issparse():
        return "is packed as a sparse file; pack it without tar's option -S"
    if is_packed and member.size > MAX_PACKED_BYTES:
        return f"is larger than {MAX_PACKED_BYTES >> 20} MiB, in a compressed tar; unpack that"
    if member.type == _CONTINUED:
        return "begins in another volume of this tar; unpack the volumes, and encode the folder"
    return None


def _packed_size(member: tarfile.TarInfo) -> int:
    """Count the bytes of a member in the tar; a sparse one has fewer there than its size, and cannot be used anyway."""
    return 0 if member.issparse() else member.size


def _compression(name: Location, file: BinaryIO) -> str | None:
    """Say why a tar cannot be read in place, if it is compressed."""
    program = unpacker_of(file.read(SIGNATURE_BYTES))
    file.seek(0)
    if program is None:
        return None
    return f"a compressed tar; only uncompressed ones: {program} {name} | semdis encode -"
