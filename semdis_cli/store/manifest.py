"""`manifest.json`: what a finished set is made of. Written last; without it the set is unfinished."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

from semdis_cli.errors import StoreError
from semdis_cli.files.json_text import parse_json
from semdis_cli.files.links import describe_absent, or_pointer
from semdis_cli.files.set_names import (
    CHECKSUM_FILE,
    COLUMN_FOLDER,
    INDEX_FILE,
    INDEX_FOLDER,
    ITEMS_FILE,
    JOURNAL_FOLDER,
    MANIFEST_FILE,
    SHARD_FOLDER,
)
from semdis_cli.files.url import Location
from semdis_cli.provenance import Provenance, versions_of
from semdis_cli.records import FileDigest
from semdis_cli.store.checks import MALFORMED, check_count, check_sha256, check_shard_name
from semdis_cli.store.columns import SetColumns
from semdis_cli.store.record import parse_digest
from semdis_cli.store.set_index import IndexPiece, RowCounts, SetIndex, check_pieces
from semdis_cli.store.shard_header import FORMAT_VERSION
from semdis_cli.store.statistics import ChannelSums
from semdis_cli.store.tensors.listed import TensorColumns, tensor_files, tensors_from_json, tensors_to_json

_IN_PIECES = 2  # the format of a manifest whose index lies in pieces, which earlier versions do not know


@dataclass(frozen=True)
class ShardEntry:
    """One published shard: name within `shards/`, number of latents, size and sha256.

    `version`: which of the manifest's records made it.
    """

    name: str
    num_images: int
    file: FileDigest
    version: int = 0


@dataclass(frozen=True)
class Manifest:
    """The record of a finished set.

    `provenance`: the settings that decide every byte. `plan_sha256`: of the inputs and their cut into shards. Of the
    latents in the shards, `num_ok` are to be used, `num_removed` are of inputs that were gone in the last run, and
    `num_superseded` are of inputs that were encoded again since. `sums`: over those to be used. No times and no machine
    names: equal inputs give equal bytes.

    `later_versions`: records of the same kind of latents, by other versions of what computes and reads; shards say
    which one made them. `columns`: what came with the images that are to be used. `num_left_out`: inputs without
    latents because a filter left them out. `tensors`: columns whose values are tensors. Most sets have none.

    `index`: the file of the index or, where that lies in `pieces`, the bytes of all and what tells them from others.
    """

    provenance: Provenance
    plan_sha256: str
    num_ok: int
    num_failed: int
    num_removed: int
    num_superseded: int
    shards: tuple[ShardEntry, ...]
    index: FileDigest
    sums: ChannelSums
    later_versions: tuple[Provenance, ...] = ()
    columns: SetColumns = field(default_factory=SetColumns)
    num_left_out: int = 0
    tensors: TensorColumns = field(default_factory=dict)
    pieces: tuple[IndexPiece, ...] = ()

    @cached_property
    def index_files(self) -> SetIndex:
        """The files of the index."""
        if self.pieces:
            return SetIndex(self.pieces)
        return SetIndex([IndexPiece(INDEX_FILE, self.index, self._rows, self.columns.num_images)])

    @property
    def _rows(self) -> RowCounts:
        return RowCounts(self.num_ok, self.num_failed, self.num_removed, self.num_left_out)

    @property
    def list_names(self) -> tuple[str, ...]:
        """The files of the set's lists in the order in which they are to appear; the times need not be there."""
        index = self.index_files.pieces
        lists = (*(piece.name for piece in index), ITEMS_FILE, *(piece.seen_name for piece in index))
        return (*lists, CHECKSUM_FILE, MANIFEST_FILE)

    @property
    def records(self) -> tuple[Provenance, ...]:
        """The settings of all versions, by number."""
        return (self.provenance, *self.later_versions)

    def record_of(self, shard: ShardEntry) -> Provenance:
        """The settings that made `shard`."""
        return self.records[shard.version]

    def versions(self) -> list[dict[str, Any]]:
        """Return which version made how many latents, those that are not to be used included; see `versions_of`."""
        shards = [[shard for shard in self.shards if shard.version == number] for number in range(len(self.records))]
        counts = [(len(made), sum(shard.num_images for shard in made)) for made in shards]
        return versions_of((record, *count) for record, count in zip(self.records, counts, strict=True))

    @property
    def num_latents(self) -> int:
        """Rows of all shards, those that are not to be used included."""
        return self.num_ok + self.num_removed + self.num_superseded

    def figures(self) -> dict[str, Any]:
        """Return the number of shards, their bytes, and how many images have each column, as reports say them."""
        size = {"shards": len(self.shards), "latent_bytes": sum(shard.file.num_bytes for shard in self.shards)}
        return {**size, "columns": dict(self.columns.num_images)} if self.columns else size

    def to_bytes(self) -> bytes:
        """The file: indented JSON with sorted keys."""
        mean, std = self.sums.mean_std()
        totals = {
            "ok": self.num_ok,
            "failed": self.num_failed,
            "removed": self.num_removed,
            "superseded": self.num_superseded,
        }
        if self.num_left_out:
            totals["left_out"] = self.num_left_out
        fields = {
            "format": _IN_PIECES if self.pieces else FORMAT_VERSION,
            "provenance": self.provenance.to_json(),
            "plan_sha256": self.plan_sha256,
            "totals": totals,
            "shards": [_shard_json(shard) for shard in self.shards],
            "index": self.index.to_json(),
            "latents": {"mean": mean, "std": std, "sums": self.sums.to_json()},
        }
        if self.pieces:
            fields["index"] = {**self.index.to_json(), "pieces": [piece.to_json() for piece in self.pieces]}
        if self.later_versions:
            fields["later_versions"] = [record.to_json() for record in self.later_versions]
        if self.columns:
            fields["columns"] = self.columns.to_json()
        if self.tensors:
            fields["tensors"] = tensors_to_json(self.tensors)
        return json.dumps(fields, sort_keys=True, indent=1).encode() + b"\n"

    @classmethod
    def read(cls, root: Location) -> Self:
        """Read `root/manifest.json`. Raises `StoreError` if it is missing or damaged."""
        return cls.parse(root, read_manifest(root))

    @classmethod
    def parse(cls, root: Location, data: bytes) -> Self:
        """Parse what `read_manifest` gave. Raises `StoreError` if it is damaged."""
        path = root / MANIFEST_FILE
        try:
            fields = parse_json(data)
        except ValueError as error:
            raise StoreError(or_pointer(path, f"not JSON ({error}); damaged"), place=path) from error
        try:
            return cls._parse(fields)
        except MALFORMED as error:
            raise StoreError(f"not a manifest of format {_said_format(fields)} ({error!r})", place=path) from error

    @classmethod
    def _parse(cls, fields: dict[str, Any]) -> Self:
        is_split = fields["format"] == _IN_PIECES
        if not is_split and fields["format"] != FORMAT_VERSION:
            raise ValueError(f"format {fields['format']}")
        totals, latents = fields["totals"], fields["latents"]
        manifest = cls(
            provenance=Provenance.from_json(fields["provenance"]),
            plan_sha256=check_sha256(fields["plan_sha256"]),
            num_ok=check_count(totals["ok"]),
            num_failed=check_count(totals["failed"]),
            num_removed=check_count(totals["removed"]),
            num_superseded=check_count(totals["superseded"]),
            shards=tuple(_parse_shard(shard) for shard in fields["shards"]),
            index=(index := parse_digest(fields["index"])),
            sums=ChannelSums.from_json(latents["sums"]),
            later_versions=tuple(map(Provenance.from_json, fields.get("later_versions", ()))),
            columns=SetColumns.from_json(fields.get("columns", {})),
            num_left_out=check_count(totals.get("left_out", 0)),
            tensors=tensors_from_json(fields.get("tensors", {})),
            pieces=_parse_pieces(fields["index"], index) if is_split else (),
        )
        manifest._check_versions()
        manifest._check_pieces()
        if sum(shard.num_images for shard in manifest.shards) != manifest.num_latents:
            raise ValueError("the shards do not add up to the totals")
        if [list(map(float, latents["mean"])), list(map(float, latents["std"]))] != list(manifest.sums.mean_std()):
            raise ValueError("mean and std are not those of the sums")
        numbers = [column.num_images for column in manifest.tensors.values()]
        if any(number > manifest.num_ok for number in (*manifest.columns.num_images.values(), *numbers)):
            raise ValueError("more images have a column than there are")
        return manifest

    def _check_pieces(self) -> None:
        """Raise `ValueError` unless the pieces of the index add up to what the manifest says of all."""
        if self.index_files.rows != self._rows or self.index_files.columns != self.columns.num_images:
            raise ValueError("the pieces of the index do not add up to the totals")

    def _check_versions(self) -> None:
        """Raise `ValueError` unless each shard has a record, and all records are of one kind of latents."""
        if any(shard.version >= len(self.records) for shard in self.shards):
            raise ValueError("a shard is of a version that is not on record")
        if not all(self.provenance.is_of_one_kind(record) for record in self.later_versions):
            raise ValueError("its versions are of other latents")


def read_manifest(root: Location) -> bytes:
    """Read `root/manifest.json` as it stands. Raises `StoreError` if it is missing or cannot be read."""
    path = root / MANIFEST_FILE
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        absent = describe_absent(path)
        raise (StoreError(absent, place=path) if absent else StoreError(_why_missing(root), place=root)) from error
    except NotADirectoryError as error:
        what = "a file, not a set of latents; give the folder that semdis encode wrote"
        raise StoreError(what, place=root) from error
    except OSError as error:
        raise StoreError(f"cannot be read ({error.strerror})", place=path) from error


def checksum_lines(manifest: Manifest) -> Iterator[bytes]:
    """Lines that `sha256sum -c` reads, relative to the set's folder."""
    yield f"{hashlib.sha256(manifest.to_bytes()).hexdigest()}  {MANIFEST_FILE}\n".encode()
    for piece in manifest.index_files.pieces:
        yield f"{piece.file.sha256}  {piece.name}\n".encode()
    for shard in manifest.shards:
        yield f"{shard.file.sha256}  {SHARD_FOLDER}/{shard.name}\n".encode()
    for _, _, file in tensor_files(manifest.tensors):
        yield f"{file.file.sha256}  {COLUMN_FOLDER}/{file.name}\n".encode()


def _said_format(fields: Any) -> int:
    """Return the format that a manifest says it has, if there is such a one."""
    is_split = isinstance(fields, dict) and fields.get("format") == _IN_PIECES
    return _IN_PIECES if is_split else FORMAT_VERSION


def _why_missing(root: Location) -> str:
    """Describe a folder that has no manifest, and what to do."""
    if (root / JOURNAL_FOLDER).is_dir():
        return f"no {MANIFEST_FILE}, so not a finished set of latents; run the same semdis encode again to finish it"
    if any((root / name).exists() for name in (SHARD_FOLDER, INDEX_FILE, INDEX_FOLDER)):
        what = f"not a set of latents (no {MANIFEST_FILE}), but parts of one, as of a download that was cut short"
        return what + verify_hint(root)
    return f"not a set of latents (no {MANIFEST_FILE}); give the folder that semdis encode wrote"


def verify_hint(root: Location) -> str:
    """Return what to add to a message about one damaged or missing file of a set: there may be more."""
    return f"; semdis verify {root} says all that is amiss"


def _parse_shard(fields: dict[str, Any]) -> ShardEntry:
    facts = check_shard_name(fields["name"]), check_count(fields["num_images"]), parse_digest(fields)
    return ShardEntry(*facts, check_count(fields.get("version", 0)))


def _parse_pieces(fields: dict[str, Any], index: FileDigest) -> tuple[IndexPiece, ...]:
    return check_pieces([IndexPiece.from_json(piece) for piece in fields["pieces"]], index)


def _shard_json(shard: ShardEntry) -> dict[str, Any]:
    fields = {"name": shard.name, "num_images": shard.num_images, **shard.file.to_json()}
    return fields | {"version": shard.version} if shard.version else fields
