"""Chance in training: drawn anew for each item and epoch, and the same wherever and in whatever order it is drawn."""

from dataclasses import dataclass, field
from hashlib import sha256

import torch
from torch import Tensor

from semdis_cli.errors import UsageError


def _shared_epoch() -> Tensor:
    """A number that loader workers see change: they have copies of all else, some for many epochs."""
    epoch = torch.zeros((), dtype=torch.int64)
    epoch.share_memory_()
    return epoch


@dataclass(frozen=True, eq=False)
class Draws:
    """Draws from (`seed`, epoch, key). Raises `UsageError` for a seed or epoch below 0."""

    seed: int
    _epoch: Tensor = field(default_factory=_shared_epoch)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UsageError(f"seed {self.seed}: seeds count from 0")

    @property
    def epoch(self) -> int:
        """The epoch that is drawn for."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, in this process and in those that have a copy of this."""
        if epoch < 0:
            raise UsageError(f"epoch {epoch}: epochs count from 0")
        self._epoch.fill_(epoch)

    def coin(self, purpose: str, key: str) -> bool:
        """Toss a coin for an item."""
        return bool(self._bytes(purpose, key)[0] & 1)

    def choice(self, purpose: str, key: str, number: int) -> int:
        """Draw a number below `number` for an item."""
        return int.from_bytes(self._bytes(purpose, key)[:8], "big") % number

    def _bytes(self, purpose: str, key: str) -> bytes:
        text = f"{purpose}\0{self.seed}\0{self.epoch}\0{key}"
        return sha256(text.encode(errors="surrogatepass")).digest()
