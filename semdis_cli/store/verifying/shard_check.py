"""Check one shard against the manifest and the index."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from semdis_cli.errors import StoreError
from semdis_cli.events import Problem
from semdis_cli.files.set_names import ITEMS_FILE
from semdis_cli.files.url import Location
from semdis_cli.provenance import Provenance
from semdis_cli.records import FileDigest
from semdis_cli.store.checks import is_shard_name
from semdis_cli.store.index import IndexRow
from semdis_cli.store.mapped_shard import hash_header
from semdis_cli.store.shard_header import ShardHeader, read_shard_header
from semdis_cli.store.statistics import ChannelSums
from semdis_cli.store.verifying.index_table import ShardRows, compare_rows
from semdis_cli.store.verifying.items_check import REMEDY
from semdis_cli.store.verifying.payload import read_payload

_MAX_BAD_ROWS = 20


def _find_nothing(_offset: int) -> IndexRow:
    raise AssertionError("no rows are named")


@dataclass(frozen=True)
class ShardTarget:
    """A shard to look at, and what is known of it: None where nothing is.

    `name`: within the set. `expected`: its size and sha256. `rows`: those that the index names, read when asked for.
    `header_sha256`: as in the table of the set's items.
    """

    path: Location
    name: str
    expected: FileDigest | None = None
    num_images: int | None = None
    provenance: Provenance | None = None
    rows: Callable[[], ShardRows] | None = None
    header_sha256: bytes | None = None

    def named_rows(self) -> ShardRows:
        """The rows that the index names; none where nothing is known."""
        return self.rows() if self.rows else ShardRows(_find_nothing)


@dataclass(frozen=True)
class ShardOutcome:
    """The outcome of a check: problems, the bytes read, and sums over the rows to be used, if all was read."""

    problems: tuple[Problem, ...]
    num_bytes: int
    sums: ChannelSums | None


def check_shard(target: ShardTarget, *, read_data: bool) -> ShardOutcome:
    """Hold one shard against what is known of it: its header, or with `read_data` every byte."""
    try:
        header = read_shard_header(target.path)
        rows = target.named_rows()
        problems = [Problem(target.name, "shard", what) for what in _check_header(target, header)]
        problems += [Problem(target.name, "rows", what) for what in compare_rows(header, rows)]
        problems += [] if problems else _check_table(target, header)
        if not read_data:
            return ShardOutcome(tuple(problems), header.payload_start, None)
        return _check_data(target, header, rows, problems)
    except StoreError as error:
        return ShardOutcome((Problem(target.name, "shard", error.beside(target.path)),), 0, None)


def _check_header(target: ShardTarget, header: ShardHeader) -> Iterator[str]:
    """Give the differences between a header and the manifest."""
    N, _, h, w = header.shape
    if target.num_images not in {None, N}:
        yield f"holds {N} latents, but the manifest says {target.num_images}"
    if target.provenance is not None and header.provenance != target.provenance:
        yield "made with other settings than the set it lies in"
    if is_shard_name(target.path.name) and not target.path.name.endswith(f"-{h}x{w}.safetensors"):
        yield f"its name is not that of a shard of {h}x{w} latents"


def _check_table(target: ShardTarget, header: ShardHeader) -> Iterator[Problem]:
    """Hold the header of a shard with which all is well against the table of the set's items."""
    if target.header_sha256 not in {None, hash_header(target.path, header.payload_start)}:
        what = f"knows another header of {target.name}; {REMEDY}"
        yield Problem(ITEMS_FILE, "table", what)


def _check_data(target: ShardTarget, header: ShardHeader, rows: ShardRows, problems: list[Problem]) -> ShardOutcome:
    served = [number for number in rows.served_rows() if number < header.shape[0]] if target.rows else None
    payload = read_payload(target.path, header, served)
    found: list[str] = []
    if target.expected is not None and payload.file != target.expected:
        found.append("its bytes do not match the sha256 in the manifest; damaged or edited")
    if payload.latents_sha256 != header.latents_sha256:
        found.append("the latents do not match their sha256; damaged")
    found += _describe_rows(header, payload.bad_rows, "holds NaN or infinity", "hold NaN or infinity")
    what = "a scale that is below 0, too large or NaN"
    found += _describe_rows(header, payload.bad_scales, f"has {what}", f"have {what}")
    found += _describe_rows(header, payload.bad_masks, "holds a mask beyond 0..1", "hold a mask beyond 0..1")
    problems = [*problems, *(Problem(target.name, "data", what) for what in found)]
    return ShardOutcome(tuple(problems), payload.file.num_bytes, None if problems else payload.sums)


def _describe_rows(header: ShardHeader, rows: Sequence[int], does: str, do: str) -> Iterator[str]:
    """Say what is wrong with rows, one by one, and how many more there are."""
    for row in rows[:_MAX_BAD_ROWS]:
        yield f"row {row} ({header.records[row].key!r:.80}) {does}"
    if len(rows) > _MAX_BAD_ROWS:
        yield f"{len(rows) - _MAX_BAD_ROWS} more rows {do}"
