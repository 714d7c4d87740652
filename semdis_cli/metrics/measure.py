"""Everything that is measured of images, by settings."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from semdis_cli.memory import Room, room_for_images
from semdis_cli.metrics import ssim
from semdis_cli.metrics.inception import NUM_FEATURES, Inception
from semdis_cli.metrics.lpips import Lpips
from semdis_cli.metrics.psnr import psnr_db
from semdis_cli.metrics.registry import METRICS
from semdis_cli.settings.measures import MeasureSettings, MetricName

MAX_PSNR_DB = 100.0  # of equal images it would be infinite
_FIGURES: dict[MetricName, str] = {"psnr": "psnr_db", "ssim": "ssim", "ms-ssim": "ms_ssim", "lpips": "lpips"}
_BATCH_PIXELS = 1 << 18  # of LPIPS: for a pair vgg needs 1.5 KB a pixel

Pair = tuple[Tensor, Tensor]  # reconstruction and reference, uint8 [3,H,W] both


@dataclass(frozen=True)
class Measurer:
    """Computes the figures `names` of pairs of images. It keeps nothing of them: many threads may use it at once.

    `room`: the memory that they share for networks on a CPU.
    """

    names: tuple[str, ...]
    lpips: Lpips | None = None
    inception: Inception | None = None
    room: Room = field(default_factory=room_for_images)

    @classmethod
    def of(cls, settings: MeasureSettings, device: torch.device) -> Self:
        """Load what `settings` ask for; networks onto `device`. Raises `CheckpointError`."""
        wanted = {_FIGURES[name] for name in settings.wanted}
        lpips, inception = settings.lpips_weights, settings.inception
        if lpips is not None or inception is not None:
            torch.backends.cudnn.allow_tf32 = False  # torch's default: 10 bits of mantissa under the name of float32
        return cls(
            tuple(name for name in METRICS if name in wanted),
            None if lpips is None else Lpips.load(lpips, device),
            None if inception is None else Inception.load(inception, device),
        )

    @property
    def num_features(self) -> int:
        """Features of each image that rFID goes by; 0 without Inception."""
        return 0 if self.inception is None else NUM_FEATURES

    def measure(self, pairs: Sequence[Pair]) -> list[dict[str, float]]:
        """Return the figures of each pair by name; without those that an image is too small for, or too large.

        LPIPS of what can never fit into memory is not tried; what is large waits for others.
        """
        found = [self._of_pair(image, reference) for image, reference in pairs]
        if self.lpips is not None:
            for places in _batches(pairs, self.lpips.min_px):
                values = self._distances(self.lpips, [pairs[one] for one in places])
                for place, value in zip(places, values, strict=False):
                    found[place]["lpips"] = value
        return found

    def _distances(self, lpips: Lpips, pairs: Sequence[Pair]) -> list[float]:
        """Return LPIPS of pairs of one size; none where there can never be enough memory."""
        needed = lpips.needed_bytes(len(pairs), *pairs[0][0].shape[1:])
        if not self.room.can_hold(needed):
            return []
        with self.room.taking(needed):
            images, references = (torch.stack(side) for side in zip(*pairs, strict=True))
            return lpips.distances(images, references)

    def features(self, images: Sequence[Tensor]) -> Tensor:
        """Return features for rFID, float32 [N,2048], of uint8 images [3,H,W] of any sizes; with Inception."""
        assert self.inception is not None, "nobody asked for rFID"
        return self.inception.features(images)

    def _of_pair(self, image: Tensor, reference: Tensor) -> dict[str, float]:
        """Return what needs no network."""
        found: dict[str, float | None] = {}
        if "psnr_db" in self.names:
            found["psnr_db"] = min(psnr_db(image, reference), MAX_PSNR_DB)
        if self._needs_structure and min(image.shape[1:]) >= ssim.MIN_PX:
            structure = ssim.structure(image, reference, multiscale="ms_ssim" in self.names)
            found |= {"ssim": structure.ssim, "ms_ssim": structure.ms_ssim}
        return {name: value for name in self.names if (value := found.get(name)) is not None}

    @property
    def _needs_structure(self) -> bool:
        return "ssim" in self.names or "ms_ssim" in self.names

    def to_json(self) -> dict[str, Any]:
        """Return what is on record of how images are measured."""
        record: dict[str, Any] = {"metrics": list(self.names), "data_range": ssim.DATA_RANGE}
        if "psnr_db" in self.names:
            record["psnr"] = {"max_db": MAX_PSNR_DB}
        if self._needs_structure:
            record["ssim"] = ssim.to_json()
        if self.lpips is not None:
            record["lpips"] = self.lpips.to_json()
        if self.inception is not None:
            record["rfid"] = self.inception.to_json()
        return record


def _batches(pairs: Sequence[Pair], min_px: int) -> Iterator[list[int]]:
    """Yield the places of pairs that go through a network together: of one size, not below `min_px`, and few."""
    by_size: dict[torch.Size, list[int]] = defaultdict(list)
    for place, (image, _) in enumerate(pairs):
        if min(image.shape[1:]) >= min_px:
            by_size[image.shape].append(place)
    for (_, height, width), places in by_size.items():
        at_once = max(1, _BATCH_PIXELS // (height * width))
        for begin in range(0, len(places), at_once):
            yield places[begin : begin + at_once]


def check_weights(settings: MeasureSettings) -> None:
    """Raise `CheckpointError` for weights that cannot be used, before a run reads the headers of its images."""
    Measurer.of(settings, torch.device("cpu"))
