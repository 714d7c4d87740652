"""Which image goes into which shard: a pure function of inputs and settings, so that any two runs agree."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from semdis_cli.events import Failure, LeftOut
from semdis_cli.files.images import Facts, Images
from semdis_cli.files.json_text import to_line
from semdis_cli.files.planned_images import PlannedImages
from semdis_cli.provenance import LatentLayout, Provenance
from semdis_cli.records import PlannedImage
from semdis_cli.stops import look
from semdis_cli.store.writing.changes import Changes
from semdis_cli.store.writing.finished import NO_BASE, Base

# Safetensors refuses headers over 100 MB, and a shard's header has the key and geometry of each of its images.
MAX_SHARD_IMAGES = 1 << 16


@dataclass(frozen=True)
class PlannedShard:
    """One shard to be: its file name and its images, in key order. Failures leave no gap in the rows.

    `images` are made whenever they are asked for. `version`: which of the run's records it is made under.
    """

    name: str
    images: Sequence[PlannedImage]
    version: int = 0

    @property
    def bucket(self) -> tuple[int, int]:
        """(H, W) in pixels, the same for all its images."""
        return self.images.bucket(0) if isinstance(self.images, PlannedImages) else self.images[0].bucket

    @property
    def sources(self) -> Images:
        """Return the images as they were found."""
        return PlannedImages.of(self.images).images

    def facts(self) -> Iterator[Facts]:
        """Yield what is compared of each image: quicker than the images."""
        return self.sources.facts()


@dataclass(frozen=True)
class SetPlan:
    """All that a run is going to write: `shards` beside those of the set that it starts from, and `changes` to that.

    `failures`: inputs that are in no shard because they are known to be unusable, sorted by key. `sha256`: of it all.
    `classes`: names of the labels of its images, beginning with those of that set; none: it has no others. `left_out`:
    inputs that filters leave out, and have not left out before.
    """

    shards: Sequence[PlannedShard]
    failures: Sequence[Failure]
    changes: Changes
    sha256: str
    classes: tuple[str, ...] = ()
    left_out: Sequence[LeftOut] = ()

    @property
    def is_nothing(self) -> bool:
        """Tell whether the set that it starts from is what it would end with."""
        changes = self.changes
        if self.shards or self.left_out:
            return False
        if changes.returned or changes.removed or changes.forgotten or changes.set_aside:
            return False
        return {failure.key: failure.reason for failure in self.failures} == changes.failed_before

    @property
    def num_inputs(self) -> int:
        """All inputs but those that are left out; failures and those that have latents already included."""
        return sum(len(shard.images) for shard in self.shards) + len(self.failures) + self.changes.num_taken


def plan_shards(
    images: Iterable[PlannedImage],
    layout: LatentLayout,
    *,
    shard_bytes: int,
    shard_images: int | None = None,
    first_number: int = 0,
    version: int = 0,
) -> list[PlannedShard]:
    """Cut the images of each bucket, in key order, into shards of about `shard_bytes`, or of `shard_images` images.

    A shard holds 65,536 images at most. Shards are numbered bucket by bucket, smallest first, from `first_number` on.
    `images` must be sorted by key.
    """
    shards: list[PlannedShard] = []
    for bucket, members in PlannedImages.of(images).by_bucket():
        height, width = layout.grid(bucket)
        size = min(MAX_SHARD_IMAGES, shard_images or max(1, shard_bytes // layout.latent_bytes(bucket)))
        for start in range(0, len(members), size):
            name = f"{first_number + len(shards):08d}-{height}x{width}.safetensors"
            some = members.pick(range(start, min(start + size, len(members))))
            shards.append(PlannedShard(name, PlannedImages(some, [bucket]), version))
    return shards


def plan_sha256(
    provenance: Provenance,
    shards: Sequence[PlannedShard],
    failures: Sequence[Failure],
    base: Base = NO_BASE,
    changes: Changes | None = None,
    classes: tuple[str, ...] = (),
    left_out: Sequence[LeftOut] = (),
) -> str:
    """Hex digest of all that decides the output: settings, every input with its size, and the cut into shards.

    `base` is the set that the run starts from, `changes` what becomes of the rows in that; `classes` as in `SetPlan`.
    """
    digest = hashlib.sha256(to_line(provenance.to_json()))
    if base.manifest is not None and changes is not None:
        groups = {"returned": changes.returned, "removed": changes.removed, "forgotten": changes.forgotten}
        digest.update(to_line({"base": base.sha256, **{name: sorted(keys) for name, keys in groups.items()}}))
    if classes:
        digest.update(to_line({"classes": classes}))
    for shard in shards:
        look()
        digest.update(to_line({"shard": shard.name} | ({"version": shard.version} if shard.version else {})))
        for key, num_bytes, *_ in shard.facts():
            digest.update(to_line({"key": key, "num_bytes": num_bytes}))
    for failure in failures:
        digest.update(to_line({"failed": failure.key}))
    for key, reason in sorted(changes.set_aside.items()) if changes is not None else ():
        digest.update(to_line({"set_aside": key, "reason": reason}))
    for one in left_out:
        digest.update(to_line({"left_out": one.key, "reason": one.reason}))
    return digest.hexdigest()
