"""Names that a disk does not tell apart, and how files that would have them get names of their own.

macOS, Windows, exFAT and SMB take `IMG` and `img` for one name; macOS also the two ways in which Unicode writes `é`,
and Windows a name with dots or spaces at its end for the one without. Linux tells all of them apart.
"""

import os
import re
import secrets
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from semdis_cli.errors import StoreError
from semdis_cli.files import disk


@dataclass(frozen=True, slots=True)
class Spelling:
    """Differences that a disk passes over in names: capitals, Unicode forms, dots and spaces at the end."""

    case: bool = True
    unicode: bool = True
    ends: bool = True

    def fold(self, name: PurePosixPath) -> str:
        """A text that is equal for names which the disk takes for one. It may be equal for a few others."""
        return self.fold_text(str(name))

    def fold_text(self, name: str) -> str:
        """`fold` of a name as text; nearly all names are plain, and there may be a million."""
        if name.isascii() and not (self.ends and _ENDS.search(name)):
            return name if not self.case or name.islower() else name.lower()
        return "/".join(map(self._fold_part, name.split("/")))

    def _fold_part(self, part: str) -> str:
        if self.ends:
            part = part.rstrip(". ")
        # Case folding differs from disk to disk; to go there by way of capitals joins what any of them joins.
        for is_wanted, change in ((self.unicode, _decompose), (self.case, _fold_case), (self.unicode, _decompose)):
            part = change(part) if is_wanted else part
        return part


_ENDS = re.compile(r"[. ](/|$)")


def _decompose(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def _fold_case(text: str) -> str:
    return text.upper().casefold()


ANY, EXACT = Spelling(), Spelling(case=False, unicode=False, ends=False)


def probe_spelling(folder: Path) -> Spelling:
    """Return what the disk of `folder` passes over; where it does not let itself be asked, all that a disk may."""
    token = secrets.token_hex(8)
    plain, accented = f".{token}-a{disk.TEMP_SUFFIX}", f".{token}-\xe9{disk.TEMP_SUFFIX}"
    return Spelling(
        case=_is_one(folder, plain, plain.replace("-a", "-A")),
        unicode=_is_one(folder, accented, _decompose(accented)),
        ends=_is_one(folder, plain, f"{plain}.") or _is_one(folder, plain, f"{plain} "),
    )


def _is_one(folder: Path, name: str, other: str) -> bool:
    try:
        with (folder / name).open("xb"):
            pass
    except OSError:
        return True
    try:
        return os.path.lexists(folder / other)
    finally:
        with suppress(OSError):
            (folder / name).unlink()


def give_own_names(
    names: Mapping[str, PurePosixPath], folder: Path
) -> tuple[dict[str, PurePosixPath], dict[str, PurePosixPath]]:
    """`names` (by key) so that the disk of `folder` tells them apart, and those of them that had to be changed.

    The first key of those with one name keeps it, the others get a number: `img.png`, `IMG.2.png`. Nothing is asked of
    the disk, and nothing changes, if no disk would take two of them for one. The same keys always get the same names.
    """
    if not clashes(names, ANY):
        return dict(names), {}
    spelling = probe_spelling(folder)
    taken = _folded_folders(names.values(), spelling)
    changed = dict.fromkeys(clashes(names, spelling))
    taken |= {spelling.fold(name) for key, name in names.items() if key not in changed}
    own = {}
    for key in changed:
        own[key] = next(name for name in numbered(names[key]) if spelling.fold(name) not in taken)
        taken.add(spelling.fold(own[key]))
    return {**names, **own}, own


def clashes(names: Mapping[str, PurePosixPath], spelling: Spelling) -> dict[str, str]:
    """The keys, sorted, whose name is taken: by the key that is given with each, or by a folder (the key itself)."""
    folders = _folded_folders(names.values(), spelling)
    first: dict[str, str] = {}
    found = {}
    for key in sorted(names):
        folded = spelling.fold(names[key])
        if folded in folders:
            found[key] = key
        elif first.setdefault(folded, key) != key:
            found[key] = first[folded]
    return found


def _folded_folders(names: Iterable[PurePosixPath], spelling: Spelling) -> set[str]:
    return {spelling.fold_text(folder) for folder in folders_of(map(str, names))}


def folders_of(names: Iterable[str]) -> set[str]:
    """Return all folders that `names` lie in, near and far, but for the one that they are relative to."""
    folders: set[str] = set()
    for name in names:
        folder = name.rpartition("/")[0]
        while folder and folder not in folders:
            folders.add(folder)
            folder = folder.rpartition("/")[0]
    return folders


def numbered(name: PurePosixPath) -> Iterator[PurePosixPath]:
    """`a.2.png`, `a.3.png`, ... for `a.png`."""
    return (name.with_name(f"{name.stem}.{number}{name.suffix}") for number in range(2, 1 << 31))


def check_key(key: str) -> PurePosixPath:
    """`key` as a relative path that stays inside whatever folder it is joined to.

    Raises `StoreError` for absolute paths, `..`, empty parts, NUL and what no file name can hold; on Windows for more.
    Elsewhere colons, backslashes and line breaks are ordinary characters of names, and are given back as they were.
    """
    is_bad = "\0" in key or any(part in {"", ".", ".."} for part in key.split("/"))
    if is_bad or not _can_be_encoded(key) or (os.name == "nt" and re.search(r'[\\:*?"<>|\x00-\x1f]', key)):
        raise StoreError(f"key {key!r:.80} would leave the output folder, or is no file name")
    return PurePosixPath(key)


def _can_be_encoded(key: str) -> bool:
    try:
        os.fsencode(key)
    except UnicodeEncodeError:
        return False
    return True
