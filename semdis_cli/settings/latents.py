"""Settings of latents: which they are, what lies beside them, and how large shards are."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from semdis_cli.option import (
    INPUT,
    OUTPUT,
    Group,
    Option,
    OptionError,
)
from semdis_cli.parts import LATENTS, LOG_SNR, MASK, TWINS
from semdis_cli.settings.inputs import Seed
from semdis_cli.settings.model import NoiseKind

StoreDtype = Literal["bfloat16", "float16", "float32", "float8_e4m3", "int8"]
Posterior = Literal["mode", "sample", "moments"]
Flip = Literal["none", "both"]
Alpha = Literal["composite", "mask"]


@dataclass(frozen=True)
class LatentSettings(Group):
    """Settings of the stored latents: part of the posterior, and dtype.

    `seed` and `noise` (which generator) count for posterior "sample" alone.
    """

    store_dtype: Annotated[
        StoreDtype,
        Option(
            "What latents are stored in: bfloat16, float16 or float32; float8_e4m3 or int8, a byte a value and a scale "
            "for each image and channel.",
            OUTPUT,
            metavar="DTYPE",
        ),
    ] = "bfloat16"
    posterior: Annotated[
        Posterior,
        Option(
            "Store the posterior's mode, or a sample of it drawn from --seed, or moments: mode and log-SNR, for "
            "training to sample from.",
            OUTPUT,
        ),
    ] = "mode"
    seed: Seed = 0
    noise: NoiseKind = "philox"

    @property
    def sample_seed(self) -> int | None:
        """Seed of the posterior samples, or None for the mode."""
        return self.seed if self.posterior == "sample" else None


@dataclass(frozen=True)
class PartSettings(LatentSettings):
    """Settings of what a set stores: the latents, and the parts beside them.

    `flip` "both": each image's twin too, the latents of its mirrored pixels. `alpha` "mask": how much of each position
    is opaque. `masks`: folder of pictures that say instead how much of each position counts.
    """

    flip: Annotated[
        Flip, Option("both: also store latents of each image's mirrored pixels, for training to choose from.", OUTPUT)
    ] = "none"
    alpha: Annotated[
        Alpha,
        Option(
            "Transparent pixels are laid over --background; mask: also store how much of each position is opaque, for "
            "masked losses.",
            INPUT,
        ),
    ] = "composite"
    masks: Annotated[
        Path | None,
        Option(
            "Folder of grey pictures named as the images, white where training is to count: how much of each position "
            "does is stored.",
            INPUT,
            metavar="FOLDER",
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha == "mask" and self.masks is not None:
            raise OptionError("--alpha", "mask does not go with --masks: a set has masks of one kind")

    @property
    def mask_source(self) -> Literal["alpha", "files"] | None:
        """Return where masks come from; None: there are none."""
        if self.masks is not None:
            return "files"
        return "alpha" if self.alpha == "mask" else None

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts, sorted."""
        tensors = [LATENTS, *[LOG_SNR] * (self.posterior == "moments"), *[MASK] * (self.mask_source is not None)]
        twins = [TWINS[name] for name in tensors] if self.flip == "both" else []
        return tuple(sorted((*tensors[1:], *twins)))


@dataclass(frozen=True)
class ShardSettings(Group):
    """Settings of cutting a set: shards of about `shard_mib` MiB, or of exactly `shard_images` images.

    `mix_versions`: go on in a set that other versions of what computes and reads have begun.
    """

    shard_mib: Annotated[int, Option("Size of a shard, MiB.", OUTPUT, flags="--shard-size", min=1, metavar="MIB")] = 256
    shard_images: Annotated[
        int | None,
        Option("Exactly N images a shard, whatever its size.", OUTPUT, min=1, max=65536, metavar="N"),
    ] = None
    mix_versions: Annotated[
        bool,
        Option(
            "Go on in a set that other versions of torch, Pillow, the kernels or another device have begun: latents "
            "may differ in last bits, and the set says which version made which.",
            OUTPUT,
        ),
    ] = False
