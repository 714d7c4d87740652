"""The store under test, and a small set of latents for it: made without a model, the same each time."""

import hashlib
import json
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semdis_cli.events import Failure, Problem
from semdis_cli.files.url import Location
from semdis_cli.parts import LATENTS, LATENTS_FLIP, MASK, MASK_FLIP, QUANTISED, part_dtype
from semdis_cli.provenance import LatentLayout, Provenance
from semdis_cli.records import NO_COLUMNS, EncodedImage, FileDigest, Geometry, ImageRecord, PlannedImage, SourceImage
from semdis_cli.sources.files import ON_DISK
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.quantised import store_as
from semdis_cli.store.shards import STORE_DTYPES, Shard
from semdis_cli.store.verifying.verify import ALL_DATA, Sample, VerifySettings, verify_latents
from semdis_cli.store.writing.comparison import find_changes
from semdis_cli.store.writing.finished import NO_BASE, Base
from semdis_cli.store.writing.latent_set import LatentSetWriter
from semdis_cli.store.writing.plan import PlannedShard, SetPlan, plan_sha256, plan_shards
from semdis_cli.store.writing.set_writer import SetWriter

CHANNELS = 3
PLAIN_DTYPES = tuple(dtype for dtype in STORE_DTYPES if dtype not in QUANTISED)
MTIME_NS = 1_000_000_007


def ctime_of(key: str) -> int:
    """Return when a file was last changed: of no two at one time, as a file system has it."""
    return MTIME_NS + zlib.crc32(key.encode(errors="surrogateescape")) + 1


PROVENANCE: dict[str, Any] = {
    "model": {"name": "made up", "revision": None, "weights_sha256": "0" * 64, "config_sha256": "1" * 64},
    "channels": CHANNELS,
    "patch_size": 16,
    "whitened": True,
    "posterior": {"kind": "mode"},
    "dtype": "bfloat16",
    "preprocessing": {"geometry": {"size": None, "max_pixels": None}},
}
# Two buckets, three to a shard; names in the order of bytes are not in the order of shards.
KEYS = ("a.png", "b/a.png", "b/bad.png", "b/c.png", "c.png", "d.jpg", "d.png", "e.png", "ü.png")
GOOD_KEYS = tuple(sorted(key for key in KEYS if "bad" not in key))
NUM_SHARDS = 4
TIMED = {"report.json", "seen.jsonl"}  # what holds times of the run, or of files that are not at hand


def bucket_of(key: str) -> tuple[int, int]:
    return (16, 32) if key < "c" else (32, 32)


def geometry_of(bucket: tuple[int, int]) -> Geometry:
    """An image one pixel smaller than its bucket, cut from a larger one."""
    image = bucket[0] - 1, bucket[1] - 1
    return Geometry(source=(100, 90), resized=(50, 45), crop=(1, 2), image=image, bucket=bucket)


def latents_of(key: str, bucket: tuple[int, int]) -> Tensor:
    """Latents [Z,h,w] float32 that depend on the key alone."""
    seed = int.from_bytes(hashlib.sha256(key.encode(errors="surrogateescape")).digest()[:4])
    return torch.randn((CHANNELS, bucket[0] // 16, bucket[1] // 16), generator=torch.Generator().manual_seed(seed))


def tensors_of(key: str, bucket: tuple[int, int], layout: LatentLayout) -> dict[str, Tensor]:
    """The tensors of one image as they are stored, which depend on the key alone."""
    stored = store_as(LATENTS, latents_of(key, bucket), STORE_DTYPES[layout.dtype])
    for name in layout.parts:
        channels = 1 if name in {MASK, MASK_FLIP} else CHANNELS
        values = latents_of(f"{key} {name}", bucket)[:channels]
        values = values.sigmoid() if name in {MASK, MASK_FLIP} else values
        stored |= store_as(name, values, STORE_DTYPES[part_dtype(name, layout.dtype)])
    return stored


def make_shard(
    keys: tuple[str, ...] = ("a.png", "b/c.png"),
    dtype: str = "bfloat16",
    bucket: tuple[int, int] = (32, 32),
    parts: Sequence[str] = (),
) -> Shard:
    """A shard with one row of latents per key, and of each of `parts`."""
    records = tuple(record_of(key, bucket) for key in keys)
    asked = {"parts": sorted(parts)} if parts else {}
    provenance = Provenance.from_json({**PROVENANCE, "dtype": dtype, **asked})
    rows = [tensors_of(key, bucket, provenance.layout) for key in keys]
    tensors = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    return Shard(tensors.pop(LATENTS), records, provenance, tensors)


def values_of(shard: Shard, row: int, name: str = LATENTS) -> Tensor:
    """The latents of a row, or their twin, [Z,h,w] float32, as the format says: times their scale if they have one."""
    values, scale = shard.tensors[name][row].float(), {LATENTS: "scale", LATENTS_FLIP: "scale_flip"}[name]
    return values * shard.parts[scale][row] if scale in shard.parts else values


def record_of(key: str, bucket: tuple[int, int], num_bytes: int | None = None) -> ImageRecord:
    """The record of an image whose file has the content `key`."""
    source = FileDigest(len(key) if num_bytes is None else num_bytes, _sha256(key))
    return ImageRecord(key, geometry_of(bucket), source, ("made up",))


def with_settings(shard: Shard, **changes: Any) -> Shard:
    """`shard` as if made with other settings."""
    return replace(shard, provenance=Provenance.from_json({**shard.provenance.to_json(), **changes}))


def with_keys(shard: Shard, keys: Sequence[str]) -> Shard:
    """The same shard, its rows under other keys."""
    records = (replace(record, key=key) for record, key in zip(shard.records, keys, strict=True))
    return replace(shard, records=tuple(records))


def are_equal(one: Shard, other: Shard) -> bool:
    """Whether two shards are the same, their latents bit for bit."""
    if one.parts.keys() != other.parts.keys() or not have_equal_latents(one, other):
        return False
    if not all(are_alike(tensor, other.parts[name]) for name, tensor in one.parts.items()):
        return False
    return list(one.records) == list(other.records) and one.provenance == other.provenance


def have_equal_latents(one: Shard, other: Shard) -> bool:
    """Whether the latents are the same bit for bit, NaN and minus zero included."""
    return are_alike(one.latents, other.latents)


def are_alike(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same bit for bit."""
    same_kind = one.dtype == other.dtype and one.shape == other.shape
    return same_kind and torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def _sha256(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


def hashes_of(sources: Sequence[SourceImage]) -> list[str | None]:
    """What the loader would find: the content of each source is its key."""
    return [_sha256(source.key) for source in sources]


@dataclass(frozen=True)
class SmallPlan:
    """What is to be encoded. Images whose name has "bad" in it cannot be read; `failures` were known beforehand.

    The size of a source is that of its key, and `more_bytes`; its time is one for all.
    """

    provenance: Provenance
    keys: tuple[str, ...]
    shard_images: int
    failures: tuple[Failure, ...] = (Failure("b/b.png", "is a folder"), Failure("z.png", "is empty"))
    more_bytes: Mapping[str, int] = field(default_factory=dict)

    @property
    def layout(self) -> LatentLayout:
        return self.provenance.layout

    @property
    def shards(self) -> Sequence[PlannedShard]:
        """Those of a new set."""
        return self.on(NO_BASE).shards

    def on(self, base: Base) -> SetPlan:
        """The plan for a set that holds `base` already."""
        sources = [
            SourceImage(key, ON_DISK, f"images/{key}", len(key) + self.more_bytes.get(key, 0), MTIME_NS, ctime_of(key))
            for key in sorted(self.keys)
        ]
        changes = find_changes(base, sources, self.failures, hashes_of)
        images = [PlannedImage(source, bucket_of(source.key)) for source in changes.to_encode]
        shards = plan_shards(
            images, self.layout, shard_bytes=2**20, shard_images=self.shard_images, first_number=base.next_number
        )
        sha256 = plan_sha256(self.provenance, shards, self.failures, base, changes)
        return SetPlan(tuple(shards), self.failures, changes, sha256)

    @contextmanager
    def open(self, root: Path) -> Iterator[LatentSetWriter]:
        """A writer that has begun."""
        with LatentSetWriter(root, self.provenance) as latents:
            while not latents.begin(self.on(latents.base), hashes_of):
                pass
            yield latents


def make_plan(keys: tuple[str, ...] = KEYS, shard_images: int = 3, **settings: Any) -> SmallPlan:
    return SmallPlan(Provenance.from_json({**PROVENANCE, **settings}), keys, shard_images)


def write_next(latents: SetWriter, columns: Mapping[str, dict[str, Any]] = NO_COLUMNS) -> None:
    """Encode and publish the next shard; `columns` of images by key."""
    planned = latents.remaining[0]
    rows = latents.open_shard(planned)
    for image in planned.images:
        key, num_bytes = image.source.key, image.source.num_bytes
        if "bad" in key:
            times = image.source.mtime_ns, image.source.ctime_ns
            rows.add_failure(Failure(key, "is truncated", num_bytes, *times))
            continue
        record = replace(record_of(key, image.bucket, num_bytes), columns=columns.get(key, NO_COLUMNS))
        parts = tensors_of(key, image.bucket, latents.provenance.layout)
        rows.add(EncodedImage(record, parts.pop(LATENTS), image.source.mtime_ns, image.source.ctime_ns, parts))
    latents.publish(rows.finish())


def write_set(root: Path, plan: SmallPlan | None = None) -> Manifest:
    """Write what is missing of a set, and finish it."""
    plan = plan or make_plan()
    with plan.open(root) as latents:
        while latents.remaining:
            write_next(latents)
        return latents.finish()


def write_some(root: Path, num_shards: int = NUM_SHARDS, plan: SmallPlan | None = None) -> None:
    """Publish the next shards of a set, and leave it unfinished."""
    with (plan or make_plan()).open(root) as latents:
        for _ in range(num_shards):
            write_next(latents)


def contents(root: Path) -> dict[str, bytes | None]:
    """Every file below `root` with its bytes, and every folder with None."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes() if path.is_file() else None for path in root.rglob("*")
    }


def lasting(root: Path) -> dict[str, bytes | None]:
    """The same without the files that hold times."""
    return {name: data for name, data in contents(root).items() if name not in TIMED}


def problems(path: Location, sample: Sample = ALL_DATA) -> list[Problem]:
    """What `verify` finds."""
    return [event for event in verify_latents(path, VerifySettings(sample, 2)) if isinstance(event, Problem)]


def edit_manifest(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Write the manifest with other fields, as `semdis` formats it."""
    path = root / "manifest.json"
    fields = json.loads(path.read_bytes())
    change(fields)
    path.write_bytes(json.dumps(fields, sort_keys=True, indent=1).encode() + b"\n")


def flip_last_bit(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def peak_bytes(do: Callable[[], object]) -> int:
    """The most that Python has allocated while something is done."""
    tracemalloc.start()
    try:
        do()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
