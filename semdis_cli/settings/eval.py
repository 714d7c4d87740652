"""Settings of `eval` on images: what is measured, and what it is compared with."""

from dataclasses import dataclass, field
from typing import Annotated

from semdis_cli.files.disk import count_cores
from semdis_cli.option import QUALITY, Option, OptionError
from semdis_cli.settings.decode import DecodeSettings, RoundtripSettings, SamplingSettings
from semdis_cli.settings.inputs import MaxErrors, Seed, Workers
from semdis_cli.settings.latents import LatentSettings
from semdis_cli.settings.measures import MeasureSettings
from semdis_cli.settings.page import PageSettings


@dataclass(frozen=True)
class EvalSettings:
    """Settings of measuring what comes back of images. `compare`: other ways to keep them, as texts."""

    compare: Annotated[
        tuple[str, ...],
        Option(
            "Measure this too, on the same images: steps=10,pdg; model=DIR; store-dtype=int8; crops=256; jpeg or webp "
            "at the same bytes; flux2=DIR, sd=DIR, dcae=DIR. What is not said is as for the first; repeatable.",
            QUALITY,
            metavar="SPEC",
        ),
    ] = ()
    max_errors: MaxErrors = None
    latents: LatentSettings = LatentSettings()
    sampling: SamplingSettings = SamplingSettings()
    seed: Seed = 0
    num_workers: Workers = field(default_factory=count_cores)
    measures: MeasureSettings = MeasureSettings()
    page: PageSettings = PageSettings()

    def __post_init__(self) -> None:
        if self.latents.posterior == "moments":
            raise OptionError("--posterior", "is mode or sample here: of moments the mode is decoded")

    def as_roundtrip(self) -> RoundtripSettings:
        """Return the settings of a run that does it."""
        decode = DecodeSettings(self.sampling, self.seed, num_workers=self.num_workers)
        return RoundtripSettings(self.max_errors, self.latents, decode, self.measures, self.page)
