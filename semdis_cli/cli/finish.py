"""`semdis finish`: the parts of a set -> the set."""

from pathlib import Path
from typing import Annotated, Any

import typer

from semdis_cli.cli.display import open_display
from semdis_cli.cli.options import Reporting, command
from semdis_cli.cli.report import follow
from semdis_cli.cli.setup import refuse_others, refuse_pipes
from semdis_cli.option import Option
from semdis_cli.wording import count

Latents = Annotated[Path, Option("Folder that `semdis encode --part` wrote.", is_argument=True)]


@command()
def finish(context: typer.Context, *, latents: Latents = Path("latents"), reporting: Reporting) -> None:
    """Finish a set whose parts are all encoded; says which are missing, if some are.

    The last part does it by itself. This is for where that was killed at it. A set that is finished stays as it is.

    Example: `semdis finish latents/`
    """
    from semdis_cli.pipeline.finish import finish as run

    refuse_pipes(latents)
    refuse_others(latents)
    display = context.with_resource(open_display(quiet=reporting.quiet))
    raise typer.Exit(follow(run(latents), reporting, summarise=_summary, display=display))


def _summary(report: dict[str, Any]) -> str:
    images, shards = count(report["images"]["ok"], "image"), count(report["shards"], "shard")
    return f"{images} in {shards}, {report['latent_bytes'] / 2**20:,.1f} MiB in {report['output']}"
