"""Latents on a pipe: a tar with a file for each image, which is a shard of one row and proves itself."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from semdis_cli.errors import StoreError
from semdis_cli.events import Failure
from semdis_cli.files.tar import TAR_END, tar_member
from semdis_cli.provenance import Provenance
from semdis_cli.records import EncodedImage
from semdis_cli.store.quantised import join_rows, real_values
from semdis_cli.store.shards import Shard, parse_shard, shard_bytes
from semdis_cli.store.statistics import ChannelSums

MEMBER_SUFFIX = ".safetensors"
# The largest image that is read by default, in float32 at 256 channels a patch of 16, takes two thirds of that.
MAX_MEMBER_BYTES = 1 << 30


class StreamWriter:
    """Hands every image's file to `write` as soon as it is there. With `as_tar` they are members of a tar.

    Equal images give equal bytes: the headers have no times and no owners.
    """

    def __init__(self, write: Callable[[bytes], object], provenance: Provenance, *, as_tar: bool) -> None:
        self.sums = ChannelSums.zero(provenance.layout.channels)
        self._write = write
        self._provenance = provenance
        self._as_tar = as_tar
        self.num_images = 0
        self.num_bytes = 0

    def add_call(self, images: Sequence[EncodedImage], rows: Mapping[str, Tensor] | None) -> None:
        """Write images, one after the other; `rows`, all their tensors, are not needed."""
        del rows
        for image in images:
            self.add(image)

    def add(self, image: EncodedImage) -> None:
        """Write one image's file."""
        parts = {name: tensor[None] for name, tensor in image.parts.items()}
        data = shard_bytes(Shard(image.latents[None], (image.record,), self._provenance, parts))
        self._write(tar_member(image.record.key + MEMBER_SUFFIX, data) if self._as_tar else data)
        self.sums += ChannelSums.of(real_values(image.tensors))
        self.num_images += 1
        self.num_bytes += len(data)

    def add_failure(self, failure: Failure) -> None:
        """Do nothing: an image that could not be used has no file."""

    def finish(self) -> None:
        """Write the end of the tar: without it, a reader knows that the stream was cut off."""
        if self._as_tar:
            self._write(TAR_END)


def read_member(name: str, data: bytes) -> Shard:
    """Check one image's file. Raises `StoreError` if it is damaged, or holds more than one image."""
    shard = parse_shard(data, name)
    if len(shard.records) != 1:
        raise StoreError(
            f"holds {len(shard.records)} images; in a stream every image has a file of its own", place=name
        )
    return shard


def join_shards(shards: Sequence[Shard]) -> Shard:
    """Join the rows of several shards with latents of one shape that the same settings made."""
    return Shard(
        latents=join_rows([shard.latents for shard in shards]),
        records=tuple(record for shard in shards for record in shard.records),
        provenance=shards[0].provenance,
        parts={name: join_rows([shard.parts[name] for shard in shards]) for name in shards[0].parts},
    )
