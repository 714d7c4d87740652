"""Latents on a pipe: a tar with a file for each image, which is a shard of one row and proves itself."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from semdis_cli.errors import StoreError
from semdis_cli.events import Failure
from semdis_cli.files.tar import TAR_END, tar_member
from semdis_cli.provenance import Provenance
from semdis_cli.records import LoadedImage
from semdis_cli.store.shard_header import SourceRecord
from semdis_cli.store.shards import STORE_DTYPES, Shard, parse_shard, shard_bytes
from semdis_cli.store.statistics import ChannelSums

MEMBER_SUFFIX = ".safetensors"
# The largest image that is read by default, in float32 at 256 channels a patch of 16, takes two thirds of that.
MAX_MEMBER_BYTES = 1 << 30


class StreamWriter:
    """Hands every image's file to `write` as soon as it is there. With `as_tar` they are members of a tar.

    Equal images give equal bytes: the headers have no times and no owners.
    """

    def __init__(
        self, write: Callable[[bytes], object], provenance: Provenance, channels: int, *, as_tar: bool
    ) -> None:
        self.sums = ChannelSums.zero(channels)
        self._write = write
        self._provenance = provenance
        self._as_tar = as_tar
        self.num_images = 0
        self.num_bytes = 0

    def add(self, image: LoadedImage, latents: Tensor) -> None:
        """Write one image's latents [Z,h,w], finite in the stored dtype."""
        latents = latents.to(STORE_DTYPES[self._provenance.layout.dtype])
        source = SourceRecord(image.num_bytes, image.sha256, image.notes)
        data = shard_bytes(Shard(latents[None], (image.key,), (image.geometry,), (source,), self._provenance))
        self._write(tar_member(image.key + MEMBER_SUFFIX, data) if self._as_tar else data)
        self.sums += ChannelSums.of(latents)
        self.num_images += 1
        self.num_bytes += len(data)

    def add_failure(self, failure: Failure) -> None:
        """An image that could not be used has no file."""

    def finish(self) -> None:
        """Write the end of the tar: without it, a reader knows that the stream was cut off."""
        if self._as_tar:
            self._write(TAR_END)


def read_member(name: str, data: bytes) -> Shard:
    """Check one image's file. Raises `StoreError` if it is damaged, or holds more than one image."""
    shard = parse_shard(data, name)
    if len(shard.keys) != 1:
        raise StoreError(f"holds {len(shard.keys)} images; in a stream every image has a file of its own", place=name)
    return shard


def join_shards(shards: Sequence[Shard]) -> Shard:
    """One shard of the rows of several, whose latents have one shape and which the same settings made."""
    return Shard(
        latents=torch.cat([shard.latents for shard in shards]),
        keys=tuple(key for shard in shards for key in shard.keys),
        geometries=tuple(geometry for shard in shards for geometry in shard.geometries),
        sources=tuple(source for shard in shards for source in shard.sources),
        provenance=shards[0].provenance,
    )
