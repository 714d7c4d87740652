"""Settings of what a run over images that come back leaves to look at: tables of figures, and a page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from semdis_cli.option import QUALITY, Group, Option

FigureFormat = Literal["jsonl", "csv", "parquet"]


def _parse_format(text: str) -> str:
    """Return the name of a format of tables. Raises `ValueError`."""
    if text not in get_args(FigureFormat):
        raise ValueError(f"is {', '.join(get_args(FigureFormat))}, not {text!r}")
    return text


@dataclass(frozen=True)
class PageSettings(Group):
    """Settings of tables and of the page. `report`: where the page goes; None: there is none.

    `num_pictures`: images that the page shows, of which a quarter are the worst, if there are more. `embed_mib`: what
    the page holds itself; if its pictures are more, they lie in a folder beside it. `keeps_worst`: the pictures of the
    worst image are kept even without a page.
    """

    formats: Annotated[
        tuple[FigureFormat, ...],
        Option(
            "Table of the figures of all images: jsonl, csv or parquet; repeatable.  [default: jsonl]",
            QUALITY,
            flags="--figures",
            metavar="FORMAT",
            show_default=False,
            parse=_parse_format,
        ),
    ] = ()
    report: Annotated[
        Path | None,
        Option("Write a page to look at: originals and reconstructions side by side, figures, latents.", QUALITY),
    ] = None
    num_pictures: Annotated[
        int,
        Option(
            "Images that the page shows: an even sample, and a quarter of the worst by PSNR.",
            QUALITY,
            flags="--report-images",
            min=1,
            max=20_000,
        ),
    ] = 100
    embed_mib: Annotated[
        int,
        Option(
            "Size of the page up to which its pictures are in it, in MiB; beyond it they lie in a folder beside it.",
            QUALITY,
            flags="--report-mib",
            min=0,
            max=2048,
        ),
    ] = 64
    keeps_worst: bool = False

    @property
    def tables(self) -> tuple[FigureFormat, ...]:
        """Formats of the tables that are written."""
        return tuple(dict.fromkeys(self.formats)) or ("jsonl",)
