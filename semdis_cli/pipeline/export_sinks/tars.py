"""Exports as tars of samples: `webdataset`."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from semdis_cli.errors import StoreError
from semdis_cli.files.atomic import PendingFile
from semdis_cli.files.tar import TAR_END, read_members, tar_member
from semdis_cli.pipeline.export_sinks.cut_files import CutSink
from semdis_cli.pipeline.export_sinks.sink import ExportJob
from semdis_cli.store.columns import CAPTION, LABEL
from semdis_cli.store.exchange.arrays import npy_bytes
from semdis_cli.store.exchange.columns import caption_of, label_of
from semdis_cli.store.exchange.export import (
    STEM_RECORD,
    array_suffix,
    make_arrays,
    make_shard_file,
    nameless_samples,
    sample_name,
)
from semdis_cli.store.reader import StoredShard
from semdis_cli.store.shards import Shard

_MEMBER_BYTES = 1024  # header and padding


class TarSink(CutSink):
    """Tars of samples as WebDataset has them: latents and record of each image, and a member each for some columns.

    A member of a kind is in all samples or in none: readers take the first ones for all.
    """

    name_format = "{:06d}.tar"
    overhead_bytes = 2 * _MEMBER_BYTES

    def __init__(self, job: ExportJob, _: Mapping[str, PurePosixPath]) -> None:
        self._names = job.settings.sample_names
        parts = self.arrays_beside(job)
        self._dtypes = job.array_dtypes(job.settings.array_dtype(job.stored_dtype), parts)
        self._record = "json" if self._names == "key" else STEM_RECORD
        self._suffixes = [job.settings.member, *map(array_suffix, parts), self._record, *_of_columns(job)]
        super().__init__(job, nameless_samples(job.source.keys, self._names))

    @classmethod
    def arrays_beside(cls, job: ExportJob) -> tuple[str, ...]:
        """Return the parts that are members of their own: a shard has them within."""
        return job.parts if job.settings.member == "npy" else ()

    @classmethod
    def sample_bytes(cls, job: ExportJob, stored: StoredShard) -> int:
        """Estimate the bytes of one image, with its columns and parts."""
        return super().sample_bytes(job, stored) + _MEMBER_BYTES * len(cls.arrays_beside(job))

    @classmethod
    def columns_bytes(cls, job: ExportJob) -> int:
        """Estimate what the columns of an image take: in its record, and once more as members."""
        return 2 * job.columns.mean_bytes + _MEMBER_BYTES * len(_of_columns(job))

    def write(self, shard: Shard, row: int) -> None:
        """Add a sample to its tar."""
        is_array = self.job.settings.member == "npy"
        sample = make_arrays(shard, row, self._dtypes, npy_bytes) if is_array else make_shard_file(shard, row)
        key = shard.keys[row]
        columns = self.job.columns.of_image(key)
        contents = {
            self.job.settings.member: sample.data,
            self._record: sample.record.to_bytes(columns),
            "txt": caption_of(columns).encode(),
            "cls": str(label_of(columns)).encode(),
            **{array_suffix(part): data for part, data in sample.parts.items()},
        }
        file = self.file_of(key)
        for suffix, member in zip(self._suffixes, self._members(key), strict=True):
            file.write(tar_member(member, contents[suffix]))

    def end(self, file: PendingFile) -> None:
        """Write the end of a tar."""
        file.write(TAR_END)

    def is_whole(self, path: Path, keys: Sequence[str]) -> bool:
        """Tell whether the tar has all its samples."""
        if not path.is_file():
            return False
        try:
            return [member.name for member in read_members(path)] == [
                name for key in keys for name in self._members(key)
            ]
        except StoreError:
            return False

    def _members(self, key: str) -> list[str]:
        name = sample_name(key, self._names)
        return [f"{name}.{suffix}" for suffix in self._suffixes]


def _of_columns(job: ExportJob) -> list[str]:
    """Return the suffixes of the members that columns are."""
    return [suffix for suffix, name in (("txt", CAPTION), ("cls", LABEL)) if name in job.columns.kinds]
