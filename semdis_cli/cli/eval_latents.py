"""`semdis eval` of latents: what sets of them tell of classes, and how their channels are spread."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from semdis_cli.cli.display import open_display
from semdis_cli.cli.latent_tables import sections
from semdis_cli.cli.options import Reporting
from semdis_cli.cli.report import one_line
from semdis_cli.cli.setup import refuse_others
from semdis_cli.cli.streams import put, say
from semdis_cli.cli.tables import show
from semdis_cli.defaults import EVAL_MARKER
from semdis_cli.errors import ExitCode
from semdis_cli.events import Planning
from semdis_cli.files.json_text import strict_json
from semdis_cli.files.url import Location
from semdis_cli.settings import LatentEvalSettings
from semdis_cli.wording import count

_NAMED_CLASSES = 5


def eval_latents(
    places: Sequence[Location], settings: LatentEvalSettings, output: Path, reporting: Reporting
) -> ExitCode:
    """Measure sets of latents, write the report into `output`, and print the tables. Returns the exit code."""
    from semdis_cli.files.claim import check_image_folder

    for place in places:
        refuse_others(place)
    check_image_folder(output, EVAL_MARKER)
    with open_display(quiet=reporting.quiet) as display:
        display.plan(Planning("reading the index"))

        from semdis_cli.evaluation.latents import write_report
        from semdis_cli.store.reader import open_latents

        sources = [open_latents(place) for place in places]
        report = write_report(sources, settings, output, display.plan)
    if not reporting.quiet:
        for line in _notes(report):
            say(f"semdis: {one_line(line)}")
    if reporting.as_json:
        put(strict_json(report))
    else:
        for section in sections(report):
            show(section)
    return ExitCode.OK


def _notes(report: dict[str, Any]) -> Iterator[str]:
    """Give what a reader of the tables should know."""
    labels, sample = report["labels"], report["sample"]
    if sample["images"] < sample["of"]:
        yield f"a sample of {sample['images']:,} of {count(sample['of'], 'image')}; --max-images takes more"
    if "why_none" in labels:
        yield f"no k-NN and no probe: {labels['why_none']}"
    elif left_out := labels["classes_left_out"]:
        named = ", ".join(left_out[:_NAMED_CLASSES]) + (", ..." if len(left_out) > _NAMED_CLASSES else "")
        yield f"{count(len(left_out), 'class', 'classes')} of too few files left out: {named}"
    yield f"the report is in {report['output']}"
