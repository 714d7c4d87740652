"""The options of `semdis train` alone, with their help texts; those that it shares are in `options`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

_RUN, _LOSS, _OPTIMIZER = "Run", "Loss", "Optimizer"

Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the model.", rich_help_panel="Output")]
HeldOut = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="SOURCE",
        help="Images to measure with, never to learn from.  [default: one in fifty of SOURCE]",
        rich_help_panel=_RUN,
        show_default=False,
    ),
]
Init = Annotated[
    str,
    typer.Option(
        metavar="pca|random|MODEL",
        help="Where to start: closed form, random weights, or a model to fine-tune. auto: pca up to a width of 512.",
        rich_help_panel=_RUN,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="config.json of the architecture, for pca and random.  [default: the bundled model's]",
        show_default=False,
        rich_help_panel=_RUN,
    ),
]
StepCount = Annotated[int, typer.Option("--steps", min=1, help="Steps of the whole run.", rich_help_panel=_RUN)]
BatchSize = Annotated[int, typer.Option(min=1, help="Crops of one step.", rich_help_panel=_RUN)]
Crop = Annotated[
    int,
    typer.Option("--crop", min=1, metavar="PX", help="Side of a crop, a multiple of the patch.", rich_help_panel=_RUN),
]
Memory = Annotated[
    float, typer.Option(min=0.001, metavar="GIB", help="Most that images may take in memory.", rich_help_panel=_RUN)
]
LogEvery = Annotated[int, typer.Option(min=1, metavar="STEPS", help="Steps of a log line.", rich_help_panel=_RUN)]
MeasureEvery = Annotated[
    int, typer.Option(min=1, metavar="STEPS", help="Steps between held-out PSNRs and pictures.", rich_help_panel=_RUN)
]
WeightsDtype = Annotated[
    Literal["bfloat16", "float32"],
    typer.Option(help="What the model's weights are stored in.", rich_help_panel="Output"),
]
Compile = Annotated[
    Literal["auto", "on", "off"],
    typer.Option("--compile", help="torch.compile; auto: on CUDA, where it pays.", rich_help_panel=_RUN),
]
Teacher = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="DINOv2 (folder or repository id) or efficientnet-lite0 to align latents with.  [default: none]",
        show_default=False,
        rich_help_panel=_LOSS,
    ),
]
SidBias = Annotated[
    float, typer.Option("--sid2-bias", help="Bias of the sigmoid weighting, log-SNR.", rich_help_panel=_LOSS)
]
OneStepShare = Annotated[
    float,
    typer.Option(help="Part of a batch trained at t = 1 alone: for decoding in one step.", rich_help_panel=_LOSS),
]
Balance = Annotated[
    float, typer.Option(help="Evens out the errors at t = 1 of smooth and rough crops, 0..1.", rich_help_panel=_LOSS)
]
PathDrop = Annotated[
    float, typer.Option(help="Part of a batch decoded without the middle blocks, for --pdg.", rich_help_panel=_LOSS)
]
VarianceExpansion = Annotated[float, typer.Option(help="Weight of variance expansion.", rich_help_panel=_LOSS)]
LatentScale = Annotated[float, typer.Option(help="Weight of the latent scale term.", rich_help_panel=_LOSS)]
Alignment = Annotated[float, typer.Option(help="Weight of the alignment with --teacher.", rich_help_panel=_LOSS)]
OptimizerName = Annotated[
    Literal["muon", "adamw"],
    typer.Option("--optimizer", help="muon: for the blocks' matrices, AdamW for the rest.", rich_help_panel=_OPTIMIZER),
]
MuonRate = Annotated[float, typer.Option(help="Peak rate of Muon.", rich_help_panel=_OPTIMIZER)]
AdamwRate = Annotated[float, typer.Option(help="Peak rate of AdamW.", rich_help_panel=_OPTIMIZER)]
LinearRateFactor = Annotated[
    float, typer.Option(help="Times --adamw-rate: rate of the linear layers at the ends.", rich_help_panel=_OPTIMIZER)
]
WeightDecay = Annotated[float, typer.Option(help="Weight decay of both.", rich_help_panel=_OPTIMIZER)]
WarmupSteps = Annotated[
    int, typer.Option(min=0, help="Steps up to the peak; from there straight down to 0.", rich_help_panel=_OPTIMIZER)
]
ClipNorm = Annotated[float, typer.Option(help="Longest gradient.", rich_help_panel=_OPTIMIZER)]
EmaDecay = Annotated[float, typer.Option(help="Decay of the weights' moving average.", rich_help_panel=_OPTIMIZER)]
