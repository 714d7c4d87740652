"""Model calls that fit into memory, and those that never will: these are refused before they are tried."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from semdis_cli.events import Failure
from semdis_cli.memory import Room
from semdis_cli.model.call_sizes import Half
from semdis_cli.model.tokenizer import Tokenizer

COPIES_HELD = 2  # of the pixels of a call under way: as read, and as reconstructed or filtered for a file


class TakesMemory(Protocol):
    """Whatever takes the images of a call after the model, and keeps what it makes of their pixels."""

    def least_bytes(self, size: tuple[int, int], num_images: int) -> int:
        """Memory in bytes that images of `size` (H, W) cannot do without, beside their pixels and what comes back."""


@dataclass(frozen=True)
class CallMemory:
    """Memory of `room` that calls of one `half` of the model take; `half` "decode" where a call goes through both.

    `is_guided`: they decode with path-drop guidance. `others`: take the same images, one after another.
    """

    tokenizer: Tokenizer
    room: Room
    half: Half
    is_guided: bool = False
    others: Sequence[TakesMemory] = ()

    def needed_bytes(self, bucket: tuple[int, int], num_images: int) -> int:
        """Memory in bytes that a call for images of size `bucket` (H, W) cannot do without."""
        held = (COPIES_HELD + len(self.others)) * 3 * num_images * bucket[0] * bucket[1]
        least = self.tokenizer.least_call_bytes(bucket, num_images, self.half, is_guided=self.is_guided)
        return held + max([least, *(other.least_bytes(bucket, num_images) for other in self.others)])

    def parts(self, bucket: tuple[int, int], num_images: int) -> Iterator[slice]:
        """A call in as many parts as it takes for each to fit: nearly always one, at most one for each image."""
        size = num_images
        while size > 1 and self.needed_bytes(bucket, size) > self.room.total_bytes:
            size = -(-size // 2)
        for start in range(0, num_images, size):
            yield slice(start, min(start + size, num_images))

    def can_be_had(self, bucket: tuple[int, int], num_images: int) -> bool:
        """Tell whether there can ever be enough memory for a call."""
        return self.room.can_hold(self.needed_bytes(bucket, num_images))

    def refused(self, bucket: tuple[int, int], keys: Sequence[str]) -> list[Failure]:
        """Say why the images of a call can never be had with so little memory, one each; empty if they can.

        With more of it they are tried again, so nothing says that their contents are the reason.
        """
        if self.can_be_had(bucket, len(keys)):
            return []
        reason = self.room.refusal(
            self.needed_bytes(bucket, len(keys)), f"to {self.half} at {bucket[0]}x{bucket[1]} px", self._remedy(bucket)
        )
        return [] if reason is None else [Failure(key, reason) for key in keys]

    def taking(self, bucket: tuple[int, int], num_images: int) -> AbstractContextManager[None]:
        """The memory for a call, as soon as others leave it."""
        return self.room.taking(self.needed_bytes(bucket, num_images))

    def _remedy(self, bucket: tuple[int, int]) -> str:
        if self.half == "decode":
            return "give it more memory"
        pixels = bucket[0] * bucket[1] * self.room.total_bytes // self.needed_bytes(bucket, 1)
        if pixels < self.tokenizer.patch_size**2:
            return "give it more memory"
        return f"--max-pixels {_rounded(pixels)} makes it fit, or give it more memory"


def _rounded(pixels: int) -> int:
    """Down to two digits."""
    unit: int = 10 ** max(0, len(str(pixels)) - 2)
    return pixels // unit * unit
