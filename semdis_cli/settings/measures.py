"""Settings of quality: which figures images get."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from semdis_cli.option import QUALITY, Group, Option, OptionError

MetricName = Literal["psnr", "ssim", "ms-ssim", "lpips"]
METRIC_NAMES: tuple[MetricName, ...] = get_args(MetricName)


def parse_metrics(text: str) -> frozenset[MetricName]:
    """`psnr,ssim` -> the names. Raises `ValueError` for none of them, and for unknown ones."""
    found = text.split(",")
    if unknown := [name for name in found if name not in METRIC_NAMES]:
        raise ValueError(f"{unknown[0]!r:.60} is no metric; there are {', '.join(METRIC_NAMES)}")
    return frozenset(name for name in METRIC_NAMES if name in found)


def spell_metrics(names: Collection[MetricName]) -> str:
    """Spell names as `parse_metrics` reads them."""
    return ",".join(name for name in METRIC_NAMES if name in names)


@dataclass(frozen=True)
class MeasureSettings(Group):
    """Settings of the figures that images get. Weights are given by who has them: nothing is downloaded."""

    metrics: Annotated[
        frozenset[MetricName],
        Option(
            f"Figures of each image: {', '.join(METRIC_NAMES)}; psnr always, for the worst are told by it.",
            QUALITY,
            metavar="NAME,...",
            parse=parse_metrics,
            spell=spell_metrics,
        ),
    ] = frozenset({"psnr", "ssim"})
    lpips_weights: Annotated[
        Path | None,
        Option("Weights of LPIPS (alex or vgg), a safetensors file; with it, lpips is measured.", QUALITY),
    ] = None
    inception: Annotated[
        Path | None,
        Option("Weights of FID's Inception, a safetensors file; with it, rFID is measured.", QUALITY),
    ] = None

    @property
    def wanted(self) -> frozenset[MetricName]:
        """The figures of each image: PSNR, what was asked for, and that for which weights are given."""
        always: frozenset[MetricName] = frozenset({"psnr"} if self.lpips_weights is None else {"psnr", "lpips"})
        return self.metrics | always

    def __post_init__(self) -> None:
        super().__post_init__()
        if "lpips" in self.metrics and self.lpips_weights is None:
            raise OptionError(
                "--metrics",
                "lpips needs --lpips-weights FILE, which the package lpips and three lines of Python make: "
                "docs/quality.md has them",
            )
