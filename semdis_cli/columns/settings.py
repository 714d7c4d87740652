"""Settings of attaching columns to a finished set."""

from dataclasses import dataclass
from typing import Annotated

from semdis_cli.option import COLUMNS, Group, Option, OptionError
from semdis_cli.settings import AUTO, NONE
from semdis_cli.store.columns import CAPTION, LABEL


@dataclass(frozen=True)
class AttachSettings(Group):
    """Settings of what is taken from tables: names of their columns, "auto" or "none".

    `columns`, `remove`: names with commas between them; what is removed goes away first, with the names of the classes
    if the labels are among it. `on`: the column that names the images; None: `key` or `file_name`. `is_partial`: images
    without a row are no trouble. Raises `OptionError` for options that contradict each other.
    """

    captions: Annotated[
        str, Option("Column of the captions; auto: caption, captions, text or txt.", COLUMNS, metavar="auto|none|NAME")
    ] = AUTO
    labels: Annotated[
        str,
        Option("Column of the labels, numbers or names; auto: label or cls.", COLUMNS, metavar="auto|none|NAME"),
    ] = AUTO
    columns: Annotated[str, Option("More columns, by name; auto: all.", COLUMNS, metavar="auto|none|A,B")] = AUTO
    on: Annotated[
        str | None,
        Option("Column of the table that names the images.  [default: key or file_name]", COLUMNS, metavar="COLUMN"),
    ] = None
    remove: Annotated[
        str | None, Option("Take these columns away from all images, before others come.", COLUMNS, metavar="A,B")
    ] = None
    is_partial: Annotated[
        bool,
        Option("The table is about some of the images; the others keep what they have.", COLUMNS, flags="--partial"),
    ] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for flag, names in (("--columns", self.column_names), ("--remove", self.removed)):
            if not all(names) or len(set(names)) < len(names) or {AUTO, NONE} & set(names):
                raise OptionError(flag, f"is names like a,b, each once, not {','.join(names)!r:.60}")
        if {CAPTION, LABEL} & set(self.column_names):
            raise OptionError("--columns", "names others than caption and label: these are --captions and --labels")

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the columns that were asked for by `columns`."""
        return () if self.columns in {AUTO, NONE} else _split(self.columns)

    @property
    def removed(self) -> tuple[str, ...]:
        """Names of the columns that are to be removed."""
        return () if self.remove is None else _split(self.remove)


def _split(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))
