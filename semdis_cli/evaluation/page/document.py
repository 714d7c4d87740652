"""The HTML of a page: its own files put together, and what it shows as blocks of JSON that no text can end."""

import base64
import hashlib
import html
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from string import Template
from typing import Any

from semdis_cli.evaluation.page.contents import Page, PageImage, PageMetric
from semdis_cli.files.json_text import escape_text, strict_json

# One after the other they are one script.
_SCRIPTS = (
    *("contents.js", "dom.js", "summary.js", "differences.js", "state.js", "selection.js", "gallery.js"),
    *("axis.js", "histogram.js", "scatter.js", "toolbar.js", "stage.js", "viewer.js", "keys.js", "main.js"),
)
_LISTED_FAILURES = 1000


@dataclass(frozen=True, slots=True)
class Placement:
    """Place of pictures: within the page, or in `folder`, relative and escaped as in a URL; it may have thumbnails."""

    folder: str | None = None
    has_thumbnails: bool = False


def document(page: Page, placement: Placement, pictures: Iterable[bytes]) -> Iterator[bytes]:
    """Make the page, in pieces. `pictures`: the blocks that lie within it."""
    start, _, end = _own_file("page.html").partition("$contents")
    style, script = _own_file("page.css"), "\n".join(map(_own_file, _SCRIPTS))
    values = {
        "title": html.escape(escape_text(page.title)),
        "policy": _policy(style, script, placement),
        "style": style,
        "script": script,
    }
    yield Template(start).substitute(values).encode()
    yield from _json_block("contents", [strict_json(_facts(page, placement))])
    yield from _json_block("images", _rows(page))
    yield from pictures
    yield Template(end).substitute(values).encode()


@cache
def _own_file(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _policy(style: str, script: str, placement: Placement) -> str:
    """Return the policy for browsers: run this script, show pictures of its own, and nothing else."""
    images = "data:" if placement.folder is None else "data: 'self' file:"
    return (
        f"default-src 'none'; script-src {_source(script)}; style-src {_source(style)}; img-src {images}; "
        "base-uri 'none'; form-action 'none'"
    )


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json_block(name: str, pieces: Iterable[str]) -> Iterator[bytes]:
    """A block of JSON in which no text is taken for markup: all characters are ASCII, and none of them is `<`."""
    yield f'<script type="application/json" id="{name}">'.encode()
    for piece in pieces:
        yield piece.replace("<", "\\u003c").encode("ascii")
    yield b"</script>\n"


def _facts(page: Page, placement: Placement) -> dict[str, Any]:
    """Everything but the images."""
    return {
        "title": page.title,
        "num_measured": page.num_measured,
        "metrics": [asdict(metric) for metric in page.metrics],
        "contenders": [
            {
                "title": contender.title,
                "facts": contender.facts,
                "summary": {name: dict(values) for name, values in contender.summary.items()},
                "histograms": {name: asdict(histogram) for name, histogram in contender.histograms.items()},
                "set_figures": dict(contender.set_figures),
            }
            for contender in page.contenders
        ],
        "differences": [asdict(difference) for difference in page.differences],
        "explained": page.explained,
        "provenance": page.provenance,
        "num_failures": len(page.failures),
        "failures": page.failures[:_LISTED_FAILURES],
        "folder": placement.folder,
        "has_thumbnails_beside": placement.has_thumbnails,
    }


def _rows(page: Page) -> Iterator[str]:
    """A JSON array of the images, one a line."""
    separator = "[\n"
    for image in page.images:
        yield separator + strict_json(_row(image, page.metrics))
        separator = ",\n"
    yield "\n]" if page.images else "[]"


def _row(image: PageImage, metrics: Iterable[PageMetric]) -> dict[str, Any]:
    """`figures`: of each version, in the order of the metrics; null where it has none."""
    names = [metric.name for metric in metrics]
    return {
        "key": image.key,
        "size": image.size,
        "has_pca": image.pca is not None,
        "figures": [[version.figures.get(name) for name in names] for version in image.versions],
    }
