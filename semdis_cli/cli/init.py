"""`semdis init`: photographs -> a model in closed form."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from semdis_cli.cli import options
from semdis_cli.cli.display import open_display
from semdis_cli.cli.report import follow
from semdis_cli.cli.setup import count_workers, find_inputs, geometry_settings, read_settings, refuse_pipes
from semdis_cli.defaults import BUNDLED_MODEL
from semdis_cli.errors import UsageError
from semdis_cli.wording import count

Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the model.", rich_help_panel="Output")]
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="config.json of the architecture.  [default: the bundled model's]", show_default=False
    ),
]
WeightsDtype = Annotated[
    Literal["bfloat16", "float32"],
    typer.Option("--dtype", help="What weights are stored in.", rich_help_panel="Output"),
]


def init(
    context: typer.Context,
    sources: options.Sources = None,
    output: Output = Path("model"),
    config: Config = None,
    files_from: options.FilesFrom = None,
    null: options.Null = False,
    seed: options.Seed = 0,
    dtype: WeightsDtype = "bfloat16",
    workers: options.Workers = None,
    quiet: options.Quiet = False,
) -> None:
    """Make a model from photographs in closed form (per-patch PCA): no training, minutes, the linear optimum.

    The bundled model was made this way. Give a few hundred photographs or more.

    Example: `semdis init photos/ -o mymodel/`, then `semdis encode photos/ --model mymodel/`
    """
    refuse_pipes(*(sources or ()), output, config)
    display = context.with_resource(open_display(quiet=quiet))
    found = find_inputs(sources, files_from, null=null, output=output, quiet=quiet, display=display)

    import torch

    from semdis_cli.images.loader import Loader, LoadSettings
    from semdis_cli.model.checkpoint import resolve_model
    from semdis_cli.model.config import CONFIG_FILE, FCDMDiffAEConfig
    from semdis_cli.store.writing.folder import check_outside_sets, list_folder
    from semdis_cli.training.init import init_model

    check_outside_sets(output)
    if not found.images:
        raise UsageError("no images found")
    if output.exists() and (not output.is_dir() or list_folder(output)):
        raise UsageError("not an empty folder; give -o a new one", place=output)
    architecture = FCDMDiffAEConfig.load(config or resolve_model(BUNDLED_MODEL).folder / CONFIG_FILE)
    load = LoadSettings(geometry_settings(), read_settings(), architecture.patch_size)
    with Loader(load, count_workers(workers)) as loader:
        images, failures = loader.plan(found.images, display.plan)
        events = init_model(
            images, (*found.failures, *failures), loader, architecture, output, seed=seed, dtype=getattr(torch, dtype)
        )
        code = follow(
            events,
            as_json=False,
            quiet=quiet,
            summarise=lambda report: f"{count(report['patches'], 'patch', 'patches')} -> {output}",
            display=display,
        )
    raise typer.Exit(code)
