"""Sets of latents for a generator: made without a model, easy or hard to learn, the same each time."""

import hashlib
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from semdis_cli.files.atomic import digest_file
from semdis_cli.files.json_text import to_line
from semdis_cli.provenance import Provenance
from semdis_cli.records import FileDigest, Geometry, ImageRecord
from semdis_cli.store.columns import LABEL, SetColumns
from semdis_cli.store.index import IndexRow
from semdis_cli.store.manifest import Manifest, ShardEntry
from semdis_cli.store.shards import Shard, write_shard
from semdis_cli.store.statistics import ChannelSums
from tests.store import PROVENANCE

PATCH_PX = 16
R = TypeVar("R")


def result_of(events: Generator[object, None, R]) -> R:
    """What a generator returns; what it yields is left aside."""

    def run() -> Generator[object, None, None]:
        returned.append((yield from events))

    returned: list[R] = []
    for _ in run():
        pass
    return returned[0]


def keys_of(number: int) -> list[str]:
    return [f"{index:04d}.png" for index in range(number)]


def draw(key: str, shape: tuple[int, ...]) -> Tensor:
    """Normal numbers that depend on the key alone."""
    seed = int.from_bytes(hashlib.sha256(key.encode(errors="surrogateescape")).digest()[:7], "big")
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def noise_like(key: str, channels: int = 4, side: int = 4) -> Tensor:
    """Latents of which no value says anything about another."""
    return draw(key, (channels, side, side))


def smooth(key: str, channels: int = 4, side: int = 4) -> Tensor:
    """Latents that are one number, in every channel at every position."""
    return draw(key, (1, 1, 1)).expand(channels, side, side).contiguous()


def save_set(
    root: Path,
    latents: Mapping[str, Tensor],
    *,
    labels: Mapping[str, int] | None = None,
    classes: tuple[str, ...] = (),
) -> Path:
    """Write a finished set of latents [Z,h,w] by key: a shard a grid."""
    (root / "shards").mkdir(parents=True)
    rows: dict[str, dict[str, Any]] = {}
    entries, labels = [], labels or {}
    channels = len(next(iter(latents.values())))
    provenance = Provenance.from_json({**PROVENANCE, "channels": channels, "dtype": "float32"})
    for number, (h, w) in enumerate(sorted({tuple(one.shape[1:]) for one in latents.values()})):
        name = f"{number:08d}-{h}x{w}.safetensors"
        keys = sorted(key for key, one in latents.items() if tuple(one.shape[1:]) == (h, w))
        records = tuple(_record(key, (h, w), labels.get(key)) for key in keys)
        write_shard(root / "shards" / name, Shard(torch.stack([latents[key] for key in keys]), records, provenance))
        rows |= {record.key: IndexRow.of_image(record, name, row).to_json() for row, record in enumerate(records)}
        entries.append(ShardEntry(name, len(keys), digest_file(root / "shards" / name)))
    (root / "index.jsonl").write_bytes(b"".join(to_line(rows[key]) for key in sorted(rows)))
    columns = SetColumns({LABEL: len(labels)}, classes) if labels else SetColumns()
    manifest = Manifest(
        provenance=provenance,
        plan_sha256="0" * 64,
        num_ok=len(rows),
        num_failed=0,
        num_removed=0,
        num_superseded=0,
        shards=tuple(entries),
        index=digest_file(root / "index.jsonl"),
        sums=ChannelSums.zero(channels),
        columns=columns,
    )
    (root / "manifest.json").write_bytes(manifest.to_bytes())
    return root


def save_made(root: Path, number: int, make: Callable[[str], Tensor], **how: Any) -> Path:
    """Write a set of `number` images, the latents of each made of its key."""
    return save_set(root, {key: make(key) for key in keys_of(number)}, **how)


def _record(key: str, grid: tuple[int, int], label: int | None) -> ImageRecord:
    size = grid[0] * PATCH_PX, grid[1] * PATCH_PX
    geometry = Geometry(source=size, resized=size, crop=(0, 0), image=size, bucket=size)
    digest = FileDigest(len(key), hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest())
    return ImageRecord(key, geometry, digest, columns={} if label is None else {LABEL: label})
