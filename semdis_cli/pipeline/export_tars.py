"""Tars of samples as WebDataset has them: a pair of files for each image."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from semdis_cli.errors import StoreError
from semdis_cli.events import Event, Failure, ShardFailed, StageTimes, TimeSpent
from semdis_cli.files.atomic import publish
from semdis_cli.files.tar import TAR_END, tar_member
from semdis_cli.pipeline.export_source import ExportSettings, ShardReader, batch_done
from semdis_cli.store.exchange.export import Sample, make_sample, sample_names
from semdis_cli.store.exchange.tar_members import read_members
from semdis_cli.store.reader import StoredShard


@dataclass(frozen=True)
class _PlannedTar:
    """One tar to be: its file name, and the keys that it takes from each shard."""

    name: str
    parts: tuple[tuple[StoredShard, tuple[str, ...]], ...]

    @property
    def keys(self) -> list[str]:
        """All its keys, in order."""
        return [key for _, keys in self.parts for key in keys]


class TarExport:
    """Writes tars of about `tar_mib`, images in the order of the shards, so that those of one size follow each other.

    Which image goes where follows from the set and the settings alone. A tar that lacks images, because of a damaged
    shard, is made again by the next run. `failures`: images that can have no sample's name.
    """

    def __init__(self, shards: ShardReader, settings: ExportSettings, output: Path) -> None:
        self._shards = shards
        self._settings = settings
        self._root = output.resolve()
        self._names, self.failures = sample_names(shards.source.keys, settings.sample_names)
        tars = self._cut()
        self._left = [tar for tar in tars if not self._is_whole(tar)]
        self.num_done = len(self._names) - sum(len(tar.keys) for tar in self._left)

    @property
    def bytes_left(self) -> int:
        """About what is still to be written."""
        parts = chain.from_iterable(tar.parts for tar in self._left)
        return sum(self._shards.sample_bytes(stored, self._settings) * len(keys) for stored, keys in parts)

    def run(self) -> Iterator[Event]:
        """Write the tars that are missing."""
        for tar in self._left:
            started = time.perf_counter()
            events: list[Event] = []
            samples = self._samples(tar, events)
            first = next(samples, None)
            if first is not None:
                publish(self._root / tar.name, self._chunks(chain([first], samples)))
            elapsed_s = time.perf_counter() - started
            yield from events
            yield TimeSpent(StageTimes(write_s=max(0.0, elapsed_s - _read_s(events))))

    def _cut(self) -> list[_PlannedTar]:
        """Fill tar after tar with the images of shard after shard."""
        tars: list[_PlannedTar] = []
        parts: list[tuple[StoredShard, tuple[str, ...]]] = []
        room = limit = self._settings.tar_mib * 2**20

        def close() -> None:
            nonlocal room
            if parts:
                tars.append(_PlannedTar(f"{len(tars):06d}.tar", tuple(parts)))
            parts.clear()
            room = limit

        for stored in self._shards.source.shards:
            keys = tuple(key for key in stored.rows if key in self._names)
            start, size = 0, self._shards.sample_bytes(stored, self._settings)
            while start < len(keys):
                if room < size:
                    close()
                count = min(len(keys) - start, max(1, room // size))
                parts.append((stored, keys[start : start + count]))
                start, room = start + count, room - count * size
        close()
        return tars

    def _is_whole(self, tar: _PlannedTar) -> bool:
        """Whether the tar is there with all its images, as an earlier run left it."""
        path = self._root / tar.name
        if not path.is_file():
            return False
        try:
            return [member.name for member in read_members(path)] == [*self._member_names(tar.keys)]
        except StoreError:
            return False

    def _member_names(self, keys: Sequence[str]) -> Iterator[str]:
        for base in map(self._names.__getitem__, keys):
            yield f"{base}.{self._settings.member}"
            yield f"{base}.{self._settings.record_suffix}"

    def _samples(self, tar: _PlannedTar, events: list[Event]) -> Iterator[Sample]:
        """The images of a tar. What is to be told of them is added to `events`."""
        for stored, keys in tar.parts:
            started = time.perf_counter()
            try:
                shard = self._shards.read(stored)
            except StoreError as error:
                events.append(ShardFailed(stored.path.name, str(error), len(keys)))
                continue
            rows, failures = {key: row for row, key in enumerate(shard.keys)}, 0
            events.append(TimeSpent(StageTimes(read_s=time.perf_counter() - started)))
            for key in keys:
                try:
                    yield make_sample(shard, rows[key], self._settings.member, self._settings.npy_dtype)
                except ValueError as error:
                    events.append(Failure(key, str(error)))
                    failures += 1
            events.append(batch_done(shard, len(keys) - failures, StageTimes()))

    def _chunks(self, samples: Iterator[Sample]) -> Iterator[bytes]:
        for sample in samples:
            name, json_name = self._member_names([sample.record.image.key])
            yield tar_member(name, sample.data)
            yield tar_member(json_name, sample.record.to_bytes())
        yield TAR_END


def _read_s(events: Sequence[Event]) -> float:
    return sum(event.times.read_s for event in events if isinstance(event, TimeSpent))
