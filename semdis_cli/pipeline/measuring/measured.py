"""Results of a run over images that come back, once all is measured."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch

from semdis_cli.files.json_text import key_fields
from semdis_cli.metrics.fid import FeatureSums, frechet_distance, why_none
from semdis_cli.metrics.registry import PSNR_DB
from semdis_cli.pipeline.measuring.figures import FigureSpool
from semdis_cli.pipeline.measuring.figures_out import MeasuredFigures
from semdis_cli.pipeline.measuring.kept_pictures import PictureChoice
from semdis_cli.provenance import Provenance
from semdis_cli.stops import looking


class Rfid(NamedTuple):
    """Fréchet distances of what came back to the originals, one a contender; none, and why not (`note`)."""

    values: tuple[float, ...]
    note: str | None = None

    @classmethod
    def of(cls, spool: FigureSpool, num_contenders: int) -> Self:
        """Compare the features of all originals with those of what came back from each contender."""
        sums = [FeatureSums.nothing(spool.num_features) for _ in range(1 + num_contenders)]
        for rows in looking(spool.features(num_contenders)):
            for number, one in enumerate(sums):
                one.add(torch.from_numpy(rows[:, number].copy()))
        if (note := why_none(sums[0].num)) is not None:
            return cls((), note)
        return cls(tuple(frechet_distance(sums[0], one) for one in looking(sums[1:])))


@dataclass(frozen=True)
class Measured:
    """Results of a run, once all is measured. `contenders`: the title and the settings of each.

    `pictures`: the folder of those that were kept, and `choice` of which; None: none were. `rfid`: None where nobody
    asked. `provenance`: how the images came to the model, and what made the latents of the first contender.
    """

    contenders: tuple[tuple[str, dict[str, Any]], ...]
    measures: dict[str, Any]
    figures: MeasuredFigures
    rows: FigureSpool
    pictures: Path
    choice: PictureChoice | None
    rfid: Rfid | None
    provenance: Provenance

    def set_figures(self, contender: int) -> dict[str, float]:
        """Return the figures that all images have together."""
        return {"rfid": self.rfid.values[contender]} if self.rfid is not None and self.rfid.values else {}

    def report(self, contender: int = 0) -> dict[str, Any]:
        """Return the figures of a contender as plain JSON values, by metric."""
        summaries = {name: one.to_json() for name, one in self.figures.summaries(contender).items()}
        figures = {PSNR_DB: None, **summaries, **self.set_figures(contender)}
        return figures if self.rfid is None or self.rfid.note is None else figures | {"rfid_note": self.rfid.note}

    def worst(self) -> list[dict[str, Any]]:
        """Return the images that came back worst from the first contender, as plain JSON values."""
        return [{**key_fields(row.key), "figures": dict(row.figures[0])} for row in self.figures.worst]

    def comparison(self) -> dict[str, Any]:
        """Return all contenders as plain JSON values, each beside the first."""
        return {
            "contenders": [
                {
                    "title": title,
                    "settings": record,
                    "figures": self.report(number),
                    "differences": {
                        name: one.to_json() for name, one in self.figures.differences(number).items() if number
                    },
                }
                for number, (title, record) in enumerate(self.contenders)
            ]
        }


Finish = Callable[[Measured], dict[str, Any]]


def nothing_more(_: Measured) -> dict[str, Any]:
    """Make nothing of what was measured but the tables."""
    return {}
