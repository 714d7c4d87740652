"""All rows of some tables, read once and kept as they go into an index."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from semdis_cli.columns.labels import MAX_CLASSES, Labels, named_numbers, numbers, texts
from semdis_cli.columns.row_spool import NO_LABEL, RowSpool, stem_of
from semdis_cli.columns.row_texts import RowText, RowTexts
from semdis_cli.columns.settings import AttachSettings
from semdis_cli.columns.table import KeyedRow, OpenedTable
from semdis_cli.columns.values import label_number
from semdis_cli.errors import UsageError
from semdis_cli.events import ColumnTrouble
from semdis_cli.settings import AUTO, NONE
from semdis_cli.store.columns import SetColumns

_NOT_DOWNLOADED = ("failed_to_download", "failed_to_resize")  # `status` of rows of img2dataset that have no image


@dataclass
class CollectedRows:
    """The rows of tables, in their order. `names`: of the tables.

    `num_bad`: rows that cannot be read; `num_not_downloaded`: of img2dataset's, which are about no image.
    """

    settings: AttachSettings
    spool: RowSpool = field(default_factory=RowSpool)
    names: list[str] = field(default_factory=list)
    num_bad: int = 0
    num_not_downloaded: int = 0
    _labels: dict[Any, int] = field(default_factory=dict)  # different ones, as the tables have them
    _class_names: set[tuple[str, ...]] = field(default_factory=set)
    _found: set[str] = field(default_factory=set)

    def add(self, table: OpenedTable) -> Iterator[ColumnTrouble]:
        """Read the rows of one more table, and give what of them cannot be kept. Raises `UsageError`."""
        path = table.file.path
        if table.key_column is None:
            raise UsageError("has no row that can be read", place=path)
        self.names.append(path.name)
        self.spool.begin_table(stem_of(path.name))
        taken = RowTexts(self.settings, table.key_column)
        for batch in table.batches():
            bad = [row for row in batch if isinstance(row[2], ValueError)]
            yield from (ColumnTrouble(f"{path.name}, row {number:,}", str(reason)) for number, _, reason in bad)
            self.num_bad += len(bad)
            good = [row for row in batch if _has_image(row)]
            self.num_not_downloaded += len(batch) - len(bad) - len(good)
            yield from self._add(good, taken)
        self._found |= taken.found
        self._class_names |= {names for name, names in table.classes.items() if name == taken.label_field}

    def _add(self, rows: Sequence[KeyedRow], taken: RowTexts) -> Iterator[ColumnTrouble]:
        """Add rows that could be read, and give what of them cannot be kept."""
        if not rows:
            return
        numbers, keys, fields = zip(*rows, strict=True)
        texts = taken.take(fields)
        values = [text[1] for text in texts]
        labels = list(map(self._labels.get, values)) if set(map(type, values)) <= {int, str} else [None]
        if None in labels:
            labels = list(map(self._known_label, values))
        if None in labels or any(map(itemgetter(-1), texts)):
            for key, text in zip(keys, texts, strict=True):
                yield from (ColumnTrouble(key, reason) for reason in self._reasons(text, taken))
        self.spool.add(numbers, keys, texts, [NO_LABEL if label is None else label for label in labels])

    def _known_label(self, value: Any) -> int | None:
        """Return the number under which a label is noted; None for one that cannot be any."""
        if value is None:
            return NO_LABEL
        if type(value) in {int, str} and value in self._labels:
            return self._labels[value]
        try:
            label_number(value)
        except ValueError:
            return None
        if len(self._labels) == MAX_CLASSES:
            raise UsageError(f"more than {MAX_CLASSES:,} different labels: are these classes?")
        return self._labels.setdefault(value, len(self._labels))

    @staticmethod
    def _reasons(text: RowText, taken: RowTexts) -> Iterator[str]:
        """Give the reasons for which an image lacks columns that its row has."""
        _, label, _, _, reasons = text
        try:
            if label is not None:
                label_number(label)
        except ValueError as error:
            yield f"has no label: its {taken.label_field} {error}"
        yield from reasons

    def finish(self) -> None:
        """Make the rows ready to be found. Raises `UsageError` if none of them has what was asked for."""
        settings = self.settings
        asked = [("--captions", settings.captions), ("--labels", settings.labels)]
        asked += [("--columns", name) for name in settings.column_names]
        for flag, name in asked if self.names else ():
            if name not in {AUTO, NONE, *self._found}:
                raise UsageError(f"{flag} {name}: there is no such column in {', '.join(self.names):.200}")
        self.spool.finish()

    def labels(self, known: SetColumns) -> Labels:
        """Return what makes labels of those in the tables, in a set that has `known` columns. Raises `UsageError`."""
        if not self._labels and not self._class_names:
            return numbers(known)
        if len(self._class_names) > 1:
            raise UsageError("the tables name their classes differently; attach them one after the other")
        if self._class_names:
            return named_numbers(next(iter(self._class_names)), known)
        are_numbers = all(label_number(value) is not None for value in self._labels)
        return numbers(known) if are_numbers else texts(self._labels, known)

    def numbered(self, labels: Labels) -> Sequence[int | ValueError]:
        """Return the class of each label that rows were spooled with, and why there is none."""
        return [_make(labels, value) for value in self._labels]


def _has_image(row: KeyedRow) -> bool:
    """Tell whether a row could be read, and is no download of img2dataset that failed."""
    _, _, fields = row
    return not isinstance(fields, ValueError) and fields.get("status") not in _NOT_DOWNLOADED


def _make(labels: Labels, value: Any) -> int | ValueError:
    try:
        return labels(value)
    except ValueError as error:
        return error
