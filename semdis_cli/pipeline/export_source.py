"""What every export works with: its settings, and the shards that it reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semdis_cli.events import BatchDone, StageTimes
from semdis_cli.store.exchange.export import (
    STEM_RECORD,
    ExportFormat,
    Member,
    NpyDtype,
    SampleNames,
    check_rows,
    recorded_layout,
)
from semdis_cli.store.index import to_line
from semdis_cli.store.reader import LatentSource, StoredShard
from semdis_cli.store.shard_header import BYTES_PER_VALUE
from semdis_cli.store.shards import Shard

_RECORD_BYTES = 1024  # about what an image's key, geometry and source take
_TAR_BYTES = 2048  # headers and padding of a sample's two members, about


@dataclass(frozen=True)
class ExportSettings:
    """How latents leave the store.

    `member`: what the latents of one image are written as. `npy_dtype` counts for npy alone, `tar_mib` (about, MiB) and
    `sample_names` for webdataset alone: samples are called by the key, or as those that the images came from.
    """

    format: ExportFormat
    member: Member
    npy_dtype: NpyDtype = "float32"
    tar_mib: int = 256
    num_workers: int = 1
    sample_names: SampleNames = "key"

    @property
    def record_suffix(self) -> str:
        """Return what the record beside a sample's latents is called."""
        return "json" if self.sample_names == "key" else STEM_RECORD

    def is_lossy(self, provenance: dict[str, Any]) -> bool:
        """Whether there are values that do not survive."""
        lossless = {"float32"} | ({"float16"} & {provenance.get("dtype")})
        return self.member == "npy" and self.npy_dtype not in lossless

    def to_json(self) -> dict[str, Any]:
        """All that decides a byte of the output."""
        fields: dict[str, Any] = {"format": self.format, "member": self.member}
        if self.member == "npy":
            fields["dtype"] = self.npy_dtype
        if self.format == "webdataset":
            fields["tar_mib"] = self.tar_mib
        if self.format == "webdataset" and self.sample_names != "key":
            fields["sample_names"] = self.sample_names
        return fields


def npy_dtype_for(provenance: dict[str, Any]) -> NpyDtype:
    """What an array holds the recorded latents in without loss."""
    return "float16" if provenance.get("dtype") == "float16" else "float32"


class ShardReader:
    """The shards of a source, read and checked one at a time; the last one is kept."""

    def __init__(self, source: LatentSource) -> None:
        self.source = source
        self.layout = recorded_layout(source.provenance, str(source.path))
        self._last: tuple[Path, Shard] | None = None

    def read(self, stored: StoredShard) -> Shard:
        """The rows of one shard that are to be used. Raises `StoreError`."""
        if self._last is None or self._last[0] != stored.path:
            self._last = None  # two at once would take twice the memory
            shard = self.source.read(stored)
            check_rows(shard, self.layout, str(stored.path))
            self._last = stored.path, shard
        return self._last[1]

    def sample_bytes(self, stored: StoredShard, settings: ExportSettings) -> int:
        """About the bytes of one image of a shard once it is exported, the same for each run."""
        num_bytes = stored.expected.num_bytes // max(1, stored.num_images) + _RECORD_BYTES
        if settings.member == "npy":
            num_bytes = num_bytes * BYTES_PER_VALUE[settings.npy_dtype] // BYTES_PER_VALUE[self.layout.dtype]
        else:
            num_bytes += len(to_line(self.source.provenance))
        return num_bytes + (_TAR_BYTES if settings.format == "webdataset" else 0)


def batch_done(shard: Shard, num_images: int, times: StageTimes) -> BatchDone:
    """`num_images` of a shard's are written."""
    height, width = shard.records[0].geometry.bucket
    return BatchDone(num_images, num_images * height * width / 1e6, times)
