"""`semdis export`: shards of latents -> files that other programs read."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from semdis_cli.cli import options
from semdis_cli.cli.report import follow
from semdis_cli.cli.setup import count_workers, refuse_others, refuse_pipes
from semdis_cli.cli.streams import say
from semdis_cli.wording import count

if TYPE_CHECKING:
    from semdis_cli.pipeline.export_sinks import ExportSettings

Latents = Annotated[Path, typer.Argument(help="Folder that `semdis encode` wrote, or one shard file.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the files.", rich_help_panel="Output")]
Format = Annotated[
    Literal["webdataset", "safetensors", "npy"],
    typer.Option("--format", help="Tars of samples, or one file an image.", rich_help_panel="Output"),
]
Member = Annotated[
    Literal["safetensors", "npy"] | None,
    typer.Option(
        help="What latents are in a webdataset.  [default: safetensors]", rich_help_panel="Output", show_default=False
    ),
]
NpyDtype = Annotated[
    Literal["float32", "float16"] | None,
    typer.Option(
        "--dtype",
        help="Of npy, which has no bfloat16; float16 may lose digits.  [default: what loses none]",
        rich_help_panel="Output",
        show_default=False,
    ),
]
Names = Annotated[
    Literal["key", "stem", "basename"],
    typer.Option(
        "--sample-names",
        help="Of a webdataset: by the whole key, or as the images' own samples are called, to be joined with captions: "
        "the path up to the first dot of the name (stem), or that without folders (basename).",
        rich_help_panel="Output",
    ),
]
TarSize = Annotated[
    int, typer.Option("--tar-size", min=1, metavar="MIB", help="Size of a tar, about, MiB.", rich_help_panel="Output")
]


def export(
    latents: Latents = Path("latents"),
    output: Output = Path("exported"),
    export_format: Format = "webdataset",
    member: Member = None,
    npy_dtype: NpyDtype = None,
    sample_names: Names = "key",
    tar_size: TarSize = 256,
    workers: options.Workers = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write latents as other programs read them: WebDataset tars, or one .safetensors or .npy an image.

    Shards are checked against their sha256 before they are used. Stopped at any point, the same command goes on.
    `semdis import` makes shards of it again, but for .npy.

    Example: `semdis export latents/ -o exported/ --format webdataset`
    """
    from semdis_cli.pipeline.export import export as run
    from semdis_cli.pipeline.export_sinks import ExportSettings, npy_dtype_for
    from semdis_cli.store.exchange.export import EXPORT_MARKER
    from semdis_cli.store.reader import open_latents, recorded_layout
    from semdis_cli.store.writing.claim import check_image_folder

    if member is not None and export_format != "webdataset":
        raise typer.BadParameter("goes with --format webdataset alone", param_hint="--member")
    member = member or ("npy" if export_format == "npy" else "safetensors")
    if npy_dtype is not None and member != "npy":
        raise typer.BadParameter("goes with npy alone: safetensors keep what is stored", param_hint="--dtype")
    if sample_names != "key" and export_format != "webdataset":
        raise typer.BadParameter("goes with --format webdataset alone", param_hint="--sample-names")
    refuse_pipes(latents, output)
    refuse_others(latents)
    check_image_folder(output, EXPORT_MARKER)
    source = open_latents(latents)
    stored_dtype = recorded_layout(source.provenance, str(source.path)).dtype
    dtype = npy_dtype or npy_dtype_for(stored_dtype)
    settings = ExportSettings(export_format, member, dtype, tar_size, count_workers(workers), sample_names)
    _say_what_is_lost(settings, stored_dtype, quiet=quiet)
    code = follow(
        run(source, settings, output),
        as_json=as_json,
        quiet=quiet,
        summarise=lambda report: f"{count(report['images']['ok'], 'image')} as {export_format} in {output}",
    )
    raise typer.Exit(code)


def _say_what_is_lost(settings: "ExportSettings", stored: str, *, quiet: bool) -> None:
    """On stderr, also when `quiet` if it is more than a name: what npy makes of the stored values."""
    if settings.member != "npy" or settings.npy_dtype == stored:
        return
    if settings.npy_dtype == "float16":
        say(f"semdis: float16 does not hold every value of {stored}: digits are lost")
    elif not quiet:
        say(f"semdis: npy has no {stored}: each value is written as float32, which holds it exactly")
