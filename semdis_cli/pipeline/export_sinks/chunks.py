"""Files of rows that begin with the places of these, and an index of the files: what MDS and LitData have in common."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from semdis_cli.files.atomic import PendingFile, explaining, publish
from semdis_cli.pipeline.export_sinks.cut_files import RowSink
from semdis_cli.pipeline.export_sinks.sink import ExportJob

INDEX_FILE = "index.json"
_UINT32 = np.dtype("<u4")


class Chunk(NamedTuple):
    """A file of `num_rows` rows as the index names it."""

    name: str
    num_bytes: int
    num_rows: int


class ChunkSink(RowSink):
    """Files of rows, each held in memory until it is complete, and the index of those that are there behind the last.

    While a file is left to be written there is no index: it would be of other files.
    """

    overhead_bytes = 1024  # key and record

    def __init__(self, job: ExportJob, _: Mapping[str, PurePosixPath]) -> None:
        super().__init__(job)
        self._rows: list[bytes] = []
        if self.has_left:
            self._remove_index()

    @abstractmethod
    def index(self, chunks: Sequence[Chunk]) -> bytes:
        """Return the index of files."""

    def head(self) -> bytes:
        """Return what lies between the places and the first row."""
        return b""

    def add(self, key: str, data: bytes) -> None:
        """Add a row to the file of its image."""
        self.file_of(key)
        self._rows.append(data)

    def end(self, file: PendingFile) -> None:
        """Write all of a file."""
        head = self.head()
        first = (len(self._rows) + 2) * _UINT32.itemsize + len(head)
        places = accumulate(map(len, self._rows), initial=first)
        file.write(np.array([len(self._rows), *places], _UINT32).tobytes() + head)
        for data in self._rows:
            file.write(data)
        self._rows = []

    def is_whole(self, path: Path, keys: Sequence[str]) -> bool:
        """Tell whether a file has a row for each image, by its first bytes and its size."""
        head = self.head()
        num_bytes = (len(keys) + 2) * _UINT32.itemsize
        try:
            with path.open("rb") as file:
                data = file.read(num_bytes + len(head))
            size = path.stat().st_size
        except OSError:
            return False
        if len(data) < num_bytes + len(head) or data[num_bytes:] != head:
            return False
        numbers = np.frombuffer(data[:num_bytes], _UINT32)
        return bool(numbers[0] == len(keys) and numbers[-1] == size)

    def conclude(self) -> None:
        """Publish the index."""
        path, data = self.root / INDEX_FILE, self.index([*self._chunks()])
        if not path.is_file() or path.read_bytes() != data:
            publish(path, [data])

    def _chunks(self) -> Iterator[Chunk]:
        for name in self.names:
            path = self.root / name
            if path.is_file():
                with path.open("rb") as file:
                    yield Chunk(name, path.stat().st_size, int.from_bytes(file.read(_UINT32.itemsize), "little"))

    def _remove_index(self) -> None:
        path = self.root / INDEX_FILE
        with explaining(path):
            path.unlink(missing_ok=True)
