"""Exported latents that were found: where each image's are, and reading them without trust."""

from dataclasses import dataclass, field
from pathlib import Path

from semdis_cli.errors import StoreError
from semdis_cli.events import Failure
from semdis_cli.provenance import LatentLayout, Provenance
from semdis_cli.records import FileDigest
from semdis_cli.store.exchange.export import check_rows
from semdis_cli.store.shards import Shard, parse_shard

MAX_LINE_BYTES = 1 << 20  # of one image's record


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
        check_rows(shard, self.layout, sample.data.name)
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
