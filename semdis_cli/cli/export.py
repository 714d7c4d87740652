"""`semdis export`: shards of latents -> files that other programs read."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from semdis_cli.cli.options import Reporting, StoredLatents, command
from semdis_cli.cli.report import follow
from semdis_cli.cli.setup import refuse_others, refuse_pipes
from semdis_cli.cli.streams import say
from semdis_cli.files.disk import count_cores
from semdis_cli.settings import OUTPUT, Option, OptionError, Workers
from semdis_cli.wording import count

if TYPE_CHECKING:
    from semdis_cli.pipeline.export_sinks import ExportSettings

Output = Annotated[Path, Option("Folder for the files.", OUTPUT, flags="--output -o")]
Format = Annotated[
    Literal["webdataset", "safetensors", "npy"],
    Option("Tars of samples, or one file an image.", OUTPUT, flags="--format"),
]
Member = Annotated[
    Literal["safetensors", "npy"] | None,
    Option("What latents are in a webdataset.  [default: safetensors]", OUTPUT, show_default=False),
]
NpyDtype = Annotated[
    Literal["float32", "float16"] | None,
    Option(
        "Of npy, which has no bfloat16; float16 may lose digits.  [default: what loses none]",
        OUTPUT,
        flags="--dtype",
        show_default=False,
    ),
]
Names = Annotated[
    Literal["key", "stem", "basename"],
    Option(
        "Of a webdataset: by the whole key, or as the images' own samples are called, to be joined with captions: "
        "the path up to the first dot of the name (stem), or that without folders (basename).",
        OUTPUT,
    ),
]
TarSize = Annotated[int, Option("Size of a tar, about, MiB.", OUTPUT, min=1, metavar="MIB")]
Threads = Annotated[int | None, Workers.__metadata__[0]]


@command()
def export(
    *,
    latents: StoredLatents = Path("latents"),
    output: Output = Path("exported"),
    export_format: Format = "webdataset",
    member: Member = None,
    npy_dtype: NpyDtype = None,
    sample_names: Names = "key",
    tar_size: TarSize = 256,
    workers: Threads = None,
    reporting: Reporting,
) -> None:
    """Write latents as other programs read them: WebDataset tars, or one .safetensors or .npy an image.

    Shards are checked against their sha256 before they are used. Stopped at any point, the same command goes on.
    `semdis import` makes shards of it again, but for .npy.

    Example: `semdis export latents/ -o exported/ --format webdataset`
    """
    from semdis_cli.pipeline.export import export as run
    from semdis_cli.pipeline.export_sinks import ExportSettings, npy_dtype_for
    from semdis_cli.store.exchange.export import EXPORT_MARKER
    from semdis_cli.store.reader import open_latents
    from semdis_cli.store.writing.claim import check_image_folder

    if member is not None and export_format != "webdataset":
        raise OptionError("--member", "goes with --format webdataset alone")
    member = member or ("npy" if export_format == "npy" else "safetensors")
    if npy_dtype is not None and member != "npy":
        raise OptionError("--dtype", "goes with npy alone: safetensors keep what is stored")
    if sample_names != "key" and export_format != "webdataset":
        raise OptionError("--sample-names", "goes with --format webdataset alone")
    refuse_pipes(latents, output)
    refuse_others(latents)
    check_image_folder(output, EXPORT_MARKER)
    source = open_latents(latents)
    dtype = npy_dtype or npy_dtype_for(source.provenance)
    settings = ExportSettings(export_format, member, dtype, tar_size, workers or count_cores(), sample_names)
    _say_what_is_lost(settings, source.provenance.get("dtype"), quiet=reporting.quiet)
    code = follow(
        run(source, settings, output),
        as_json=reporting.as_json,
        quiet=reporting.quiet,
        summarise=lambda report: f"{count(report['images']['ok'], 'image')} as {export_format} in {output}",
    )
    raise typer.Exit(code)


def _say_what_is_lost(settings: "ExportSettings", stored: object, *, quiet: bool) -> None:
    """On stderr, also when `quiet` if it is more than a name: what npy makes of the stored values."""
    if settings.member != "npy" or settings.npy_dtype == stored:
        return
    if settings.npy_dtype == "float16":
        say(f"semdis: float16 does not hold every value of {stored}: digits are lost")
    elif not quiet:
        say(f"semdis: npy has no {stored}: each value is written as float32, which holds it exactly")
