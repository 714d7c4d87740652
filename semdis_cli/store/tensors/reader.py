"""Tensors of one column, image by image, from files that are mapped into memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from semdis_cli.errors import StoreError
from semdis_cli.files.atomic import digest_file
from semdis_cli.files.set_names import COLUMN_FOLDER
from semdis_cli.store.manifest import verify_hint
from semdis_cli.store.tensors.file import PLACES_A_SHARD, MappedTensors, identify, place_of
from semdis_cli.store.tensors.listed import TensorColumn

_MAX_MAPPED = 1 << 12  # a process may have 65,530 mappings in all

_Found = TypeVar("_Found")


class TensorReader:
    """The column `column` of the set in `root`. Files are mapped when they are first needed, in each process anew.

    `verify`: every byte is read first. Raises `StoreError` for a file that is missing, or not as the manifest says.
    """

    def __init__(self, root: Path, column: TensorColumn, *, verify: bool = False) -> None:
        self.column, self._folder = column, root.absolute() / COLUMN_FOLDER  # programs change their folder
        try:
            self._identities = [identify(self._folder / file.name, column.kind, file) for file in column.files]
            for file in column.files if verify else ():
                if digest_file(self._folder / file.name) != file.file:
                    what = "its bytes do not match the sha256 in the manifest; damaged or edited"
                    raise StoreError(what, place=self._folder / file.name)
        except StoreError as error:
            raise error.adding(verify_hint(root)) from error
        self._shards = np.array([file.shards for file in column.files], dtype=np.int64).reshape(-1, 2)
        self._mapped: dict[int, MappedTensors] = {}  # of this process alone

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process gets: no mappings."""
        return {**self.__dict__, "_mapped": {}}

    def find(self, shard: str, row: int) -> Tensor | None:
        """Return the tensor of the image whose latents are there, in memory of its own; None if it has none.

        Raises `StoreError` if a file was replaced since this was opened.
        """
        return self._find(place_of(shard, row), MappedTensors.find)

    def find_bytes(self, place: int) -> tuple[int, NDArray[np.uint8]] | None:
        """Return rows and bytes of a tensor, not to be written to; None if there is none. Raises `StoreError`."""
        return self._find(place, MappedTensors.find_bytes)

    def _find(self, place: int, find: Callable[[MappedTensors, int], _Found | None]) -> _Found | None:
        shard = place // PLACES_A_SHARD
        for number in np.flatnonzero((self._shards[:, 0] <= shard) & (shard <= self._shards[:, 1])).tolist():
            if (found := find(self._map(number), place)) is not None:
                return found
        return None

    def _map(self, number: int) -> MappedTensors:
        if number not in self._mapped:
            if len(self._mapped) >= _MAX_MAPPED:
                del self._mapped[next(iter(self._mapped))]
            file = self.column.files[number]
            path, identity = self._folder / file.name, self._identities[number]
            self._mapped[number] = MappedTensors(path, identity, self.column.kind, file)
        return self._mapped[number]
