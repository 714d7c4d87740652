"""The settings of `semdis train` and `semdis init`, read before torch is loaded; defaults are those of the recipe."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from semdis_cli.errors import UsageError
from semdis_cli.files.disk import count_cores
from semdis_cli.option import OUTPUT, Group, Option
from semdis_cli.settings import Device, Dtype, Seed, Threads, Workers

OptimizerName = Literal["muon", "adamw"]
StoredDtype = Literal["bfloat16", "float32"]
MADE_HERE = ("auto", "pca", "random")  # what a run begins with, if not with a model

_RUN, _LOSS, _OPTIMIZER = "Run", "Loss", "Optimizer"
_SHARE, _WEIGHT, _RATE = (0, 1), (0, 1e6), (0, 10)


@dataclass(frozen=True)
class LossSettings(Group):
    """Weights of the loss terms. Defaults are those of the model card, or off where the card has no such term.

    `sid2_bias`: of the sigmoid weighting (natural log-SNR). `one_step_share`: part of each batch that is trained at
    t = 1 exactly, from pure noise, with weight 1 - what a single decoder step sees - instead of at random t.
    `balance`: how far those errors are evened out between smooth and rough crops (0 not at all, 1 fully). `path_drop`:
    part of each batch whose middle blocks are left out.
    """

    alignment: Annotated[float, Option("Weight of the alignment with --teacher.", _LOSS, within=_WEIGHT)] = 0.01
    sid2_bias: Annotated[float, Option("Bias of the sigmoid weighting, log-SNR.", _LOSS, within=(-100, 100))] = -2.0
    one_step_share: Annotated[
        float, Option("Part of a batch trained at t = 1 alone: for decoding in one step.", _LOSS, within=_SHARE)
    ] = 0.0
    balance: Annotated[
        float, Option("Evens out the errors at t = 1 of smooth and rough crops, 0..1.", _LOSS, within=_SHARE)
    ] = 0.0
    path_drop: Annotated[
        float, Option("Part of a batch decoded without the middle blocks, for --pdg.", _LOSS, within=_SHARE)
    ] = 0.1
    variance_expansion: Annotated[float, Option("Weight of variance expansion.", _LOSS, within=_WEIGHT)] = 1e-5
    latent_scale: Annotated[float, Option("Weight of the latent scale term.", _LOSS, within=_WEIGHT)] = 1e-4


@dataclass(frozen=True)
class OptimizerSettings(Group):
    """Settings of the optimizer.

    `name`: "adamw" for all weights, or "muon" for the matrices inside the blocks and AdamW for the rest. Rates are
    those of the peak; linear layers at the model's ends take `linear_rate_factor` of theirs. `warmup_steps` up, then
    straight down to zero at the last step. `clip_norm`: of the whole gradient.
    """

    name: Annotated[
        OptimizerName,
        Option("muon: for the blocks' matrices, AdamW for the rest.", _OPTIMIZER, flags="--optimizer"),
    ] = "muon"
    muon_rate: Annotated[float, Option("Peak rate of Muon.", _OPTIMIZER, within=_RATE)] = 2e-3
    adamw_rate: Annotated[float, Option("Peak rate of AdamW.", _OPTIMIZER, within=_RATE)] = 1e-3
    linear_rate_factor: Annotated[
        float, Option("Times --adamw-rate: rate of the linear layers at the ends.", _OPTIMIZER, within=_SHARE)
    ] = 0.1
    weight_decay: Annotated[float, Option("Weight decay of both.", _OPTIMIZER, within=_SHARE)] = 0.0
    warmup_steps: Annotated[
        int, Option("Steps up to the peak; from there straight down to 0.", _OPTIMIZER, min=0, within=(0, 10**9))
    ] = 100
    clip_norm: Annotated[float, Option("Longest gradient.", _OPTIMIZER, within=(1e-9, 1e9))] = 1.0
    ema_decay: Annotated[float, Option("Decay of the weights' moving average.", _OPTIMIZER, within=_SHARE)] = 0.9995


@dataclass(frozen=True)
class TrainingSettings(Group):
    """All that decides the weights but images, architecture and teacher.

    `batch_size` crops of `crop_px` a step; `seed` of all chance. The network computes in `dtype` (bfloat16 under
    autocast: weights, losses and optimizer stay float32), and the checkpoint is stored in `weights_dtype`.
    """

    num_steps: Annotated[int, Option("Steps of the whole run.", _RUN, flags="--steps", min=1, within=(1, 10**9))] = (
        10_000
    )
    batch_size: Annotated[int, Option("Crops of one step.", _RUN, min=1, within=(1, 10**6))] = 32
    crop_px: Annotated[
        int,
        Option(
            "Side of a crop, a multiple of the patch.", _RUN, flags="--crop", min=1, within=(1, 2**15), metavar="PX"
        ),
    ] = 128
    seed: Seed = 0
    dtype: StoredDtype = "bfloat16"
    weights_dtype: Annotated[StoredDtype, Option("What the model's weights are stored in.", OUTPUT)] = "float32"
    loss: LossSettings = LossSettings()
    optimizer: OptimizerSettings = OptimizerSettings()

    def to_json(self) -> dict[str, Any]:
        """Return plain values, ready for `json.dumps`."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Rhythm(Group):
    """After how many steps something is logged or measured, and seconds between saves: no weight depends on it."""

    log_steps: Annotated[int, Option("Steps of a log line.", _RUN, flags="--log-every", min=1, metavar="STEPS")] = 20
    measure_steps: Annotated[
        int,
        Option("Steps between held-out PSNRs and pictures.", _RUN, flags="--measure-every", min=1, metavar="STEPS"),
    ] = 500
    save_s: float = 300.0


@dataclass(frozen=True)
class TrainSettings(Group):
    """A run as it is asked for.

    `held_out`: sources of images to measure with; empty: a part of the others. `init`: "pca", "random", "auto" for one
    of the two, or a model; `config`: the architecture of the first three, None for that of the bundled model.
    `teacher`: a model to align latents with, or None. `memory_gib`: how much the images may take. `compile`: encoder
    and decoder.
    """

    held_out: Annotated[
        tuple[Path, ...],
        Option(
            "Images to measure with, never to learn from.  [default: one in fifty of SOURCE]",
            _RUN,
            metavar="SOURCE",
            show_default=False,
        ),
    ] = ()
    init: Annotated[
        str,
        Option(
            "Where to start: closed form, random weights, or a model to fine-tune. auto: pca up to a width of 512.",
            _RUN,
            metavar="pca|random|MODEL",
        ),
    ] = "auto"
    config: Annotated[
        Path | None,
        Option(
            "config.json of the architecture, for pca and random.  [default: the bundled model's]",
            _RUN,
            metavar="FILE",
            show_default=False,
        ),
    ] = None
    teacher: Annotated[
        str | None,
        Option(
            "DINOv2 (folder or repository id) or efficientnet-lite0 to align latents with.  [default: none]",
            _LOSS,
            metavar="MODEL",
            show_default=False,
        ),
    ] = None
    training: TrainingSettings = TrainingSettings()
    memory_gib: Annotated[
        float,
        Option("Most that images may take in memory.", _RUN, flags="--memory", min=0.001, metavar="GIB"),
    ] = 8.0
    rhythm: Rhythm = Rhythm()
    device: Device = "auto"
    dtype: Dtype = "auto"
    compile: Annotated[Literal["auto", "on", "off"], Option("torch.compile; auto: on CUDA, where it pays.", _RUN)] = (
        "auto"
    )
    num_threads: Threads = None
    num_workers: Workers = field(default_factory=count_cores)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.config is not None and self.init not in MADE_HERE:
            raise UsageError("--config goes with --init pca or random; a model brings its own")

    @property
    def memory_bytes(self) -> int:
        """Return the bytes that the images may take in memory."""
        return int(self.memory_gib * 2**30)


@dataclass(frozen=True)
class InitSettings(Group):
    """A model in closed form: its architecture, None for that of the bundled model, and what it is stored in."""

    config: Annotated[
        Path | None,
        Option("config.json of the architecture.  [default: the bundled model's]", metavar="FILE", show_default=False),
    ] = None
    seed: Seed = 0
    dtype: Annotated[StoredDtype, Option("What weights are stored in.", OUTPUT)] = "bfloat16"
    num_workers: Workers = field(default_factory=count_cores)
