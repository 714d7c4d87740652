"""Rows of tables -> columns of the images of a finished set, by their keys; no latent is read."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from semdis_cli.columns.collect import CollectedRows
from semdis_cli.columns.row_spool import NO_LABEL, SECOND, UNUSED, USED, SpooledRow
from semdis_cli.columns.settings import AttachSettings
from semdis_cli.columns.table import open_rows
from semdis_cli.columns.troubles import SpooledTroubles
from semdis_cli.errors import UsageError
from semdis_cli.events import ColumnsAttached, ColumnTrouble, Event, Planning, Tell, untold
from semdis_cli.pipeline.attach_tensors import TensorJoin
from semdis_cli.stops import look
from semdis_cli.store.columns import LABEL, SetColumns
from semdis_cli.store.index_columns import SplitLine, columns_text, join_line, split_line
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.record import check_columns
from semdis_cli.store.views import file_key
from semdis_cli.store.writing.attach import NewLine, SetEditor

_LINES_AT_ONCE = 256  # no more, or Python's collector of garbage looks at them again and again
_MOST_TOLD = 3
_NOTHING: tuple[bytes, tuple[str, ...]] = b"", ()
_PLAIN_BYTES = 1 << 15  # of columns: no doubt that they are few enough


def attach(root: Path, tables: Sequence[Path], settings: AttachSettings, tell: Tell = untold) -> Iterator[Event]:
    """Give the images of the set in `root` the columns of `tables`, and take those away that are to be removed.

    A value that is there already is replaced where a row has another one; of several rows for an image the first one
    counts. The same goes for the tensors that the settings name. What cannot be attached is a `ColumnTrouble`, and
    costs nothing else. Raises what `SetEditor`, `open_rows`, `CollectedRows` and `TensorJoin` raise, and `UsageError`
    if no row is about an image: the set is what it was then.
    """
    started = time.perf_counter()
    with SetEditor(root) as editor:
        before = editor.latents.manifest
        if not (tables or settings.tensors):
            _check_removed(root, before, settings.removed)
        known = _without(before.columns, settings.removed)

        # Tables -> rows
        rows = CollectedRows(settings)
        for path in tables:
            tell(Planning(f"reading {path.name}"))
            yield from rows.add(open_rows(path, settings.on))
        rows.finish()

        # Tensors -> the images that they are of
        tensors = TensorJoin.of(editor, settings, tell)

        # Index and rows -> another index
        labels = rows.labels(known)
        join = _Join(rows, rows.numbered(labels), settings, partial(file_key, before.provenance))
        tell(Planning("writing the index"))
        more_bytes = rows.spool.num_bytes + tensors.num_bytes
        after = editor.replace(join.lines(editor.index_lines()), labels.classes, more_bytes, tensors.write)
    yield from join.troubles()
    yield from tensors.troubles.all()
    report = tensors.add_to(_report(root, join, before, after), after)
    yield ColumnsAttached(report | {"elapsed_s": round(time.perf_counter() - started, 3)})


def _check_removed(root: Path, manifest: Manifest, names: Sequence[str]) -> None:
    """Raise `UsageError` where none of the columns is there that are to be removed: their names may be misspelt."""
    there = {**manifest.columns.num_images, **manifest.tensors}
    if there.keys().isdisjoint(names):
        known = ", ".join(sorted(there)) or "none"
        raise UsageError(f"has no column {names[0]!r:.60} to remove; its columns: {known:.200}", place=root)


def _without(columns: SetColumns, names: Sequence[str]) -> SetColumns:
    """Return the columns of a set once those of `names` are gone."""
    left = {name: number for name, number in columns.num_images.items() if name not in names}
    return SetColumns(left, () if LABEL in names else columns.classes)


def _report(root: Path, join: "_Join", before: Manifest, after: Manifest) -> dict[str, Any]:
    outcomes = Counter(join.rows.spool.outcomes)
    rows = {"used": outcomes[USED], "second": outcomes[SECOND], "unused": outcomes[UNUSED], "bad": join.rows.num_bad}
    rows |= {"not_downloaded": join.rows.num_not_downloaded} if join.rows.num_not_downloaded else {}
    classes = after.columns.classes
    num_before = 0 if LABEL in join.settings.removed else len(before.columns.classes)
    new = {"number": len(classes) - num_before, "from": num_before, "first": list(classes[num_before:][:_MOST_TOLD])}
    return {
        "command": "attach",
        "latents": str(root),
        "images": {"ok": after.num_ok, "changed": join.num_changed, "without_row": join.num_without},
        "rows": rows,
        "columns": dict(after.columns.num_images),
        "classes": len(classes),
        "new_classes": new if new["number"] else None,
    }


@dataclass
class _Join:
    """Joins the lines of an index with rows. `numbers`: the class of each label in the rows, or why there is none."""

    rows: CollectedRows
    numbers: Sequence[int | ValueError]
    settings: AttachSettings
    file_of: Callable[[str], str]
    num_changed: int = 0
    num_without: int = 0  # images that are to be used, and have no row
    _troubles: SpooledTroubles = field(default_factory=SpooledTroubles)

    def lines(self, lines: Iterator[bytes]) -> Iterator[list[NewLine]]:
        """Give the lines of the new index, some at a time. Raises `UsageError` if no row is about an image."""
        spool, first_key = self.rows.spool, ""
        while some := list(map(split_line, islice(lines, _LINES_AT_ONCE))):
            look()
            first_key = first_key or some[0][0]
            yield list(map(self._joined, some, self._find([line[0] for line in some])))
        if spool.outcomes and USED not in spool.outcomes:
            key, table, _ = spool.place(0)
            what = f"no row is about an image: the first one says {key!r:.80}, and an image is {first_key!r:.80}"
            raise UsageError(what, place=self.rows.names[table])

    def _find(self, keys: Sequence[str]) -> list[Sequence[SpooledRow]]:
        """Return for each key the rows about its image or, if there are none, about the file that this is a view of."""
        found = self.rows.spool.find(keys)
        files = {at: self.file_of(keys[at]) for at, rows in enumerate(found) if not rows}
        views = {at: file for at, file in files.items() if file != keys[at]}
        for at, rows in zip(views, self.rows.spool.find(list(views.values())) if views else (), strict=True):
            found[at] = rows
        return found

    def troubles(self) -> Iterator[ColumnTrouble]:
        """Give what could not be attached, once all lines are through."""
        yield from self._troubles.all()
        spool = self.rows.spool
        for row in (row for row, outcome in enumerate(spool.outcomes) if outcome != USED):
            key, table, number = spool.place(row)
            place = f"{self.rows.names[table]}, row {number:,}"
            if spool.outcomes[row] == SECOND:
                yield ColumnTrouble(key, f"has another row before {place}, which is not used")
            else:
                yield ColumnTrouble(key, f"is no image of the set, but has {place}")

    def _joined(self, line: SplitLine, rows: Sequence[SpooledRow]) -> NewLine:
        key, shard, is_ok, columns, rest = line
        if rows:
            self.rows.spool.outcomes[rows[0][0]] = USED
            if len(rows) > 1:
                self._note_second(rows[1:])
        elif is_ok and self.rows.names:
            self._note_without(key)
        if shard is None:  # an image that failed may have a row
            return join_line(b"", rest), None, ()
        text, names = self._row_text(key, rows[0]) if rows else _NOTHING
        if columns or len(text) > _PLAIN_BYTES:
            text, names = self._merged(key, columns, text, names)
            self.num_changed += not columns or text != columns_text(columns).encode()
        else:
            self.num_changed += text != b""
        return join_line(text, rest), shard if is_ok else None, names

    def _note_second(self, rows: Sequence[SpooledRow]) -> None:
        """Note that rows are not used because another one comes first."""
        outcomes = self.rows.spool.outcomes
        for row, *_ in rows:
            outcomes[row] = outcomes[row] or SECOND

    def _note_without(self, key: str) -> None:
        self.num_without += 1
        if not self.settings.is_partial:
            self._troubles.add(key, "has no row")

    def _merged(
        self, key: str, columns: Mapping[str, Any], text: bytes, names: tuple[str, ...]
    ) -> tuple[bytes, tuple[str, ...]]:
        """Return the columns that an image had with those of a row, as text, and their names; not more than it may."""
        kept = {name: value for name, value in columns.items() if name not in self.settings.removed}
        if not kept.keys() <= set(names):
            both = kept | json.loads(text or b"{}")
            text, names = columns_text(both).encode(), tuple(both)
        if len(text) > _PLAIN_BYTES:
            try:
                check_columns(json.loads(text))
            except ValueError as error:
                self._troubles.add(key, str(error))
                return columns_text(kept).encode() if kept else b"", tuple(kept)
        return text, names

    def _row_text(self, key: str, row: SpooledRow) -> tuple[bytes, tuple[str, ...]]:
        """Return the columns of a row as text, its label among them, and their names."""
        _, label, names, before, after = row
        if label == NO_LABEL:
            return b"{%b}" % before if before else b"", names
        number = self.numbers[label]
        if isinstance(number, int):
            return b'{%b"label":%d%b}' % (before, number, after), names
        self._troubles.add(key, f"has no label: it {number}")
        text = before + after[1:] if before and after else (before or after).strip(b",")
        return b"{%b}" % text if text else b"", tuple(name for name in names if name != LABEL)
