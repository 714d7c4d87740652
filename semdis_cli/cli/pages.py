"""The page of a run: checked before work, made when all is measured, told of at the end."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semdis_cli.errors import UsageError
from semdis_cli.settings import SourceSettings
from semdis_cli.settings.page import PageSettings
from semdis_cli.wording import count

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from semdis_cli.pipeline.measuring.measured import Finish, Measured

_TRANSIENT = ".semdis-"  # names of folders that a run keeps in its own until it is complete begin so
_TITLE_SOURCES = 3


def check_page(page: PageSettings, output: Path) -> None:
    """Raise `UsageError` for tables or a page that cannot be written, or not beside what `output` gets, before work."""
    if "parquet" in page.tables:
        from semdis_cli.store.exchange.parquet_writer import check_pyarrow

        check_pyarrow()
    if page.report is not None:
        from semdis_cli.evaluation.page.build import check_report_path

        check_report_path(page.report)
        inner, outer = (Path(os.path.realpath(path)) for path in (page.report, output))  # of links in a circle too
        if outer.is_relative_to(inner):
            raise UsageError(f"would be the folder of -o {output} too; give the page another name", place=page.report)
        if inner.is_relative_to(outer) and inner.relative_to(outer).parts[0].startswith(_TRANSIENT):
            raise UsageError("lies in a folder that the run removes; give the page another one", place=page.report)


def finish_with(page: PageSettings, named: SourceSettings, worst: "WorstPair | None" = None) -> "Finish":
    """Return what is made of a run's figures once all are there: a page, if one is asked for. `worst` is filled."""
    from semdis_cli.pipeline.measuring.measured import nothing_more

    make: Finish = nothing_more
    if page.report is not None:
        from semdis_cli.evaluation.report import page_of

        make = page_of(page, _title(named))

    def finish(measured: "Measured") -> dict[str, Any]:
        if worst is not None:
            worst.fill(measured)
        return make(measured)

    return finish


def _title(named: SourceSettings) -> str:
    """Return what a page is called: after its sources, the first ones of many; or after the list that names them."""
    names = [str(source) for source in named.sources]
    if named.files_from is not None:
        names.append("a list on stdin" if str(named.files_from) == "-" else str(named.files_from))
    more = [f"{len(names) - _TITLE_SOURCES:,} more"] if len(names) > _TITLE_SOURCES + 1 else names[_TITLE_SOURCES:]
    return ", ".join([*names[:_TITLE_SOURCES], *more])


@dataclass
class WorstPair:
    """The image that came back worst, for a terminal: `pictures` of the original and of the first contender."""

    longest_px: int
    key: str = ""
    pictures: "tuple[NDArray[np.uint8], ...]" = ()

    def fill(self, measured: "Measured") -> None:
        """Take it from what a run has measured; it stays empty if there is none."""
        from semdis_cli.images.thumbnails import small_pixels
        from semdis_cli.pipeline.measuring.kept_pictures import kept_pictures

        worst = {row.key for row in measured.figures.worst[:1]}
        for one in kept_pictures(measured.pictures, len(measured.contenders)):
            if one.key in worst:
                files = (one.original, one.versions[0])
                self.key = one.key
                self.pictures = tuple(small_pixels(path.read_bytes(), self.longest_px) for path in files)


def describe_page(report: dict[str, Any]) -> str:
    """Return what to add to the closing line about the page."""
    page = report.get("page")
    if page is None:
        return ""
    beside = f" and {page['folder']}" if page["folder"] else ""
    return f"; {count(page['images'], 'image')} to look at in {page['path']}{beside}"
