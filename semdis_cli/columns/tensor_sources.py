"""Tensors for columns, found in folders and files: which columns there are, and what the tensors are called."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from semdis_cli.columns.row_spool import stem_of
from semdis_cli.columns.settings import AttachSettings
from semdis_cli.columns.tensor_files import SUFFIXES, BadTensor, ForeignTensor, list_tensors
from semdis_cli.columns.troubles import SpooledTroubles
from semdis_cli.errors import UsageError
from semdis_cli.events import Planning, Tell
from semdis_cli.option import OptionError
from semdis_cli.settings import AUTO
from semdis_cli.stops import look
from semdis_cli.store.tensors.kinds import TensorKind, is_tensor_name


@dataclass
class FoundTensors:
    """Tensors by column and by name: the path of a file in its source without suffix or, of a file of many, their own.

    With `tensor_name` in the settings a file that can hold many holds one for each image, which it calls by its key;
    without, it is about one image, and its tensors are called like their columns. `num_bad`: of what cannot be used.
    """

    settings: AttachSettings
    troubles: SpooledTroubles
    columns: dict[str, dict[str, ForeignTensor]] = field(default_factory=dict)
    num_bad: int = 0
    _kinds: dict[TensorKind, TensorKind] = field(default_factory=dict)  # each once in memory
    _unnamed: set[str] = field(default_factory=set)  # tensors that no column can be called like
    _first_trouble: str = ""

    def add(self, source: Path, tell: Tell) -> None:
        """Read the headers of the files in a source. Raises `UsageError` for one without any."""
        files = sorted(_files(source))
        if not files:
            raise UsageError("holds no .npy, .npz or .safetensors", place=source)
        column = self.settings.tensor_name
        if column is None and (unnamed := next((path for path, _ in files if path.endswith(".npy")), None)):
            raise OptionError("--as", f"is missing: it says which column arrays like {unnamed} are for")
        for number, (path, name) in enumerate(files):
            look()
            tell(Planning(f"reading headers in {source.name}", number, len(files)))
            try:
                for tensor in list_tensors(Path(path)):
                    self._add(tensor, name)
            except (OSError, ValueError) as error:
                self.bad(path, f"cannot be used: {describe_unread(error)}")

    def finish(self) -> None:
        """Raise `UsageError` if there is nothing of what was asked for."""
        if not any(self.columns.values()):
            raise UsageError(f"there is no tensor to attach{self._first_trouble and f': {self._first_trouble}'}")
        if missing := [name for name in self.settings.column_names if name not in self.columns]:
            have = ", ".join(sorted(self.columns))
            raise UsageError(f"--columns {missing[0]}: there is no such tensor, only {have:.200}")

    def bad(self, what: str, reason: str) -> None:
        """Note what cannot be used, and why."""
        self.num_bad += 1
        self._first_trouble = self._first_trouble or f"{what} {reason}"
        self.troubles.add(what, reason)

    def _add(self, tensor: ForeignTensor | BadTensor, name: str) -> None:
        given = self.settings.tensor_name
        is_of_many = given is not None and not tensor.path.endswith(".npy")
        column, key = (given or tensor.name), (tensor.name if is_of_many else name)
        if given is None and not self._is_wanted(column, tensor):
            return
        if isinstance(tensor, BadTensor):
            self.bad(str(tensor), f"cannot be used: {tensor.reason}")
            return
        tensor = tensor._replace(kind=self._kinds.setdefault(tensor.kind, tensor.kind))
        first = self.columns.setdefault(column, {}).setdefault(key, tensor)
        if first is not tensor:
            self.bad(str(tensor), f"is not used: {first} is about the same image")

    def _is_wanted(self, column: str, tensor: ForeignTensor | BadTensor) -> bool:
        """Tell whether a tensor is for a column that was asked for."""
        if self.settings.columns != AUTO:
            return column in self.settings.column_names
        if not is_tensor_name(column) and column not in self._unnamed:
            self._unnamed.add(column)
            ways = "--columns says which of the others are wanted, --as that it is the name of an image"
            self.bad(str(tensor), f"has a name that no column can have; {ways}")
        return is_tensor_name(column)


def describe_unread(error: OSError | ValueError) -> str:
    """Return why a file could not be read."""
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _files(source: Path) -> Iterator[tuple[str, str]]:
    """Give the files of tensors in a source, with their paths in it without suffix. Raises `UsageError`."""
    if not source.exists():
        raise UsageError("no such file or folder", place=source)
    if not source.is_dir():
        if source.suffix not in SUFFIXES:
            raise UsageError("is no folder, .npy, .npz or .safetensors", place=source)
        yield str(source), stem_of(source.name)
        return
    for folder, folders, names in os.walk(source, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(folder, name)
            if path.suffix in SUFFIXES and not name.startswith("."):
                yield str(path), stem_of(path.relative_to(source).as_posix())


def _refuse(error: OSError) -> None:
    raise UsageError(f"cannot be looked into ({error.strerror})", place=error.filename) from error
