"""The journal of a set that is being written: a file for each process that writes it, and what the set was before.

`0.jsonl` is that of a run which has the whole set to itself; `3-of-8.jsonl` that of a share of a run (`Share`), beside
it `3-of-8.done` once all of that share is on disk, which names the plan and the lock that was held. `outline` is what
is planned (`Outline`), for whoever finishes a set that shares have written; `plan` that and the images too, where it
was made before any run (`PlanFile`). `base-*`: a copy of what a growing set was before.
"""

import re
import secrets
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from semdis_cli.errors import BusyFolderError, StoreError, UsageError
from semdis_cli.files import disk
from semdis_cli.files.atomic import make_folder, publish, sweep_temporaries, sync_folder
from semdis_cli.files.lock import drop_parts, held_parts, locked_parts
from semdis_cli.files.set_names import JOURNAL_FOLDER, PLAN_FILE
from semdis_cli.provenance import Provenance
from semdis_cli.shares import Share
from semdis_cli.store.latent_set import LatentSet
from semdis_cli.store.writing.entry_text import NewLine
from semdis_cli.store.writing.journal_file import JournalEntry, JournalFile, records_of

WHOLE_FILE = "0.jsonl"
OUTLINE_FILE = "outline"
ADOPTED = "adopted"  # in a plan: the sha256 of the one before, whose shards are part of its base
_BASE_FOLDER = re.compile(r"base-[0-9a-f]{16}")
_DONE_MARK = re.compile(rb"([0-9a-f]{64}) ([0-9a-f]{32})\n")
_MOST_NAMED = 20
_SUFFIX, _DONE, _REPORT = ".jsonl", ".done", ".report.json"


class Line(NamedTuple):
    """The line of an entry: the name of its file, and the byte where it begins."""

    file: str
    offset: int


class Journal:
    """The journal in `root`, of which a run adds to its own file: that of its `share`, or of the whole."""

    def __init__(self, root: Path, share: Share | None = None) -> None:
        self.folder = root / JOURNAL_FOLDER
        self._files: dict[str, JournalFile] = {}
        self.whole = self._file(WHOLE_FILE)
        self.own = self.whole if share is None else self._file(share.name + _SUFFIX)

    def _file(self, name: str) -> JournalFile:
        if name not in self._files:
            self._files[name] = JournalFile(self.folder / name, partial(self.remedy_of, name))
        return self._files[name]

    def files(self) -> list[JournalFile]:
        """Return all files that are there, that of the whole first."""
        names = {path.name for path in disk.list_names(self.folder)} if self.folder.is_dir() else set()
        shares = sorted(share for name in names if (share := _share_of(name, _SUFFIX)) is not None)
        found = [WHOLE_FILE] if WHOLE_FILE in names else []
        return [self._file(name) for name in [*found, *(share.name + _SUFFIX for share in shares)]]

    def over(self, finished: str | None) -> set[str]:
        """Return the hashes of plans that bind nobody: what came of them is part of the set, or of the base.

        `finished`: that of the plan which made the finished set.
        """
        plan = self.whole.read_plan()
        adopted = plan.get(ADOPTED) if plan is not None and plan.get("plan_sha256") != finished else None
        return {str(sha256) for sha256 in (finished, adopted) if sha256 is not None}

    def read(self, finished: str | None = None) -> tuple[dict[str, Any] | None, dict[Line, JournalEntry]]:
        """The plan that is under way (None if none is) and the entries so far, without their rows.

        `finished`: as in `over`. Lines torn by a crash are cut off. A plan without entries binds nobody, if another
        file has some. Raises `StoreError` if a whole line is not what a journal holds, and `UsageError` if files have
        entries of different plans.
        """
        over = self.over(finished)
        plan, entries = self.whole.read()
        begun = None if plan is None or plan.get("plan_sha256") in over else plan
        found = {} if begun is None else {Line(WHOLE_FILE, offset): entry for offset, entry in entries.items()}
        for file in self.files():
            if file is self.whole:
                continue
            plan, entries = file.read()
            if plan is None or not entries or plan.get("plan_sha256") in over:
                continue
            if begun is not None and found and not is_same_plan(begun, plan):
                what = f"{next(iter(found)).file} and {file.path.name} have different plans: the second was"
                why = describe_other(records_of(begun)[0], plan)
                raise UsageError(f"{what} {why}; delete one of the two", place=self.folder)
            begun = plan if begun is None else {**plan, "base": begun.get("base")}
            found |= {Line(file.path.name, offset): entry for offset, entry in entries.items()}
        return begun, found

    def read_plan(self) -> dict[str, Any] | None:
        """The plan under which a run has begun, of whichever file has one; None if none has. Raises `StoreError`."""
        return next((plan for file in self.files() if (plan := file.read_plan()) is not None), None)

    def begin(self, plan: dict[str, Any]) -> None:
        """Begin the own file anew with `plan` as the first line. Raises `NoSpaceError` or `UsageError`."""
        make_folder(self.folder)
        self.own.begin(plan)

    def sweep(self, base: str | None) -> None:
        """Remove what killed runs left in the folder: temporary files, and copies of sets other than `base`."""
        if not self.folder.is_dir():
            return
        sweep_temporaries(self.folder)
        for path in disk.list_names(self.folder):
            if is_base_name(path.name) and path.name != base:
                disk.remove_folder(path)

    def drop_shares(self, plans: Iterable[str | None], *, others: bool = False) -> None:
        """Remove the files of shares that have begun with one of these `plans`, by their hashes; `others`: with others.

        No share may be at work.
        """
        plans = set(plans)
        for file in self.files():
            if file is not self.whole and (_sha256_of(file) in plans) != others:
                self._drop_share(file)

    def _drop_share(self, file: JournalFile) -> None:
        for suffix in (_DONE, _REPORT):
            with suppress(OSError):
                (self.folder / (file.path.name.removesuffix(_SUFFIX) + suffix)).unlink()
        file.remove()

    def drop_own(self) -> None:
        """Remove the files of the own share."""
        self._drop_share(self.own)

    def names(self) -> set[str]:
        """Return what is there of a journal; of a set that is finished, only a plan for runs to come is to stay."""
        names = (path.name for path in disk.list_names(self.folder))
        return {name for name in names if is_journal_name(name) or is_base_name(name)}

    def remedy_of(self, name: str) -> str:
        """Return what to do about a file that cannot be used; that of a share is not needed by others."""
        share = _share_of(name, _SUFFIX)
        if share is None:
            return self.remedy()
        return f"delete {self.folder / name}, and run semdis encode with --part {share} again: it gets the same bytes"

    def new_base_folder(self) -> Path:
        """Name a folder for a copy of a set, which is not made."""
        return self.folder / f"base-{secrets.token_hex(8)}"

    def read_entry(self, line: Line) -> JournalEntry:
        """The whole entry of a line."""
        return self._file(line.file).read_entry(line.offset)

    def read_lines(self, line: Line) -> tuple[JournalEntry, Iterable[NewLine], bytes]:
        """The entry of a line, its lines for the index, and their identity, as `JournalFile.read_lines`."""
        return self._file(line.file).read_lines(line.offset)

    def append(self, content: bytes) -> Line:
        """Add what `render_entry` gave to the own file, as `JournalFile.append`."""
        return Line(self.own.path.name, self.own.append(content))

    def keep(self, lines: Iterable[Line]) -> dict[Line, Line]:
        """Drop all entries but those of `lines`, and return where these are now. No share may be at work."""
        kept: defaultdict[str, set[int]] = defaultdict(set)
        for line in lines:
            kept[line.file].add(line.offset)
        moved: dict[Line, Line] = {}
        for file in self.files():
            name = file.path.name
            if file is not self.whole and not kept[name]:
                self._drop_share(file)
                continue
            for offset, new in file.keep(kept[name]).items():
                moved[Line(name, offset)] = Line(name, new)
        return moved

    def keep_own(self, lines: Iterable[Line]) -> dict[Line, Line]:
        """Drop all entries of the own file but those of `lines`, and return where these are now."""
        name = self.own.path.name
        moved = self.own.keep({line.offset for line in lines})
        return {Line(name, offset): Line(name, new) for offset, new in moved.items()}

    # ---- Shares ----

    def keep_shares_out(self, done: Mapping[Share, str] | None = None) -> None:
        """Refuse to go on while shares are at work; of dead ones none wakes up unnoticed. The set's lock is held.

        `done`: those that have nothing left to do, as `done_shares` has them. Raises `BusyFolderError`.
        """
        tokens = {share.name: token for share, token in (done or {}).items()}
        at_work = [name for name, token in locked_parts(self.folder).items() if tokens.get(name) != token]
        if held := held_parts(self.folder, at_work):
            raise _busy(self.folder.parent, list(map(str, filter(None, map(Share.named, held)))))
        drop_parts(self.folder, at_work)

    def shares(self) -> list[Share]:
        """Return the shares that have begun."""
        shares = (_share_of(file.path.name, _SUFFIX) for file in self.files())
        return [share for share in shares if share is not None]

    def mark_done(self, share: Share, plan_sha256: str, token: str) -> None:
        """Note that all of a share is on disk, and who did it: the token of its lock.

        Raises `NoSpaceError` or `UsageError`.
        """
        publish(self.folder / (share.name + _DONE), [f"{plan_sha256} {token}\n".encode()])

    def unmark(self, share: Share) -> None:
        """Note that not all of a share is on disk."""
        with suppress(OSError):
            (self.folder / (share.name + _DONE)).unlink()

    def done_shares(self, plan_sha256: str) -> dict[Share, str]:
        """Return the shares that have noted that all of theirs is on disk, under this plan, and their tokens."""
        shares = {_share_of(path.name, _DONE): path for path in disk.list_names(self.folder)}
        marks = {share: _DONE_MARK.fullmatch(_read(path)) for share, path in shares.items() if share is not None}
        wanted = plan_sha256.encode()
        return {share: mark[2].decode() for share, mark in marks.items() if mark is not None and mark[1] == wanted}

    def report_path(self, share: Share) -> Path:
        """Return where the report of a share is to be."""
        return self.folder / (share.name + _REPORT)

    def remove(self) -> None:
        """Delete the journal: the manifest has taken its place. One that cannot be deleted says nothing new."""
        self.close()
        paths = disk.list_names(self.folder)
        for path in sorted(paths, key=lambda path: path.name != PLAN_FILE):  # first: alone it is that of runs to come
            if is_journal_name(path.name):
                with suppress(OSError):
                    path.unlink()
        self.sweep(None)
        with suppress(OSError):  # other writers' journals keep the folder
            self.folder.rmdir()
        sync_folder(self.folder.parent)

    def close(self) -> None:
        """Let go of the files."""
        for file in self._files.values():
            file.close()

    def remedy(self) -> str:
        """Return what to do about a journal that cannot be used."""
        root = self.folder.parent
        try:
            LatentSet.read(root).check_index(is_locked=True)
        except StoreError:
            return f"delete {root} and encode the set again: it gets the same bytes"
        return f"delete {self.folder}: the set is what it was before, and the same command adds to it again"


def is_same_plan(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether two runs have begun with the same plan."""
    return one.get("plan_sha256") == other.get("plan_sha256")


def describe_other(provenance: Provenance, plan: dict[str, Any]) -> str:
    """Say how the `plan` that a run has begun with differs from another, under these settings. Raises `StoreError`."""
    differences = provenance.differences(records_of(plan)[0])
    if differences:
        return f"begun with other settings ({'; '.join(map(str, differences))})"
    return "begun with other inputs, or with another --shard-size, or some of the images have changed since"


def _busy(root: Path, shares: Sequence[str]) -> BusyFolderError:
    """Say which shares are at work."""
    names = ", ".join(shares[:_MOST_NAMED]) + (" and more" if len(shares) > _MOST_NAMED else "")
    return BusyFolderError(f"other semdis runs are writing there (--part {names}); wait for them to end", place=root)


def is_base_name(name: object) -> bool:
    """Tell whether `name` is that of a folder with a copy of a set."""
    return isinstance(name, str) and _BASE_FOLDER.fullmatch(name) is not None


def is_journal_name(name: str) -> bool:
    """Tell whether a file of a journal is called so."""
    is_of_all = name in {WHOLE_FILE, OUTLINE_FILE, PLAN_FILE}
    return is_of_all or any(_share_of(name, end) for end in (_SUFFIX, _DONE, _REPORT))


def _share_of(name: str, suffix: str) -> Share | None:
    return Share.named(name.removesuffix(suffix)) if name.endswith(suffix) else None


def _sha256_of(file: JournalFile) -> str | None:
    with suppress(StoreError):  # whoever reads it says so
        plan = file.read_plan()
        return None if plan is None else str(plan.get("plan_sha256"))
    return None


def _read(path: Path) -> bytes:
    with suppress(OSError), path.open("rb") as file:
        return file.read(100)
    return b""
