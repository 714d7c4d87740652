"""`semdis export`: shards of latents -> files that other programs read."""

from pathlib import Path
from typing import Annotated

import typer

from semdis_cli.cli.options import Address, Engine, Processes, Reporting, StoredLatents, command
from semdis_cli.cli.report import follow
from semdis_cli.cli.setup import refuse_others, refuse_pipes
from semdis_cli.cli.streams import say
from semdis_cli.option import OUTPUT, Option
from semdis_cli.parts import QUANTISED
from semdis_cli.settings import ExportSettings, ProcessSettings
from semdis_cli.wording import count

Output = Annotated[Path, Option("Folder for the files.", OUTPUT, flags="--output -o")]


@command()
def export(
    *,
    latents: StoredLatents = Path("latents"),
    output: Output = Path("exported"),
    settings: ExportSettings,
    processes: Processes = None,
    engine: Engine = "local",
    address: Address = None,
    reporting: Reporting,
) -> None:
    """Write latents as other programs read them: WebDataset tars, tables, a file an image, or what a trainer reads.

    Shards are checked against their sha256 before they are used. Stopped at any point, the same command goes on.
    `semdis import` makes shards of tars and .safetensors again.

    Example: `semdis export latents/ -o exported/ --format webdataset`
    """
    refuse_pipes(latents, output)
    refuse_others(latents)

    from semdis_cli.files.claim import check_image_folder
    from semdis_cli.pipeline.export import export as run
    from semdis_cli.store.exchange.export import EXPORT_MARKER
    from semdis_cli.store.reader import open_latents, recorded_layout

    check_image_folder(output, EXPORT_MARKER)
    source = open_latents(latents)
    _say_what_is_lost(settings, recorded_layout(source.provenance, str(source.path)).dtype, quiet=reporting.quiet)
    code = follow(
        run(source, settings, output, ProcessSettings(num_processes=processes, engine=engine, address=address)),
        reporting,
        summarise=lambda report: f"{count(report['images']['ok'], 'image')} as {settings.format} in {output}",
    )
    raise typer.Exit(code)


def _say_what_is_lost(settings: ExportSettings, stored: str, *, quiet: bool) -> None:
    """Say what arrays make of the stored values; where digits are lost, also when `quiet`."""
    if settings.is_lossy(stored):
        what = "raw latents" if settings.is_for_trainer else stored
        say(f"semdis: float16 does not hold every value of {what}: digits are lost")
    elif quiet:
        return
    elif stored in QUANTISED and settings.keeps_stored:
        way = "--member npy" if settings.format == "webdataset" else "--format npy"
        say(f"semdis: files keep {stored} and its scales: latents are latents.float() * scale, as {way} writes them")
    elif stored in QUANTISED and not settings.is_for_trainer:
        say(f"semdis: each {stored} value is written times its scale, as float32, which holds that exactly")
    elif settings.has_no(stored):
        say(f"semdis: {settings.format} has no {stored}: each value is written as float32, which holds it exactly")
