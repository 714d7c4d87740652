"""One file for each image; for arrays, a table of what they are as well."""

import os
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Self

from semdis_cli.errors import RefusedNameError, StoreError, UsageError
from semdis_cli.events import Event, Failure, ShardFailed, StageTimes, TimeSpent
from semdis_cli.files.atomic import explain_write_error, publish, publish_below
from semdis_cli.files.disk import unnamed_file
from semdis_cli.pipeline.export_source import ExportSettings, ShardReader, batch_done
from semdis_cli.store.exchange.export import TABLE_FILE, SampleRecord, make_sample
from semdis_cli.store.reader import StoredShard
from semdis_cli.store.shards import Shard

_ROWS_AT_ONCE = 256


class FileExport:
    """Writes a file for each key that is not among `failures`; for arrays, a table of what they are as well."""

    def __init__(
        self, shards: ShardReader, settings: ExportSettings, output: Path, failures: Collection[Failure]
    ) -> None:
        self._shards = shards
        self._settings = settings
        self._root = output.resolve()
        self._has_table = settings.member == "npy"
        self.failures = list(failures)
        self._impossible = {failure.key for failure in failures}
        keys = (key for key in shards.source.keys if key not in self._impossible)
        self._done = {key for key in keys if os.path.isfile(self._path(key))}  # noqa: PTH113 # no OSError

    @property
    def num_done(self) -> int:
        """Images that an earlier run has written."""
        return len(self._done)

    @property
    def bytes_left(self) -> int:
        """About what is still to be written."""
        shards = self._shards.source.shards
        return sum(self._shards.sample_bytes(stored, self._settings) * len(self._to_write(stored)) for stored in shards)

    def run(self) -> Iterator[Event]:
        """Write what is missing, shard by shard, and at last the table."""
        pool = ThreadPoolExecutor(self._settings.num_workers, thread_name_prefix="semdis-write")
        try:
            with _Table(self._root) as table:
                for stored in self._shards.source.shards:
                    yield from self._run_shard(stored, pool, table)
                if self._has_table:
                    table.publish()
        finally:
            pool.shutdown(cancel_futures=True)

    def _run_shard(self, stored: StoredShard, pool: ThreadPoolExecutor, table: "_Table") -> Iterator[Event]:
        keys = self._possible(stored) if self._has_table else self._to_write(stored)
        if not keys:
            return
        started = time.perf_counter()
        try:
            shard = self._shards.read(stored)
        except StoreError as error:
            yield ShardFailed(stored.path.name, str(error), len(keys))
            return
        yield TimeSpent(StageTimes(read_s=time.perf_counter() - started))
        wanted = set(keys)
        rows = [row for row, key in enumerate(shard.keys) if key in wanted]
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            yield from self._write_rows(shard, rows[start : start + _ROWS_AT_ONCE], pool, table)

    def _write_rows(
        self, shard: Shard, rows: Sequence[int], pool: ThreadPoolExecutor, table: "_Table"
    ) -> Iterator[Event]:
        started, num_written = time.perf_counter(), 0
        for row, outcome in zip(rows, pool.map(lambda row: self._write_row(shard, row), rows), strict=True):
            if isinstance(outcome, Failure):
                yield outcome
                continue
            num_written += shard.records[row].key not in self._done
            table.add(outcome)
        yield batch_done(shard, num_written, StageTimes(write_s=time.perf_counter() - started))

    def _write_row(self, shard: Shard, row: int) -> SampleRecord | Failure:
        key = shard.records[row].key
        try:
            sample = make_sample(shard, row, self._settings.member, self._settings.npy_dtype)
        except ValueError as error:
            return Failure(key, str(error))
        if key not in self._done:
            path = self._path(key)
            if not path.parent.resolve().is_relative_to(self._root):
                raise UsageError(f"{path}: a link leads out of {self._root}; remove it")
            try:
                publish_below(self._root, path, [sample.data])
            except RefusedNameError as error:
                return Failure(key, f"{error}, or export it as webdataset")
        return sample.record

    def _possible(self, stored: StoredShard) -> list[str]:
        return [key for key in stored.rows if key not in self._impossible]

    def _to_write(self, stored: StoredShard) -> list[str]:
        return [key for key in self._possible(stored) if key not in self._done]

    def _path(self, key: str) -> Path:
        return self._root / f"{key}.{self._settings.member}"


class _Table:
    """The records of the files, put aside until all of them are there. Use as a context manager."""

    def __init__(self, root: Path) -> None:
        self._path = root / TABLE_FILE

    def __enter__(self) -> Self:
        try:
            self._file = unnamed_file(self._path.parent)
        except OSError as error:
            raise explain_write_error(self._path, error) from error
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # a full disk, and it is said already
            self._file.close()

    def add(self, record: SampleRecord) -> None:
        """Keep the record of one file. Raises `NoSpaceError` or `UsageError`."""
        try:
            self._file.write(record.to_bytes())
        except OSError as error:
            raise explain_write_error(self._path, error) from error

    def publish(self) -> None:
        """The table appears. Raises `NoSpaceError` or `UsageError`."""
        try:
            self._file.seek(0)
        except OSError as error:
            raise explain_write_error(self._path, error) from error
        publish(self._path, self._file)
