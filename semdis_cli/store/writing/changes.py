"""Changes that make a finished set hold the inputs of this run: a comparison by key, size and content."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from semdis_cli.errors import StoreError, UsageError
from semdis_cli.events import Failure
from semdis_cli.files.identity import Witness, all_vouch, settled
from semdis_cli.files.image_list import NO_TIME, ImageList
from semdis_cli.records import SourceImage
from semdis_cli.stops import look
from semdis_cli.store.index import IndexLine
from semdis_cli.store.manifest import INDEX_FILE, MANIFEST_FILE
from semdis_cli.store.writing.finished import Base
from semdis_cli.store.writing.seen import SeenByKey, SeenFile, has_seen, is_just_this, seen_time_ns

# The sha256 of each file's content, in order, None where it cannot be read.
Hashes = Callable[[Sequence[SourceImage]], Iterable[str | None]]


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
        is_same = is_just_this(base.folder, base.manifest.index.sha256, images.facts())
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
