"""Columns of a set as exports write them: each of one kind over all images, looked up in the index one by one."""

import json
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from semdis_cli.errors import StoreError
from semdis_cli.stops import looking
from semdis_cli.store.columns import CAPTION, LABEL, is_label
from semdis_cli.store.index import parse_place, parse_row
from semdis_cli.store.reader import LatentSource
from semdis_cli.store.record import check_columns

Kind = Literal["bool", "int", "float", "text", "texts", "json"]

NO_LABEL = -1  # where a format has no other way to say that there is none
_INT64 = 1 << 63
_EXACT_FLOAT = 1 << 53


@dataclass(frozen=True)
class ExportColumns:
    """Columns of the images of `source`.

    `kinds`: by name, one for all images; a column of `json` has values of several kinds, or objects. `num_images`: how
    many have each. `classes`: names of the labels, if each label has one. `mean_bytes`: of an image's columns, about.
    `found`: of a part of the images (`part`) their columns, by key.
    """

    source: LatentSource
    kinds: Mapping[str, Kind]
    num_images: Mapping[str, int]
    classes: tuple[str, ...] = ()
    mean_bytes: int = 0
    _offsets: "array[int]" = field(default_factory=lambda: array("Q"))  # of the row of each key, in the index
    found: Mapping[str, Mapping[str, Any]] | None = None
    complete: frozenset[str] = frozenset()  # names of those that each image has

    @classmethod
    def of(cls, source: LatentSource) -> Self:
        """Look through the index. Raises `StoreError` for one that is damaged."""
        latents = source.latents
        if latents is None or not latents.manifest.columns:
            return cls(source, {}, {})
        kinds: dict[str, Kind] = {}
        num_images: Counter[str] = Counter()
        offsets, num_bytes, num_labels = array("Q"), 0, 0
        for offset, place in looking(latents.places()):
            offsets.append(offset)
            columns = _present(place.columns)
            num_images.update(columns.keys())
            num_bytes += len(str(columns).encode()) if columns else 0
            num_labels = max(num_labels, label_of(columns) + 1)
            for name, value in columns.items():
                kinds[name] = _join(kinds.get(name), value)
        classes = latents.manifest.columns.classes
        known = {name: kinds[name] for name in sorted(kinds)}
        mean_bytes = num_bytes // max(1, len(offsets))
        complete = frozenset(name for name in known if num_images[name] == len(source.keys))
        known_classes = classes if num_labels <= len(classes) else ()
        return cls(source, known, num_images, known_classes, mean_bytes, offsets, complete=complete)

    def part(self, source: LatentSource) -> "ExportColumns":
        """Return the same of some of the images, those of `source`: all that is known, and their columns alone."""
        found = {key: self._look_up(key) for key in source.keys} if self.kinds else {}
        return replace(self, source=source, found=found, _offsets=array("Q"))

    def is_complete(self, name: str) -> bool:
        """Tell whether each image of the set has a column."""
        return name in self.complete

    def of_image(self, key: str) -> dict[str, Any]:
        """Return all columns of one image, None where it has none. Raises `StoreError` if the set has changed."""
        if not self.kinds:
            return {}
        columns = self._look_up(key)
        return {name: _as_kind(columns.get(name), kind) for name, kind in self.kinds.items()}

    def flat(self, key: str) -> dict[str, Any]:
        """Return the same, with the text of JSON for columns of that kind."""
        return {
            name: json_text(value) if self.kinds[name] == "json" and value is not None else value
            for name, value in self.of_image(key).items()
        }

    def _look_up(self, key: str) -> Mapping[str, Any]:
        if self.found is not None:
            return self.found[key]
        latents = self.source.latents
        assert latents is not None, "only sets have columns"
        number = bisect_left(self.source.keys, key)
        line = latents.line_at(self._offsets[number])
        try:
            place = parse_row(parse_place, line)
        except StoreError:
            place = None
        if place is None or place.key != key:
            raise StoreError("was replaced while it was read; run the same command again", place=latents.index)
        return _present(place.columns)


def written_names(names: Iterable[str], taken: Collection[str]) -> list[str]:
    """Return what columns are called beside fields whose names are `taken`: the same, or with `_` behind it."""
    used, written = set(taken), []
    for name in names:
        free = name
        while free in used:
            free += "_"
        used.add(free)
        written.append(free)
    return written


def caption_of(columns: Mapping[str, Any]) -> str:
    """Return the caption of an image, the first of several; nothing if there is none."""
    value = columns.get(CAPTION)
    captions = value if isinstance(value, list) else [value]
    return next((text for text in captions if isinstance(text, str)), "")


def label_of(columns: Mapping[str, Any]) -> int:
    """Return the label of an image, -1 if there is none."""
    label = columns.get(LABEL)
    return label if is_label(label) and label < _INT64 else NO_LABEL


def json_text(value: object) -> str:
    """Return a value of a column as JSON."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False)


def _present(columns: Any) -> dict[str, Any]:
    """Return the columns of a row that have a value. Raises `StoreError` for what is no columns."""
    return {name: value for name, value in parse_row(check_columns, columns).items() if value is not None}


def _join(known: Kind | None, value: object) -> Kind:
    """Return the kind of a column whose values so far are of a `known` one."""
    kind = _kind(value)
    if known is None or known == kind:
        return kind
    for both, wider in (({"int", "float"}, "float"), ({"text", "texts"}, "texts")):
        if {known, kind} == both:
            return wider  # type: ignore[return-value] # both are kinds
    return "json"


def _kind(value: object) -> Kind:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if abs(value) <= _EXACT_FLOAT else "json"
    if isinstance(value, float):
        return "float"
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return "texts"
    return "text" if isinstance(value, str) else "json"


def _as_kind(value: Any, kind: Kind) -> Any:
    """Return the same value in the form that all of a column have."""
    if value is None:
        return None
    if kind == "float":
        return float(value)
    return [value] if kind == "texts" and isinstance(value, str) else value
