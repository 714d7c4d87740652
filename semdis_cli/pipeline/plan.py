"""Plans of sets, made before any run: so that none of many lists the images, and reads their headers, for itself."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from semdis_cli.columns.providers import BesideImages
from semdis_cli.columns.record import RecordedColumns
from semdis_cli.events import ColumnTrouble, Planning, Tell, untold
from semdis_cli.images.loader import Loader
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.encode import take_up_plan
from semdis_cli.pipeline.encode_plan import EncodePlan, encode_provenance, sampled_as
from semdis_cli.pipeline.filed import plan_path
from semdis_cli.settings import EncodeSettings
from semdis_cli.sources.find import FoundImages
from semdis_cli.sources.recorded import RecordedImages
from semdis_cli.sources.request import Request
from semdis_cli.store.writing.finished import recorded_settings
from semdis_cli.store.writing.journal import OUTLINE_FILE
from semdis_cli.store.writing.latent_set import LatentSetWriter
from semdis_cli.store.writing.outline import Outline
from semdis_cli.store.writing.plan_file import write_plan

_MOST_TROUBLES = 1000  # that are kept to be shown


@dataclass(frozen=True)
class MadePlan:
    """A plan that was written to `path`, of so many bytes: 0 where nothing is left to do, and nothing was written.

    `troubles`: the first of all that is wrong with tables, which no run tells again.
    """

    plan: EncodePlan
    path: Path
    num_bytes: int
    troubles: Sequence[ColumnTrouble]
    num_troubles: int


def make_plan(
    found: FoundImages,
    loader: Loader,
    tokenizer: Tokenizer,
    settings: EncodeSettings,
    request: Request,
    root: Path,
    tell: Tell = untold,
) -> MadePlan:
    """Plan what `encode` would do in `root`, and write it there for runs to come.

    `request`: that of which `found` is what was found. Raises as `encode`, also while a run is at work there.
    """
    path = plan_path(root)
    settings = replace(settings, latents=sampled_as(settings.latents, recorded_settings(root)))
    provenance, mix_versions = (
        encode_provenance(tokenizer, loader.settings, settings.latents),
        settings.shards.mix_versions,
    )
    with LatentSetWriter(root, provenance, mix_versions=mix_versions) as latents:
        plan = take_up_plan(found, loader, tokenizer, settings, latents, tell)
        troubles = _first(plan.columns.troubles(found.all_keys))
        if latents.finished is not None:
            return MadePlan(plan, path, 0, *troubles)
        masks = None if loader.masks is None else loader.masks.files
        about = {
            "request": dict(request.record),
            "provenance": latents.provenance.to_json(),
            "num_found": found.num_images,
            "passed_over": dict(plan.passed_over),
            "masks": None if masks is None else masks.describe(),
            "columns": RecordedColumns(request.sources, request.table).describe(plan.columns),
        }
        has_beside = any(isinstance(column.provider, BesideImages) for column in plan.columns.columns)
        tell(Planning("writing the plan"))
        form = RecordedImages(request.sources, has_beside=has_beside)
        Outline.of(plan.contents).write(path.with_name(OUTLINE_FILE))
        write_plan(path, plan.contents, latents.base.sha256, about, form)
    return MadePlan(plan, path, path.stat().st_size, *troubles)


def _first(troubles: Iterable[ColumnTrouble]) -> tuple[Sequence[ColumnTrouble], int]:
    """Return the first troubles, and the number of all: there may be as many as rows."""
    left = iter(troubles)
    first = list(islice(left, _MOST_TROUBLES))
    return first, len(first) + sum(1 for _ in left)
