"""Settings of what is found out about latents: pictures of them (`inspect`), and what they tell of labels (`eval`)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from semdis_cli.errors import UsageError
from semdis_cli.option import LATENTS, Group, Option, OptionError, check_limits
from semdis_cli.settings.inputs import Seed


@dataclass(frozen=True)
class PictureSettings(Group):
    """Settings of pictures of latents. `pca`, `channels`: the folder for each kind.

    Raises `OptionError` for what has no effect, and two kinds in one folder.
    """

    pca: Annotated[
        Path | None,
        Option(
            "Also write a picture of the latents of each image: red, green and blue are the three first principal "
            "components of the whole set.",
            LATENTS,
            metavar="FOLDER",
        ),
    ] = None
    channels: Annotated[
        Path | None,
        Option(
            "Also write a grey picture for each image, of all channels side by side.",
            LATENTS,
            flags="--channel-pictures",
            metavar="FOLDER",
        ),
    ] = None
    scale: Annotated[
        int | None,
        Option(
            "Side of a position in pictures, px.  [default: --pca as large as the image; channels of about 64 px]",
            LATENTS,
            min=1,
            max=64,
            metavar="PX",
            show_default=False,
        ),
    ] = None

    def __post_init__(self) -> None:
        check_limits(self)
        if self.scale is not None and self.pca is None and self.channels is None:
            raise OptionError("--scale", "goes with --pca and --channel-pictures")
        if self.pca is not None and self.pca == self.channels:
            raise UsageError("--pca and --channel-pictures need a folder each", place=self.pca)

    @property
    def folders(self) -> dict[str, Path]:
        """The folders to be written, by the option that names each."""
        named = {"--pca": self.pca, "--channel-pictures": self.channels}
        return {flag: folder for flag, folder in named.items() if folder is not None}


@dataclass(frozen=True)
class LatentEvalSettings(Group):
    """Settings of what is found out about sets of latents, and with which images of theirs.

    `label`: the column of classes; None: `label`, where a set has one. `max_images`: of more a sample is taken, by a
    hash of `seed` and key.
    """

    label: Annotated[
        str | None,
        Option(
            "Column of the images' classes: labels or texts.  [default: label, where there is one]",
            LATENTS,
            metavar="NAME",
            show_default=False,
        ),
    ] = None
    max_images: Annotated[
        int, Option("Take a sample of at most so many images, by a hash of the key.", LATENTS, min=10, metavar="N")
    ] = 20_000
    num_neighbours: Annotated[int, Option("Neighbours of k-NN.", LATENTS, flags="--neighbours", min=1, max=1000)] = 20
    seed: Seed = 0
