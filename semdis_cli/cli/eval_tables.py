"""Figures of a run -> the tables that `eval` prints, within 80 columns."""

from collections.abc import Iterator, Sequence
from typing import Any

from semdis_cli.cli.report import printable
from semdis_cli.cli.tables import Section
from semdis_cli.metrics.registry import BITS_PER_PIXEL, METRICS
from semdis_cli.store.checks import check_record_key
from semdis_cli.wording import count

_TITLE_WIDTH = 30
_STATISTICS = ("mean", "std", "median", "p5", "p95", "min", "max")

Json = dict[str, Any]


def sections(report: Json) -> Iterator[Section]:
    """Give all that there is to show of a run, top to bottom."""
    contenders: Sequence[Json] = report["contenders"]
    if not report["images"]["ok"]:
        return
    yield _means(report)
    if len(contenders) == 1:
        yield _spread(contenders[0]["figures"])
    elif (differences := _differences(contenders)).rows:  # one image has none
        yield differences
    yield _worst(report["worst"])


def _means(report: Json) -> Section:
    """The mean of every metric, a line for each contender."""
    contenders: Sequence[Json] = report["contenders"]
    metrics = _metrics(contenders)
    headings = ["", *(f"#{_heading(name)}" for name in metrics)]
    has_rfid = any("rfid" in one["figures"] for one in contenders)
    rows = []
    for one in contenders:
        cells = [_number(name, one["figures"][name]["mean"]) if name in one["figures"] else "" for name in metrics]
        rfid = [f"{one['figures']['rfid']:.3f}"] if "rfid" in one["figures"] else [""]
        rows.append((_short(one["title"]), *cells, *(rfid if has_rfid else [])))
    return Section(_over(report), (*headings, *(["#rFID"] if has_rfid else [])), rows)


def _over(report: Json) -> str:
    """Return what the means are over, and of what fewer images have, as some are too small for it."""
    num_images, figures = report["images"]["ok"], report["contenders"][0]["figures"]
    nums = {name: figures[name]["num"] if name in figures else 0 for name in report["measures"]["metrics"]}
    told = {METRICS[name].title: f"{num:,}" if num else "none" for name, num in nums.items() if num < num_images}
    fewer = [f"{title}: {num}" for title, num in told.items()]
    return f"Mean over {count(num_images, 'image')}" + (f" ({', '.join(fewer)})" if fewer else "")


def _differences(contenders: Sequence[Json]) -> Section:
    """Give the difference of each contender from the first, metric by metric."""
    rows = []
    for one in contenders[1:]:
        for name, found in one["differences"].items():
            if name == BITS_PER_PIXEL:  # it is what was chosen
                continue
            interval = f"{_signed(name, found['low'])} .. {_signed(name, found['high'])}"
            better = f"{found['num_better']:,} of {found['num']:,}"
            rows.append((_short(one["title"]), METRICS[name].title, _signed(name, found["mean"]), interval, better))
    title = f"Difference from {contenders[0]['title']}, image by image, with 95 % intervals"
    return Section(title, ("", "", "#mean", "#interval", "#better on"), rows)


def _spread(figures: Json) -> Section:
    """Give the spread of the figures of images."""
    rows = [
        (_heading(name), *(_number(name, figures[name][statistic]) for statistic in _STATISTICS))
        for name in _metrics([{"figures": figures}])
    ]
    return Section("Spread", ("", *(f"#{statistic}" for statistic in _STATISTICS)), rows)


def _worst(worst: Sequence[Json]) -> Section:
    """The images that came back worst."""
    names = [name for name in METRICS if any(name in one["figures"] for one in worst)]
    rows = [
        (*(_number(name, one["figures"].get(name)) for name in names), printable(check_record_key(one)))
        for one in worst
    ]
    return Section("Worst by PSNR", (*(f"#{_heading(name)}" for name in names), "image"), rows)


def _metrics(contenders: Sequence[Json]) -> list[str]:
    return [name for name in METRICS if any(name in one["figures"] and one["figures"][name] for one in contenders)]


def _heading(name: str) -> str:
    metric = METRICS[name]
    return f"{metric.title} {metric.unit}".strip()


def _number(name: str, value: float | None) -> str:
    return "" if value is None else f"{value:.{METRICS[name].digits}f}"


def _signed(name: str, value: float) -> str:
    return f"{value:+z.{METRICS[name].digits}f}"  # z: what is shown as zero is not below it


def _short(title: str) -> str:
    return title if len(title) <= _TITLE_WIDTH else f"{title[: _TITLE_WIDTH - 1]}…"
