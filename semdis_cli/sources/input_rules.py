"""Rules by which files of a folder or tar are passed over, from their names; the number of each kind is told.

Patterns are those of --exclude and --include. One without a slash is held against every name: that of the file, and
those of the folders that it lies in. One with a slash is held against the path from the source on, and so are those of
the folders; a slash at its beginning binds a single name to the top, one at its end makes it match folders alone. `*`
and `?` stand for characters of one name, `**` between slashes for any number of folders, `[abc]`, `[a-z]` and `[!abc]`
for one character, and a backslash takes the meaning from the next character. Capitals count.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Annotated

from semdis_cli.errors import UsageError
from semdis_cli.files.system_names import system_kind
from semdis_cli.kinds.formats import IMAGE_SUFFIXES
from semdis_cli.option import INPUT, Option


class PassedOver(StrEnum):
    """Kinds of files that are passed over, beside those of `system_names.SystemKind`."""

    NO_IMAGE = "no images by suffix or content"
    HIDDEN = "hidden"
    OUTPUT = "written by semdis"
    CONTAINER = "archives beside images"
    EXCLUDED = "excluded"
    CIRCLE = "folders that lead back to themselves"
    REPLACED = "members replaced by a later one of their name"


class Pattern:
    """One pattern, ready to be held against names and paths. `has_matched`: it stood for one of them so far."""

    def __init__(self, text: str) -> None:
        """Compile a pattern. Raises `UsageError` for what is none."""
        bare = text.removesuffix("/")
        self.text, self.has_matched = text, False
        self.is_for_folders = bare != text
        self.has_path = "/" in bare
        self._match = re.compile(_regex(text, bare.removeprefix("/")), re.DOTALL).fullmatch

    def matches(self, path: str, name: str, *, is_folder: bool) -> bool:
        """Tell whether it stands for the file or folder at `path`, relative to its source, which is called `name`."""
        if self.is_for_folders and not is_folder:
            return False
        is_match = self._match(path if self.has_path else name) is not None
        self.has_matched = self.has_matched or is_match
        return is_match


def _any_matches(patterns: Sequence[Pattern], path: str, name: str, *, is_folder: bool) -> bool:
    """Hold all of `patterns` against a file or folder: each has to know whether it ever matches."""
    matches = [pattern.matches(path, name, is_folder=is_folder) for pattern in patterns]
    return any(matches)


@dataclass(frozen=True)
class InputRules:
    """Rules of which files of a folder or tar to take: those of `include` (empty: all), but for those of `exclude`.

    `all_files`: names of systems and hidden ones are no reason to pass a file over, if it is an image by content.
    """

    exclude: Annotated[
        tuple[Pattern, ...],
        Option(
            "Leave out files and folders with this name or, with a slash in it, this path in the source; repeatable.",
            INPUT,
            metavar="GLOB",
            parse=Pattern,
        ),
    ] = ()
    include: Annotated[
        tuple[Pattern, ...],
        Option("Take nothing but these, as in --exclude, which goes first.", INPUT, metavar="GLOB", parse=Pattern),
    ] = ()
    all_files: Annotated[
        bool,
        Option(
            "Take all that are images by content: hidden ones, thumbnails, bins, backups and camera previews too.",
            INPUT,
        ),
    ] = False

    @property
    def has_patterns(self) -> bool:
        """Tell whether paths are to be held against patterns at all."""
        return bool(self.exclude or self.include)

    @property
    def idle(self) -> list[str]:
        """List the options that had no effect on what was listed, as they were given."""
        options = (("--exclude", self.exclude), ("--include", self.include))
        return [f"{name} {pattern.text!r}" for name, group in options for pattern in group if not pattern.has_matched]

    def excludes(self, path: str, name: str, *, is_folder: bool) -> bool:
        """Tell whether a file or folder, and all in it, is left out."""
        return _any_matches(self.exclude, path, name, is_folder=is_folder)

    def includes(self, path: str, name: str, *, is_folder: bool) -> bool:
        """Tell whether a file or folder, and all in it, is among what is wanted."""
        return not self.include or _any_matches(self.include, path, name, is_folder=is_folder)

    def judge(self, parts: Sequence[str]) -> "Judgement":
        """Return what is to become of the file of a tar whose path has these parts: as if its folders were searched."""
        if len(parts) == 1 and not self.has_patterns and parts[0] != "..":
            kind = file_kind(parts[0])
            return Judgement(None if self.all_files else kind, by_content=kind is not None)
        is_included = is_odd = False
        for depth, name in enumerate(parts, start=1):
            is_folder = depth < len(parts)
            kind = None if name == ".." else folder_kind(name) if is_folder else file_kind(name)
            if kind is not None and not self.all_files:
                return Judgement(kind)
            is_odd = is_odd or kind is not None
            if self.has_patterns:
                path = "/".join(parts[:depth])
                if self.excludes(path, name, is_folder=is_folder):
                    return Judgement(PassedOver.EXCLUDED)
                is_included = is_included or self.includes(path, name, is_folder=is_folder)
        is_wanted = is_included or not self.include
        return Judgement(None if is_wanted else PassedOver.EXCLUDED, by_content=is_odd)


@dataclass(frozen=True, slots=True)
class Judgement:
    """Kind by which a file is passed over, None if it is not; `by_content`: its suffix makes it no image."""

    kind: str | None
    by_content: bool = False


DEFAULT_RULES = InputRules()


@dataclass(slots=True)
class Tally:
    """Numbers of files by kind."""

    numbers: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, number: int = 1) -> None:
        """Count `number` more of a kind."""
        if number:
            self.numbers[str(kind)] = self.numbers.get(str(kind), 0) + number

    def add_all(self, other: "Tally") -> None:
        """Count what another one has counted."""
        for kind, number in other.numbers.items():
            self.add(kind, number)


def is_plain_name(name: str) -> bool:
    """Tell whether a name with an image's suffix is surely no system's: quicker than `file_kind`, for most of them."""
    return name[0].isalnum() and (name[0] not in "sS" or name[:4].upper() != "SYNO")


_SPELT = (spelt for suffix in sorted(IMAGE_SUFFIXES) for spelt in (suffix, suffix.upper()))  # as most are
# Matches names that are surely those of images, and no system's: quicker than `is_plain_name`, and for most of them.
is_plain_image = re.compile(rf"(?![sS][yY][nN][oO])[^\W_].*\.(?:{'|'.join(_SPELT)})", re.DOTALL).fullmatch


def is_plain_member(path: str) -> bool:
    """Tell whether a member of a tar, say, is surely an image with a name to keep, in no folder: as most are."""
    return is_plain_image(path) is not None and "/" not in path and path.isprintable()


def file_kind(name: str) -> str | None:
    """Return the kind of a file that is nobody's picture by its name; None for all others."""
    return system_kind(name, is_folder=False) or (PassedOver.HIDDEN if name.startswith(".") else None)


@lru_cache(maxsize=1 << 12)  # a million members of a tar lie in a few folders
def folder_kind(name: str) -> str | None:
    """Return the kind of a folder in which nobody's pictures lie, by its name; None for all others."""
    return system_kind(name, is_folder=True) or (PassedOver.HIDDEN if name.startswith(".") else None)


def _regex(text: str, path: str) -> str:
    names = path.split("/")
    if not path or "\0" in path or any(name in {"", ".", ".."} for name in names):
        raise UsageError(f"{text!r} is no pattern: give names, or a path within the source, like 'drafts' or 'a/*.png'")
    parts: list[str] = []
    for number, name in enumerate(names):
        is_last = number == len(names) - 1
        if name == "**":
            parts.append(".+" if is_last else "(?:.+/)?")
        else:
            parts.append("".join(_of_name(text, name)) + ("" if is_last else "/"))
    return "".join(parts)


def _of_name(text: str, name: str) -> Iterator[str]:
    """Yield the regular expression of a pattern for one name, bit by bit."""
    at = 0
    while at < len(name):
        sign, at = name[at], at + 1
        if sign == "*":
            yield "[^/]*"
        elif sign == "?":
            yield "[^/]"
        elif sign == "[":
            end = name.find("]", at + 1 + (name[at : at + 1] == "!"))
            if end < 0:
                raise UsageError(f"{text!r} is no pattern: '[' without ']'; [[] stands for the character itself")
            yield _of_set(text, name[at:end])
            at = end + 1
        elif sign == "\\":
            if at == len(name):
                raise UsageError(f"{text!r} is no pattern: nothing follows the backslash; give two for one")
            yield re.escape(name[at])
            at += 1
        else:
            yield re.escape(sign)


def _of_set(text: str, inner: str) -> str:
    """Make the regular expression of what stands between brackets."""
    is_negative = inner.startswith("!")
    signs = inner[is_negative:].replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace("^", "\\^")
    signs = signs.replace("&", "\\&").replace("~", "\\~").replace("|", "\\|")
    try:
        re.compile(f"[{signs}]")
    except re.error as error:
        raise UsageError(f"{text!r} is no pattern: [{inner}] is no set of characters ({error.msg})") from error
    return f"(?!/)[{'^' * is_negative}{signs}]"
