"""Settings of what comes with an image: captions, labels and others."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from semdis_cli.option import (
    COLUMNS,
    Group,
    Option,
    OptionError,
)

AUTO, NONE, FOLDERS = "auto", "none", "folders"


@dataclass(frozen=True)
class ColumnSettings(Group):
    """Settings of what comes with an image: where captions, labels and other columns are taken from.

    "auto" takes what is found by itself where it is plain, "none" nothing. Everything else is a name: that of a column
    of the table, of a field of the `.json` beside an image, or the suffix of another file there. `columns`: names of
    more, with commas between them. `on`: the column of `table` that names the images; None: `key` or `file_name`.
    Raises `OptionError` for options that contradict each other.
    """

    captions: Annotated[
        str,
        Option(
            "Captions: a column of the table, or what lies beside an image (txt, caption, a field of its json).",
            COLUMNS,
            metavar="auto|none|NAME",
        ),
    ] = AUTO
    caption_lines: Annotated[bool, Option("Each line of a text is a caption of its own.", COLUMNS)] = False
    labels: Annotated[
        str,
        Option(
            "Labels: the folders at the top of the source are the classes, or as --captions.",
            COLUMNS,
            metavar="auto|none|folders|NAME",
        ),
    ] = AUTO
    columns: Annotated[
        str, Option("More columns, by name; auto: all of a table.", COLUMNS, metavar="auto|none|A,B")
    ] = AUTO
    table: Annotated[
        Path | None,
        Option("Table of captions and the like: JSONL, CSV, TSV, JSON or Parquet.", COLUMNS, metavar="FILE"),
    ] = None
    on: Annotated[
        str | None,
        Option("Column of the table that names the images.  [default: key or file_name]", COLUMNS, metavar="COLUMN"),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.on is not None and self.table is None:
            raise OptionError("--on", "goes with --table")
        if self.table is not None and not self.is_any:
            raise OptionError("--table", "is of no use where --captions, --labels and --columns are none")
        if self.caption_lines and self.captions == NONE:
            raise OptionError("--caption-lines", "is of no use where --captions is none")
        names = self.column_names
        if not all(names) or len(set(names)) < len(names) or {AUTO, NONE} & set(names):
            raise OptionError("--columns", f"is auto, none, or names like a,b, not {self.columns!r:.60}")
        if "caption" in names or "label" in names:
            raise OptionError("--columns", "names others than caption and label: these are --captions and --labels")

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the columns that were asked for by `columns`."""
        return () if self.columns in {AUTO, NONE} else tuple(name.strip() for name in self.columns.split(","))

    @property
    def is_any(self) -> bool:
        """Tell whether images get any columns."""
        return (self.captions, self.labels, self.columns) != (NONE, NONE, NONE)

    @property
    def is_explicit(self) -> bool:
        """Tell whether any of them was asked for, not just what is found by itself."""
        ways = self.captions, self.labels, self.columns
        return self.table is not None or self.caption_lines or not {AUTO, NONE}.issuperset(ways)


WITHOUT_COLUMNS = ColumnSettings(NONE, labels=NONE, columns=NONE)
