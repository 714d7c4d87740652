"""Settings of quality: which figures images get."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from semdis_cli.option import QUALITY, Group, Option

MetricName = Literal["psnr", "ssim", "ms-ssim"]
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
    """Settings of the figures that each image gets."""

    metrics: Annotated[
        frozenset[MetricName],
        Option(
            f"Figures of each image: {', '.join(METRIC_NAMES)}.",
            QUALITY,
            metavar="NAME,...",
            parse=parse_metrics,
            spell=spell_metrics,
        ),
    ] = frozenset({"psnr", "ssim"})
