"""Summary of a set of latents, or of one shard, in one stream and little memory, however large the set is."""

import re
from collections import Counter
from dataclasses import dataclass, field
from math import prod
from typing import Any

from semdis_cli.errors import StoreError
from semdis_cli.files.url import Location
from semdis_cli.provenance import LatentLayout, Provenance
from semdis_cli.records import UNKNOWN_MASK, ImageRecord
from semdis_cli.store.columns import LABEL, is_label
from semdis_cli.store.latent_set import open_set
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.reader import recorded_layout
from semdis_cli.store.shard_header import read_shard_header
from semdis_cli.store.statistics import ChannelSums
from semdis_cli.store.verifying.payload import read_payload

_MAX_GROUPS = 1000
_MAX_TEXT = 300
_OTHERS = "(others)"

Json = dict[str, Any]


def summarise(path: Location) -> Json:
    """Everything that a finished set (its folder) or a shard says of itself, as plain JSON values.

    Raises `StoreError` if it is neither, or damaged where it is read: of a set the lists, of a shard every byte.
    """
    if path.is_dir():
        return _summarise_set(path)
    if not path.exists():
        raise StoreError("no such latents; give the folder that semdis encode wrote, or one of its shards", place=path)
    return _summarise_shard(path)


def _summarise_set(root: Location) -> Json:
    latents = open_set(root)
    manifest = latents.manifest
    layout = recorded_layout(manifest.provenance, str(root))
    tally = _Tally(layout)
    for row in latents.rows():
        if row.error is not None:
            tally.failures.add(row.key, row.error)
        elif (left_out := row.left_out_by) is not None:
            tally.left_out[left_out] += 1
        elif row.record is not None and row.is_ok:
            tally.add(row.record)
    counts = {
        "ok": manifest.num_ok,
        "failed": manifest.num_failed,
        "removed": manifest.num_removed,
        "superseded": manifest.num_superseded,
    }
    shards = [
        {"name": s.name, "images": s.num_images, "bytes": s.file.num_bytes, "sha256": s.file.sha256}
        for s in manifest.shards
    ]
    versions = {"versions": manifest.versions()} if manifest.later_versions else {}
    num_bytes = {"shards": sum(s.file.num_bytes for s in manifest.shards), "index": manifest.index.num_bytes}
    if manifest.tensors:
        num_bytes["tensors"] = sum(column.num_bytes for column in manifest.tensors.values())
    return _report(path=root, provenance=manifest.provenance, images=counts, shards=shards) | {
        **versions,
        "bytes": num_bytes | {"latents": tally.latent_bytes()},
        **tally.to_json(),
        **({"columns": _columns(manifest, tally.labels)} if manifest.columns else {}),
        **({"tensors": _tensors(manifest)} if manifest.tensors else {}),
        "statistics": _statistics(manifest.sums),
    }


def _columns(manifest: Manifest, labels: Counter[int]) -> Json:
    """For each column how many of the images that are served have it, and how many not; of labels also the classes."""
    columns: Json = {
        name: {**facts, "missing": manifest.num_ok - facts["images"]}
        for name, facts in manifest.columns.to_json().items()
    }
    if LABEL in columns:
        numbers = range(len(manifest.columns.classes)) if manifest.columns.classes else sorted(labels)
        columns[LABEL]["images_by_class"] = {str(number): labels[number] for number in numbers}
    return columns


def _tensors(manifest: Manifest) -> Json:
    """For each column of tensors its kind, how many of the images that are served have it, and its size on disk."""
    return {
        name: {
            "dtype": column.kind.dtype,
            "shape": column.kind.shape_json(),
            "lengths": list(column.lengths),
            "images": column.num_images,
            "missing": manifest.num_ok - column.num_images,
            "files": len(column.files),
            "bytes": column.num_bytes,
        }
        for name, column in sorted(manifest.tensors.items())
    }


def _summarise_shard(path: Location) -> Json:
    header = read_shard_header(path)
    payload = read_payload(path, header)
    if payload.latents_sha256 != header.latents_sha256:
        raise StoreError("the latents do not match their sha256; damaged", place=path)
    tally = _Tally(recorded_layout(header.provenance, str(path)))
    for record in header.records:
        tally.add(record)
    counts = {"ok": len(header.records), "failed": 0, "removed": 0, "superseded": 0}
    file = payload.file
    shard = {"name": path.name, "images": len(header.records), "bytes": file.num_bytes, "sha256": file.sha256}
    return _report(path=path, provenance=header.provenance, images=counts, shards=[shard]) | {
        "bytes": {"shards": file.num_bytes, "index": 0, "latents": header.payload_bytes},
        **tally.to_json(),
        "statistics": _statistics(payload.sums),
    }


def _report(*, path: Location, provenance: Provenance, images: Json, shards: list[Json]) -> Json:
    return {
        "command": "inspect",
        "latents": str(path),
        "provenance": provenance.to_json(),
        "images": images,
        "shards": shards,
    }


def _statistics(sums: ChannelSums) -> Json:
    mean, std = sums.mean_std()
    return {"positions": sums.count, "mean": mean, "std": std}


@dataclass
class _Groups:
    """Texts grouped by what they say when digits are left out: how many there are, and one of each."""

    groups: dict[str, list[Any]] = field(default_factory=dict)  # [number, key, text]

    def add(self, key: str, text: str) -> None:
        """Count one text of one image."""
        pattern = re.sub(r"[0-9]+", "#", text[:_MAX_TEXT])
        if pattern not in self.groups and len(self.groups) >= _MAX_GROUPS:
            pattern = _OTHERS
        group = self.groups.setdefault(pattern, [0, key, text[:_MAX_TEXT]])
        group[0] += 1

    def to_json(self) -> list[Json]:
        """The groups, largest first."""
        ranked = sorted(self.groups.items(), key=lambda group: (-group[1][0], group[0]))
        return [
            {"pattern": pattern, "images": number, "example": {"key": key, "text": text}}
            for pattern, (number, key, text) in ranked
        ]


@dataclass
class _Tally:
    """The sums over the rows of an index."""

    layout: LatentLayout
    buckets: dict[tuple[int, int], int] = field(default_factory=dict)
    failures: _Groups = field(default_factory=_Groups)
    notes: _Groups = field(default_factory=_Groups)
    left_out: Counter[str] = field(default_factory=Counter)  # by filter
    labels: Counter[int] = field(default_factory=Counter)
    num_masks: int = 0  # images with a file of their own
    source_bytes: int = 0
    source_pixels: int = 0

    def add(self, record: ImageRecord) -> None:
        """Count an image whose latents are to be used."""
        bucket = record.geometry.bucket
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1
        self.source_bytes += record.source.num_bytes
        self.source_pixels += prod(record.geometry.source)
        self.num_masks += record.mask_sha256 not in {None, UNKNOWN_MASK}
        if is_label(label := record.columns.get(LABEL)):
            self.labels[label] += 1
        for note in record.notes:
            self.notes.add(record.key, note)

    def latent_bytes(self) -> int:
        """Bytes of the latents that are to be used, headers not counted."""
        return sum(number * self.layout.latent_bytes(bucket) for bucket, number in self.buckets.items())

    def to_json(self) -> Json:
        """As plain values; buckets smallest first."""
        return {
            "sources": {"bytes": self.source_bytes, "megapixels": round(self.source_pixels / 1e6, 3)},
            "buckets": [
                {
                    "grid": list(self.layout.grid(bucket)),
                    "image_px": list(bucket),
                    "images": number,
                    "bytes": number * self.layout.latent_bytes(bucket),
                }
                for bucket, number in sorted(self.buckets.items())
            ],
            "failures": self.failures.to_json(),
            "notes": self.notes.to_json(),
            **({"left_out": dict(sorted(self.left_out.items()))} if self.left_out else {}),
            **({"mask_files": self.num_masks} if self.num_masks else {}),
        }
