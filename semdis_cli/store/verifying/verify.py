"""Is a set of latents what its manifest says, all of it? Every problem is told, not only the first."""

import hashlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial, reduce
from itertools import chain
from math import ceil
from operator import add

from semdis_cli.errors import StoreError
from semdis_cli.events import Event, Failure, Problem, ShardVerified, VerifyStarted
from semdis_cli.files.set_names import INDEX_FILE
from semdis_cli.files.url import Location
from semdis_cli.records import WHOLE, SourceImage, View
from semdis_cli.store.index import read_rows
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.statistics import ChannelSums
from semdis_cli.store.verifying.images import Match, compare_images
from semdis_cli.store.verifying.index_table import IndexTable, PieceReader, read_here
from semdis_cli.store.verifying.set_files import count_links, find_present, find_surplus
from semdis_cli.store.verifying.set_lists import compare_sums, read_lists, unlisted_targets
from semdis_cli.store.verifying.shard_check import ShardOutcome, ShardTarget, check_shard
from semdis_cli.store.verifying.tensors_check import check_tensors
from semdis_cli.store.views import all_views, first_view
from semdis_cli.threads import WatchedThreads

# Has shards looked at, all data of those that are named; gives what came of each, in their order, and other events.
ShardCheck = Callable[[Sequence[ShardTarget], frozenset[str]], Iterator[ShardOutcome | Event]]


@dataclass(frozen=True)
class Helpers:
    """Who looks at the files of a set: `check` at shards, `read` at the files of its index."""

    check: ShardCheck
    read: PieceReader


@dataclass(frozen=True)
class Sample:
    """Some of the shards: `count` of them or, if that is None, a `share` (0..1), rounded up; `seed` decides which."""

    share: Fraction = Fraction(1)
    count: int | None = None
    seed: int = 0

    def choose(self, names: Sequence[str]) -> frozenset[str]:
        """The chosen ones of `names`: for one seed the same, in whatever order they come."""
        count = ceil(self.share * len(names)) if self.count is None else self.count
        ranked = sorted(names, key=lambda name: hashlib.sha256(f"{self.seed}/{name}".encode()).digest())
        return frozenset(ranked[:count])


NO_DATA, ALL_DATA = Sample(Fraction(0)), Sample()


@dataclass(frozen=True)
class VerifySettings:
    """`sample`: the shards of which every byte is read, with `num_workers` threads; of the others only the header."""

    sample: Sample = NO_DATA
    num_workers: int = 1


@dataclass(frozen=True)
class Verified:
    """The things that were looked at. `manifest`, `table` (the index): None where there is none, or it cannot be used.

    `num_links`: the files of a set that are links to others.
    """

    path: Location
    manifest: Manifest | None
    table: IndexTable | None
    num_shards: int
    num_bytes: int
    num_links: int = 0

    def views(self) -> tuple[View, ...]:
        """Return the views that the set has of every file."""
        if self.manifest is None or first_view(self.manifest.provenance) == WHOLE:
            return (WHOLE,)
        paths = (self.path / piece.name for piece in self.manifest.index_files.pieces)
        rows = chain.from_iterable(map(read_rows, paths))
        return all_views(self.manifest.provenance, (row.key for row in rows if row.is_ok))

    def compare(self, images: Sequence[SourceImage], failures: Sequence[Failure]) -> Iterator[Problem | Match]:
        """Hold the index against images, and inputs that cannot be used, sorted by key; see `compare_images`."""
        if self.table is None or not self.table.is_sorted:
            yield Problem(INDEX_FILE, "source", "missing or damaged: the sources cannot be compared with it")
        else:
            yield from compare_images(self.path, self.table, images, failures)


def verify_latents(
    path: Location, settings: VerifySettings, helpers: Helpers | None = None
) -> Generator[Event, None, Verified]:
    """Verify a set (its folder) or a single shard file. Raises `StoreError` if it is neither.

    `helpers`: who looks at the files of a set; None: this process.
    """
    alone = partial(check_in_threads, settings.num_workers)
    if path.is_dir():
        return (yield from _verify_set(path, settings, helpers or Helpers(alone, read_here)))
    if not path.exists():
        raise StoreError("no such latents; give the folder that semdis encode wrote, or one of its shards", place=path)
    outcomes = yield from _check_shards([ShardTarget(path, path.name)], settings, alone)
    return Verified(path, None, None, len(outcomes), sum(outcome.num_bytes for outcome in outcomes))


def _verify_set(root: Location, settings: VerifySettings, helpers: Helpers) -> Generator[Event, None, Verified]:
    # The lists: manifest, index, checksums, journal
    lists = yield from read_lists(root, helpers.read)
    targets = [*lists.listed_targets(), *lists.pending_targets()]
    if lists.manifest is None and not targets:
        targets = yield from unlisted_targets(lists)

    # The files: all that are listed, and no others
    present = yield from find_present(targets)
    yield from find_surplus(root, targets, lists.manifest)

    # The shards: their headers, or every byte
    outcomes = yield from _check_shards(present, settings, helpers.check)

    # The tensors: their places, or every byte
    tensor_bytes = 0
    if lists.manifest is not None:
        index = lists.table if lists.has_whole_index else None
        tensor_bytes = yield from check_tensors(
            root, lists.manifest, index, settings.sample.choose, num_workers=settings.num_workers
        )

    # The statistics, if every latent was read
    sums = [outcome.sums for outcome in outcomes if outcome.sums is not None]
    if lists.manifest is not None and lists.has_whole_index and not lists.pending and len(sums) == len(targets):
        channels = len(lists.manifest.sums.total)
        if all(len(each.total) == channels for each in sums):
            yield from compare_sums(lists.manifest, reduce(add, sums, ChannelSums.zero(channels)))
    num_bytes = sum(outcome.num_bytes for outcome in outcomes) + tensor_bytes
    return Verified(root, lists.manifest, lists.table, len(present), num_bytes, count_links(root, targets))


def _check_shards(
    targets: Sequence[ShardTarget], settings: VerifySettings, check: ShardCheck
) -> Generator[Event, None, list[ShardOutcome]]:
    """Look at each shard; what is said of them comes in their order."""
    chosen = settings.sample.choose([target.name for target in targets])
    yield VerifyStarted(len(targets), sum(_size(target) for target in targets if target.name in chosen))
    outcomes: list[ShardOutcome] = []
    for told in check(targets, chosen):
        if isinstance(told, ShardOutcome):
            yield from told.problems
            yield ShardVerified(targets[len(outcomes)].name, told.num_bytes)
            outcomes.append(told)
        else:
            yield told
    assert len(outcomes) == len(targets), f"{len(outcomes)} outcomes of {len(targets)} shards"
    return outcomes


def check_in_threads(
    num_workers: int, targets: Sequence[ShardTarget], chosen: frozenset[str]
) -> Iterator[ShardOutcome]:
    """Look at shards in so many threads of this process; a `ShardCheck`."""
    num_threads = num_workers if chosen else 1  # headers are Python's to parse: one thread has it all
    with WatchedThreads(num_threads, "semdis-verify") as pool:
        yield from pool.each(partial(_check, chosen=chosen), targets)


def _check(target: ShardTarget, chosen: frozenset[str]) -> ShardOutcome:
    return check_shard(target, read_data=target.name in chosen)


def _size(target: ShardTarget) -> int:
    return target.expected.num_bytes if target.expected else target.path.stat().st_size
