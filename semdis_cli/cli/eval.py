"""`semdis eval`: quality in figures, side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from semdis_cli.cli.eval_generator import run_generator
from semdis_cli.cli.eval_images import ImagesAndModel, eval_images
from semdis_cli.cli.eval_latents import eval_latents
from semdis_cli.cli.options import Reporting, command, given_flags
from semdis_cli.cli.setup import refuse_pipes
from semdis_cli.evaluation.generator.settings import GeneratorRunSettings
from semdis_cli.files.set_names import MANIFEST_FILE, is_set
from semdis_cli.files.url import Location, Url
from semdis_cli.option import DECODING, GENERATOR, GEOMETRY, INPUT, LATENTS, MODEL, OUTPUT, QUALITY, Option, OptionError
from semdis_cli.settings import LatentEvalSettings, LoadSettings, ModelSettings, SourceSettings, TokenizerSettings
from semdis_cli.settings.eval import EvalSettings
from semdis_cli.sources.input_rules import InputRules

Output = Annotated[
    Path | None,
    Option(
        "Folder for figures and report.  [default: eval; of latents eval-latents, with --generator eval-generator]",
        OUTPUT,
        flags="--output -o",
        show_default=False,
    ),
]

_OF_IMAGES = (InputRules, LoadSettings, ModelSettings, TokenizerSettings, EvalSettings)
_OF_LATENTS = (LatentEvalSettings,)
_OF_GENERATOR = (GeneratorRunSettings,)


@command(INPUT, GEOMETRY, MODEL, DECODING, QUALITY, LATENTS, GENERATOR, OUTPUT)
def eval_(
    context: typer.Context,
    *,
    output: Output = None,
    named: SourceSettings,
    rules: InputRules,
    load: LoadSettings,
    model: ModelSettings,
    how: TokenizerSettings,
    settings: EvalSettings,
    latents: LatentEvalSettings,
    generator: GeneratorRunSettings,
    reporting: Reporting,
) -> None:
    """Measure what comes back of images, several ways side by side; or, of sets of latents, what they hold.

    Images are encoded and decoded, and only figures kept: a table on stdout, figures.jsonl, report.json, a page. Of
    sets that `semdis encode` wrote: how their channels are spread, and what they tell of the images' classes; or, with
    --generator, how fast a small generator learns them.

    Example: `semdis eval photos/ --compare steps=10,pdg --compare jpeg --report report.html`
    """
    refuse_pipes(*named.sources, output)
    if are_latents(named.sources):
        if generator.is_on:
            _refuse(context, (*_OF_IMAGES, *_OF_LATENTS), _OF_GENERATOR, "does not go with --generator")
            raise typer.Exit(
                run_generator(context, named.sources, generator, output or Path("eval-generator"), reporting)
            )
        _refuse(context, _OF_IMAGES, (*_OF_LATENTS, *_OF_GENERATOR), "is about images; these are latents")
        _refuse(context, _OF_GENERATOR, _OF_LATENTS, "goes with --generator")
        raise typer.Exit(eval_latents(named.sources, latents, output or Path("eval-latents"), reporting))
    _refuse(context, (*_OF_LATENTS, *_OF_GENERATOR), _OF_IMAGES, "is about sets of latents; these are images")
    what = ImagesAndModel(named, rules, load, model, how)
    raise typer.Exit(eval_images(context, what, settings, output or Path("eval"), reporting))


def are_latents(sources: Sequence[Location]) -> bool:
    """Tell whether sets of latents, or shards, are named. Raises `OptionError` if images are named too."""
    kinds = {_is_set(one) for one in sources}
    if len(kinds) > 1:
        raise OptionError("SOURCE", "names images and sets of latents; give one kind at a time")
    return kinds == {True}


def _is_set(place: Location) -> bool:
    if place.suffix == ".safetensors":
        return True
    return (place / MANIFEST_FILE).is_file() if isinstance(place, Url) else is_set(place)


def _refuse(context: typer.Context, groups: Sequence[type], but: Sequence[type], why: str) -> None:
    """Raise `OptionError` for an option that was given, and has no effect."""
    for flag in given_flags(context, groups, but):
        raise OptionError(flag, why)
