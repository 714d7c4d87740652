"""`semdis verify`: are latents whole, and are they those of the images?"""

import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from semdis_cli.cli.display import Display, Position, open_display
from semdis_cli.cli.options import Address, Engine, Processes, Quiet, Reporting, StoredLatents, command
from semdis_cli.cli.report import MAX_SHOWN, describe_loss, follow, more, one_line
from semdis_cli.cli.setup import find_inputs, refuse_others, refuse_pipes
from semdis_cli.errors import ExitCode, UsageError
from semdis_cli.events import (
    Event,
    Planning,
    Problem,
    ProcessDied,
    ShardVerified,
    VerifyFinished,
    VerifyStarted,
    WorkerLeftOut,
)
from semdis_cli.files.disk import count_cores
from semdis_cli.files.json_text import escape_name, strict_json
from semdis_cli.files.url import Location, Url, parse_location
from semdis_cli.option import OUTPUT, Option
from semdis_cli.settings import ProcessSettings, SourceSettings, parse_number_or_share
from semdis_cli.sources.input_rules import DEFAULT_RULES, InputRules
from semdis_cli.wording import count

if TYPE_CHECKING:
    from semdis_cli.store.verifying.verify import Sample

Data = Annotated[bool, Option("Read every byte; without it lists, headers and sizes alone.")]
SampleText = Annotated[
    str | None, Option("Read every byte of N shards, or of a share of them like 5%.", flags="--sample", metavar="N|%")
]
SampleSeed = Annotated[
    int | None, Option("Which shards --sample takes.  [default: 0]", flags="--seed", min=0, max=2**63 - 1)
]
Against = Annotated[
    tuple[Location, ...],
    Option(
        "Compare the index with these images, as they were given to encode; with --data by their sha256.",
        metavar="SOURCE",
        parse=parse_location,
    ),
]
Threads = Annotated[
    int | None,
    Option(
        "Threads that read, of all processes of this machine together.  [default: CPU cores]",
        flags="--workers",
        min=1,
    ),
]
JsonLines = Annotated[
    bool,
    Option("Print a JSON object a line on stdout: each problem, and the closing report.", OUTPUT, flags="--json"),
]


@command()
def verify(
    context: typer.Context,
    *,
    latents: StoredLatents = Path("latents"),
    data: Data = False,
    sample: SampleText = None,
    seed: SampleSeed = None,
    against: Against = (),
    rules: InputRules,
    workers: Threads = None,
    processes: Processes = None,
    engine: Engine = "local",
    address: Address = None,
    as_json: JsonLines = False,
    quiet: Quiet = False,
) -> None:
    """Check that latents are whole: nothing missing, surplus, damaged or edited.

    Every problem is listed on stderr. Exit code 0 if there is none, 4 otherwise. With --json, stdout gets a line for
    each problem and the closing report.

    Example: `semdis verify latents/ --data`
    """
    from semdis_cli.pipeline.fleet.verify_job import helpers_by
    from semdis_cli.pipeline.verify import verify as run
    from semdis_cli.store.verifying.verify import VerifySettings

    refuse_pipes(latents, *against)
    refuse_others(latents)
    if not against and rules != DEFAULT_RULES:
        raise UsageError("--exclude, --include and --all-files say which images --against means: give it too")
    settings = VerifySettings(_parse_sample(data, sample, seed), workers or count_cores())
    shared = ProcessSettings(num_processes=processes, engine=engine, address=address)
    helpers = helpers_by(shared, settings.num_workers, latents)
    display = context.with_resource(open_display(quiet=quiet))
    find = partial(
        find_inputs,
        output=None if isinstance(latents, Url) else latents,
        quiet=quiet,
        display=display,
        may_be_none=True,
    )
    sources = find(SourceSettings(against), rules) if against else None
    display.plan(Planning("reading the lists of the set"))
    events = run(latents, settings, sources, helpers)
    reporting = Reporting(as_json, quiet)
    code = follow(events, reporting, summarise=_summary, display=display, make_view=_VerifyView)
    raise typer.Exit(code)


def _parse_sample(data: bool, text: str | None, seed: int | None) -> "Sample":
    """Return what --data, --sample and --seed ask for. Raises `UsageError` where they do not go together."""
    from semdis_cli.store.verifying.verify import ALL_DATA, NO_DATA, Sample

    if data and text is not None:
        raise UsageError("--data reads every shard, --sample some of them: give one of the two")
    if text is None and seed is not None:
        raise UsageError("--seed says which shards --sample takes: give --sample too")
    if text is None:
        return ALL_DATA if data else NO_DATA
    value, is_share = parse_number_or_share(text, "--sample")
    if value == 0:
        raise UsageError("--sample 0 would read nothing; leave it out to read lists, headers and sizes alone")
    return Sample(value / 100, seed=seed or 0) if is_share else Sample(count=int(value), seed=seed or 0)


class _VerifyView:
    """Shows what a verification finds."""

    def __init__(self, display: Display, reporting: Reporting) -> None:
        self.display = display
        self.code = ExitCode.OK
        self._problems = Counter[str]()
        self.report: dict[str, Any] = {}
        self._as_json, self._is_quiet = reporting.as_json, reporting.quiet
        self._started = time.perf_counter()
        self._total = VerifyStarted(0, 0)
        self._num_shards = self._num_bytes = 0

    def take(self, event: Event) -> None:
        """Count one event and show what it has to show."""
        match event:
            case Planning():
                self.display.plan(event)
            case Problem():
                self._list(event)
            case VerifyStarted():
                self._total = event
            case ShardVerified():
                self._num_shards += 1
                self._num_bytes += event.num_bytes
                self.display.show(self._position())
            case ProcessDied() | WorkerLeftOut() if not self._is_quiet:
                self.display.say(f"semdis: {describe_loss(event)}")
            case VerifyFinished():
                self.report = {"event": "report", **event.report}

    def left_out(self) -> Iterator[str]:
        """Give a line for each kind of problem of which not all were shown."""
        for kind, number in self._problems.items():
            yield from (f"{line} of the kind {kind}" for line in more(number, "more problem"))

    def closing(self, summary: str) -> Iterator[str]:
        """Give the lines on the versions that the set holds, what was found, and links."""
        from semdis_cli.provenance import describe_versions

        yield from (f"semdis: {one_line(line)}" for line in describe_versions(self.report.get("versions", [])))
        yield f"semdis: {summary}"
        if links := self.report.get("links"):
            yield f"note: {links:,} of its files are links; copy the set with cp -rL, or only the links are copied"

    def _list(self, problem: Problem) -> None:
        self.code = ExitCode.BAD_DATA
        self._problems[problem.kind] += 1
        if self._problems[problem.kind] <= MAX_SHOWN:
            self.display.say(f"bad: {one_line(f'{problem.file}: {problem.what}')}")
        if self._as_json:
            fields = {"event": "problem", "file": escape_name(problem.file), "kind": problem.kind, "what": problem.what}
            self.display.result(strict_json(fields))

    def _position(self) -> Position:
        elapsed_s = max(time.perf_counter() - self._started, 1e-9)
        rates = f"{self._num_bytes / 2**20 / elapsed_s:.0f} MiB/s, {count(self._problems.total(), 'problem')}"
        left_s = elapsed_s / self._num_shards * (self._total.num_shards - self._num_shards)
        return Position(self._num_shards, self._total.num_shards, "shards", rates, left_s)


def _summary(report: dict[str, Any]) -> str:
    """Sum up what was looked at, and what came of it."""
    images = report.get("images")  # of a set
    counts = count(report["shards"], "shard") + (f", {count(images['ok'], 'image')}" if images else "")
    depth = {
        "none": "lists and headers read (--data reads every byte)",
        "sample": "a sample of the data read",
        "all": "every byte read",
    }[report["data"]]
    number = sum(report["problems"].values())
    outcome = "all is well" if number == 0 else count(number, "problem")
    return f"{one_line(report['latents'])}: {outcome}; {counts}, {depth}, {report['elapsed_s']:.1f} s"
