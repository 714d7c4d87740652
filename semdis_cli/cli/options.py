"""Every option that more than one command has, once, as an annotated alias."""

import re
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

import typer

from semdis_cli.errors import UsageError

_INPUT, _GEOMETRY, _MODEL, _SAMPLING, _OUTPUT = "Input", "Geometry", "Model", "Decoding", "Output"

# ---- Input ----

Sources = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="SOURCE...",
        help="Folders (searched in depth), tars and single image files; for encode also -: a tar or image on stdin.",
        show_default=False,
    ),
]
FilesFrom = Annotated[
    str | None,
    typer.Option(
        metavar="LIST|-", help="Read paths from a file, or from stdin with '-': one a line.", rich_help_panel=_INPUT
    ),
]
Null = Annotated[
    bool, typer.Option("--null", "-0", help="The list's paths end with NUL (find -print0).", rich_help_panel=_INPUT)
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB",
        help="Leave out files and folders with this name or, with a slash in it, this path in the source; repeatable.",
        rich_help_panel=_INPUT,
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB", help="Take nothing but these, as in --exclude, which goes first.", rich_help_panel=_INPUT
    ),
]
AllFiles = Annotated[
    bool,
    typer.Option(
        "--all-files",
        help="Take all that are images by content: hidden ones, thumbnails, bins, backups and camera previews too.",
        rich_help_panel=_INPUT,
    ),
]
Background = Annotated[
    str,
    typer.Option(metavar="#RRGGBB", help="Colour behind transparent pixels, sRGB.", rich_help_panel=_INPUT),
]
MaxImagePixels = Annotated[
    int,
    typer.Option(
        min=1, help="Refuse images with more pixels than this: a guard against bombs.", rich_help_panel=_INPUT
    ),
]
JpegScaling = Annotated[
    bool,
    typer.Option(
        "--jpeg-scaling",
        help="Decode JPEGs at 1/2, 1/4 or 1/8 of their size where that is still twice what they are resized to: up to "
        "twice as fast, at slightly other pixels (45 dB and more); part of the record.",
        rich_help_panel=_INPUT,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Threads that work at once: reading, writing and, on a CPU, model calls.  [default: CPU cores]",
        rich_help_panel=_INPUT,
    ),
]
MaxErrors = Annotated[
    str | None,
    typer.Option(
        metavar="N|%",
        help="Stop once more inputs failed: a number, or a share of all inputs like 1%.  [default: never]",
        rich_help_panel=_INPUT,
    ),
]

StoredLatents = Annotated[Path, typer.Argument(help="Folder that `semdis encode` wrote, or one shard file.")]

# ---- Geometry ----

Size = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="PX",
        help="Resize the short side to PX and cut the centre square; a multiple of the patch (16).",
        rich_help_panel=_GEOMETRY,
    ),
]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Native shape, but scaled down where an image has more than N pixels.",
        rich_help_panel=_GEOMETRY,
    ),
]
BucketSize = Annotated[
    int | None,
    typer.Option(
        min=64,
        metavar="PX",
        help="Aspect-ratio buckets of about PX x PX pixels, sides multiples of 64: resize to cover, cut the centre.",
        rich_help_panel=_GEOMETRY,
    ),
]

# ---- Model ----

Model = Annotated[
    str,
    typer.Option(
        envvar="SEMDIS_MODEL",
        metavar="MODEL",
        help="Bundled model, folder with config.json and model.safetensors, or repository id.",
        rich_help_panel=_MODEL,
    ),
]
RecordedModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="Where the model is, if not where the latents' record says; must be the same weights.",
        rich_help_panel=_MODEL,
    ),
]
Revision = Annotated[
    str | None,
    typer.Option(metavar="REV", help="Branch, tag or commit of a repository id.", rich_help_panel=_MODEL),
]
Device = Annotated[
    str,
    typer.Option(metavar="DEVICE", help="cpu, cuda, cuda:1, ...; auto takes CUDA if present.", rich_help_panel=_MODEL),
]
Dtype = Annotated[
    Literal["auto", "bfloat16", "float32"],
    typer.Option(
        help="What the network computes in; auto: bfloat16 where the device is fast at it.", rich_help_panel=_MODEL
    ),
]
BatchSize = Annotated[
    str | None,
    typer.Option(
        metavar="N|auto",
        help="Images of one model call; auto: fewer where a GPU's memory is short.  [default: by size and device]",
        rich_help_panel=_MODEL,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="CPU threads of one model call; with 1, each core has a call of its own, which is faster.  [default: 1]",
        rich_help_panel=_MODEL,
    ),
]

Compile = Annotated[
    Literal["auto", "on", "off"],
    typer.Option(
        "--compile",
        help="Compile the network: takes a minute, then runs faster. auto: on a GPU, for 50,000 images and more of "
        "one --size or --bucket-size: every size is compiled anew.",
        rich_help_panel=_MODEL,
    ),
]

# ---- Latents ----

StoreDtype = Annotated[
    Literal["bfloat16", "float16", "float32"],
    typer.Option(help="What latents are stored in.", rich_help_panel=_OUTPUT),
]
Posterior = Annotated[
    Literal["mode", "sample"],
    typer.Option(help="Store the posterior's mode, or a sample of it drawn from --seed.", rich_help_panel=_OUTPUT),
]
Seed = Annotated[
    int,
    typer.Option(
        min=0,
        max=2**63 - 1,
        help="Seed of all noise; each image has its own, from seed and name.",
        rich_help_panel=_OUTPUT,
    ),
]

MixVersions = Annotated[
    bool,
    typer.Option(
        "--mix-versions",
        help="Go on in a set that other versions of torch, Pillow, the kernels or another device have begun: latents "
        "may differ in last bits, and the set says which version made which.",
        rich_help_panel=_OUTPUT,
    ),
]

# ---- Decoding ----

Steps = Annotated[
    int,
    typer.Option(
        min=1,
        max=1000,
        help="Decoder evaluations: 1 for best PSNR, 10 with --pdg for sharpness.",
        rich_help_panel=_SAMPLING,
    ),
]
Pdg = Annotated[
    bool, typer.Option("--pdg", help="Path-drop guidance: sharper, at twice the cost.", rich_help_panel=_SAMPLING)
]
PdgStrength = Annotated[float, typer.Option(help="Strength of --pdg; 1 is none.", rich_help_panel=_SAMPLING)]
Sampler = Annotated[Literal["ddim", "dpmpp_2m"], typer.Option(help="How steps are taken.", rich_help_panel=_SAMPLING)]
Schedule = Annotated[
    Literal["linear", "cosine"], typer.Option(help="How the steps' times are spaced.", rich_help_panel=_SAMPLING)
]
Format = Annotated[
    Literal["png", "jpg", "webp"], typer.Option("--format", help="Format of the images.", rich_help_panel=_OUTPUT)
]
Quality = Annotated[
    int, typer.Option(min=1, max=100, help="Quality of jpg and webp, 1..100; png is lossless.", rich_help_panel=_OUTPUT)
]

# ---- Reporting ----

Json = Annotated[
    bool, typer.Option("--json", help="Print the closing report as one JSON object on stdout.", rich_help_panel=_OUTPUT)
]
JsonLines = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print a JSON object a line on stdout: each problem, and the closing report.",
        rich_help_panel=_OUTPUT,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.", rich_help_panel=_OUTPUT)]


def parse_number_or_share(text: str, option: str) -> tuple[Fraction, bool]:
    """`10` or `0.5%` -> the number, and whether it is a percentage. Raises `UsageError` for more than 100 % too."""
    match = re.fullmatch(r"([0-9]{1,18})|([0-9]{1,18}(?:\.[0-9]{1,18})?)%", text)
    if match is None or (match[2] and Fraction(match[2]) > 100):
        raise UsageError(f"{option} is a number like 10, or a share up to 100% like 0.5%, not {text!r:.60}")
    return Fraction(match[1] or match[2]), match[1] is None


def parse_batch_size(text: str) -> int | Literal["auto"]:
    """`32` or `auto`. Raises `UsageError`."""
    if text == "auto":
        return "auto"
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise UsageError(f"--batch-size is a number from 1 on, or auto, not {text!r:.60}")
    return int(text)


def parse_colour(text: str) -> tuple[int, int, int]:
    """`#rrggbb` -> (red, green, blue), each 0..255. Raises `typer.BadParameter`."""
    match = re.fullmatch(r"#?([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no colour; write it like #ffffff", param_hint="--background")
    red, green, blue = (int(part, 16) for part in match.groups())
    return red, green, blue
