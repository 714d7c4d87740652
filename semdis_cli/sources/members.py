"""Members of files that hold many images: their names, which of them are images, and what lies beside these.

As WebDataset has it, all members that share the path up to the first dot of the base name are one sample.
"""

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from semdis_cli.files.handles import Handle, close
from semdis_cli.files.image_list import ImageList
from semdis_cli.kinds.formats import has_image_suffix
from semdis_cli.records import MAX_BESIDE_BYTES, SourceImage
from semdis_cli.sources.files import read_at
from semdis_cli.sources.input_rules import InputRules, PassedOver, is_plain_name

_BESIDE = (".txt", ".json", ".cls", ".caption")


def parts_of(name: str) -> list[str]:
    """Split a member's name into folders and file; a leading slash is left out, as tar and unzip do it."""
    return [part for part in name.split("/") if part not in {"", "."}]


def leads_out(name: str, parts: Sequence[str]) -> bool:
    """Tell whether a member's name leads out of the folder in which it would be unpacked, or is none at all."""
    return ".." in parts or "\0" in name


def passed_over(parts: Sequence[str], rules: InputRules, has_image_bytes: Callable[[], bool]) -> str | None:
    """Return the kind by which a member that is a file is passed over, None for an image.

    It is an image by its suffix or, failing that, by its first bytes; of those `rules` pass over as in a folder.
    """
    has_suffix = has_image_suffix(parts[-1])
    if has_suffix and len(parts) == 1 and not rules.has_patterns and is_plain_name(parts[0]):
        return None  # what most members are, in short
    judgement = rules.judge(parts)
    if judgement.kind is not None or (has_suffix and not judgement.by_content):
        return judgement.kind
    return None if has_image_bytes() else PassedOver.NO_IMAGE


def last_of_each(images: ImageList) -> ImageList:
    """Return the images sorted by key; of several with one key the last one, as when all are unpacked in turn."""
    if images.is_rising:
        return images
    last: ImageList = ImageList()
    waiting: SourceImage | None = None
    for image in images.sorted():
        if waiting is not None and waiting.key != image.key:
            last.append(waiting)
        waiting = image
    if waiting is not None:
        last.append(waiting)
    return last


def split_sample(name: str) -> tuple[str, str]:
    """Split a member's name into sample and suffix, at the first dot of the base name that does not begin it."""
    start = name.rfind("/") + 1
    dot = name.find(".", start + 1)
    return (name, "") if dot < 0 else (name[:dot], name[dot + 1 :])


class Beside(NamedTuple):
    """Member that lies beside an image, and what it is called there; its `place` means something to its reader."""

    name: str
    place: int
    num_bytes: int


def read_beside(beside: Sequence[Beside], descriptor: Handle) -> dict[str, bytes]:
    """Read what lies beside an image in an open file, at most `MAX_BESIDE_BYTES + 1` of each; the file gets closed."""
    try:
        return {
            each.name: read_at(descriptor, each.place, min(each.num_bytes, MAX_BESIDE_BYTES + 1)) for each in beside
        }
    finally:
        close(descriptor)


@dataclass(slots=True, eq=False)
class Samples:
    """Images of one file and what lies beside them, a few bytes for each: there may be millions.

    They are noted as the members come; `finish` sorts them, and `beside` looks them up then. A sample is a hash of 64
    bits of its name. A suffix is a number, that of its name in `_names`.
    """

    _names: dict[str, int] = field(default_factory=dict)
    _images: tuple["array[int]", ...] = ()  # place, sample, and what precedes the suffix
    _others: tuple["array[int]", ...] = ()  # sample, place, size, suffix
    _by_place: Sequence[np.ndarray] = ()
    _by_sample: Sequence[np.ndarray] = ()
    _suffixes: Sequence[str] = ()

    @classmethod
    def of(cls, beside: Mapping[int, Sequence[Beside]]) -> "Samples":
        """Return those of images of which, by their places, it is known what lies beside them."""
        samples = cls()
        samples.begin()
        for number, (place, members) in enumerate(beside.items()):
            samples._add(samples._images, place, number, samples._number(""))
            for each in members:
                samples._add(samples._others, number, each.place, each.num_bytes, samples._number(each.name))
        samples.finish()
        return samples

    def begin(self) -> None:
        """Forget all, and begin anew."""
        self._names, self._by_sample = {}, ()
        self._images, self._others = tuple(map(array, "qqI")), tuple(map(array, "qqqI"))

    def add_image(self, name: str, place: int) -> None:
        """Note an image."""
        sample, suffix = split_sample(name)
        self._add(self._images, place, hash(sample), self._number(suffix.lower().rpartition(".")[0]))

    def add_other(self, name: str, place: int, num_bytes: int) -> None:
        """Note another member, if it is of a kind that lies beside images."""
        if name.lower().endswith(_BESIDE):
            sample, suffix = split_sample(name)
            self._add(self._others, hash(sample), place, num_bytes, self._number(suffix.lower()))

    def finish(self) -> None:
        """Sort what was noted."""
        if self._others[0]:
            images, others = (list(map(np.asarray, columns)) for columns in (self._images, self._others))
            by_place, by_sample = (np.argsort(columns[0], kind="stable") for columns in (images, others))
            self._by_place = [each[by_place] for each in images]
            self._by_sample = [each[by_sample] for each in others]
            self._suffixes = list(self._names)
        self._images = self._others = ()

    def beside(self, place: int) -> list[Beside]:
        """List what lies beside the image at `place`, each name once; the last one counts, as when it is unpacked.

        `a.left.txt` is the `txt` of `a.left.jpg`, before `a.txt`.
        """
        if not self._by_sample:
            return []
        at = int(np.searchsorted(self._by_place[0], place))
        sample, inner = self._by_place[1][at], self._suffixes[self._by_place[2][at]]
        samples, places, sizes, suffixes = self._by_sample
        first, end = (int(np.searchsorted(samples, sample, side)) for side in ("left", "right"))
        found: dict[str, Beside] = {}
        own: dict[str, Beside] = {}
        for row in range(first, end):
            name = self._suffixes[suffixes[row]]
            before, _, kind = name.rpartition(".")
            is_own = before != "" and before == inner
            name = kind if is_own else name
            (own if is_own else found)[name] = Beside(name, int(places[row]), int(sizes[row]))
        return list((found | own).values())

    def _number(self, suffix: str) -> int:
        return self._names.setdefault(suffix, len(self._names))

    @staticmethod
    def _add(columns: Sequence["array[int]"], *values: int) -> None:
        for column, value in zip(columns, values, strict=True):
            column.append(value)
