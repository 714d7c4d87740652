"""`semdis eval`: quality in figures, side by side."""

from pathlib import Path
from typing import Annotated

import typer

from semdis_cli.cli.eval_images import ImagesAndModel, eval_images
from semdis_cli.cli.options import Reporting, command
from semdis_cli.option import OUTPUT, Option
from semdis_cli.settings import LoadSettings, ModelSettings, SourceSettings, TokenizerSettings
from semdis_cli.settings.eval import EvalSettings
from semdis_cli.sources.input_rules import InputRules

Output = Annotated[Path, Option("Folder for figures and report.", OUTPUT, flags="--output -o")]


@command()
def eval_(
    context: typer.Context,
    *,
    output: Output = Path("eval"),
    named: SourceSettings,
    rules: InputRules,
    load: LoadSettings,
    model: ModelSettings,
    how: TokenizerSettings,
    settings: EvalSettings,
    reporting: Reporting,
) -> None:
    """Measure quality.

    Example: `semdis eval photos/`
    """
    what = ImagesAndModel(named, rules, load, model, how)
    raise typer.Exit(eval_images(context, what, settings, output, reporting))
