"""Figures of a run's images: a file for each shard that is done, from which a run that was stopped goes on."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from heapq import merge
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from semdis_cli.errors import StoreError
from semdis_cli.events import Failure, ImageMeasured
from semdis_cli.files.atomic import make_folder, publish, sweep_temporaries
from semdis_cli.files.disk import list_names, remove_folder
from semdis_cli.files.json_text import escape_text, key_fields, parse_json, strict_json, to_line
from semdis_cli.store.checks import check_record_key
from semdis_cli.store.writing.plan import PlannedShard

FIGURES_FOLDER = ".semdis-figures"
_SETTINGS, _ROWS, _FEATURES = "settings.json", ".jsonl", ".features"
_OTHERS = "others"  # name of the file of inputs that are in no shard
_MOST_OPEN = 256

Figures = Mapping[str, float]


class FigureRow(NamedTuple):
    """One input: the figures of each contender, by metric, or why it has none (`error`)."""

    key: str
    figures: tuple[Figures, ...]
    error: str | None = None

    def to_line(self) -> bytes:
        """Write it as a line of a shard's file."""
        if self.error is not None:
            return to_line({**key_fields(self.key), "error": escape_text(self.error)})
        return to_line({**key_fields(self.key), "figures": [dict(one) for one in self.figures]})

    @classmethod
    def of_line(cls, line: bytes) -> Self:
        """Read it. Raises `ValueError` for what is no such line."""
        try:
            row = parse_json(line)
            return cls(check_record_key(row), tuple(row.get("figures", ())), row.get("error"))
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"no figures of an image: {line!r:.80}") from error


@dataclass
class FigureSpool:
    """Figures of a run in `folder`, until it is complete. `done`: names of the shards whose figures are there.

    `num_features`: of each picture (rFID), which lie beside the figures in the order of the rows that have some:
    float32 [N,1+contenders,num_features], the original first. 0: there are none. `replaced`: there were some of other
    settings, which are gone.
    """

    folder: Path
    num_features: int = 0
    done: set[str] = field(default_factory=set)
    replaced: bool = False
    _pending: dict[str, FigureRow] = field(default_factory=dict)
    _features: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    @classmethod
    def open(cls, output: Path, settings: dict[str, Any], num_features: int = 0) -> Self:
        """Open the figures in `output`, which is ours; those of a run with other settings are removed."""
        folder = output / FIGURES_FOLDER
        wanted = strict_json(settings, sort_keys=True).encode() + b"\n"
        with suppress(OSError):
            if (folder / _SETTINGS).read_bytes() == wanted:
                sweep_temporaries(folder)
                return cls(folder, num_features, _names_of_done(folder))
        replaced = folder.is_dir() and bool(_names_of_done(folder))
        remove_folder(folder)
        make_folder(folder)
        publish(folder / _SETTINGS, [wanted])
        return cls(folder, num_features, replaced=replaced)

    def take(self, event: object) -> None:
        """Note what an event says of an image; other events say nothing."""
        if isinstance(event, ImageMeasured):
            self._pending[event.key] = FigureRow(event.key, event.figures)
        elif isinstance(event, Failure):
            self._pending[event.key] = FigureRow(event.key, (), event.reason)

    def take_features(self, key: str, features: NDArray[np.float32]) -> None:
        """Note the features of an image, [1+contenders,num_features]; from any thread."""
        self._features[key] = features

    def finish(self, shard: PlannedShard) -> None:
        """Publish the figures of a shard, all of whose images are done."""
        keys = sorted(image.source.key for image in shard.images)
        rows = [self._pending.pop(key) for key in keys if key in self._pending]
        features = [self._features.pop(key, None) for key in keys]
        if self.num_features:
            publish(self._path(shard.name, _FEATURES), (one.tobytes() for one in features if one is not None))
        publish(self._path(shard.name, _ROWS), (row.to_line() for row in rows))
        self.done.add(shard.name)

    def add_others(self, failures: Iterable[Failure]) -> None:
        """Take inputs that are in no shard."""
        rows = sorted(FigureRow(failure.key, (), failure.reason) for failure in failures)
        publish(self._path(_OTHERS, _ROWS), (row.to_line() for row in rows))
        self.done.add(_OTHERS)

    def rows(self) -> Iterator[FigureRow]:
        """Yield all rows, sorted by key. Raises `StoreError` for a file that was damaged since."""
        paths = [self._path(name, _ROWS) for name in sorted(self.done)]
        while len(paths) > _MOST_OPEN:
            paths = [*paths[_MOST_OPEN:], self._merge(paths[:_MOST_OPEN])]
        yield from merge(*map(_read, paths))

    def _merge(self, paths: Sequence[Path]) -> Path:
        path = paths[0].with_suffix(".merged")
        publish(path, (row.to_line() for row in merge(*map(_read, paths))))
        return path

    def features(self, num_contenders: int, num_rows: int = 1024) -> Iterator[NDArray[np.float32]]:
        """Yield the features of all images, [n,1+contenders,num_features], at most `num_rows` at a time.

        Raises `StoreError` for a file that was damaged since.
        """
        row_bytes = 4 * (1 + num_contenders) * self.num_features
        for name in sorted(self.done - {_OTHERS}):
            for data in _blocks(self._path(name, _FEATURES), num_rows * row_bytes):
                if len(data) % row_bytes:
                    raise _damaged(self._path(name, _FEATURES), "it ends too early")
                yield np.frombuffer(data, "<f4").reshape(-1, 1 + num_contenders, self.num_features)

    def remove(self) -> None:
        """Remove them: the run is complete."""
        remove_folder(self.folder)

    def _path(self, name: str, suffix: str) -> Path:
        return self.folder / f"{name}{suffix}"


def _names_of_done(folder: Path) -> set[str]:
    """Return the names of the shards whose figures are there."""
    return {path.stem for path in list_names(folder) if path.suffix == _ROWS} - {_OTHERS}


def _read(path: Path) -> Iterator[FigureRow]:
    try:
        with path.open("rb") as file:
            yield from map(FigureRow.of_line, file)
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _blocks(path: Path, num_bytes: int) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from iter(lambda: file.read(num_bytes), b"")
    except OSError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, why: object) -> StoreError:
    return StoreError(f"figures cannot be read ({why}); give -o a new folder", place=path)
