"""Latents to be read: a finished set, or a single shard file that came on its own."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

from semdis_cli.errors import StoreError
from semdis_cli.files.set_names import MANIFEST_FILE, SHARD_FOLDER
from semdis_cli.files.url import Location
from semdis_cli.parts import SCALE
from semdis_cli.provenance import LatentLayout, Provenance
from semdis_cli.records import NO_COLUMNS, FileDigest
from semdis_cli.store.checks import check_row
from semdis_cli.store.index import parse_row
from semdis_cli.store.latent_set import LatentSet, open_set
from semdis_cli.store.manifest import ShardEntry, verify_hint
from semdis_cli.store.record import check_columns
from semdis_cli.store.shards import Shard, read_shard, read_shard_file
from semdis_cli.store.statistics import ChannelSums


@dataclass(frozen=True)
class StoredShard:
    """A shard that ought to exist: its size and sha256, the latents in it, and the keys that are to be used.

    `rows`: the row of each of those keys, rising. There may be other rows, of inputs that were removed or encoded
    again since: they are not to be served.
    """

    path: Location
    num_images: int
    expected: FileDigest
    rows: Mapping[str, int]
    provenance: Provenance | None = None  # None: that of the source

    @property
    def name(self) -> str:
        """Name of its file."""
        return self.path.name


class KnownImage(NamedTuple):
    """Facts of an image without its latents: the (H, W) of `source` and `image`, and its `columns`."""

    key: str
    source: tuple[int, int]
    image: tuple[int, int]
    columns: Mapping[str, Any] = NO_COLUMNS


@dataclass(frozen=True)
class LatentSource:
    """Latents that can be decoded: their settings, identity (a hash), shards, and the keys in these, sorted.

    `later_versions`: other settings that made shards of it, as in `Manifest`. `latents`: the set that it is, or else
    `read_already`: the shard that came on its own, and was read to know it.
    """

    path: Location
    provenance: Provenance
    sha256: str
    shards: tuple[StoredShard, ...]
    keys: tuple[str, ...]
    later_versions: tuple[Provenance, ...] = ()
    latents: LatentSet | None = field(default=None, compare=False, repr=False)
    read_already: Shard | None = field(default=None, compare=False, repr=False)

    def images(self) -> Iterator[KnownImage]:
        """Give what is known of each image, sorted by key; shards hold no columns.

        Raises `StoreError` for a row of the index that is none, and an index that another run has replaced.
        """
        if self.latents is None:
            shard = self._alone
            records = {record.key: record for record in shard.records}
            for key in self.keys:
                geometry = records[key].geometry
                yield KnownImage(key, geometry.source, geometry.image)
            return
        places = self.latents.places()
        for key in self.keys:
            _, place = next(places, (0, None))
            if place is None or place.key != key:
                raise StoreError("was replaced while it was read; run the same command again", place=self.latents.index)
            (height, width), _, _, (image_height, image_width) = place.geometry
            columns = parse_row(check_columns, place.columns) if place.columns != {} else NO_COLUMNS
            yield KnownImage(key, (height, width), (image_height, image_width), columns)

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """Names of the columns of tensors."""
        return () if self.latents is None else tuple(self.latents.manifest.tensors)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of labels 0, 1, ...; empty where they are numbers without names."""
        return () if self.latents is None else self.latents.manifest.columns.classes

    def sums(self) -> ChannelSums:
        """Return sums over the latents that are to be used, whitened or raw as they are stored."""
        if self.latents is not None:
            return self.latents.manifest.sums
        shard = self._alone.select(tuple(self.shards[0].rows.values()))
        return ChannelSums.of_all(shard.latents, shard.parts.get(SCALE))

    @property
    def _alone(self) -> Shard:
        """The shard that came on its own."""
        assert self.read_already is not None, "it is a set"
        return self.read_already

    def read(self, stored: StoredShard) -> Shard:
        """Read and check one shard: its rows that are to be used. Raises `StoreError` if it is damaged or strange."""
        try:
            shard = self.read_already or read_shard(stored.path, stored.expected)
        except StoreError as error:
            raise error.adding(verify_hint(self.path) if self.path.is_dir() else "") from error
        if shard.provenance != (self.provenance if stored.provenance is None else stored.provenance):
            raise StoreError("made with other settings than the set it lies in", place=stored.path)
        keys = shard.keys
        if len(keys) != stored.num_images:
            raise StoreError(f"holds {len(keys)} latents, but the manifest says {stored.num_images}", place=stored.path)
        for key, row in stored.rows.items():
            check_row(stored.path, keys, row, key)
        return shard if len(stored.rows) == len(keys) else shard.select(tuple(stored.rows.values()))


def open_latents(path: Location) -> LatentSource:
    """Open a finished set (its folder) or a single shard file. Raises `StoreError` if it is neither, or damaged."""
    if path.is_dir():
        return _open_set(path)
    if not path.exists():
        raise StoreError("no such latents; give the folder that semdis encode wrote, or one of its shards", place=path)
    shard, file = read_shard_file(path)
    rows = served_rows(path)
    if rows is None:
        rows = {key: row for row, key in enumerate(shard.keys)}
    stored = StoredShard(path, len(shard.keys), file, rows)
    return LatentSource(path, shard.provenance, file.sha256, (stored,), tuple(sorted(rows)), read_already=shard)


def served_rows(path: Location) -> dict[str, int] | None:
    """Return the rows to be used of a shard that lies in a finished set, by key; None for one on its own.

    Raises `StoreError` if the set's lists are damaged.
    """
    root = path.absolute().parent.parent
    if path.absolute().parent.name != SHARD_FOLDER or not (root / MANIFEST_FILE).is_file():
        return None
    latents = LatentSet.read(root)
    shards = {shard.name: shard for shard in latents.manifest.shards}
    if path.name not in shards:
        return None
    return dict(_stored(latents, shards[path.name], _rows_by_shard(latents.check_index())[path.name]).rows)


def _open_set(root: Location) -> LatentSource:
    latents = open_set(root)
    manifest, rows = latents.manifest, _rows_by_shard(latents)
    keys = tuple(sorted(chain.from_iterable(rows.values())))
    if len(set(keys)) != len(keys) or len(keys) != manifest.num_ok:
        raise StoreError("its totals and the index disagree; damaged or edited", place=root / MANIFEST_FILE)
    shards = tuple(_stored(latents, shard, rows[shard.name]) for shard in manifest.shards)
    return LatentSource(root, manifest.provenance, latents.sha256, shards, keys, manifest.later_versions, latents)


def _stored(latents: LatentSet, shard: ShardEntry, rows: dict[str, int]) -> StoredShard:
    rows = dict(sorted(rows.items(), key=itemgetter(1)))
    if len(set(rows.values())) != len(rows):
        raise StoreError(f"two keys share a row of {shard.name}; damaged or edited", place=latents.index)
    record = latents.manifest.record_of(shard)
    return StoredShard(latents.shard(shard), shard.num_images, shard.file, rows, record)


def _rows_by_shard(latents: LatentSet) -> dict[str, dict[str, int]]:
    """For each shard the row of each key that is to be used."""
    rows: dict[str, dict[str, int]] = defaultdict(dict)
    for _, place in latents.places():
        rows[place.shard][place.key] = place.row
    return rows


def recorded_layout(provenance: Provenance, place: str) -> LatentLayout:
    """Return the sizes of latents as recorded. Raises `StoreError` beginning with `place` if the record lacks them."""
    try:
        layout, _ = provenance.layout, provenance.is_whitened  # nobody can use latents without knowing both
    except ValueError as error:
        raise StoreError(f"its settings do not say what its latents are ({error})", place=place) from error
    return layout
