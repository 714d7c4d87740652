"""The settings of `semdis bench`, read before torch is loaded."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from semdis_cli.files.disk import count_cores
from semdis_cli.option import INPUT, MODEL, Group, Option, OptionError
from semdis_cli.settings import (
    GeometrySettings,
    JpegScaling,
    LoadSettings,
    ModelSettings,
    ReadSettings,
    SamplingSettings,
    TokenizerSettings,
    Workers,
    WriteSettings,
)
from semdis_cli.settings.contenders import PeerName

_DEFAULT_GEOMETRY = GeometrySettings(size=256)


@dataclass(frozen=True)
class BenchSettings(Group):
    """Settings of what is measured, and how thoroughly. `data`: a folder or tar, None for synthetic images.

    `num_images`: different images to measure with, None for 32, or 8 if `quick`.
    """

    data: Annotated[
        Path | None,
        Option(
            "Measure with images from this folder or tar.  [default: synthetic JPEGs of 1, 2, 6 and 12 megapixels]",
            INPUT,
            metavar="SOURCE",
            show_default=False,
        ),
    ] = None
    num_images: Annotated[
        int | None,
        Option(
            "Different images to measure with, from all over --data.  [default: 32; with --quick 8]",
            INPUT,
            min=1,
            max=4096,
            metavar="N",
            show_default=False,
        ),
    ] = None
    geometry: GeometrySettings = GeometrySettings()
    jpeg_scaling: JpegScaling = False
    model: ModelSettings = ModelSettings()
    run: TokenizerSettings = TokenizerSettings(compile="off")
    against: Annotated[
        PeerName | None,
        Option(
            "Also run another autoencoder, with random weights: FLUX.2's, Stable Diffusion's, or DC-AE f32c32. Needs "
            "'semdis[peers]'.",
            MODEL,
        ),
    ] = None
    num_workers: Workers = field(default_factory=count_cores)
    sampling: SamplingSettings = SamplingSettings()
    write: WriteSettings = WriteSettings()
    quick: Annotated[bool, Option("Measure for seconds instead of minutes; less exact.")] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.load.views) > 1:
            raise OptionError("--size", "is one size here: several are measured one by one")

    @property
    def load(self) -> LoadSettings:
        """Settings of reading images, which are brought to 256x256 px where no size is given."""
        is_open = self.geometry == GeometrySettings()
        return LoadSettings(
            _DEFAULT_GEOMETRY if is_open else self.geometry, ReadSettings(jpeg_scaling=self.jpeg_scaling)
        )
