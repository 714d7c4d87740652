"""The plan of a set in a file: what it is made for, and how a run that encodes the set, or a part, takes it up."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from semdis_cli.columns.record import RecordedColumns
from semdis_cli.errors import UsageError
from semdis_cli.files.set_names import JOURNAL_FOLDER, PLAN_FILE
from semdis_cli.pipeline.encode_plan import EncodePlan
from semdis_cli.provenance import Provenance, find_differences
from semdis_cli.sources.find import refuse_missing
from semdis_cli.sources.recorded import RecordedImages
from semdis_cli.sources.request import Request
from semdis_cli.store.checks import MALFORMED, check_count, check_object
from semdis_cli.store.writing.filed_plan import plan_of
from semdis_cli.store.writing.finished import Base
from semdis_cli.store.writing.plan_file import PlanFile, damaged
from semdis_cli.wording import count

_AGAIN = "make it again with semdis plan, or delete it"
_STALE = "the set has changed since the plan was made"


def plan_path(root: Path) -> Path:
    """Return where the plan of the set in `root` lies."""
    return root / JOURNAL_FOLDER / PLAN_FILE


@dataclass(frozen=True)
class FiledPlan:
    """A plan that was read from a file, for what a run is asked to encode."""

    file: PlanFile
    request: Request
    num_images: int  # in the sources, those that the set has already included
    passed_over: Mapping[str, int]
    provenance: Provenance

    @classmethod
    def find(cls, root: Path, request: Request) -> "FiledPlan | None":
        """Return the plan of the set in `root`, of which the images are not read yet; None if there is none.

        Raises `UsageError` for one that was made for something else than `request`, or whose sources are gone, and
        `StoreError` for a damaged one.
        """
        path = plan_path(root)
        file = PlanFile.read(path)
        if file is None:
            return None
        try:
            about = file.about
            before, counts = check_object(about["request"]), check_object(about["passed_over"])
            passed_over = {name: check_count(number) for name, number in counts.items()}
            num_found, provenance = check_count(about["num_found"]), Provenance.from_json(about["provenance"])
        except MALFORMED as error:
            raise damaged(path, error) from error
        if differences := find_differences(before, dict(request.record)):
            raise UsageError(f"made for something else ({'; '.join(map(str, differences))}); {_AGAIN}", place=path)
        refuse_missing(request.sources.locations)
        return cls(file, request, num_found, passed_over, provenance)

    def all_keys(self) -> Iterator[str]:
        """Yield no keys: what had to be looked for in all of them was, when the plan was made."""
        return iter(())

    def describe(self) -> str:
        """Say in a line which plan it is."""
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.file.made_s))
        shards = count(len(self.file.shards), "shard")
        return f"by the plan of {made}: {count(self.file.num_images, 'image')} in {shards} to encode"

    def take(self, base: Base, provenance: Provenance) -> EncodePlan:
        """Return the plan for a run on the set `base`, whose latents are made with the settings `provenance`.

        Raises `UsageError` if it was made for another set, or for other settings, and `StoreError` if it is damaged.
        """
        path = self.file.path
        if differences := self.provenance.differences(provenance):
            raise UsageError(f"made for other settings ({'; '.join(map(str, differences))}); {_AGAIN}", place=path)
        if self.file.base_sha256 != base.sha256:
            raise UsageError(f"{_STALE}; {_AGAIN}", place=path)
        form = RecordedColumns(self.request.sources, self.request.table)
        try:
            columns = form.read(check_object(self.file.about["columns"]), self.file.classes)
        except MALFORMED as error:
            raise damaged(path, error) from error
        contents = plan_of(self.file, RecordedImages(self.request.sources, has_beside=True))
        return EncodePlan(contents, provenance, self.passed_over, columns)

    def refuse_other(self) -> UsageError:
        """Return the error to raise where shards were published under another plan."""
        return UsageError(f"{_STALE}: shards were published under another one; {_AGAIN}", place=self.file.path)
