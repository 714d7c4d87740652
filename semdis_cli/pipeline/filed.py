"""The plan of a set in a file: what it is made for, and how a run that encodes the set, or a part, takes it up."""

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from semdis_cli.columns.record import RecordedColumns
from semdis_cli.errors import StoreError, UsageError
from semdis_cli.files.set_names import JOURNAL_FOLDER, PLAN_FILE
from semdis_cli.pipeline.encode_plan import EncodePlan
from semdis_cli.provenance import LatentLayout, Provenance, find_differences
from semdis_cli.sources.find import refuse_missing
from semdis_cli.sources.masks import MaskFiles
from semdis_cli.sources.recorded import RecordedImages
from semdis_cli.sources.request import Request
from semdis_cli.store.checks import MALFORMED, check_count, check_object
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.writing.filed_plan import plan_of
from semdis_cli.store.writing.finished import Base
from semdis_cli.store.writing.plan_file import PlanFile, damaged
from semdis_cli.wording import count

_AGAIN = "make it again with semdis plan, or delete it"
_LAST_S = 1 << 35  # times of files may be any; later ones have no date
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

        One by which the set has been finished counts for none: all that is missing is that it is removed.
        Raises `UsageError` for one that was made for something else than `request`, or whose sources are gone, and
        `StoreError` for a damaged one.
        """
        path = plan_path(root)
        file = PlanFile.read(path)
        if file is None or _is_finished(root, file.plan_sha256):
            return None
        try:
            about = file.about
            before, counts = check_object(about["request"]), check_object(about["passed_over"])
            passed_over = {name: check_count(number) for name, number in counts.items()}
            num_found, provenance = check_count(about["num_found"]), Provenance.from_json(about["provenance"])
            differences = find_differences(before, dict(request.record))
        except MALFORMED as error:
            raise damaged(path, error) from error
        if differences:
            raise UsageError(f"made for something else ({'; '.join(map(str, differences))}); {_AGAIN}", place=path)
        refuse_missing(request.sources.locations)
        return cls(file, request, num_found, passed_over, provenance)

    def all_keys(self) -> Iterator[str]:
        """Yield no keys: what had to be looked for in all of them was, when the plan was made."""
        return iter(())

    def describe(self) -> str:
        """Say in a line which plan it is."""
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(min(max(self.file.made_s, 0), _LAST_S)))
        shards = count(len(self.file.shards), "shard")
        return f"by the plan of {made}: {count(self.file.num_images, 'image')} in {shards} to encode"

    def masks(self, folder: Path) -> MaskFiles:
        """Return the masks in a folder, as they were listed then. Raises `StoreError` if the plan is damaged."""
        try:
            return MaskFiles.planned(folder, check_object(self.file.about["masks"]))
        except MALFORMED as error:
            raise damaged(self.file.path, error) from error

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
            self._check_shards(base, provenance.layout)
            columns = form.read(check_object(self.file.about["columns"]), self.file.classes)
        except MALFORMED as error:
            raise damaged(path, error) from error
        contents = plan_of(self.file, RecordedImages(self.request.sources, has_beside=True))
        return EncodePlan(contents, provenance, self.passed_over, columns)

    def _check_shards(self, base: Base, layout: LatentLayout) -> None:
        """Raise `ValueError` for shards that are none of such a run: it would write over others, or not know how."""
        taken = base.shard_names
        for name, version, bucket, _ in self.file.shards:
            height, width = layout.grid(bucket)
            is_whole = bucket == (height * layout.patch_size, width * layout.patch_size)
            if version or name in taken or not (is_whole and name.endswith(f"-{height}x{width}.safetensors")):
                raise ValueError(f"{name} of {bucket[0]} x {bucket[1]} pixels is no shard of this set")

    def refuse_other(self) -> UsageError:
        """Return the error to raise where shards were published under another plan."""
        return UsageError(f"{_STALE}: shards were published under another one; {_AGAIN}", place=self.file.path)


def _is_finished(root: Path, plan_sha256: str) -> bool:
    with suppress(StoreError):  # none yet; or whoever reads it says what is wrong
        return Manifest.read(root).plan_sha256 == plan_sha256
    return False
