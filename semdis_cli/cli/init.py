"""`semdis init`: photographs -> a model in closed form."""

from pathlib import Path
from typing import Annotated

import typer

from semdis_cli.cli.display import open_display
from semdis_cli.cli.options import Quiet, Reporting, command
from semdis_cli.cli.report import follow
from semdis_cli.cli.setup import find_inputs, refuse_pipes
from semdis_cli.errors import UsageError
from semdis_cli.option import OUTPUT, Option
from semdis_cli.settings import LoadSettings, SourceSettings
from semdis_cli.training.settings import InitSettings
from semdis_cli.wording import count

Output = Annotated[Path, Option("Folder for the model.", OUTPUT, flags="--output -o")]


@command()
def init(
    context: typer.Context,
    *,
    output: Output = Path("model"),
    named: SourceSettings,
    settings: InitSettings,
    quiet: Quiet = False,
) -> None:
    """Make a model from photographs in closed form (per-patch PCA): no training, minutes, the linear optimum.

    The bundled model was made this way. Give a few hundred photographs or more.

    Example: `semdis init photos/ -o mymodel/`, then `semdis encode photos/ --model mymodel/`
    """
    refuse_pipes(*named.sources, output, settings.config)
    display = context.with_resource(open_display(quiet=quiet))
    found = find_inputs(named, output=output, quiet=quiet, display=display)

    from semdis_cli.files.claim import check_outside_sets, list_folder
    from semdis_cli.images.loader import Loader
    from semdis_cli.model.checkpoint import load_config
    from semdis_cli.training.init import init_model

    check_outside_sets(output)
    if not found.images:
        raise UsageError("no images found")
    if output.exists() and (not output.is_dir() or list_folder(output)):
        raise UsageError("not an empty folder; give -o a new one", place=output)
    architecture = load_config(settings.config)
    with Loader(LoadSettings(), architecture.patch_size, settings.num_workers) as loader:
        images, failures = loader.plan(found.images, display.plan)
        code = follow(
            init_model(images, (*found.failures, *failures), loader, architecture, output, settings),
            Reporting(quiet=quiet),
            summarise=lambda report: f"{count(report['patches'], 'patch', 'patches')} -> {output}",
            display=display,
        )
    raise typer.Exit(code)
