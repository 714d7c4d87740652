"""`semdis eval` of images: what tokenizers make of them, in figures, side by side."""

from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import typer

from semdis_cli.cli.display import open_display
from semdis_cli.cli.eval_tables import sections
from semdis_cli.cli.half_blocks import can_show, show_pair, side_px
from semdis_cli.cli.options import Reporting
from semdis_cli.cli.pages import WorstPair, check_page, describe_page, finish_with
from semdis_cli.cli.report import ImageView, follow, printable
from semdis_cli.cli.setup import (
    find_inputs,
    load_model,
    refuse_absent_device,
    refuse_pipes,
    start_processes_early,
)
from semdis_cli.cli.streams import put
from semdis_cli.cli.tables import show
from semdis_cli.defaults import EVAL_MARKER
from semdis_cli.errors import ExitCode
from semdis_cli.events import Event, ImageMeasured
from semdis_cli.settings import (
    WITHOUT_COLUMNS,
    EncodeSettings,
    LoadSettings,
    ModelSettings,
    PartSettings,
    SourceSettings,
    TokenizerSettings,
)
from semdis_cli.settings.contenders import parse_specs
from semdis_cli.settings.eval import EvalSettings
from semdis_cli.sources.input_rules import InputRules
from semdis_cli.wording import count


class _EvalView(ImageView):
    """Shows a run whose images are too many to tell of each: their figures are in tables."""

    def _take(self, event: Event) -> None:
        if not isinstance(event, ImageMeasured):
            super()._take(event)


@dataclass(frozen=True)
class ImagesAndModel:
    """All that says which images are measured, and what they go through."""

    named: SourceSettings
    rules: InputRules
    load: LoadSettings
    model: ModelSettings
    how: TokenizerSettings


def eval_images(
    context: typer.Context, what: ImagesAndModel, settings: EvalSettings, output: Path, reporting: Reporting
) -> ExitCode:
    """Measure what comes back of images, and print the tables. Returns the exit code."""
    refuse_pipes(*what.named.sources, output)
    refuse_absent_device(what.how.device)
    specs = parse_specs(settings.compare)
    check_page(settings.page, output)
    display = context.with_resource(open_display(quiet=reporting.quiet))
    found = find_inputs(what.named, what.rules, output=output, quiet=reporting.quiet, display=display)

    from semdis_cli.files.claim import check_image_folder
    from semdis_cli.images.loader import Loader
    from semdis_cli.metrics.measure import check_weights
    from semdis_cli.pipeline.contenders.make import make_contenders
    from semdis_cli.pipeline.encode_plan import plan_encode
    from semdis_cli.pipeline.roundtrip import as_begun, evaluate

    check_image_folder(output, EVAL_MARKER)
    check_weights(settings.measures)
    worst = WorstPair(side_px()) if can_show() and not reporting.as_json else None
    settings = replace(settings, page=replace(settings.page, keeps_worst=worst is not None))
    trip = as_begun(settings.as_roundtrip(), output, EVAL_MARKER)
    start_processes_early(what.how, len(found.images))
    tokenizer = load_model(what.model, what.how, len(found.images), what.load.geometry, display, quiet=reporting.quiet)
    contenders = make_contenders(specs, tokenizer, trip)
    view = _EvalView(display, reporting)
    with Loader(what.load, tokenizer.patch_size, settings.num_workers) as loader:
        how_encoded = EncodeSettings(columns=WITHOUT_COLUMNS, latents=PartSettings(*astuple(trip.latents)))
        plan = plan_encode(found, loader, tokenizer, how_encoded, tell=display.plan)
        events = evaluate(plan, loader, contenders, trip, output, finish_with(settings.page, what.named, worst))
        code = follow(events, reporting, summarise=_summary, display=display, make_view=lambda *_: view)
    if not reporting.as_json:
        _show(view.report, worst)
    return code


def _show(report: dict[str, Any], worst: WorstPair | None) -> None:
    """Print the tables and, on a terminal that can, the image that came back worst."""
    for section in sections(report):
        show(section)
    if worst is not None and worst.pictures:
        put(f"{printable(worst.key)}: original, and as it came back")
        show_pair(*worst.pictures)


def _summary(report: dict[str, Any]) -> str:
    if not report["images"]["ok"]:
        return "no image could be measured"
    note = report["contenders"][0]["figures"].get("rfid_note")
    told = f"; {note}" if note else ""
    return (
        f"{count(report['images']['ok'], 'image')} measured, figures in {report['output']}{told}{describe_page(report)}"
    )
