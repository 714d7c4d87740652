"""Everything that a page shows, as plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class PageMetric:
    """A figure that images have. `digits`: decimals that are shown."""

    name: str
    title: str
    unit: str
    digits: int
    is_better_high: bool


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of all images measured; bin i lies between `edges[i]` and `edges[i + 1]`, which ascend."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        assert len(self.edges) == len(self.counts) + 1, f"{len(self.edges)} edges of {len(self.counts)} bins"


@dataclass(frozen=True, slots=True)
class PageContender:
    """One of those compared. Figures are of all images measured, by the name of the metric.

    `facts`: what it is, in pairs of a word and a text. `summary`: mean, std, median, p5, p95, min, max of each metric.
    `set_figures`: what only a whole set has (rFID, bits per pixel), by what it is called on the page.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    summary: Mapping[str, Mapping[str, float]]
    histograms: Mapping[str, Histogram]
    set_figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class PageVersion:
    """Reconstruction by a contender: a PNG of the original's size, and its figures by the name of the metric."""

    picture: Path
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class PageImage:
    """An image of the page. `key` is unique, `size` is (H, W) in px.

    `pca`: a PNG of the latent grid, which stands for the same picture. `versions`: one a contender, in their order.
    """

    key: str
    size: tuple[int, int]
    original: Path
    pca: Path | None
    versions: tuple[PageVersion, ...]


@dataclass(frozen=True, slots=True)
class PageDifference:
    """Mean over `num` images of what `contender` has more than `baseline` of a metric, and the interval around it.

    The three names are those of a `PageMetric` and the titles of two contenders. `level`: of the interval, 0..1.
    """

    metric: str
    contender: str
    baseline: str
    mean: float
    low: float
    high: float
    num: int
    level: float = 0.95


@dataclass(frozen=True, slots=True)
class Page:
    """A whole page. `images` are those to look at, out of `num_measured`, without the `failures` (key, reason).

    `explained`: share of the variance of latents that each principal component of the pictures has, red first.
    `provenance`: pairs of a word and a text.
    """

    title: str
    metrics: Sequence[PageMetric]
    contenders: Sequence[PageContender]
    images: Sequence[PageImage]
    num_measured: int
    failures: Sequence[tuple[str, str]]
    differences: Sequence[PageDifference]
    explained: tuple[float, ...]
    provenance: Sequence[tuple[str, str]]
