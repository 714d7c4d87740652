"""`semdis eval`: quality in figures, side by side."""

from pathlib import Path
from typing import Annotated

import typer

from semdis_cli.cli.eval_latents import eval_latents
from semdis_cli.cli.options import Reporting, command
from semdis_cli.cli.setup import refuse_pipes
from semdis_cli.files.url import Location, parse_location
from semdis_cli.option import LATENTS, OUTPUT, Option
from semdis_cli.settings import LatentEvalSettings

Sources = Annotated[
    tuple[Location, ...],
    Option(
        "Folders that `semdis encode` wrote, or shard files, of the same images; may be URLs.",
        metavar="LATENTS...",
        show_default=False,
        is_argument=True,
        parse=parse_location,
    ),
]
Output = Annotated[Path, Option("Folder for the report.", OUTPUT, flags="--output -o")]


@command(LATENTS, OUTPUT)
def eval_(
    *, sources: Sources = (), output: Output = Path("eval"), latents: LatentEvalSettings, reporting: Reporting
) -> None:
    """Measure what latents hold: how their channels are spread, and what they tell of the images' classes.

    Of several sets the images are those that all have. stdout: tables; figures also in report.json.

    Example: `semdis eval latents/ other/ --label label`
    """
    refuse_pipes(*sources, output)
    raise typer.Exit(eval_latents(sources or (Path("latents"),), latents, output, reporting))
