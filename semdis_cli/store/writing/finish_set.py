"""The end of a set that shares of a run have written: lists and manifest, once all shards are there."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from semdis_cli.errors import StoreError, UsageError
from semdis_cli.files.set_names import JOURNAL_FOLDER, MANIFEST_FILE, PLAN_FILE
from semdis_cli.provenance import Provenance
from semdis_cli.shares import Share
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.writing.finished import check_latents_folder
from semdis_cli.store.writing.journal import OUTLINE_FILE, Journal
from semdis_cli.store.writing.journal_file import records_of
from semdis_cli.store.writing.latent_set import LatentSetWriter
from semdis_cli.store.writing.outline import Outline

_MOST_NAMED = 20


class SetFinisher(LatentSetWriter):
    """A set of which all is there that is planned in `outline`.

    `done`: shares that have nothing left to do, though they have not noted it, and the tokens of their locks. Raises
    `BusyFolderError` on entering while a share is at work that is not done, or was run again.
    """

    def __init__(self, root: Path, provenance: Provenance, outline: Outline, done: Mapping[Share, str]) -> None:
        super().__init__(root, provenance, mix_versions=True)
        self.outline = outline
        self._done_shares = done

    def _keep_shares_out(self) -> None:
        self._journal.keep_shares_out({**self._journal.done_shares(self.outline.sha256), **self._done_shares})

    def finished_before(self) -> Manifest | None:
        """Return the manifest of a set that is finished already; what is left of its journal is removed."""
        plans = [file.read_plan() for file in self._journal.files()]
        is_over = self.base.manifest is not None and self.base.manifest.plan_sha256 == self.outline.sha256
        is_begun = any(plan is not None and plan.get("plan_sha256") == self.outline.sha256 for plan in plans)
        if self.base.folder != self.root or (is_begun and not is_over):
            return None
        if self.base.manifest is not None and not self._state.entries and self._journal.names() != {PLAN_FILE}:
            self._journal.remove()
        return self.base.manifest


def finish_set(
    root: Path, outline: Outline, provenance: Provenance, done: Mapping[Share, str] = MappingProxyType({})
) -> Manifest:
    """Finish the set in `root` as planned in `outline`, and return its manifest. One that is finished stays as it is.

    `provenance`: of what was written; `done`: as in `SetFinisher`. Raises `BusyFolderError` if other processes are at
    work, `UsageError` if shards are missing, and what `LatentSetWriter` raises.
    """
    with SetFinisher(root, provenance, outline, done) as latents:
        if (made := latents.finished_before()) is not None:
            return made
        if missing := latents.resume(outline):
            raise UsageError(_describe_missing(outline, missing, Journal(root)), place=root)
        return latents.finish()


def finish_by_journal(root: Path) -> Manifest:
    """Finish the set in `root`, of which there is nothing but what its journal says; one that is finished stays so.

    Raises as `finish_set`, and `StoreError` for a folder in which no shares of a run have begun.
    """
    check_latents_folder(root)
    journal, path = Journal(root), root / JOURNAL_FOLDER / OUTLINE_FILE
    made = Manifest.read(root) if (root / MANIFEST_FILE).is_file() else None
    over = journal.over(None if made is None else made.plan_sha256)
    plans = {plan.get("plan_sha256"): plan for file in journal.files() if (plan := file.read_plan()) is not None}
    if made is not None and plans.keys() <= over:  # at most, the journal is still there
        return finish_set(root, Outline(made.plan_sha256, (), 0), made.provenance)
    if not plans:
        raise StoreError("no run has begun there; give the folder that semdis encode --part writes", place=root)
    if not path.is_file():
        what = "a run of the whole set has begun there, which alone can finish it: run the same semdis encode again"
        raise UsageError(what, place=root)
    outline = Outline.read(path)
    if (plan := plans.get(outline.sha256)) is None:
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
