"""The job of an export, and the protocol of what takes its samples."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path, PurePosixPath
from typing import ClassVar, NamedTuple

from semdis_cli.events import Failure
from semdis_cli.parts import BYTES_PER_VALUE, LATENTS, LATENTS_FLIP, part_dtype
from semdis_cli.settings import ExportSettings
from semdis_cli.store.exchange.columns import ExportColumns
from semdis_cli.store.exchange.export import SampleRecord, file_names
from semdis_cli.store.exchange.facts import ImageFacts
from semdis_cli.store.reader import LatentSource, StoredShard
from semdis_cli.store.shards import Shard
from semdis_cli.store.whitening import Statistics, whitening_to_undo

_RECORD_BYTES = 1024  # about what an image's key, geometry and source take
_USUAL_GRID = (32, 32)  # of latents, to weigh one tensor of a shard against another


class KnownImages(NamedTuple):
    """Facts and columns of images, as far as an export has looked them up."""

    facts: ImageFacts | None = None
    columns: ExportColumns | None = None


_NOTHING = KnownImages()


@dataclass(frozen=True)
class ExportJob:
    """An export, or a part of one: its source, settings and folder.

    Of a part, `first_file` is the number of its first file of many images, and `known` what is known of its images.
    """

    source: LatentSource
    settings: ExportSettings
    output: Path
    first_file: int = 0
    known: KnownImages = _NOTHING

    @cached_property
    def facts(self) -> ImageFacts:
        """Facts of all images; all of the index is read for them."""
        return self.known.facts or ImageFacts.of(self.source)

    @cached_property
    def columns(self) -> ExportColumns:
        """Columns of all images; all of the index is read for them, where there are any."""
        return self.known.columns or ExportColumns.of(self.source)

    def known_of(self, source: LatentSource) -> KnownImages:
        """Return what is known of some of the images, those of `source`: as much as was asked for so far."""
        facts = self.facts.part(source.keys) if "facts" in vars(self) else None
        return KnownImages(facts, self.columns.part(source) if "columns" in vars(self) else None)

    @cached_property
    def whitening(self) -> Statistics | None:
        """Statistics that make stored latents raw; None if they are. Raises `StoreError`, `UsageError` if unknown."""
        return whitening_to_undo(self.source.provenance, self.source.path)

    @property
    def parts(self) -> tuple[str, ...]:
        """Return the names of what each shard holds beside latents."""
        return self.source.provenance.layout.parts

    @property
    def stored_dtype(self) -> str:
        """Return the dtype that the latents are stored in."""
        return self.source.provenance.layout.dtype

    def array_dtypes(self, dtype: str, parts: Collection[str]) -> dict[str, str]:
        """Return the dtype of each array of an image: `dtype` for latents and twins, the stored one for others."""
        of_parts = {name: dtype if name == LATENTS_FLIP else part_dtype(name, self.stored_dtype) for name in parts}
        return {LATENTS: dtype, **of_parts}

    def array_bytes(self, stored: StoredShard, dtypes: Mapping[str, str], record_bytes: int = 0) -> int:
        """Estimate the bytes of arrays of `dtypes` of one image of a shard, and as much for `record_bytes` of it."""
        num_bytes = stored.expected.num_bytes // max(1, stored.num_images) + record_bytes
        tensors = self.source.provenance.layout.tensors(_USUAL_GRID)
        written = (prod(each.shape) * BYTES_PER_VALUE[dtypes[each.name]] for each in tensors if each.name in dtypes)
        return num_bytes * sum(written) // sum(each.num_bytes for each in tensors)


class Sink(ABC):
    """Takes the samples of an export, in the order of the shards; what an earlier run finished is not asked for again.

    `one_file_each`: each image has a file of its own, named by its key, and these may be written by many threads at
    once, in any order. `overhead_bytes`: what the format adds to a sample, about. `failures`: the images that the
    format cannot name. `has_table`: what `write` returns goes into a table.
    """

    one_file_each: ClassVar[bool]
    has_table: ClassVar[bool] = False
    overhead_bytes: ClassVar[int] = 0
    failures: Sequence[Failure]

    @abstractmethod
    def __init__(self, job: ExportJob, names: Mapping[str, PurePosixPath]) -> None:
        """Look at what is there. The output folder exists, and is locked. `names`: what `name_files` gave."""

    @classmethod
    def name_files(cls, job: ExportJob) -> Mapping[str, PurePosixPath]:
        """Name the file of each key, before anything is written.

        Raises `UsageError` for latents that the format cannot take, and `StoreError` for a key that is no path.
        """
        return file_names(job.source.keys, job.settings.member)

    @classmethod
    def describe(cls, job: ExportJob) -> dict[str, object]:  # noqa: ARG003 # most have nothing to say
        """Return what the record of the export says beside the settings: what readers need to know of the whole set."""
        return {}

    @classmethod
    def note(cls, job: ExportJob) -> str:  # noqa: ARG003 # most have nothing to say
        """Return a line that a person should read before it goes on; empty if there is none."""
        return ""

    @classmethod
    def parts(cls, job: ExportJob) -> Collection[str]:
        """Return the names of what goes along beside the latents: all that the set has, if the format has a place."""
        return job.parts

    @classmethod
    def sample_bytes(cls, job: ExportJob, stored: StoredShard) -> int:
        """Estimate the bytes of one image of a shard once it is exported, the same for each run."""
        if job.settings.member == "npy":
            dtypes = job.array_dtypes(job.settings.array_dtype(job.stored_dtype), cls.parts(job))
            return job.array_bytes(stored, dtypes, _RECORD_BYTES) + cls.overhead_bytes
        num_bytes = stored.expected.num_bytes // max(1, stored.num_images) + _RECORD_BYTES
        num_bytes += len(job.source.provenance.text) + 1  # as a line of JSON; tars are cut by this
        return num_bytes + cls.overhead_bytes

    @abstractmethod
    def is_left(self, key: str) -> bool:
        """Tell whether the sample of `key` is still to be written."""

    def needs(self, key: str) -> bool:
        """Tell whether the sample of `key` is to be made: also of one that is there, if a table lists it."""
        return self.is_left(key)

    @abstractmethod
    def write(self, shard: Shard, row: int) -> SampleRecord | None:
        """Write the sample of a row; return its record, if there is a table of these.

        Raises `UnfitError` for latents that the format does not hold, `RefusedNameError` for a name
        that the disk does not take, and as `publish`.
        """

    def files(self) -> Iterator[Sequence[str]]:
        """Give the keys of each file of many images, one after the other, those that are there included."""
        return iter(())

    def close(self) -> None:  # noqa: B027 # most have nothing open
        """Publish the file that is being written, after the last sample of it."""

    def conclude(self) -> None:  # noqa: B027 # most have nothing more
        """Publish what is about all samples, after `close`; of the whole export alone."""

    def add_record(self, record: SampleRecord) -> None:  # noqa: B027 # most have no table
        """Note the record of a sample, in order."""

    def discard(self) -> None:  # noqa: B027 # most have nothing open
        """Remove what is not published."""


def cut_files(
    job: ExportJob,
    sample_bytes: Callable[[ExportJob, StoredShard], int],
    left_out: Collection[str],
    max_bytes: int,
    max_images: int | None = None,
) -> Iterator[list[str]]:
    """Fill file after file with the keys of shard after shard, but for those `left_out`; yield the keys of each file.

    It follows from the set and the settings alone, so that a run that goes on fills them in the same way.
    """
    file: list[str] = []
    num_bytes = 0
    for stored in job.source.shards:
        each = sample_bytes(job, stored)
        for key in stored.rows:
            if key in left_out:
                continue
            if file and (num_bytes + each > max_bytes or len(file) == max_images):
                yield file
                file, num_bytes = [], 0
            file.append(key)
            num_bytes += each
    if file:
        yield file
