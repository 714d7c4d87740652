"""Opening a safetensors file, also on a disk whose files cannot be mapped into memory."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from safetensors import safe_open
from safetensors.torch import load
from torch import Tensor


class Slice(Protocol):
    """A tensor that was not read yet."""

    def get_shape(self) -> list[int]:
        """Its shape."""


class TensorFile(Protocol):
    """An opened file as `safetensors.safe_open` gives it, as far as it is used."""

    def keys(self) -> Any:
        """The names of the tensors."""

    def get_slice(self, name: str) -> Slice:
        """A tensor, not read yet."""

    def get_tensor(self, name: str) -> Tensor:
        """A tensor."""

    def metadata(self) -> dict[str, str] | None:
        """The texts in the header."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: Any) -> Any: ...


def open_tensors(path: Path) -> TensorFile:
    """Open the file at `path`: mapped where the disk can do that, else read. Raises what `safe_open` raises."""
    try:
        file: TensorFile = safe_open(path, framework="pt")
    except OSError as error:
        try:
            data = path.read_bytes()
        except OSError:
            raise error from None
        return _ReadFile(load(data), data)
    return file


class _Shape(NamedTuple):
    shape: list[int]

    def get_shape(self) -> list[int]:
        return self.shape


class _ReadFile:
    """A file that was read as a whole: `safetensors` has checked it."""

    def __init__(self, tensors: Mapping[str, Tensor], data: bytes) -> None:
        self._tensors = tensors
        self._metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__")

    def keys(self) -> list[str]:
        return list(self._tensors)

    def get_slice(self, name: str) -> _Shape:
        return _Shape(list(self._tensors[name].shape))

    def get_tensor(self, name: str) -> Tensor:
        return self._tensors[name]

    def metadata(self) -> dict[str, str] | None:
        return self._metadata

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass
