"""The figures of `semdis bench` as tables for a person."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from semdis_cli.cli.report import printable
from semdis_cli.wording import count

if TYPE_CHECKING:
    from semdis_cli.bench.bench import BenchReport
    from semdis_cli.bench.limit import Limit, Spread, StageCost
    from semdis_cli.bench.peers import PeerSpeed

_PLAIN_WIDTH = 120  # where stdout is no terminal


def bench_text(report: "BenchReport") -> str:
    """Lay out all figures; with lines and colours on a terminal, plain where stdout is a file or a pipe."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PLAIN_WIDTH, no_color=True)
    with console.capture() as capture:
        for part in _parts(report, is_plain=not console.is_terminal):
            console.print(part, soft_wrap=isinstance(part, Text))
    return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())


def _parts(report: "BenchReport", *, is_plain: bool) -> Iterator[RenderableType]:
    """Yield what is shown, from top to bottom."""
    yield Text(_heading(report))
    for table in (_model_table(report), _stage_table(report), _run_table(report)):
        yield _finished(table, is_plain=is_plain)
    for run in (report.encode, report.decode):
        yield Text(run.explanation)
    if report.peer is not None:
        yield _finished(_peer_table(report.peer), is_plain=is_plain)
    yield Text(_start_up(report))


def _finished(table: Table, *, is_plain: bool) -> RenderableType:
    """Put `table` below its title, which may be wider, with space above."""
    table.box = None if is_plain else box.SIMPLE_HEAD
    title = Text(str(table.title), "" if is_plain else "bold")
    table.title = None
    return Padding(Group(title, table), (1, 0, 0, 0))


def _table(title: str, *columns: str) -> Table:
    """Make a table with names in its first column, and figures in the others."""
    table = Table(title=title, padding=(0, 2, 0, 0), pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table


def _heading(report: "BenchReport") -> str:
    """Say what was measured, and on which machine."""
    machine, model, images = report.machine, report.settings["model"], report.images
    accelerator = f", {machine.accelerator}" if machine.accelerator else ""
    mib = images["mean_file_bytes"] / 2**20
    megapixels = f"{images['mean_input_megapixels']:.2f} megapixels for the model"
    return (
        f"{printable(model['name'])} (sha256 {model['weights_sha256']:.12}) in {report.gemm.dtype}, "
        f"torch {machine.versions['torch']}\n"
        f"{machine.num_cores} cores, {machine.processor}{accelerator}; JPEGs by {machine.jpeg_decoder}\n"
        f"{count(images['num_images'], 'image')} ({printable(images['source'])}), {mib:.2f} MiB each, {megapixels}"
    )


def _model_table(report: "BenchReport") -> Table:
    encode, decode, memory = report.model_encode, report.model_decode, report.memory
    calls = f"{count(encode.images_per_call, 'image')} a call, {count(encode.num_calls_at_once, 'call')} at once"
    table = _table(f"The model by itself, {encode.height_px}x{encode.width_px}, {calls}", "", "encode", "decode")
    both = (encode, decode)
    table.add_row("images/s", *(_spread(one.images_per_s, 1) for one in both))
    table.add_row("megapixels/s", *(_spread(one.megapixels_per_s, 2) for one in both))
    table.add_row("one image alone, ms", *(_spread(one.latency_s, 1, 1000) for one in both))
    table.add_row("TFLOP/s", *(f"{one.tflop_per_s:.3f}" for one in both))
    table.add_row(f"share of {_gemm(report)}", *(f"{one.share_of_gemm:.0%}" for one in both))
    own = report.own_gemm
    title = f"share of its own ({own.rows} x {own.model_dim} x {own.hidden_dim}, {own.tflop_per_s:.3f} TFLOP/s)"
    table.add_row(title, *(f"{one.tflop_per_s / own.tflop_per_s:.0%}" for one in both))
    table.add_row(f"MiB, {memory.kind}", f"{memory.encode_mib:,.0f}", f"{memory.decode_mib:,.0f}")
    return table


def _gemm(report: "BenchReport") -> str:
    gemm = report.gemm
    return f"matrix products ({gemm.side} x {gemm.side}, {gemm.tflop_per_s:.3f} TFLOP/s)"


def _stage_table(report: "BenchReport") -> Table:
    table = _table("Each stage by itself", "", "images/s", "ms a thread", "threads", "share of its resource")
    verbs = ((report.stages.encode, report.encode.limit), (report.stages.decode, report.decode.limit))
    for costs, limit in verbs:
        for cost in costs:
            table.add_row(*_stage_row(cost, limit))
    others = {f"({cost.name} as {name})": cost for name, cost in report.stages.other_formats.items()}
    if report.stages.scaled_reading is not None:
        others = {"(reading with --jpeg-scaling)": report.stages.scaled_reading} | others
    for name, cost in others.items():
        table.add_row(name, f"{cost.images_per_s:.1f}", _milliseconds(cost), f"{cost.num_threads}", "")
    return table


def _stage_row(cost: "StageCost", limit: "Limit") -> tuple[str, ...]:
    share = limit.stages.get(cost.name)
    used = "" if share is None else f"{share:.0%} of {limit.resource}"
    return cost.name, f"{cost.images_per_s:.1f}", _milliseconds(cost), f"{cost.num_threads}", used


def _milliseconds(cost: "StageCost") -> str:
    return _spread(cost.thread_s_per_image, 2, 1000)


def _run_table(report: "BenchReport") -> Table:
    table = _table(
        "From files to files", "", "images", "images/s", "megapixels/s", "limit, images/s", "of the limit", "waiting"
    )
    for verb, run in (("encode", report.encode), ("decode", report.decode)):
        table.add_row(
            verb,
            f"{run.num_images}",
            _spread(run.images_per_s, 1),
            _spread(run.megapixels_per_s, 2),
            f"{run.limit.images_per_s:.1f}",
            f"{_spread(run.share_of_limit, 0, 100)} %",
            f"{run.busy_shares['wait']:.0%}",
        )
    return table


def _peer_table(peer: "PeerSpeed") -> Table:
    calls = f"{peer.images_per_call} and {peer.peer_images_per_call} images a call"
    size = f"{peer.height_px}x{peer.width_px}, {calls}"
    title = f"Beside {peer.title} ({peer.num_parameters / 1e6:.1f} M parameters, random weights), {size}"
    table = _table(title, "", "images/s", f"{peer.title}, images/s", "times as fast", f"{peer.title} was run as")
    for verb, both in (("encode", peer.encode), ("decode", peer.decode)):
        rates = (_spread(both.images_per_s, 1), _spread(both.peer_images_per_s, 2), _spread(both.ratio, 1))
        table.add_row(verb, *rates, both.peer_way)
    return table


def _start_up(report: "BenchReport") -> str:
    start = report.start_up
    return (
        f"\nStart-up: semdis --help {_spread(start.help_s, 2)} s; an image encoded {_spread(start.first_image_s, 2)} s "
        f"after the start: torch {start.import_torch_s:.2f} s, other imports {start.import_rest_s:.2f} s, "
        f"loading the model {start.load_model_s:.2f} s, first call {start.first_call_s:.2f} s, all else "
        f"{start.rest_s:.2f} s\nMeasured in {report.elapsed_s:.0f} s; in brackets quartiles: of several rounds or, "
        "of what was measured at several times, the lowest and the highest"
    )


def _spread(spread: "Spread", digits: int, factor: float = 1.0) -> str:
    """Say the median, and the quartiles if there was more than one round."""
    values = (spread.median, spread.lower_quartile, spread.upper_quartile)
    median, lower, upper = (f"{factor * value:,.{digits}f}" for value in values)
    return median if spread.num_rounds == 1 else f"{median} ({lower}-{upper})"
