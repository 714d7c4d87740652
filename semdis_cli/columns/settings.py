"""Settings of attaching columns to a finished set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from semdis_cli.option import COLUMNS, Group, Option, OptionError
from semdis_cli.settings import AUTO, NONE
from semdis_cli.store.columns import CAPTION, LABEL
from semdis_cli.store.tensors.kinds import TENSOR_NAMES, is_tensor_name


@dataclass(frozen=True)
class AttachSettings(Group):
    """Settings of what is taken from tables: names of their columns, "auto" or "none".

    `columns`, `remove`: names with commas between them; what is removed goes away first, with the names of the classes
    if the labels are among it. `on`: the column that names the images; None: `key` or `file_name`. `is_partial`: images
    without a row are no trouble. `tensors`: folders and files to take tensors from, into the column `tensor_name`;
    None: into columns that are called like the tensors, of which `columns` says which. Raises `OptionError` for options
    that contradict each other.
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
        Option(
            "Tables or tensors are about some of the images; the others keep what they have.",
            COLUMNS,
            flags="--partial",
        ),
    ] = False
    tensors: Annotated[
        tuple[Path, ...],
        Option(
            "In place of tables: folder of .npy, .npz or .safetensors, or such a file; may be given again.",
            COLUMNS,
            metavar="SOURCE",
        ),
    ] = ()
    tensor_name: Annotated[
        str | None,
        Option(
            "Column that these tensors become: those of .npy, and of files of many, which call each by its image.",
            COLUMNS,
            flags="--as",
            metavar="NAME",
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for flag, names in (("--columns", self.column_names), ("--remove", self.removed)):
            if not all(names) or len(set(names)) < len(names) or {AUTO, NONE} & set(names):
                raise OptionError(flag, f"is names like a,b, each once, not {','.join(names)!r:.60}")
        if {CAPTION, LABEL} & set(self.column_names):
            raise OptionError("--columns", "names others than caption and label: these are --captions and --labels")
        if self.tensors:
            self._check_tensors()
        elif self.tensor_name is not None:
            raise OptionError("--as", "goes with --tensors")

    def _check_tensors(self) -> None:
        """Raise `OptionError` for options that say nothing of tensors, and for a name that no column can have."""
        of_tables = [("--captions", self.captions != AUTO), ("--labels", self.labels != AUTO), ("--on", self.on)]
        for flag, is_given in of_tables:
            if is_given:
                raise OptionError(flag, "is about tables, not --tensors")
        if self.columns != AUTO and (self.tensor_name is not None or self.columns == NONE):
            raise OptionError("--columns", "says which tensors of a file for each image: not with --as, nor none")
        for flag, names in (("--as", (self.tensor_name or "t",)), ("--columns", self.column_names)):
            if others := [name for name in names if not is_tensor_name(name)]:
                raise OptionError(flag, f"{others[0]!r:.80} is no name of a column of tensors: {TENSOR_NAMES}")

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
