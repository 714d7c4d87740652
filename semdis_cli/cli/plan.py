"""`semdis plan`: images -> the plan of a set, for many runs that encode it together."""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semdis_cli.cli.display import Display, open_display
from semdis_cli.cli.options import Reporting, command
from semdis_cli.cli.plan_text import plan_json, plan_text
from semdis_cli.cli.report import MAX_SHOWN, more, one_line, printable
from semdis_cli.cli.setup import (
    as_recorded,
    computing_there,
    find_inputs,
    find_mask_maker,
    load_model,
    refuse_absent_device,
    spread,
    start_processes_early,
)
from semdis_cli.cli.streams import put, say
from semdis_cli.errors import ExitCode
from semdis_cli.option import COLUMNS, GEOMETRY, INPUT, MODEL, OUTPUT, Option
from semdis_cli.settings import EncodeSettings, LoadSettings, ModelSettings, SourceSettings, TokenizerSettings
from semdis_cli.sources.input_rules import InputRules
from semdis_cli.wording import count

if TYPE_CHECKING:
    from semdis_cli.events import ColumnTrouble, Failure
    from semdis_cli.pipeline.plan import MadePlan

Latents = Annotated[
    Path, Option("Folder for the latents, as it is given to encode.", OUTPUT, flags="--output -o", metavar="FOLDER")
]


@command(OUTPUT, INPUT, COLUMNS, GEOMETRY, MODEL)
def plan(
    context: typer.Context,
    *,
    output: Latents = Path("latents"),
    named: SourceSettings,
    rules: InputRules,
    load: LoadSettings,
    model: ModelSettings,
    how: TokenizerSettings,
    settings: EncodeSettings,
    reporting: Reporting,
) -> None:
    """Plan a set once, for many runs of encode that write it together.

    Lists the images, reads their headers, and writes which image goes into which shard into the folder of the latents.
    Then `semdis encode` with the same sources and options, and a --part, reads its own share of that and lists nothing.
    Run it where encode is going to run: the settings have to be the same.

    Example: `semdis plan photos/ -o latents/ --size 256`
    """
    from semdis_cli.sources.request import Request
    from semdis_cli.store.writing.finished import check_latents_folder

    settings.filters.check(load.geometry)
    how, settings = spread(how, settings, is_piped=False)
    refuse_absent_device(how.device)
    request = Request.of(named, rules, load, settings)
    request.check()
    check_latents_folder(output)
    display = context.with_resource(open_display(quiet=reporting.quiet))
    found = find_inputs(named, rules, output=output, quiet=reporting.quiet, display=display)

    from semdis_cli.images.loader import Loader
    from semdis_cli.pipeline.plan import make_plan

    masks = find_mask_maker(settings.latents, found, display)
    how = as_recorded(how, output)
    start_processes_early(how, found.num_images)
    here = load_model(model, how, found.num_images, load.geometry, display, quiet=reporting.quiet)
    tokenizer = computing_there(here, settings.processes, display, quiet=reporting.quiet)
    with Loader(load, tokenizer.patch_size, settings.num_workers, masks=masks) as loader:
        made = make_plan(found, loader, tokenizer, settings, request, output, display.plan)
        raise typer.Exit(_tell(made, load, display, reporting))


def _tell(made: "MadePlan", load: LoadSettings, display: Display, reporting: Reporting) -> ExitCode:
    """Say what was planned on stdout, and on stderr what cannot be used of the inputs, and of what comes with them."""
    plan = made.plan
    if plan.columns.note and not reporting.quiet:
        display.say(f"semdis: {one_line(plan.columns.note)}")
    num_failed = len(plan.failures)
    bad = _first_lines("failed", plan.failures), more(num_failed, "more failure")
    troubles = _first_lines("column", made.troubles)
    more_troubles = more(made.num_troubles, "more trouble with columns", "more troubles with columns")
    for line in chain(*bad, troubles, more_troubles):
        say(line)
    facts = plan, num_failed, load.geometry
    if reporting.as_json:
        put(plan_json("plan", *facts, {"plan": str(made.path), "plan_bytes": made.num_bytes}))
    else:
        where = f"the plan is in {made.path}, {count(made.num_bytes, 'byte')}"
        put(f"{plan_text(*facts)}\n{where if made.num_bytes else 'nothing is left to encode, and nothing was written'}")
    return ExitCode.SOME_FAILED if num_failed or made.num_troubles else ExitCode.OK


def _first_lines(what: str, bad: Iterable["Failure | ColumnTrouble"]) -> Iterator[str]:
    for one, _ in zip(bad, range(MAX_SHOWN), strict=False):
        yield f"{what}: {printable(one.key)}: {one_line(one.reason)}"
