"""Tensors of files -> columns of a finished set: each finds its image by its key, and is copied as it is."""

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from semdis_cli.columns.row_spool import stem_of
from semdis_cli.columns.settings import AttachSettings
from semdis_cli.columns.tensor_files import ForeignTensor, read_tensor
from semdis_cli.columns.tensor_sources import FoundTensors, describe_unread
from semdis_cli.columns.troubles import SpooledTroubles
from semdis_cli.errors import UsageError
from semdis_cli.events import Planning, Tell
from semdis_cli.stops import look
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.tensors.file import Places, place_of
from semdis_cli.store.tensors.kinds import TensorKind, describe_tensor
from semdis_cli.store.tensors.listed import TensorColumn, TensorColumns
from semdis_cli.store.views import file_key
from semdis_cli.store.writing.attach import SetEditor
from semdis_cli.store.writing.tensors import ColumnWriter, NewTensors, next_number


@dataclass
class _Column:
    """A column to be: the tensors that are about an image, each with the place of its latents."""

    name: str
    places: "array[int]" = field(default_factory=lambda: array("q"))
    tensors: list[ForeignTensor] = field(default_factory=list)
    used: set[str] = field(default_factory=set)  # names of tensors that an image took
    second: set[str] = field(default_factory=set)  # of those whose image has another one

    def take(self, names: Sequence[str], found: Mapping[str, ForeignTensor], place: int | None) -> bool:
        """Take the first tensor that has one of the names of an image; False if there is none."""
        hits = [name for name in names if name in found]
        if not hits:
            return False
        self.used.add(hits[0])
        self.second.update(hits[1:])
        if place is not None:  # an image that failed may have a tensor
            self.places.append(place)
            self.tensors.append(found[hits[0]])
        return True

    def keep(self, kind: TensorKind) -> Iterator[ForeignTensor]:
        """Sort by place, keep the tensors of a kind, and give the others."""
        order = np.argsort(np.array(self.places, dtype=np.int64)).tolist()
        yield from (self.tensors[at] for at in order if self.tensors[at].kind != kind)
        kept = [at for at in order if self.tensors[at].kind == kind]
        self.places, self.tensors = array("q", [self.places[at] for at in kept]), [self.tensors[at] for at in kept]


@dataclass
class TensorJoin:
    """Tensors that find their images; empty where the settings name none. `left`: columns of the set that stay.

    `num_bytes`: that are written at most. `troubles`: of what cannot be attached.
    """

    root: Path
    left: TensorColumns
    before: TensorColumns
    tell: Tell
    troubles: SpooledTroubles = field(default_factory=SpooledTroubles)
    columns: list[_Column] = field(default_factory=list)
    num_bytes: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    _places: Places = field(default_factory=lambda: np.zeros(0, np.int64))  # of all latents, rising
    _served: Places = field(default_factory=lambda: np.zeros(0, np.int64))  # of those that are to be used

    @classmethod
    def of(cls, editor: SetEditor, settings: AttachSettings, tell: Tell) -> Self:
        """Find the tensors that the settings name, and their images.

        Raises `UsageError` for a source without any, if none is about an image, or for a column that is none of
        tensors.
        """
        before = editor.latents.manifest
        left = {name: column for name, column in before.tensors.items() if name not in settings.removed}
        join = cls(editor.root, left, before.tensors, tell)
        if settings.tensors:
            found = FoundTensors(settings, join.troubles)
            for source in settings.tensors:
                found.add(source, tell)
            found.finish()
            join._check_names(found, before, settings)
            join._match(found, editor, settings)
            join._choose_kinds()
            join.counts["bad"] += found.num_bad
        return join

    def write(self, folder: Path) -> TensorColumns:
        """Write files of the new columns to `folder`; returns all columns that the set has then."""
        columns, writer = dict(self.left), ColumnWriter(self.root, folder, self._places, self._served)
        number = next_number(self.before)
        for column in self.columns:
            kind, places = column.tensors[0].kind, np.array(column.places, dtype=np.int64)
            new = NewTensors(column.name, kind, places, partial(self._read, column))
            written = writer.write(new, self.left.get(column.name), number)
            if written is not None:
                columns[column.name] = written
                number = max(number, next_number({column.name: written}))
        return columns

    def add_to(self, report: dict[str, Any], after: Manifest) -> dict[str, Any]:
        """Return a report with what became of tensors; the same if there were none."""
        removed = [column.num_images for name, column in self.before.items() if name not in after.tensors]
        if not (self.columns or removed or after.tensors):
            return report
        given = {place for column in self.columns for place in column.places}
        changed = int(np.isin(self._served, list(given)).sum()) if given else max(removed, default=0)
        changed = changed if after.tensors != self.before else 0
        images = report["images"] | {"changed": report["images"]["changed"] + changed}
        tensors = {name: column.num_images for name, column in sorted(after.tensors.items())}
        counts = {name: self.counts[name] for name in ("used", "second", "unused", "other", "bad", "missing")}
        return report | {"images": images, "tensors": tensors} | ({"found": counts} if self.columns else {})

    def _check_names(self, found: FoundTensors, before: Manifest, settings: AttachSettings) -> None:
        taken = before.columns.num_images.keys() & found.columns.keys() - {*settings.removed}
        if taken:
            name = min(taken)
            what = f"has a column {name!r} that is none of tensors; --remove {name} takes it away"
            raise UsageError(what, place=self.root)

    def _match(self, found: FoundTensors, editor: SetEditor, settings: AttachSettings) -> None:
        """Let every image take its tensors. Raises `UsageError` if there is none for any."""
        columns = [_Column(name) for name in sorted(found.columns)]
        places, served, first_key = array("q"), array("q"), ""
        file_of = partial(file_key, editor.latents.manifest.provenance)
        for line in editor.all_lines():
            look()
            first_key = first_key or line.key
            place = None if line.shard is None or line.row is None else place_of(line.shard, line.row)
            if place is not None:
                places.append(place)
                served.extend([place] if line.status == "ok" else [])
            names = _names(line.key, file_of(line.key))
            for column in columns:
                is_there = column.take(names, found.columns[column.name], place)
                if not is_there and line.status == "ok":
                    self._note_missing(line.key, column.name, settings)
        if not any(column.used for column in columns):
            name, tensor = next(iter(found.columns[columns[0].name].items()))
            what = f"no tensor is about an image: the first one is called {name!r:.80}, an image {first_key!r:.80}"
            advice = "; without --as a file is about the image of its name" if settings.tensor_name else ""
            raise UsageError(f"{what}{advice if tensor.name else ''}", place=tensor.path)
        for column in columns:
            self._note_unused(column, found.columns[column.name])
        self._places, self._served = (np.sort(np.array(some, dtype=np.int64)) for some in (places, served))
        self.columns = [column for column in columns if column.tensors]

    def _note_missing(self, key: str, name: str, settings: AttachSettings) -> None:
        self.counts["missing"] += 1
        if not settings.is_partial:
            has_some = name in self.left
            self.troubles.add(
                key, f"gets no new tensor {name}; one that it has stays" if has_some else f"has no tensor {name}"
            )

    def _note_unused(self, column: _Column, found: Mapping[str, ForeignTensor]) -> None:
        self.counts["used"] += len(column.used)
        for name, tensor in found.items():
            if name in column.used:
                continue
            if name in column.second:
                self.counts["second"] += 1
                self.troubles.add(str(tensor), "is not used: its image has a tensor that is called by its whole key")
            else:
                self.counts["unused"] += 1
                self.troubles.add(str(tensor), f"is about no image of the set: none is called {name!r:.80}")

    def _choose_kinds(self) -> None:
        """Leave out what is not of its column's kind: that which the set has, or most of the tensors are of."""
        for column in self.columns:
            before = self.left.get(column.name)
            most, _ = Counter(tensor.kind for tensor in column.tensors).most_common(1)[0]
            kind = most if before is None else before.kind
            for tensor in column.keep(kind):
                self.counts["other"] += 1
                is_a = describe_tensor(tensor.kind.dtype, tensor.kind.shape(tensor.num_rows))
                self.troubles.add(str(tensor), f"is {is_a}, but {column.name} is {kind}")
            self.num_bytes += sum(tensor.num_bytes for tensor in column.tensors) + _renewed_bytes(before)
        self.columns = [column for column in self.columns if column.tensors]

    def _read(self, column: _Column, number: int) -> tuple[int, bytes] | None:
        """Return rows and bytes of one of a column's tensors; None if it cannot be read, which is a trouble."""
        look()
        self.tell(Planning(f"writing {column.name}", number, len(column.tensors)))
        tensor = column.tensors[number]
        try:
            return tensor.num_rows, read_tensor(tensor)
        except (OSError, ValueError) as error:
            self.counts["bad"] += 1
            self.troubles.add(str(tensor), f"cannot be used: {describe_unread(error)}")
            return None


def _names(key: str, file: str) -> list[str]:
    """Return what a tensor of an image can be called, what counts most first."""
    own = [key, stem_of(key)]
    return own if file == key else [*own, file, stem_of(file)]


def _renewed_bytes(before: TensorColumn | None) -> int:
    return 0 if before is None else before.num_bytes
