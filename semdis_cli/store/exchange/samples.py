"""Exported latents, found again: the search for images in a folder of files or tars."""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from semdis_cli.errors import StoreError, UsageError
from semdis_cli.events import Failure, Planning, Tell, untold
from semdis_cli.files.json_text import ESCAPED
from semdis_cli.records import Geometry
from semdis_cli.store.checks import MALFORMED, check_count, check_key, check_keys, check_object, parse_json
from semdis_cli.store.exchange.export import (
    EXPORT_MARKER,
    STEM_RECORD,
    TABLE_FILE,
    SampleRecord,
    recorded_layout,
    sample_key,
)
from semdis_cli.store.exchange.found_samples import MAX_LINE_BYTES, FoundSample, FoundSamples, Place, Records
from semdis_cli.store.exchange.tar_members import read_members
from semdis_cli.store.index import to_line
from semdis_cli.store.manifest import MANIFEST_FILE
from semdis_cli.store.record import check_source, parse_record
from semdis_cli.store.writing.settings import are_of_one_kind, find_differences, mixing_hint

_MAX_HEADER_BYTES = 16 << 20  # of one image; its settings take a few thousand bytes


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
        raise UsageError(f"{source}: no folder, .tar or .safetensors file that could be imported")
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

    def add_folder(self) -> None:
        """All files below the source."""
        if (self.source / MANIFEST_FILE).exists():
            raise UsageError(f"{self.source}: a set of latents already, there is nothing to import")
        marker = self._read_marker()
        if marker.get("format") == "npy":
            self._add_table()
            return
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

    def add_file(self, name: str, path: Path) -> None:
        """A shard, or a tar."""
        try:
            if path.suffix == ".tar":
                self._read_marker(path.parent)
                self._add_tar(name, path)
            elif path.is_file():
                place = Place(str(path), name, 0, path.stat().st_size)
                self._try(place, name.removesuffix(".safetensors"), partial(self._peek_shard, place))
            else:
                self.failures.append(Failure(name, "is not a regular file"))
        except StoreError as error:  # the tar, from some byte on
            self.failures.append(Failure(name, str(error).removeprefix(f"{path}: ")))

    def result(self) -> FoundSamples:
        """Everything, sorted by key. Raises `UsageError` if there is nothing, or one key twice."""
        if not self.records.all:
            reason = f" ({self.failures[0].key}: {self.failures[0].reason})" if self.failures else ""
            raise UsageError(f"{self.source}: no latents that semdis export or semdis encode has written{reason}")
        self.samples.sort(key=lambda sample: sample.key)
        for one, other in zip(self.samples, self.samples[1:], strict=False):
            if one.key == other.key:
                raise UsageError(f"{one.data.name} and {other.data.name} are both {one.key!r:.80}; remove one of them")
        failures = {failure.key: failure for failure in self._renamed_failures()}
        return FoundSamples(
            samples=tuple(self.samples),
            failures=tuple(failures[key] for key in sorted(failures)),
            records=self.records,
            layout=recorded_layout(self.records.all[0], self._made_by),
            num_exported=sum(self.num_promised.values()) if self.num_promised and self.source.is_dir() else None,
        )

    def _renamed_failures(self) -> Iterator[Failure]:
        """The failures under keys that are no good image's, nor another failure's."""
        taken = {sample.key for sample in self.samples}
        for failure in self.failures:
            key = failure.key
            while key in taken:
                key += "?"
            taken.add(key)
            yield Failure(key, failure.reason)

    def _add_marker(self, folder: Path) -> None:
        """An export in a folder below the source."""
        try:
            self._read_marker(folder)
        except StoreError as error:
            name = (folder / EXPORT_MARKER).relative_to(self.source).as_posix()
            self.failures.append(Failure(name, str(error).removeprefix(f"{folder / EXPORT_MARKER}: ")))

    def _read_marker(self, folder: Path | None = None) -> dict[str, Any]:
        """What the export in a folder (default: the source) says of itself; nothing if it was none."""
        path = (folder or self.source) / EXPORT_MARKER
        if not path.is_file():
            return {}
        try:
            marker = check_object(parse_json(Place(str(path), str(path), 0, MAX_LINE_BYTES).read()))
            provenance, num_images = check_object(marker["provenance"]), check_count(marker["num_images"])
            later_versions = list(map(check_object, marker.get("later_versions", ())))
        except MALFORMED as error:
            raise StoreError(f"{path}: not the record of an export ({error}); damaged or edited") from error
        self._agree(provenance, str(path), may_mix=self.mix_versions)
        for record in later_versions:  # a set that was mixed, on record
            self._agree(record, str(path), may_mix=True)
        self.num_promised[path] = num_images
        return marker

    def _agree(self, provenance: dict[str, Any], place: str, *, may_mix: bool) -> int:
        """The version that these settings are. Raises `UsageError` if they do not go with all before."""
        version = self.records.find(provenance)
        if version is not None:
            return version
        if not self.records.all:
            recorded_layout(provenance, place)
            self._made_by = place
        elif not (may_mix and are_of_one_kind(self.records.all[0], provenance)):
            differences = find_differences(self.records.all[0], provenance)
            raise UsageError(
                f"{place}: made with other settings than {self._made_by} ({'; '.join(map(str, differences))}); "
                f"import them one by one{mixing_hint(differences)}"
            )
        return self.records.add(provenance)

    def _try(self, place: Place, likely_key: str, peek: Callable[[], FoundSample]) -> None:
        """Add a sample, or a failure under the key that the file's name says."""
        try:
            sample = peek()
            check_key(sample.key)
            self.samples.append(sample)
        except StoreError as error:
            self.failures.append(Failure(likely_key, str(error)))
        except (RecursionError, *MALFORMED) as error:  # nested just so deeply that it is read, but not written again
            self.failures.append(Failure(likely_key, f"{place.name}: not a semdis shard ({error})"))

    def _peek_shard(self, place: Place) -> FoundSample:
        """What a shard of one image says of itself: its record is held against its sha256. Raises many kinds."""
        header_bytes = int.from_bytes(place.read(8), "little")
        if header_bytes > min(place.num_bytes - 8, _MAX_HEADER_BYTES):
            raise ValueError("its header is longer than it; truncated or edited")
        record = parse_json(parse_json(place.read(8 + header_bytes)[8:])["__metadata__"]["semdis"].encode())
        rest = {name: value for name, value in record.items() if name != "record_sha256"}
        if hashlib.sha256(to_line(rest)[:-1]).hexdigest() != record["record_sha256"]:
            raise ValueError("the record does not match its sha256; damaged or edited")
        if [len(record[name]) for name in ("keys", "geometry", "sources")] != [1, 1, 1]:
            raise ValueError(f"it holds {len(record['keys'])} images, not one; semdis decode and export read it")
        [key] = check_keys(record["keys"], record.get(ESCAPED))
        geometry, source = Geometry.from_json(record["geometry"][0]), check_source(record["sources"][0])
        image = parse_record(key, geometry, source)
        version = self._agree(check_object(record["provenance"]), place.name, may_mix=self.mix_versions)
        return FoundSample(image.key, image.geometry.bucket, image.source, place, version=version)

    def _add_tar(self, name: str, path: Path) -> None:
        """The samples in a tar. Raises `StoreError` where it is damaged; what comes before stays."""
        arrays: list[Place] = []
        records: dict[str, Place] = {}
        stem_records: dict[str, Place] = {}  # where samples are called like their images', .json may be a caption's
        try:
            for member in read_members(path):
                place = Place(str(path), f"{name}/{member.name}", member.offset, member.num_bytes)
                if member.name.endswith(".safetensors"):
                    self._try(place, _likely_key(member.name), partial(self._peek_shard, place))
                elif member.name.endswith(".npy"):
                    arrays.append(place)
                elif member.name.endswith(f".{STEM_RECORD}"):
                    stem_records[place.name.removesuffix(f".{STEM_RECORD}")] = place
                elif member.name.endswith(".json"):
                    records[place.name.removesuffix(".json")] = place
        finally:
            for place in arrays:
                base = place.name.removesuffix(".npy")
                record = stem_records.get(base) or records.get(base)
                likely_key = _likely_key(place.name.removeprefix(f"{name}/"))
                self._try(place, likely_key, partial(self._peek_array, place, record))

    def _add_table(self) -> None:
        """The arrays that the table of an export lists."""
        path = self.source / TABLE_FILE
        if not path.is_file():
            raise StoreError(f"{path}: missing: the export is not finished; run the same semdis export again")
        with path.open("rb") as file:
            offset = 0
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), start=1):
                record = Place(str(path), f"{TABLE_FILE}: line {number}", offset, len(line))
                offset += len(line)
                self._try(record, record.name, partial(self._peek_row, record))

    def _peek_row(self, record: Place) -> FoundSample:
        key = SampleRecord.parse(record.read(), record.name).image.key
        name = f"{check_key(key)}.npy"
        path = self.source / name
        if not path.resolve().is_relative_to(self.source.resolve()) or not path.is_file():
            raise StoreError(f"{name}: missing, or no file")
        return self._peek_array(Place(str(path), name, 0, path.stat().st_size), record)

    def _peek_array(self, place: Place, record: Place | None) -> FoundSample:
        """What is recorded of an array. Raises `StoreError`."""
        if record is None:
            raise StoreError(f"{place.name}: no .json beside it says what it is")
        if not self.records.all:
            raise StoreError(f"{place.name}: no {EXPORT_MARKER} beside its tar says with what settings it was made")
        known = SampleRecord.parse(record.read(MAX_LINE_BYTES), record.name)
        version = self.records.versions.get(known.provenance_sha256, 0)  # another one is found out on reading
        return FoundSample(known.image.key, known.image.geometry.bucket, known.image.source, place, record, version)


def _likely_key(name: str) -> str:
    """The key that the name of a member stands for."""
    base = name.rpartition(".")[0]
    try:
        return sample_key(base)
    except ValueError:  # not in a tar of ours, or one that was written to a pipe: there names are keys
        return base


def _refuse(error: OSError) -> None:
    raise UsageError(f"{error.filename}: cannot be searched ({error.strerror})")
