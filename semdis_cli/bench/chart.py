"""Where the time goes, as bars."""

from semdis_cli.bench.bench import BenchReport
from semdis_cli.bench.end_to_end import EndToEnd
from semdis_cli.bench.startup import StartUp
from semdis_cli.images.charts import Bar, Chart, Part


def time_chart(report: BenchReport) -> Chart:
    """What took the time of `encode`, of `decode`, and of starting."""
    model, machine = report.settings["model"]["name"], report.machine
    device = machine.accelerator or f"{report.settings['workers']} threads, {machine.processor}"
    bars = (_verb_bar("encode", report.encode), _verb_bar("decode", report.decode), _start_bar(report.start_up))
    return Chart(f"Where the time goes: {model}, {report.gemm.dtype}, {device}", bars)


def _verb_bar(verb: str, run: EndToEnd) -> Bar:
    """The stages' shares of what is busiest, over the whole of a run, and what the run fell short of the limit."""
    title = (
        f"{verb}: {run.images_per_s.median:.1f} images/s, {run.share_of_limit.median:.0%} of the limit "
        f"({run.limit.images_per_s:.1f} images/s)"
    )
    reached = min(1.0, run.share_of_limit.median)
    parts = tuple(Part(name, reached * share) for name, share in run.limit.stages.items())
    return Bar(title, (*parts, Part("short of the limit", 1.0 - reached, is_idle=True)))


def _start_bar(start: StartUp) -> Bar:
    total_s = max(start.first_image_s.median, 1e-9)
    steps = {
        "importing torch": start.import_torch_s,
        "other imports": start.import_rest_s,
        "loading the model": start.load_model_s,
        "first call": start.first_call_s,
        "all else": start.rest_s,
    }
    scale = max(total_s, sum(steps.values()))
    title = f"first image: {total_s:.1f} s after the start (semdis --help: {start.help_s.median:.2f} s)"
    return Bar(title, tuple(Part(name, seconds / scale) for name, seconds in steps.items()))
