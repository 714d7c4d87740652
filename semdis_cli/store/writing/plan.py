"""The plan of a run: what changes in the set, and which image goes into which shard; any two runs agree on it."""

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from semdis_cli.errors import StoreError, UsageError
from semdis_cli.events import Failure
from semdis_cli.files.identity import Witness, all_vouch, settled
from semdis_cli.files.image_list import NO_TIME, ImageList
from semdis_cli.files.json_text import to_line
from semdis_cli.files.set_names import INDEX_FILE, MANIFEST_FILE
from semdis_cli.provenance import LatentLayout, Provenance
from semdis_cli.records import PlannedImage, SourceImage
from semdis_cli.stops import look
from semdis_cli.store.index import IndexLine
from semdis_cli.store.writing.finished import NO_BASE, Base
from semdis_cli.store.writing.seen import SeenByKey, SeenFile, has_seen, is_just_this, seen_time_ns

# The sha256 of each file's content, in order, None where it cannot be read.
Hashes = Callable[[Sequence[SourceImage]], Iterable[str | None]]
# Safetensors refuses headers over 100 MB, and a shard's header has the key and geometry of each of its images.
MAX_SHARD_IMAGES = 1 << 16


@dataclass(frozen=True)
class Changes:
    """Differences between the inputs of a run and a set; all sorted by key.

    `to_encode`: new inputs, changed ones, and those that failed for a reason that may have passed. `kept`: the others,
    with the times to remember. Of those `returned` were marked as removed. `removed` have latents and are
    no longer among the inputs; `forgotten` failed, and are not either. `num_changed` of `to_encode` had latents.
    `failed_before`: why inputs of this run have no latents so far, for those that are not kept.
    """

    to_encode: tuple[SourceImage, ...]
    kept: ImageList = field(default_factory=ImageList)
    returned: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
    forgotten: frozenset[str] = frozenset()
    num_changed: int = 0
    failed_before: Mapping[str, str] = field(default_factory=dict)
    num_failed: int = 0  # of `kept`: their contents are the reason, and have not changed
    is_on_record: bool = False  # the set's own list of times is that of `kept`
    lacks_times: bool = False  # the set has no such list

    def seen(self) -> Iterator[SeenFile]:
        """Return what to remember of the files that are kept."""
        return map(SeenFile._make, self.kept.facts())


def find_changes(base: Base, images: Sequence[SourceImage], failures: Sequence[Failure], hashes: Hashes) -> Changes:
    """Compare `images`, sorted by key, and inputs that are known to be unusable, with the set `base`.

    An input is unchanged if it has the size and the times of then or, where these are others or in doubt (`Witness`
    says when), the content of then. Raises `UsageError` if the set and the inputs have nothing in common.
    """
    if base.manifest is None:
        return Changes(to_encode=tuple(images))
    num_inputs = base.manifest.num_ok + base.manifest.num_failed
    images = ImageList.of(images)
    if len(images) == num_inputs and not failures and NO_TIME not in images.times()[0]:
        num_failed = base.manifest.num_failed
        unchanged = Changes(to_encode=(), kept=images, num_failed=num_failed, is_on_record=True)
        is_same = is_just_this(base.folder, base.manifest.index.sha256, images)
        if is_same and (all_vouch(images) or all(map(_witness(base, images).is_unchanged, images, unchanged.seen()))):
            return unchanged
    comparison = _Comparison(base, frozenset(failure.key for failure in failures), _witness(base, images))
    comparison.run(images)
    comparison.settle(hashes)
    return replace(comparison.result(), lacks_times=not has_seen(base.folder, base.manifest.index.sha256))


def _witness(base: Base, images: Sequence[SourceImage]) -> Witness:
    return Witness.of(images, time.time_ns(), seen_time_ns(base.folder))


@dataclass
class _Comparison:
    """Sorts inputs and rows into the groups of `Changes`."""

    base: Base
    failed: frozenset[str]
    witness: Witness
    to_encode: list[SourceImage] = field(default_factory=list)
    kept: ImageList = field(default_factory=ImageList)
    returned: set[str] = field(default_factory=set)
    gone: dict[str, set[str]] = field(default_factory=lambda: {"ok": set(), "removed": set(), "failed": set()})
    in_doubt: list[tuple[SourceImage, str, str]] = field(default_factory=list)
    num_changed: int = 0
    num_failed: int = 0
    num_unusable: int = 0  # inputs with latents that cannot even be looked at now
    failed_before: dict[str, str] = field(default_factory=dict)

    def run(self, images: Sequence[SourceImage]) -> None:
        """Walk through inputs and rows side by side, both sorted by key. Raises `StoreError` for a row that is none."""
        try:
            self._run(images)
        except StoreError as error:
            if error.place is not None:
                raise
            raise StoreError(f"{error.reason}; damaged or edited", place=self.base.folder / INDEX_FILE) from error

    def _run(self, images: Sequence[SourceImage]) -> None:
        seen = SeenByKey(self.base.seen())
        lines = self.base.lines()
        line = next(lines, None)
        for image in images:
            look()
            while line is not None and line.key < image.key:
                self._miss(line)
                line = next(lines, None)
            if line is not None and line.key == image.key:
                self._compare(image, line, seen.of(image))
                line = next(lines, None)
            else:
                self.to_encode.append(image)
        while line is not None:
            self._miss(line)
            line = next(lines, None)

    def settle(self, hashes: Hashes) -> None:
        """Look into the files whose size and time do not tell."""
        digests = hashes([image for image, _, _ in self.in_doubt])
        for (image, status, sha256), digest in zip(self.in_doubt, digests, strict=True):
            if digest == sha256:
                stamp = settled(image.stamp, time.time_ns())
                self._keep(replace(image, mtime_ns=stamp.mtime_ns), status)
            else:
                self._change(image)

    def result(self) -> Changes:
        """The groups. Raises `UsageError` if the inputs are all others than those of the set."""
        num_common = len(self.kept) + self.num_changed + len(self.failed_before)
        num_lost = len(self.gone["ok"]) + self.num_unusable
        if num_lost and not num_common and (self.base.root / MANIFEST_FILE).exists():
            raise UsageError(
                f"holds latents of other images: none of its {num_lost:,} is among "
                "the inputs that can be read; to add these, name its sources too, else give another -o",
                place=self.base.root,
            )
        return Changes(
            to_encode=tuple(sorted(self.to_encode, key=lambda image: image.key)),
            kept=self.kept.sorted(),
            returned=frozenset(self.returned),
            removed=frozenset(self.gone["ok"]),
            forgotten=frozenset(self.gone["failed"]),
            num_changed=self.num_changed,
            failed_before=self.failed_before,
            num_failed=self.num_failed,
        )

    def _miss(self, line: IndexLine) -> None:
        if line.key not in self.failed:
            self.gone[line.status].add(line.key)
        elif line.status == "failed":
            self.failed_before[line.key] = line.error or ""
        else:
            self.num_unusable += 1

    def _compare(self, image: SourceImage, line: IndexLine, seen: SeenFile | None) -> None:
        if self.witness.is_unchanged(image, seen):
            self._keep(image, line.status)
        elif (source := line.source) is None:
            self.to_encode.append(image)
            self.failed_before[line.key] = line.error or ""
        elif image.num_bytes != source.num_bytes:
            self._change(image)
        else:
            self.in_doubt.append((image, line.status, source.sha256))

    def _change(self, image: SourceImage) -> None:
        self.to_encode.append(image)
        self.num_changed += 1

    def _keep(self, image: SourceImage, status: str) -> None:
        self.kept.append(image)
        self.num_failed += status == "failed"
        if status == "removed":
            self.returned.add(image.key)


@dataclass(frozen=True)
class PlannedShard:
    """One shard to be: its file name and its images, in key order. Failures leave no gap in the rows.

    `version`: which of the run's records it is made under.
    """

    name: str
    images: tuple[PlannedImage, ...]
    version: int = 0

    @property
    def bucket(self) -> tuple[int, int]:
        """(H, W) in pixels, the same for all its images."""
        return self.images[0].bucket


@dataclass(frozen=True)
class SetPlan:
    """All that a run is going to write: `shards` beside those of the set that it starts from, and `changes` to that.

    `failures`: inputs that are in no shard because they are known to be unusable, sorted by key. `sha256`: of it all.
    `classes`: names of the labels of its images, beginning with those of that set; none: it has no others.
    """

    shards: tuple[PlannedShard, ...]
    failures: tuple[Failure, ...]
    changes: Changes
    sha256: str
    classes: tuple[str, ...] = ()

    @property
    def is_nothing(self) -> bool:
        """Tell whether the set that it starts from is what it would end with."""
        changes = self.changes
        if self.shards or changes.returned or changes.removed or changes.forgotten:
            return False
        return {failure.key: failure.reason for failure in self.failures} == changes.failed_before

    @property
    def num_inputs(self) -> int:
        """All inputs, failures and those that have latents already included."""
        return sum(len(shard.images) for shard in self.shards) + len(self.failures) + len(self.changes.kept)


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
    by_bucket: dict[tuple[int, int], list[PlannedImage]] = defaultdict(list)
    for image in images:
        by_bucket[image.bucket].append(image)
    shards: list[PlannedShard] = []
    for bucket, members in sorted(by_bucket.items()):
        height, width = layout.grid(bucket)
        size = min(MAX_SHARD_IMAGES, shard_images or max(1, shard_bytes // layout.latent_bytes(bucket)))
        for start in range(0, len(members), size):
            name = f"{first_number + len(shards):08d}-{height}x{width}.safetensors"
            shards.append(PlannedShard(name, tuple(members[start : start + size]), version))
    return shards


def plan_sha256(
    provenance: Provenance,
    shards: Sequence[PlannedShard],
    failures: Sequence[Failure],
    base: Base = NO_BASE,
    changes: Changes | None = None,
    classes: tuple[str, ...] = (),
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
        for image in shard.images:
            digest.update(to_line({"key": image.source.key, "num_bytes": image.source.num_bytes}))
    for failure in failures:
        digest.update(to_line({"failed": failure.key}))
    return digest.hexdigest()
