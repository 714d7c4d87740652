"""The end of a set that shares of a run have written: lists and manifest, once all shards are there."""

from collections.abc import Iterable
from pathlib import Path

from semdis_cli.errors import StoreError, UsageError
from semdis_cli.files.lock import BusyFolderError, drop_parts, held_parts, locked_parts
from semdis_cli.files.set_names import MANIFEST_FILE
from semdis_cli.provenance import Provenance
from semdis_cli.shares import Share
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.writing.journal import OUTLINE_FILE, Journal
from semdis_cli.store.writing.journal_file import records_of
from semdis_cli.store.writing.latent_set import LatentSetWriter
from semdis_cli.store.writing.outline import Outline

_MOST_NAMED = 20


class SetFinisher(LatentSetWriter):
    """A set of which all is there that is planned in `outline`.

    Raises `BusyFolderError` on entering while a share that is not done is at work.
    """

    def __init__(self, root: Path, provenance: Provenance, outline: Outline) -> None:
        super().__init__(root, provenance, mix_versions=True)
        self.outline = outline

    def _keep_shares_out(self) -> None:
        done, folder = self._journal.done_shares(self.outline.sha256), self._journal.folder
        at_work = [name for name in locked_parts(folder) if Share.named(name) not in done]
        if held := held_parts(folder, at_work):
            raise BusyFolderError(f"part {_describe(held)} is at work", place=self.root)
        drop_parts(folder, at_work)


def finish_set(root: Path, outline: Outline, provenance: Provenance) -> Manifest:
    """Finish the set in `root` as planned in `outline`, and return its manifest. One that is finished stays as it is.

    `provenance`: of what was written. Raises `BusyFolderError` if another process is at it, `UsageError` if shards are
    missing, and what `LatentSetWriter` raises.
    """
    with SetFinisher(root, provenance, outline) as latents:
        made = latents.base.manifest
        if made is not None and made.plan_sha256 == outline.sha256 and latents.base.folder == root:
            return made
        if missing := latents.resume(outline):
            raise UsageError(_describe_missing(outline, missing, Journal(root)), place=root)
        return latents.finish()


def finish_by_journal(root: Path) -> Manifest:
    """Finish the set in `root`, of which there is nothing but what its journal says; one that is finished stays so.

    Raises as `finish_set`, and `StoreError` for a folder in which no shares of a run have begun.
    """
    journal = Journal(root)
    if not journal.files():
        if (root / MANIFEST_FILE).is_file():
            return Manifest.read(root)
        raise StoreError("no run has begun there; give the folder that semdis encode --part writes", place=root)
    path = journal.folder / OUTLINE_FILE
    if not path.is_file():
        what = "a run of the whole set has begun there, which alone can finish it: run the same semdis encode again"
        raise UsageError(what, place=root)
    outline = Outline.read(path)
    plans = [plan for file in journal.files() if (plan := file.read_plan()) is not None]
    plan = next((plan for plan in plans if plan.get("plan_sha256") == outline.sha256), None)
    if plan is None:
        raise UsageError("of what is planned, nothing has begun; run semdis encode with all parts", place=root)
    return finish_set(root, outline, records_of(plan)[0])


def missing_shares(done: Iterable[Share]) -> list[Share]:
    """Return the shares that are not done yet, of the count of which the fewest are missing; none: all is there."""
    done = set(done)
    missing = [[Share(index, count) for index in range(count)] for count in {share.count for share in done}]
    left = [[share for share in shares if share not in done] for shares in missing]
    return min(left, key=len, default=[])


def _describe_missing(outline: Outline, missing: list[str], journal: Journal) -> str:
    """Say which shards are missing, and whose they are."""
    gone, counts = set(missing), {share.count for share in journal.shares()}
    places = [number for number, shard in enumerate(outline.shards) if shard.name in gone]
    what = f"{len(missing):,} of {len(outline.shards):,} shards are not there"
    if len(counts) != 1:
        return f"{what} ({missing[0]}, ...); run semdis encode with all parts again"
    (count,) = counts
    shares = sorted({Share(number % count, count) for number in places})
    return f"{what}; run again semdis encode with --part {_describe(map(str, shares))}"


def _describe(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
