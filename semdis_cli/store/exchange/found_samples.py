"""Exported latents that were found: where each image's are, and reading them without trust."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from semdis_cli.errors import StoreError
from semdis_cli.events import Failure
from semdis_cli.files.atomic import PublishedFile
from semdis_cli.records import FileDigest
from semdis_cli.store.exchange.export import EXPORT_MARKER, SampleRecord, check_rows, provenance_sha256
from semdis_cli.store.exchange.npy import parse_npy
from semdis_cli.store.shards import STORE_DTYPES, Shard, parse_shard
from semdis_cli.store.writing.plan import LatentLayout
from semdis_cli.store.writing.settings import are_same

MAX_LINE_BYTES = 1 << 20  # of one image's record


@dataclass(frozen=True, slots=True)
class Place:
    """Some bytes of a file. `name`: what to call them, relative to where the search began."""

    path: str
    name: str
    offset: int
    num_bytes: int

    def read(self, limit: int | None = None) -> bytes:
        """The bytes, or the first `limit` of them. Raises `StoreError` if they cannot be read."""
        try:
            with Path(self.path).open("rb") as file:
                file.seek(self.offset)
                return file.read(self.num_bytes if limit is None else min(limit, self.num_bytes))
        except OSError as error:
            raise StoreError(f"{self.name}: cannot be read ({error.strerror})") from error


@dataclass(frozen=True, slots=True)
class FoundSample:
    """One image's latents, not checked yet; `source`: the file that they were made from.

    `record`: where the rest is said, for an array; a shard says it itself. `version`: of the records of all samples,
    the number of its own.
    """

    key: str
    bucket: tuple[int, int]
    source: FileDigest
    data: Place
    record: Place | None = None
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
    layout: LatentLayout
    num_exported: int | None

    @property
    def provenance(self) -> dict[str, Any]:
        """The settings of the first version."""
        return self.records.all[0]

    @property
    def num_missing(self) -> int:
        """How many images were to be exported, but are not there, not even damaged."""
        return max(0, (self.num_exported or 0) - len(self.samples) - len(self.failures))

    def read(self, sample: FoundSample) -> Shard:
        """The image's latents as a shard of one row. Raises `StoreError` if they are damaged or edited."""
        shard = parse_shard(sample.data.read(), sample.data.name) if sample.record is None else self._read_npy(sample)
        if shard.keys != (sample.key,) or self.records.find(shard.provenance) != sample.version:
            raise StoreError(f"{sample.data.name}: changed while it was imported")
        check_rows(shard, self.layout, sample.data.name)
        return shard

    def _read_npy(self, sample: FoundSample) -> Shard:
        assert sample.record is not None
        name = sample.data.name
        record = SampleRecord.parse(sample.record.read(MAX_LINE_BYTES), sample.record.name)
        if self.records.versions.get(record.provenance_sha256) != sample.version:
            raise StoreError(f"{name}: made with other settings than those in {EXPORT_MARKER}")
        if sample.data.num_bytes != record.file.num_bytes:
            raise StoreError(f"{name}: {sample.data.num_bytes} bytes, but it had {record.file.num_bytes}; damaged")
        data = sample.data.read()
        if PublishedFile(len(data), hashlib.sha256(data).hexdigest()) != record.file:
            raise StoreError(f"{name}: does not match its sha256; damaged or edited")
        values = parse_npy(data, name)
        stored = values.to(STORE_DTYPES[self.layout.dtype])
        if not record.is_exact:
            raise StoreError(f"{name}: has lost digits of its {self.layout.dtype} values; export it as float32")
        if not torch.equal(stored.to(torch.float32), values.to(torch.float32)):
            raise StoreError(f"{name}: holds values that {self.layout.dtype} cannot hold; damaged or edited")
        provenance = self.records.all[sample.version]
        return Shard(stored[None], (record.image,), provenance)


@dataclass
class Records:
    """The settings of all that was found, those of one kind of latents; `versions`: the number of each, by sha256."""

    all: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, int] = field(default_factory=dict)

    def find(self, record: dict[str, Any]) -> int | None:
        """The version with these settings, whatever its model is called there."""
        for number, known in enumerate(self.all):
            if known == record:
                return number
            if are_same(known, record):
                self.versions[provenance_sha256(record)] = number
                return number
        return None

    def add(self, record: dict[str, Any]) -> int:
        """One more version."""
        self.all.append(record)
        self.versions[provenance_sha256(record)] = len(self.all) - 1
        return len(self.all) - 1
