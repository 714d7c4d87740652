"""Exports as tars of samples: `webdataset`."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from semdis_cli.errors import StoreError
from semdis_cli.files.atomic import PendingFile
from semdis_cli.files.tar import TAR_END, read_members, tar_member
from semdis_cli.pipeline.export_sinks.sink import ExportJob, Sink
from semdis_cli.stops import looking
from semdis_cli.store.exchange.export import STEM_RECORD, make_sample, nameless_samples, sample_name
from semdis_cli.store.shards import Shard


class TarSink(Sink):
    """Tars of samples as WebDataset has them: a pair of members for each image, and tars of about `tar_mib`.

    Which image goes where follows from the set and the settings alone. A tar that lacks images, because of a damaged
    shard, is made again by the next run.
    """

    one_file_each = False
    overhead_bytes = 2048  # headers and padding of two members

    def __init__(self, job: ExportJob, _: Mapping[str, PurePosixPath]) -> None:
        self._settings, self._array_dtype = job.settings, job.settings.array_dtype(job.stored_dtype)
        self._root = job.output.resolve()
        self._names = job.settings.sample_names
        self._suffixes = job.settings.member, "json" if self._names == "key" else STEM_RECORD
        self.failures = nameless_samples(job.source.keys, self._names)
        self._tars_left: dict[str, str] = {}  # by key
        for number, keys in enumerate(looking(_cut(job, {failure.key for failure in self.failures}))):
            name = f"{number:06d}.tar"
            if not self._is_whole(self._root / name, keys):
                self._tars_left |= dict.fromkeys(keys, name)
        self._name = ""
        self._file: PendingFile | None = None

    def is_left(self, key: str) -> bool:
        """Tell whether the tar of `key` is missing, or not whole."""
        return key in self._tars_left

    def write(self, shard: Shard, row: int) -> None:
        """Add a sample to its tar; those before are complete then, and published."""
        sample = make_sample(shard, row, self._settings.member, self._array_dtype)
        name = self._tars_left[sample.record.image.key]
        if self._file is None or name != self._name:
            self.close()
            self._name, self._file = name, PendingFile(self._root / name)
        contents = sample.data, sample.record.to_bytes()
        for member, data in zip(self._members(sample.record.image.key), contents, strict=True):
            self._file.write(tar_member(member, data))

    def close(self) -> None:
        """Publish the tar that is being written."""
        if self._file is not None:
            self._file.write(TAR_END)
            self._file.publish()
            self._file = None

    def discard(self) -> None:
        """Remove a tar that is not complete."""
        if self._file is not None:
            self._file.discard()

    def _members(self, key: str) -> list[str]:
        name = sample_name(key, self._names)
        return [f"{name}.{suffix}" for suffix in self._suffixes]

    def _is_whole(self, path: Path, keys: Iterable[str]) -> bool:
        """Tell whether the tar is there with all its images, as an earlier run left it."""
        if not path.is_file():
            return False
        try:
            return [member.name for member in read_members(path)] == [
                name for key in keys for name in self._members(key)
            ]
        except StoreError:
            return False


def _cut(job: ExportJob, left_out: Collection[str]) -> Iterator[list[str]]:
    """Fill tar after tar with the keys of shard after shard, but for those `left_out`; yield the keys of each tar."""
    limit = job.settings.tar_mib * 2**20
    tar: list[str] = []
    num_bytes = 0
    for stored in job.source.shards:
        sample_bytes = TarSink.sample_bytes(job, stored)
        for key in stored.rows:
            if key in left_out:
                continue
            if tar and num_bytes + sample_bytes > limit:
                yield tar
                tar, num_bytes = [], 0
            tar.append(key)
            num_bytes += sample_bytes
    if tar:
        yield tar
