"""Settings of `decode` and `roundtrip`: sampling, and the files of images."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from semdis_cli.errors import UsageError
from semdis_cli.files.disk import count_cores
from semdis_cli.option import (
    DECODING,
    OUTPUT,
    Group,
    Option,
    OptionError,
    check_limits,
)
from semdis_cli.settings.inputs import MaxErrors, Seed, Workers
from semdis_cli.settings.latents import LatentSettings
from semdis_cli.settings.measures import MeasureSettings
from semdis_cli.settings.model import NoiseKind, Sampler, Schedule
from semdis_cli.settings.page import PageSettings
from semdis_cli.settings.processes import ProcessSettings

ImageFormat = Literal["png", "jpg", "webp"]


@dataclass(frozen=True)
class SamplingSettings(Group):
    """Settings of decoding: `num_steps` evaluations of the decoder, twice as many with `pdg`."""

    num_steps: Annotated[
        int,
        Option(
            "Decoder evaluations: 1 for best PSNR, 10 with --pdg for sharpness.",
            DECODING,
            flags="--steps",
            min=1,
            max=1000,
        ),
    ] = 1
    pdg: Annotated[bool, Option("Path-drop guidance: sharper, at twice the cost.", DECODING)] = False
    pdg_strength: Annotated[float, Option("Strength of --pdg; 1 is none.", DECODING)] = 2.0
    sampler: Annotated[Sampler, Option("How steps are taken.", DECODING)] = "ddim"
    schedule: Annotated[Schedule, Option("How the steps' times are spaced.", DECODING)] = "linear"

    def __post_init__(self) -> None:
        check_limits(self)
        if not math.isfinite(self.pdg_strength):
            raise UsageError(f"pdg_strength must be a finite number, not {self.pdg_strength!r}")


@dataclass(frozen=True)
class WriteSettings(Group):
    """`format` of the files; `quality` 1..100 for jpg and webp (PNG is lossless and ignores it)."""

    format: Annotated[ImageFormat, Option("Format of the images.", OUTPUT)] = "png"
    quality: Annotated[int, Option("Quality of jpg and webp, 1..100; png is lossless.", OUTPUT, min=1, max=100)] = 95


@dataclass(frozen=True)
class DecodeSettings(Group):
    """Settings of decoding into image files.

    `seed`: of the starting noise; each image has its own from it. `noise`: which generator draws it; a folder that an
    earlier run has begun keeps its own.
    """

    sampling: SamplingSettings = SamplingSettings()
    seed: Seed = 0
    write: WriteSettings = WriteSettings()
    num_workers: Workers = field(default_factory=count_cores)
    processes: ProcessSettings = ProcessSettings()
    noise: NoiseKind = "philox"


@dataclass(frozen=True)
class RoundtripSettings:
    """Encoding and decoding in one go: what latents pass through, and what becomes of them."""

    max_errors: MaxErrors = None
    latents: LatentSettings = LatentSettings()
    decode: DecodeSettings = field(default_factory=DecodeSettings)
    measures: MeasureSettings = MeasureSettings()
    page: PageSettings = PageSettings()

    def __post_init__(self) -> None:
        if self.latents.posterior == "moments":
            raise OptionError("--posterior", "is mode or sample here: of moments the mode is decoded")
