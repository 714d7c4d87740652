"""`manifest.json`: what a finished set is made of. Written last; without it the set is unfinished."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from semdis_cli.atomic import PublishedFile
from semdis_cli.defaults import MANIFEST_NAME
from semdis_cli.errors import StoreError
from semdis_cli.pointers import or_pointer
from semdis_cli.store.checks import MALFORMED, check_count, check_sha256, check_shard_name, parse_json
from semdis_cli.store.shard_header import FORMAT_VERSION
from semdis_cli.store.statistics import ChannelSums

MANIFEST_FILE = MANIFEST_NAME
INDEX_FILE = "index.jsonl"
CHECKSUM_FILE = "SHA256SUMS"
SHARD_FOLDER = "shards"
JOURNAL_FOLDER = "journal"  # there while a run is under way or was stopped
REPORT_FILE = "report.json"


@dataclass(frozen=True)
class ShardEntry:
    """One published shard: name within `shards/`, number of latents, size and sha256."""

    name: str
    num_images: int
    file: PublishedFile


@dataclass(frozen=True)
class Manifest:
    """The record of a finished set.

    `provenance`: the settings that decide every byte. `plan_sha256`: of the inputs and their cut into shards. Of the
    latents in the shards, `num_ok` are to be used, `num_removed` are of inputs that were gone in the last run, and
    `num_superseded` are of inputs that were encoded again since. `sums`: over those to be used. No times and no machine
    names: equal inputs give equal bytes.
    """

    provenance: dict[str, Any]
    plan_sha256: str
    num_ok: int
    num_failed: int
    num_removed: int
    num_superseded: int
    shards: tuple[ShardEntry, ...]
    index: PublishedFile
    sums: ChannelSums

    @property
    def num_latents(self) -> int:
        """Rows of all shards, those that are not to be used included."""
        return self.num_ok + self.num_removed + self.num_superseded

    def to_bytes(self) -> bytes:
        """The file: indented JSON with sorted keys."""
        mean, std = self.sums.mean_std()
        totals = {
            "ok": self.num_ok,
            "failed": self.num_failed,
            "removed": self.num_removed,
            "superseded": self.num_superseded,
        }
        fields = {
            "format": FORMAT_VERSION,
            "provenance": self.provenance,
            "plan_sha256": self.plan_sha256,
            "totals": totals,
            "shards": [{"name": s.name, "num_images": s.num_images, **_file_json(s.file)} for s in self.shards],
            "index": _file_json(self.index),
            "latents": {"mean": mean, "std": std, "sums": self.sums.to_json()},
        }
        return json.dumps(fields, sort_keys=True, indent=1).encode() + b"\n"

    @classmethod
    def read(cls, root: Path) -> Self:
        """Read `root/manifest.json`. Raises `StoreError` if it is missing or damaged."""
        path = root / MANIFEST_FILE
        try:
            fields = parse_json(path.read_bytes())
        except FileNotFoundError as error:
            raise StoreError(f"{root}: {_why_missing(root)}") from error
        except OSError as error:
            raise StoreError(f"{path}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise StoreError(f"{path}: {or_pointer(path, f'not JSON ({error}); damaged')}") from error
        try:
            return cls._parse(fields)
        except MALFORMED as error:
            raise StoreError(f"{path}: not a manifest of format {FORMAT_VERSION} ({error!r})") from error

    @classmethod
    def _parse(cls, fields: dict[str, Any]) -> Self:
        if fields["format"] != FORMAT_VERSION:
            raise ValueError(f"format {fields['format']}")
        totals, latents = fields["totals"], fields["latents"]
        manifest = cls(
            provenance=dict(fields["provenance"]),
            plan_sha256=check_sha256(fields["plan_sha256"]),
            num_ok=check_count(totals["ok"]),
            num_failed=check_count(totals["failed"]),
            num_removed=check_count(totals["removed"]),
            num_superseded=check_count(totals["superseded"]),
            shards=tuple(_parse_shard(shard) for shard in fields["shards"]),
            index=_parse_file(fields["index"]),
            sums=ChannelSums.from_json(latents["sums"]),
        )
        if sum(shard.num_images for shard in manifest.shards) != manifest.num_latents:
            raise ValueError("the shards do not add up to the totals")
        if [list(map(float, latents["mean"])), list(map(float, latents["std"]))] != list(manifest.sums.mean_std()):
            raise ValueError("mean and std are not those of the sums")
        return manifest


def checksum_lines(manifest: Manifest) -> Iterator[bytes]:
    """Lines that `sha256sum -c` reads, relative to the set's folder."""
    yield f"{hashlib.sha256(manifest.to_bytes()).hexdigest()}  {MANIFEST_FILE}\n".encode()
    yield f"{manifest.index.sha256}  {INDEX_FILE}\n".encode()
    for shard in manifest.shards:
        yield f"{shard.file.sha256}  {SHARD_FOLDER}/{shard.name}\n".encode()


def _why_missing(root: Path) -> str:
    """What a folder is that has no manifest, and what to do."""
    if (root / JOURNAL_FOLDER).is_dir():
        return f"no {MANIFEST_FILE}, so not a finished set of latents; run the same semdis encode again to finish it"
    return f"not a set of latents (no {MANIFEST_FILE}); give the folder that semdis encode wrote"


def _parse_shard(fields: dict[str, Any]) -> ShardEntry:
    return ShardEntry(check_shard_name(fields["name"]), check_count(fields["num_images"]), _parse_file(fields))


def _parse_file(fields: dict[str, Any]) -> PublishedFile:
    return PublishedFile(check_count(fields["num_bytes"]), check_sha256(fields["sha256"]))


def _file_json(file: PublishedFile) -> dict[str, Any]:
    return {"num_bytes": file.num_bytes, "sha256": file.sha256}
