"""A set of latents in a store, written by way of a local folder, its stage, which holds all but the shards.

Stores have no locks, no appending and no renaming. So lists and journal of a set that is being written lie in the
stage, where everything goes on as in a set on a disk; each shard is sent off when it is whole, and removed here. The
lists follow at the end, the manifest last: what the store has is a finished set, before and after.

While a run is under way, or was stopped, a small file in the store names its stage, so that no other run writes there.
"""

import hashlib
import json
import os
import platform
import re
import secrets
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semdis_cli.errors import StoreError, UsageError
from semdis_cli.files import disk
from semdis_cli.files.atomic import digest_file, make_folder, publish
from semdis_cli.files.json_text import parse_json
from semdis_cli.files.lock import FolderLock
from semdis_cli.files.set_names import (
    COLUMN_FOLDER,
    INDEX_FILE,
    INDEX_FOLDER,
    JOURNAL_FOLDER,
    LIST_FOLDERS,
    MANIFEST_FILE,
    REPORT_FILE,
    SEEN_FILE,
    SET_FILES,
    SET_LISTS,
    SHARD_FOLDER,
)
from semdis_cli.files.system_names import may_lie_beside
from semdis_cli.files.url import Url
from semdis_cli.records import FileDigest
from semdis_cli.store.checks import is_shard_name
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.set_index import is_piece_name
from semdis_cli.store.writing.journal import Journal, is_base_name

_CLAIM_FILE = f"{JOURNAL_FOLDER}/stage.json"
_STAGE_FILE = ".semdis-stage"
_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True)
class FarSet:
    """The set at `url`, and the folder `stage` by way of which it is written. Raises `UsageError` where that fails."""

    url: Url
    stage: Path

    @classmethod
    def at(cls, url: Url, stage: Path | None = None) -> "FarSet":
        """Return the set at `url`; without a `stage`, in one of its own in the user's cache."""
        return cls(url, _own_stage(url) if stage is None else stage)

    def fetch(self) -> None:
        """Look whether the store may be written, and bring the lists of the stage up to date, ahead of all work."""
        make_folder(self.stage)
        with FolderLock(self.stage):
            self.check()
            self.pull()

    # ---- Whose it is ----

    def check(self) -> None:
        """Refuse a stage of another set, and a place in the store that holds something else, or another run's."""
        token = self._token()
        with self._reaching():
            names = [path.removeprefix(f"{self.url.path}/") for path, *_ in self.url.files()]
        claim = self._claim() if _CLAIM_FILE in names else None
        if claim is not None and claim.get("token") != token:
            who, file = f"a run on {claim.get('machine')!s:.60}", self.url / _CLAIM_FILE
            advice = f"go on with that or, if its stage is lost, delete {file}"
            raise UsageError(f"{who} is writing there, or was stopped: {advice}", place=self.url)
        if any(name.startswith(f"{COLUMN_FOLDER}/") for name in names):
            what = "has columns of tensors, with which a set in a store cannot grow: add to a copy on a disk"
            raise UsageError(what, place=self.url)
        if strangers := sorted(name for name in names if not _is_own(name)):
            raise UsageError(f"holds other files ({strangers[0]}, ...); give -o an empty or new folder", place=self.url)
        is_part = any(_is_list(name) or is_shard_name(name.rpartition("/")[2]) for name in names)
        if is_part and claim is None and MANIFEST_FILE not in names:
            raise UsageError(
                f"parts of a set without its {MANIFEST_FILE}, as of a run whose stage was lost, or of a copy that was "
                "cut short: complete or delete them, or give another -o",
                place=self.url,
            )

    @contextmanager
    def claimed(self, journal: Journal) -> Iterator[None]:
        """Keep other runs out while inside and, if a run is left behind in `journal`, until that has ended."""
        self.check()
        self.claim()
        try:
            yield
        except BaseException:
            with suppress(UsageError):  # why the run ended is said
                self._release(journal)
            raise
        self._release(journal)

    def claim(self) -> None:
        """Name the stage in the store, so that no other run writes there."""
        mine = json.dumps({"machine": platform.node(), "token": self._token()}).encode()
        with self._reaching():
            (self.url / _CLAIM_FILE).put_bytes(mine)
        self.check_claim()

    def check_claim(self) -> None:
        """Stop where another run has named its stage in the store since."""
        if self._claim().get("token") != self._token():
            what = "another semdis run has taken over; this one stops, what it wrote stays in its stage"
            raise UsageError(what, place=self.url)

    def _release(self, journal: Journal) -> None:
        if not journal.folder.is_dir():
            with self._reaching(), suppress(FileNotFoundError):
                (self.url / _CLAIM_FILE).unlink()

    def _claim(self) -> Mapping[str, Any]:
        """Return what a run has named in the store; nothing where there is none that can be read."""
        with self._reaching():
            try:
                return dict(parse_json((self.url / _CLAIM_FILE).read_bytes()))
            except (FileNotFoundError, TypeError, ValueError):
                return {}

    def _token(self) -> str:
        """Return what the stage is known by; a new stage gets one."""
        path = self.stage / _STAGE_FILE
        if not path.exists():
            fields = {"token": secrets.token_hex(16), "url": str(self.url)}
            publish(path, [json.dumps(fields).encode() + b"\n"])
        try:
            fields = parse_json(path.read_bytes())
            token, url = str(fields["token"]), fields["url"]
        except (OSError, LookupError, TypeError, ValueError) as error:
            raise UsageError(f"cannot be read ({error}); give another --stage", place=path) from error
        if url != str(self.url):
            raise UsageError(f"is the stage of {url!s:.200}; give another --stage", place=self.stage)
        return token

    # ---- Lists ----

    def pull(self) -> None:
        """Make the lists of the stage those of the store, which another machine may have written."""
        there, here = self._manifest(), _bytes_of(self.stage / MANIFEST_FILE)
        if there == here:
            return
        self._check_journal(there)
        manifest = None if there is None else Manifest.parse(self.url, there)
        kept = self._sound_pieces(manifest, here)
        (self.stage / MANIFEST_FILE).unlink(missing_ok=True)  # it goes first, and comes last
        found = (f"{folder}/{path.name}" for folder in LIST_FOLDERS for path in disk.list_names(self.stage / folder))
        for name in {*SET_LISTS, *found} - kept:
            (self.stage / name).unlink(missing_ok=True)
        for name in () if manifest is None else manifest.list_names:
            if name in kept:
                continue
            with self._reaching():
                if (self.url / name).is_file():
                    make_folder((self.stage / name).parent)
                    publish(self.stage / name, _chunks(self.url / name))

    def _sound_pieces(self, manifest: Manifest | None, here: bytes | None) -> set[str]:
        """Return the pieces of the index of a manifest that the stage, which has another one, has already."""
        with suppress(StoreError):  # of a damaged stage nothing is kept
            both = _pieces_in_both(manifest, None if here is None else Manifest.parse(self.stage, here))
            pieces = () if manifest is None else manifest.pieces
            return {
                piece.name
                for piece in pieces
                if piece.name in both
                and (self.stage / piece.name).is_file()
                and digest_file(self.stage / piece.name) == piece.file
            }
        return set()

    def _manifest(self) -> bytes | None:
        with self._reaching():
            try:
                return (self.url / MANIFEST_FILE).read_bytes()
            except FileNotFoundError:
                return None

    def _check_journal(self, manifest: bytes | None) -> None:
        """Refuse to go on with a run that began from another set than the store has now, unless it made that."""
        journal = Journal(self.stage)
        begun = journal.read_plan()
        if begun is None:
            return
        name = begun.get("base")
        before = _bytes_of(journal.folder / str(name) / MANIFEST_FILE) if is_base_name(name) else None
        is_made_by_it = manifest is not None and begun.get("plan_sha256") == _plan_of(manifest)
        if manifest != before and not is_made_by_it:
            raise UsageError(
                f"was changed by another run since the one that was stopped; delete {self.stage} and begin again",
                place=self.url,
            )

    def push(self, folder: Path, manifest: Manifest) -> None:
        """Send the lists in `folder`, of which `manifest` is the last.

        Pieces of the index that the set has there already stay; lists that are none of its any more go at last.
        """
        data = self._manifest()
        kept = _pieces_in_both(manifest, None if data is None else Manifest.parse(self.url, data))
        self.push_names(folder, (name for name in manifest.list_names if name not in kept))
        self._sweep_lists(manifest)

    def sweep_lists(self) -> None:
        """Remove lists from the store that are none of the set's there, as of a run that was stopped at its end."""
        if (data := self._manifest()) is not None:
            self._sweep_lists(Manifest.parse(self.url, data))

    def _sweep_lists(self, manifest: Manifest) -> None:
        with self._reaching():
            folders = [self.url / folder for folder in sorted(LIST_FOLDERS)]
            found = [path.removeprefix(f"{self.url.path}/") for folder in folders for path, *_ in folder.files()]
            found += [name for name in (INDEX_FILE, SEEN_FILE) if manifest.pieces and (self.url / name).is_file()]
            for name in set(found).difference(manifest.list_names):
                with suppress(FileNotFoundError):
                    (self.url / name).unlink()

    def push_names(self, folder: Path, names: Iterable[str]) -> None:
        """Send these lists in `folder`, those that are there, in their order."""
        self.check_claim()
        for name in names:
            if (folder / name).exists():
                self._put(folder / name, name)

    def push_report(self) -> None:
        """Send the report of the run."""
        self._put(self.stage / REPORT_FILE, REPORT_FILE)

    # ---- Shards ----

    def take_left(self, shards: Iterable[tuple[str, FileDigest | None]]) -> None:
        """Send the shards that are noted and still here: name, and file if there is one."""
        for name, file in shards:
            path = self.stage / SHARD_FOLDER / name
            if file is not None and path.exists() and path.stat().st_size == file.num_bytes:
                self.take(path)

    def take(self, shard: Path) -> None:
        """Send a shard, and remove it here once it is there whole."""
        self.check_claim()
        self._put(shard, f"{SHARD_FOLDER}/{shard.name}")
        shard.unlink()

    def sweep_shards(self, names: Container[str]) -> None:
        """Remove shards of other `names` from the store."""
        with self._reaching():
            for path, *_ in list((self.url / SHARD_FOLDER).files()):
                name = path.rpartition("/")[2]
                if name not in names:
                    (self.url / SHARD_FOLDER / name).unlink()

    def _put(self, path: Path, name: str) -> None:
        try:
            (self.url / name).put(path)
        except OSError as error:
            raise UsageError(
                f"cannot be written ({error.strerror}); what is encoded is kept: the same command again continues",
                place=self.url / name,
            ) from error

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UsageError(f"cannot be reached ({error.strerror})", place=self.url) from error


def _own_stage(url: Url) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256(str(url).encode("utf-8", "surrogatepass")).hexdigest()
    return cache / "semdis" / "stages" / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', str(url))[-80:]}-{digest[:12]}"


def _is_own(name: str) -> bool:
    folder, _, last = name.rpartition("/")
    if folder == SHARD_FOLDER:
        return is_shard_name(last)
    if folder in LIST_FOLDERS:
        return _is_list(name)
    is_beside = last.startswith(".") or may_lie_beside(last)
    return name in SET_FILES or name == _CLAIM_FILE or (not folder and is_beside)


def _pieces_in_both(one: Manifest | None, other: Manifest | None) -> set[str]:
    """Return the names of the pieces of the index that two states of a set have in common."""
    if one is None or other is None:
        return set()
    there = {(piece.name, piece.file) for piece in other.pieces}
    return {piece.name for piece in one.pieces if (piece.name, piece.file) in there}


def _is_list(name: str) -> bool:
    folder, _, last = name.rpartition("/")
    return is_piece_name(f"{INDEX_FOLDER}/{last}") if folder in LIST_FOLDERS else name in SET_LISTS


def _plan_of(manifest: bytes) -> object:
    try:
        return parse_json(manifest)["plan_sha256"]
    except (LookupError, TypeError, ValueError):
        return None


def _bytes_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _chunks(url: Url) -> Iterator[bytes]:
    with url.open() as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
