"""A disk whose power is cut: what may be left of a run's changes, by what POSIX promises and nothing more.

What was written to a file is safe once the file was synced, and a name once its folder was; until then each may have
reached the disk or not, independently, a write in part or as zeros. Changes of one file, and of the names in one
folder, arrive in order.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.torture.watch import Change


@dataclass(eq=False)
class File:
    """A file: the bytes that are safe, and what was done to it since (cut to a length, or data at an offset)."""

    safe: bytes = b""
    pending: list[Change] = field(default_factory=list)

    def sync(self) -> None:
        self.safe, self.pending = self.after(len(self.pending)), []

    def after(self, num_changes: int, torn: str = "") -> bytes:
        """The bytes once that many of the pending changes have arrived; the next one torn, if it is a write."""
        changes = self.pending[:num_changes]
        if torn and num_changes < len(self.pending):
            changes.append(_torn(self.pending[num_changes], torn))
        data = bytearray(self.safe)
        for change in changes:
            if change.operation == "truncate":
                del data[change.offset :]
                data.extend(bytes(change.offset - len(data)))
            else:
                data.extend(bytes(max(0, change.offset - len(data))))
                data[change.offset : change.offset + len(change.data)] = change.data
        return bytes(data)


@dataclass(eq=False)
class Folder:
    """A folder: the names in it that are safe, and what happened to names since (None: gone)."""

    safe: dict[str, "File | Folder"] = field(default_factory=dict)
    pending: list[dict[str, "File | Folder | None"]] = field(default_factory=list)

    def sync(self) -> None:
        self.safe, self.pending = self.after(len(self.pending)), []

    def after(self, num_changes: int) -> dict[str, "File | Folder"]:
        """The names once that many of the pending changes have arrived."""
        names: dict[str, File | Folder | None] = dict(self.safe)
        for change in self.pending[:num_changes]:
            names |= change
        return {name: node for name, node in names.items() if node is not None}

    @property
    def names(self) -> "dict[str, File | Folder]":
        """As the running process sees it."""
        return self.after(len(self.pending))


def _torn(change: Change, how: str) -> Change:
    """A write of which half arrived, or only how long the file is now: where its data should be there are zeros."""
    data = change.data[: len(change.data) // 2] if how == "half" else bytes(len(change.data))
    return replace(change, data=data)


@dataclass(frozen=True)
class Choice:
    """How many of the pending changes arrive, of a folder or of a file; `torn` "half" or "zeros": the next one too."""

    count: Callable[[Folder | File], int]
    torn: str = ""


class Disk:
    """A folder to which changes are made without its power being safe; `start` is all on it, and safe."""

    def __init__(self, start: Path) -> None:
        self.top = _load_folder(start)

    def make(self, change: Change) -> None:
        """One change that a process made."""
        if change.operation == "sync":
            self._find(change.path).sync()
        elif change.operation == "sync disk":
            _sync_all(self.top)
        elif change.operation in {"write", "truncate"}:
            node = self._find(change.path)
            assert isinstance(node, File)
            node.pending.append(change)
        elif change.operation not in {"lock", "open"}:
            self._rename(change)

    def after_a_cut(self, choice: Choice) -> dict[str, bytes | None]:
        """What is found when power is back: every file with its bytes, and every folder with None."""
        return dict(_found(self.top, choice, ""))

    def _rename(self, change: Change) -> None:
        parent, name = self._parent(change.path)
        if change.operation in {"create", "mkdir"}:
            parent.pending.append({name: File() if change.operation == "create" else Folder()})
        elif change.operation in {"unlink", "rmdir"}:
            parent.pending.append({name: None})
        else:
            assert change.operation in {"rename", "link"}, change.operation
            assert change.to is not None
            target, new_name = self._parent(change.to)
            gone: dict[str, File | Folder | None] = {name: None} if change.operation == "rename" else {}
            there: dict[str, File | Folder | None] = {new_name: parent.names[name]}
            if target is parent:
                parent.pending.append(gone | there)
            else:  # the two folders get to the disk one by one
                target.pending.append(there)
                parent.pending.append(gone)

    def _find(self, path: str) -> File | Folder:
        if path == ".":
            return self.top
        parent, name = self._parent(path)
        return parent.names[name]

    def _parent(self, path: str) -> tuple[Folder, str]:
        *folders, name = path.split("/")
        node: File | Folder = self.top
        for folder in folders:
            assert isinstance(node, Folder)
            node = node.names[folder]
        assert isinstance(node, Folder)
        return node, name


def _sync_all(node: File | Folder) -> None:
    node.sync()
    if isinstance(node, Folder):
        for child in node.names.values():
            _sync_all(child)


def _load_folder(path: Path) -> Folder:
    return Folder(
        {child.name: _load_folder(child) if child.is_dir() else File(child.read_bytes()) for child in path.iterdir()}
    )


def _found(node: Folder, choice: Choice, prefix: str) -> Iterator[tuple[str, bytes | None]]:
    for name, child in node.after(choice.count(node)).items():
        if isinstance(child, Folder):
            yield prefix + name, None
            yield from _found(child, choice, f"{prefix}{name}/")
        else:
            yield prefix + name, child.after(choice.count(child), choice.torn)


def store(found: Mapping[str, bytes | None], folder: Path) -> Path:
    """Make `folder` with what `after_a_cut` found."""
    folder.mkdir()
    for name, data in found.items():
        if data is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(data)
    return folder


def _none(_: Folder | File) -> int:
    return 0


def _all(node: Folder | File) -> int:
    return len(node.pending)


def _names(node: Folder | File) -> int:
    return len(node.pending) if isinstance(node, Folder) else 0


def _data(node: Folder | File) -> int:
    return 0 if isinstance(node, Folder) else len(node.pending)


def _some(seed: int) -> Callable[[Folder | File], int]:
    """Of each file and of each folder the first few changes, by chance."""
    chance = random.Random(seed)
    return lambda node: chance.randint(0, len(node.pending))


def cuts(seed: int) -> dict[str, Choice]:
    """What may have arrived when the power went; by chance where `seed` counts."""
    return {
        "only what was synced": Choice(_none),
        "all of it": Choice(_all),
        "names without data": Choice(_names),
        "names with half the data": Choice(_names, "half"),
        "names with zeros for data": Choice(_names, "zeros"),
        "data without names": Choice(_data),
        "some of each": Choice(_some(seed)),
        "some of each, the last torn": Choice(_some(seed + 1), "half"),
        "some of each, the last zeros": Choice(_some(seed + 2), "zeros"),
    }


def disks_after(start: Path, changes: Sequence[Change]) -> Iterator[tuple[int, Disk]]:
    """The disk as it is after each of the changes of a run, and how many there were."""
    disk = Disk(start)
    yield 0, disk
    for number, change in enumerate(changes, start=1):
        disk.make(change)
        yield number, disk
