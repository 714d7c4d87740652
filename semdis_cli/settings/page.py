"""Settings of what a run over images that come back leaves to look at: tables of figures, and a page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from semdis_cli.option import QUALITY, Group, Option

FigureFormat = Literal["jsonl", "csv", "parquet"]


@dataclass(frozen=True)
class PageSettings(Group):
    """Settings of tables and of the page. `report`: where the page goes; None: there is none.

    `num_pictures`: images that the page shows, of which a quarter are the worst, if there are more. `embed_mib`: what
    the page holds itself; if its pictures are more, they lie in a folder beside it.
    """

    formats: Annotated[
        tuple[FigureFormat, ...],
        Option(
            "Table of the figures of all images: jsonl, csv or parquet; repeatable.  [default: jsonl]",
            QUALITY,
            flags="--figures",
            show_default=False,
        ),
    ] = ("jsonl",)
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
    ] = 200
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
