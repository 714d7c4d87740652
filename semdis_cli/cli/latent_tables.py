"""Figures of sets of latents -> the tables that `eval` prints, within 80 columns."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from semdis_cli.cli.tables import Section
from semdis_cli.wording import count

Json = dict[str, Any]

_SIDE_BY_SIDE = 3
_PLACE_WIDTH = 44
_METHODS = {
    "knn_mean": "k-NN, mean",
    "knn_mean_std": "k-NN, mean+std",
    "knn_positions": "k-NN, positions",
    "probe_mean": "probe, mean",
    "probe_mean_std": "probe, mean+std",
    "probe_positions": "probe, positions",
}


def sections(report: Json) -> Iterator[Section]:
    """Give all that there is to show, top to bottom; sets are called A, B, ..."""
    sets: Sequence[Json] = report["sets"]
    named = [(_letter(number), figures) for number, figures in enumerate(sets)]
    rows = [(name, f"{one['images']:,}", f"{one['channels']}", _short(one["latents"])) for name, one in named]
    yield Section(
        f"Latents, of the same {count(report['sample']['images'], 'image')}", ("", "#images", "#channels", ""), rows
    )
    for start in range(0, len(named), _SIDE_BY_SIDE):
        shown = named[start : start + _SIDE_BY_SIDE]
        if "why_none" not in report["labels"]:
            yield _accuracies(report["labels"], shown)
        yield _statistics(shown)
    if report["differences"]:
        yield _differences(report["differences"])


def _accuracies(labels: Json, shown: Sequence[tuple[str, Json]]) -> Section:
    """Give the share of images of each set that are given their class, with intervals."""
    rows = [
        (title, *(_interval(one["accuracy"][name], "share") for _, one in shown)) for name, title in _METHODS.items()
    ]
    rows.append(("largest class", *(_percent(labels["majority"]["test"]) for _ in shown)))
    rows.append(("chance", *(_percent(labels["chance"]) for _ in shown)))
    asked = f"k-NN asked {labels['images']:,} images, probes {labels['split']['test']:,}"
    title = f"Right of {labels['classes']:,} classes, % (95 % interval); {asked}"
    return Section(title, ("", *(f"#{name}" for name, _ in shown)), rows)


def _statistics(shown: Sequence[tuple[str, Json]]) -> Section:
    """Give the spread of the channels of each set."""
    figures: dict[str, Callable[[Json], str]] = {
        "dead channels": lambda found: f"{len(found['dead_channels']):,}",
        "|mean|, largest": lambda found: f"{max(map(abs, found['mean'])):.3f}",
        "std": lambda found: f"{min(found['std']):.3f}–{max(found['std']):.3f}",
        "skewness, median": lambda found: _median(found["skewness"]),
        "kurtosis, median": lambda found: _median(found["excess_kurtosis"]),
        "neighbours": lambda found: _number(found["neighbour_correlation"]),
        "effective rank": lambda found: f"{found['effective_rank']:.1f}",
        "participation": lambda found: f"{found['participation_ratio']:.1f}",
        "first three, %": lambda found: _percent(sum(found["explained_variance"][:3])),
        "90 % of variance": lambda found: f"{found['components_for'].get('90%', 0):,}",
    }
    rows = [(title, *(figure(one["statistics"]) for _, one in shown)) for title, figure in figures.items()]
    return Section("Channels and components", ("", *(f"#{name}" for name, _ in shown)), rows)


def _differences(differences: Sequence[Json]) -> Section:
    rows = [
        (
            f"{_letter(one['set'])} - A",
            _METHODS[one["method"]],
            f"{100 * one['difference']:+.1f}",
            f"{100 * one['low']:+.1f}..{100 * one['high']:+.1f}",
            f"{one['better']:,}",
            f"{one['worse']:,}",
        )
        for one in differences
    ]
    headings = ("", "", "#points", "#95 %", "#only right", "#only wrong")
    return Section("Differences, image by image", headings, rows)


def _letter(number: int) -> str:
    """`A` to `Z`, then `A1`, `B1`, ..."""
    return f"{chr(ord('A') + number % 26)}{number // 26 or ''}"


def _interval(found: Json, name: str) -> str:
    return f"{_percent(found[name])} ({_percent(found['low'])}–{_percent(found['high'])})"


def _percent(share: float) -> str:
    return "100" if share >= 0.9995 else f"{100 * share:.1f}"


def _median(values: Sequence[float | None]) -> str:
    known = sorted(value for value in values if value is not None)
    return f"{known[len(known) // 2]:.2f}" if known else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _short(place: str) -> str:
    return place if len(place) <= _PLACE_WIDTH else f"…{place[1 - _PLACE_WIDTH :]}"
