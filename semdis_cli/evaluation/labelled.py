"""Images that several sets have in common, their classes, and which of them are to be used."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import nsmallest

import numpy as np
from numpy.typing import NDArray

from semdis_cli.errors import StoreError, UsageError
from semdis_cli.settings import LatentEvalSettings
from semdis_cli.stops import looking
from semdis_cli.store.columns import LABEL, is_label
from semdis_cli.store.reader import LatentSource
from semdis_cli.store.views import file_key

LEAST_FILES = 5  # of a class: of fewer, none would be left to learn from, to choose by, or to ask
TRAIN, VALIDATION, TEST = range(3)
_SHARE = 5  # a fifth of the files of a class are asked, another fifth decide on the strength of L2
NO_CLASS = -1


@dataclass(frozen=True, eq=False)
class Classes:
    """Classes of images, in the order of these.

    `names`, sorted, the `numbers` [N] of each image (-1: of a class that is left out), and the `parts` [N] of a split.
    `column`: what they came from; `left_out`: names of classes with too few files.
    """

    column: str
    names: tuple[str, ...]
    numbers: NDArray[np.int64]
    parts: NDArray[np.int64]
    left_out: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ChosenImages:
    """Images to be used, the same of every set: `keys` in the order of their hashes.

    `files` [N]: the number of the file that each is made from. `num_common`: images that all sets have and, where there
    are any, that have a class. `classes`: None without, and `why_none` says why.
    """

    keys: tuple[str, ...]
    files: NDArray[np.int64]
    num_common: int
    classes: Classes | None
    why_none: str = ""


def choose_images(sources: Sequence[LatentSource], settings: LatentEvalSettings) -> ChosenImages:
    """Choose the images that all `sources` have, at most as many as `settings` say.

    Raises `UsageError` for sets that have none in common, and if classes were asked for by name and there are none.
    """
    common: Collection[str] = sources[0].keys
    if len(sources) > 1:
        common = frozenset(common).intersection(*(source.keys for source in sources[1:]))
    if not common:
        places = ", ".join(str(source.path) for source in sources)
        raise UsageError(
            "have no image in common: keys differ" if len(sources) > 1 else "holds no latents", place=places
        )
    column = settings.label or LABEL
    labelled = [source for source in sources if _num_labelled(source, column)]
    found = _Lowest(settings)
    if labelled:
        found.take(_class_names(labelled[0], column, common))
    classes, why_none = None, f"no image has a {column!r:.60}"
    if found.names:
        for other in labelled[1:]:
            _check_agreement(labelled[0], other, column, found.names)
        classes, why_none = _split(column, [*found.names.values()], _files_of(sources[0], found.names))
    if classes is None and settings.label is not None:
        raise UsageError(f"{why_none}; columns: {_columns(sources)}", place=sources[0].path)
    if not found.names:
        found.take((key, "") for key in common)
    return ChosenImages(tuple(found.names), _files_of(sources[0], found.names), found.count, classes, why_none)


class _Lowest:
    """The keys with the lowest hashes, in the order of these, with the `names` of their classes; `count` is of all."""

    def __init__(self, settings: LatentEvalSettings) -> None:
        self._settings = settings
        self.count = 0
        self.names: dict[str, str] = {}

    def take(self, named: Iterable[tuple[str, str]]) -> None:
        lowest = nsmallest(self._settings.max_images, self._ranked(named))
        self.names = {key: name for _, key, name in lowest}

    def _ranked(self, named: Iterable[tuple[str, str]]) -> Iterator[tuple[int, str, str]]:
        for key, name in looking(named):
            self.count += 1
            yield hash_key(key, self._settings.seed), key, name


def hash_key(key: str, seed: int) -> int:
    """Return a number below 2^64 that depends on both alone."""
    return int.from_bytes(hashlib.sha256(f"{seed} {key}".encode(errors="surrogatepass")).digest()[:8])


def _columns(sources: Sequence[LatentSource]) -> str:
    """Return the names of the columns of all sets."""
    manifests = (source.latents.manifest for source in sources if source.latents is not None)
    return ", ".join(sorted({name for manifest in manifests for name in manifest.columns.num_images})) or "none"


def _files_of(source: LatentSource, keys: Iterable[str]) -> NDArray[np.int64]:
    """Return a number for the file of each image, counted in the order in which they come first."""
    numbers: dict[str, int] = {}
    names = (file_key(source.provenance, key) for key in keys)
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def _num_labelled(source: LatentSource, column: str) -> int:
    """Return how many images have a column; a shard on its own holds none."""
    return 0 if source.latents is None else source.latents.manifest.columns.num_images.get(column, 0)


def _class_names(source: LatentSource, column: str, keys: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield the keys among `keys` that have a class, and its name."""
    classes = source.classes if column == LABEL else ()
    wanted = None if keys is source.keys else keys
    for image in source.images():
        value = image.columns.get(column)
        if wanted is not None and image.key not in wanted:
            continue
        if is_label(value):
            yield image.key, classes[value] if value < len(classes) else str(value)
        elif isinstance(value, str | bool):
            yield image.key, str(value)


def _check_agreement(first: LatentSource, other: LatentSource, column: str, names: dict[str, str]) -> None:
    """Raise `StoreError` if `other` says another class of an image than `first`, which said `names` by key."""
    for key, name in _class_names(other, column, names):
        if name != names[key]:
            what = f"{key!r:.80} is of class {name!r:.60} here, of {names[key]!r:.60} in {first.path}"
            raise StoreError(f"{what}; the same images need the same classes", place=other.path)


def _split(column: str, names: Sequence[str], files: NDArray[np.int64]) -> tuple[Classes | None, str]:
    """Give images of these classes parts by their files, or say why there can be none.

    Of the files of each class, in their order, the first fifth is for the test, the next one for validation. A file is
    of the class of its first image.
    """
    class_of_file: dict[int, str] = {}
    for name, file in zip(names, files.tolist(), strict=True):
        class_of_file.setdefault(file, name)
    num_files = Counter(class_of_file.values())
    kept = tuple(sorted(name for name in num_files if num_files[name] >= LEAST_FILES))
    left_out = tuple(sorted(set(names) - set(kept)))
    if len(num_files) == 1:
        return None, f"all images are of one class, {names[0]!r:.60}, in the column {column!r:.60}"
    if len(kept) < 2:
        few = f"fewer than two of {len(num_files):,} classes have {LEAST_FILES} files or more"
        return None, f"{few}, in the column {column!r:.60}"
    numbers = {name: number for number, name in enumerate(kept)}
    seen: Counter[str] = Counter()
    part_of_file: dict[int, int] = {}
    for file, name in class_of_file.items():
        fifth = seen[name] * _SHARE // num_files[name]
        part_of_file[file] = {0: TEST, 1: VALIDATION}.get(fifth, TRAIN)
        seen[name] += 1
    parts = np.array([part_of_file[file] for file in files.tolist()], np.int64)
    return Classes(
        column, kept, np.array([numbers.get(name, NO_CLASS) for name in names], np.int64), parts, left_out
    ), ""
