"""Everything that is measured of images, by settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from semdis_cli.metrics import ssim
from semdis_cli.metrics.psnr import psnr_db
from semdis_cli.metrics.registry import METRICS
from semdis_cli.settings.measures import MeasureSettings, MetricName

MAX_PSNR_DB = 100.0  # of equal images it would be infinite
_FIGURES: dict[MetricName, str] = {"psnr": "psnr_db", "ssim": "ssim", "ms-ssim": "ms_ssim"}

Pair = tuple[Tensor, Tensor]  # reconstruction and reference, uint8 [3,H,W] both


@dataclass(frozen=True)
class Measurer:
    """Computes the figures `names` of pairs of images. It holds no state: many threads may use it at once."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, settings: MeasureSettings, device: torch.device) -> Self:  # noqa: ARG003 # these are of the CPU
        """Load what `settings` ask for onto `device`."""
        wanted = {_FIGURES[name] for name in settings.metrics}
        return cls(tuple(name for name in METRICS if name in wanted))

    def measure(self, pairs: Sequence[Pair]) -> list[dict[str, float]]:
        """Return the figures of each pair by name; without those that an image is too small for."""
        return [self._of_pair(image, reference) for image, reference in pairs]

    def _of_pair(self, image: Tensor, reference: Tensor) -> dict[str, float]:
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
        return record
