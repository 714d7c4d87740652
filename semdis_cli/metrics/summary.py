"""One figure of many images in eight numbers."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Summary:
    """Numbers about `num` values. `std` divides by `num`; `p5`, `median` and `p95` lie between neighbours linearly."""

    num: int
    mean: float
    std: float
    median: float
    p5: float
    p95: float
    min: float
    max: float

    def to_json(self) -> dict[str, Any]:
        """Return the numbers by name."""
        return asdict(self)


def summarise(values: NDArray[np.float64]) -> Summary:
    """Summarise finite values [N], at least one."""
    assert values.shape == (len(values),), f"values of one figure, not {values.shape}"
    assert len(values), "no values to summarise"
    p5, median, p95 = np.quantile(values, (0.05, 0.5, 0.95))
    mean, std, least, most = values.mean(), values.std(), values.min(), values.max()
    return Summary(len(values), *map(float, (mean, std, median, p5, p95, least, most)))
