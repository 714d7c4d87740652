"""Exported latents, found again: the search for images in a folder of files or tars, and reading them without trust."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

from semdis_cli.errors import StoreError, UsageError
from semdis_cli.events import Failure, Planning, Tell, untold
from semdis_cli.files.json_text import parse_json
from semdis_cli.files.set_names import MANIFEST_FILE
from semdis_cli.files.spelling import check_key
from semdis_cli.files.tar import read_members
from semdis_cli.provenance import LatentLayout, Provenance
from semdis_cli.records import FileDigest
from semdis_cli.settings import ROW_FORMATS, TRAINER_FORMATS
from semdis_cli.store.checks import MALFORMED, check_count, check_object
from semdis_cli.store.exchange.export import EXPORT_MARKER, check_finite, sample_key
from semdis_cli.store.reader import recorded_layout
from semdis_cli.store.shard_header import no_shard, parse_header
from semdis_cli.store.shards import Shard, parse_shard
from semdis_cli.store.versions import mixing_hint

_MAX_LINE_BYTES = 1 << 20  # of one image's record
_NO_IMPORT = "which cannot be imported; export the set as webdataset or safetensors for that"
_NOT_IMPORTED = {
    **{name: f"an export for {name}, {_NO_IMPORT}" for name in TRAINER_FORMATS},
    **{name: f"an export as {name}, {_NO_IMPORT}" for name in ROW_FORMATS},
}
_ARRAYS = f".npy arrays, {_NO_IMPORT}"
_MAX_HEADER_BYTES = 16 << 20  # of one image; its settings take a few thousand bytes


@dataclass(frozen=True, slots=True)
class Place:
    """Some bytes of a file. `name`: what to call them, relative to where the search began."""

    path: str
    name: str
    offset: int
    num_bytes: int

    def read(self, limit: int | None = None) -> bytes:
        """Read the bytes, or the first `limit` of them. Raises `StoreError` if they cannot be read."""
        try:
            with Path(self.path).open("rb") as file:
                file.seek(self.offset)
                return file.read(self.num_bytes if limit is None else min(limit, self.num_bytes))
        except OSError as error:
            raise StoreError(f"cannot be read ({error.strerror})", place=self.name) from error


@dataclass(frozen=True, slots=True)
class FoundSample:
    """The shard of one image, not checked yet; `source`: the file that its latents were made from.

    `version`: of the records of all samples, the number of its own.
    """

    key: str
    bucket: tuple[int, int]
    source: FileDigest
    data: Place
    version: int = 0


@dataclass(frozen=True)
class FoundSamples:
    """All images of an export and what could not be used, each sorted by key, no key twice.

    `records`: the settings that made them, one for each version. `num_exported`: how many a folder should hold, if the
    exports in it say so.
    """

    samples: tuple[FoundSample, ...]
    failures: tuple[Failure, ...]
    records: "Records"
    num_exported: int | None

    @property
    def layout(self) -> LatentLayout:
        """Sizes of the latents; all versions have the same."""
        return self.provenance.layout

    @property
    def provenance(self) -> Provenance:
        """The settings of the first version."""
        return self.records.all[0]

    @property
    def num_missing(self) -> int:
        """Number of images that were to be exported, but are not there, not even damaged."""
        return max(0, (self.num_exported or 0) - len(self.samples) - len(self.failures))

    def read(self, sample: FoundSample) -> Shard:
        """Read and check the image's shard. Raises `StoreError` if they are damaged or edited."""
        shard = parse_shard(sample.data.read(), sample.data.name)
        if shard.keys != (sample.key,) or self.records.find(shard.provenance) != sample.version:
            raise StoreError("changed while it was imported", place=sample.data.name)
        check_finite(shard, sample.data.name)
        return shard


@dataclass
class Records:
    """The settings of all that was found, those of one kind of latents."""

    all: list[Provenance] = field(default_factory=list)

    def find(self, record: Provenance) -> int | None:
        """Return the number of the version with these settings, whatever its model is called there."""
        for number, known in enumerate(self.all):
            if known.is_same(record):
                return number
        return None

    def add(self, record: Provenance) -> int:
        """Add a version; return its number."""
        self.all.append(record)
        return len(self.all) - 1


def find_samples(source: Path, tell: Tell = untold, *, mix_versions: bool = False) -> FoundSamples:
    """List the images in `source`: a folder that `semdis export` wrote, any folder of shards of one image, or a tar.

    Only what plans need is read; `tell` hears of it. Raises `UsageError` if there is nothing, or not all was made with
    the same settings (with `mix_versions`, settings of the same kind of latents), and `StoreError` for an export that
    is damaged as a whole.
    """
    tell(Planning("looking for latents"))
    search = _Search(source, mix_versions, tell)
    if source.is_dir():
        search.add_folder()
    elif source.suffix in {".tar", ".safetensors"} and source.is_file():
        search.add_file(source.name, source)
    else:
        raise UsageError("no folder, .tar or .safetensors file that could be imported", place=source)
    return search.result()


@dataclass
class _Search:
    """The finds so far."""

    source: Path
    mix_versions: bool
    tell: Tell = untold
    samples: list[FoundSample] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    records: Records = field(default_factory=Records)
    num_promised: dict[Path, int] = field(default_factory=dict)  # images of the export that each marker stands for
    _made_by: str = ""  # where the settings were found
    _has_arrays: bool = False

    def add_folder(self) -> None:
        """Add all files below the source."""
        self._check_root()
        for folder, inner, names in os.walk(self.source, onerror=_refuse):
            inner.sort()
            if EXPORT_MARKER in names and Path(folder) != self.source:
                self._add_marker(Path(folder))
            for path in (Path(folder, name) for name in sorted([*inner, *names])):
                self.tell(Planning("looking for latents", len(self.samples)))
                name = path.relative_to(self.source).as_posix()
                if path.is_dir() and path.is_symlink():
                    self.failures.append(Failure(name, "is a link to a folder; import that one by itself"))
                elif path.suffix in {".safetensors", ".tar"} and not path.is_dir():
                    self.add_file(name, path)
                elif path.suffix == ".npy":
                    self._has_arrays = True

    def _check_root(self) -> None:
        """Raise `UsageError` if the source as a whole is nothing to import."""
        if (self.source / MANIFEST_FILE).exists():
            raise UsageError("a set of latents already, there is nothing to import", place=self.source)
        if reason := _why_not(self._read_marker(self.source)):
            raise UsageError(reason, place=self.source)

    def add_file(self, name: str, path: Path) -> None:
        """Add a shard or a tar."""
        try:
            if path.suffix == ".tar":
                self._read_marker(path.parent)
                self._add_tar(name, path)
            elif path.is_file():
                place = Place(str(path), name, 0, path.stat().st_size)
                self._add_shard(place, name.removesuffix(".safetensors"))
            else:
                self.failures.append(Failure(name, "is not a regular file"))
        except StoreError as error:  # the tar, from some byte on
            self.failures.append(Failure(name, error.beside(path)))

    def result(self) -> FoundSamples:
        """Return everything, sorted by key. Raises `UsageError` if there is nothing, or one key twice."""
        if self._has_arrays and not self.samples:
            raise UsageError(f"holds {_ARRAYS}", place=self.source)
        if not self.records.all:
            reason = f" ({self.failures[0].key}: {self.failures[0].reason})" if self.failures else ""
            raise UsageError(f"no latents that semdis export or semdis encode has written{reason}", place=self.source)
        self.samples.sort(key=lambda sample: sample.key)
        for one, other in zip(self.samples, self.samples[1:], strict=False):
            if one.key == other.key:
                raise UsageError(f"{one.data.name} and {other.data.name} are both {one.key!r:.80}; remove one of them")
        failures = {failure.key: failure for failure in self._renamed_failures()}
        return FoundSamples(
            samples=tuple(self.samples),
            failures=tuple(failures[key] for key in sorted(failures)),
            records=self.records,
            num_exported=sum(self.num_promised.values()) if self.num_promised and self.source.is_dir() else None,
        )

    def _renamed_failures(self) -> Iterator[Failure]:
        """Yield the failures under keys that are no good image's, nor another failure's."""
        taken = {sample.key for sample in self.samples}
        for failure in self.failures:
            key = failure.key
            while key in taken:
                key += "?"
            taken.add(key)
            yield Failure(key, failure.reason)

    def _add_marker(self, folder: Path) -> None:
        """Note an export in a folder below the source."""
        name = (folder / EXPORT_MARKER).relative_to(self.source).as_posix()
        try:
            marker = self._read_marker(folder)
            if marker.get("format") == "npy":
                self.failures.append(Failure(name, f"an export of {_ARRAYS}"))
            elif reason := _why_not(marker):
                self.failures.append(Failure(name, reason))
        except StoreError as error:
            self.failures.append(Failure(name, error.beside(folder / EXPORT_MARKER)))

    def _read_marker(self, folder: Path) -> dict[str, Any]:
        """Return what the export in `folder` says of itself; nothing if it was none."""
        path = folder / EXPORT_MARKER
        if not path.is_file():
            return {}
        try:
            marker = check_object(parse_json(Place(str(path), str(path), 0, _MAX_LINE_BYTES).read()))
            provenance, num_images = Provenance.from_json(marker["provenance"]), check_count(marker["num_images"])
            later_versions = list(map(Provenance.from_json, marker.get("later_versions", ())))
        except MALFORMED as error:
            raise StoreError(f"not the record of an export ({error}); damaged or edited", place=path) from error
        self._agree(provenance, str(path), may_mix=self.mix_versions)
        for record in later_versions:  # a set that was mixed, on record
            self._agree(record, str(path), may_mix=True)
        if not _why_not(marker) and marker.get("member") != "npy":
            self.num_promised[path] = num_images
        return marker

    def _agree(self, provenance: Provenance, place: str, *, may_mix: bool) -> int:
        """Return the version of these settings. Raises `UsageError` if they do not go with all before."""
        version = self.records.find(provenance)
        if version is not None:
            return version
        if not self.records.all:
            recorded_layout(provenance, place)
            self._made_by = place
        elif not (may_mix and self.records.all[0].is_of_one_kind(provenance)):
            differences = self.records.all[0].differences(provenance)
            raise UsageError(
                f"made with other settings than {self._made_by} ({'; '.join(map(str, differences))}); "
                f"import them one by one{mixing_hint(differences)}",
                place=place,
            )
        return self.records.add(provenance)

    def _add_shard(self, place: Place, likely_key: str) -> None:
        """Add the sample in a shard of one image, or a failure under the key that the file's name says."""
        try:
            sample = self._peek_shard(place)
            check_key(sample.key)
            self.samples.append(sample)
        except StoreError as error:
            self.failures.append(Failure(likely_key, str(error)))

    def _peek_shard(self, place: Place) -> FoundSample:
        """Read the header of a shard of one image. Raises `StoreError`."""
        header_bytes = int.from_bytes(place.read(8), "little")
        if header_bytes > min(place.num_bytes - 8, _MAX_HEADER_BYTES):
            raise no_shard(place.name, "its header is longer than it; truncated or edited")
        header = parse_header(BytesIO(place.read(8 + header_bytes)), place.num_bytes, place.name)
        if len(header.records) != 1:
            what = f"it holds {len(header.records)} images, not one; semdis decode and export read it"
            raise no_shard(place.name, what)
        record = header.records[0]
        version = self._agree(header.provenance, place.name, may_mix=self.mix_versions)
        return FoundSample(record.key, record.geometry.bucket, record.source, place, version=version)

    def _add_tar(self, name: str, path: Path) -> None:
        """Add the samples in a tar. Raises `StoreError` where it is damaged; what comes before stays."""
        suffixes = set()
        for member in read_members(path):
            suffixes.add(PurePosixPath(member.name).suffix)
            if member.name.endswith(".safetensors"):
                place = Place(str(path), f"{name}/{member.name}", member.offset, member.num_bytes)
                self._add_shard(place, _likely_key(member.name))
        if ".npy" in suffixes and ".safetensors" not in suffixes:
            self._has_arrays = True
            self.failures.append(Failure(name, f"holds {_ARRAYS}"))


def _why_not(marker: Mapping[str, Any]) -> str | None:
    """Return why an export of this record cannot be imported, if that is for its format."""
    return _NOT_IMPORTED.get(str(marker.get("format")))


def _likely_key(name: str) -> str:
    """Return the key that the name of a member stands for."""
    base = name.rpartition(".")[0]
    try:
        return sample_key(base)
    except ValueError:  # not in a tar of ours, or one that was written to a pipe: there names are keys
        return base


def _refuse(error: OSError) -> None:
    raise UsageError(f"cannot be searched ({error.strerror})", place=error.filename)
