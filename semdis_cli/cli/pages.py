"""The page of a run: checked before work, made when all is measured, told of at the end."""

from typing import TYPE_CHECKING, Any

from semdis_cli.settings import SourceSettings
from semdis_cli.settings.page import PageSettings
from semdis_cli.wording import count

if TYPE_CHECKING:
    from semdis_cli.pipeline.roundtrip import Finish


def check_page(page: PageSettings) -> None:
    """Raise `UsageError` for a page that cannot be written, before work."""
    if page.report is not None:
        from semdis_cli.evaluation.page.build import check_report_path

        check_report_path(page.report)


def finish_with(page: PageSettings, named: SourceSettings) -> "Finish":
    """Return what is made of a run's figures once all are there: a page, if one is asked for."""
    from semdis_cli.pipeline.roundtrip import nothing_more

    if page.report is None:
        return nothing_more
    from semdis_cli.evaluation.report import page_of

    return page_of(page, ", ".join(str(source) for source in named.sources) or str(named.files_from))


def describe_page(report: dict[str, Any]) -> str:
    """Return what to add to the closing line about the page."""
    page = report.get("page")
    if page is None:
        return ""
    beside = f" and {page['folder']}" if page["folder"] else ""
    return f"; {count(page['images'], 'image')} to look at in {page['path']}{beside}"
