"""Images -> shards of latents."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from semdis_cli.errors import UsageError
from semdis_cli.events import Event, Planning, RunFinished, RunStarted, Tell, untold
from semdis_cli.images.formats.jpeg.decoder import jpeg_decoder
from semdis_cli.images.loader import Loader
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.encode_plan import EncodePlan, encode_provenance, plan_encode, sampled_as
from semdis_cli.pipeline.engine import EncodeWork, encode_engine
from semdis_cli.pipeline.filed import FiledPlan
from semdis_cli.pipeline.limits import within_limit
from semdis_cli.pipeline.report import RunTotals
from semdis_cli.pipeline.shard_encoder import MOST_WRITERS
from semdis_cli.provenance import Provenance
from semdis_cli.settings import EncodeSettings
from semdis_cli.sources.find import FoundImages
from semdis_cli.store.writing.far_set import FarSet
from semdis_cli.store.writing.finished import recorded_settings
from semdis_cli.store.writing.latent_set import LatentSetWriter
from semdis_cli.store.writing.set_share import SetShareWriter
from semdis_cli.store.writing.set_writer import ShareOutcome

_STAGE_WRITERS = 1  # the stage of a set in a store holds few shards at a time


def encode(
    found: FoundImages | FiledPlan,
    loader: Loader,
    tokenizer: Tokenizer,
    settings: EncodeSettings,
    output: Path | FarSet,
    tell: Tell = untold,
) -> Iterator[Event]:
    """Encode the images of `found` into `output`, continuing an earlier run; of a finished set only what has changed.

    Those of a plan that was made before are encoded as they were planned.
    A bad image is a `Failure` event and a row of the index. `tell` hears of the planning, before there are events.
    Raises what `LatentSetWriter`, `plan_encode` and `within_limit` raise.
    """
    root, far = (output.stage, output) if isinstance(output, FarSet) else (output, None)
    return within_limit(_encode(found, loader, tokenizer, settings, root, far, tell), settings.max_errors)


def _encode(
    found: FoundImages | FiledPlan,
    loader: Loader,
    tokenizer: Tokenizer,
    settings: EncodeSettings,
    root: Path,
    far: FarSet | None,
    tell: Tell,
) -> Iterator[Event]:
    totals = RunTotals("encode", tokenizer, far=far)
    settings = replace(settings, latents=sampled_as(settings.latents, recorded_settings(root)))
    provenance = encode_provenance(tokenizer, loader.settings, settings.latents)
    with _open_writer(root, far, provenance, settings) as latents:
        plan = take_up_plan(found, loader, tokenizer, settings, latents, tell)
        latents.check_space()
        done = latents.num_done, plan.megapixels(latents.remaining), latents.num_failed_before
        writers = _STAGE_WRITERS if far else MOST_WRITERS
        work = EncodeWork(loader.with_columns(plan.columns), tokenizer, settings.latents, latents, writers)
        if len(settings.processes.places) > 1:
            tell(Planning("starting processes"))
        with encode_engine(work, settings.num_workers, settings.processes) as engine:
            note = "; ".join(filter(None, (latents.note(), plan.columns.note, loader.note, engine.note)))
            yield RunStarted(latents.num_inputs, *done, note)
            if settings.share is None or settings.share.index == 0:  # the others plan, and find, the same
                yield from plan.failures
                yield from plan.contents.left_out
                yield from map(totals.add, plan.columns.troubles(found.all_keys))
            with closing(engine.run(latents.remaining, latents.record)) as events:
                yield from map(totals.add, events)
            totals.num_threads = engine.num_threads
        # Index, checksums and, last, the manifest
        share = latents.outcome()
        of_share = None if share is None or latents.finished else _share_finished(totals, root, share, engine.report())
        manifest = latents.finish()
        share = latents.outcome()
    if manifest is None:
        assert of_share is not None, "a run of the whole set finishes it"
        yield of_share
    else:
        yield totals.finish(
            root,
            num_ok=manifest.num_ok,
            num_failed=manifest.num_failed,
            **_changes_report(plan, manifest.num_removed),
            jpeg_decoder=jpeg_decoder(),
            **manifest.figures(),
            whitened=tokenizer.is_whitened,
            **engine.report(),
            **far_off_report(manifest.sums.far_off(), tokenizer),
            **({} if share is None else _share_report(share)),
        )


def _open_writer(
    root: Path, far: FarSet | None, provenance: Provenance, settings: EncodeSettings
) -> LatentSetWriter | SetShareWriter:
    """Return what writes the set, or the share of it that is this run's."""
    mix_versions = settings.shards.mix_versions
    if settings.share is None:
        return LatentSetWriter(root, provenance, mix_versions=mix_versions, far=far)
    if far is not None:
        raise UsageError("parts need a folder that all of them see; encode to one, and copy the set", place=far.url)
    return SetShareWriter(root, provenance, settings.share, mix_versions=mix_versions)


def _share_finished(totals: RunTotals, root: Path, share: ShareOutcome, of_engine: dict[str, Any]) -> RunFinished:
    """Return the closing event of a share where others are missing; its report lies in the journal.

    It is written before the share is marked as done: then others may put the journal away.
    """
    return totals.finish(
        root,
        num_ok=share.num_ok,
        num_failed=share.num_failed,
        report_path=share.report_path,
        shards=share.num_shards,
        latent_bytes=share.num_bytes,
        jpeg_decoder=jpeg_decoder(),
        **_share_report(share),
        **of_engine,
    )


def _share_report(share: ShareOutcome) -> dict[str, Any]:
    return {
        "part": str(share.share),
        "part_images": {"ok": share.num_ok, "failed": share.num_failed},
        "parts_missing": list(map(str, share.missing)),
    }


def take_up_plan(
    found: FoundImages | FiledPlan,
    loader: Loader,
    tokenizer: Tokenizer,
    settings: EncodeSettings,
    latents: LatentSetWriter | SetShareWriter,
    tell: Tell,
) -> EncodePlan:
    """Plan what there is to do, again if an earlier run had published shards under another plan.

    A plan that was made before is taken, and not made again. Raises what `plan_encode` and `FiledPlan.take` raise.
    """
    hashes = partial(loader.hashes, tell=tell)
    if isinstance(found, FiledPlan):
        plan = found.take(latents.base, latents.provenance)
        if not latents.begin(plan.contents, hashes):
            raise found.refuse_other()
        return plan
    while True:
        plan = plan_encode(found, loader, tokenizer, settings, latents.base, latents.provenance, tell)
        if latents.begin(plan.contents, hashes):
            return plan


def _changes_report(plan: EncodePlan, num_removed: int) -> dict[str, Any]:
    """Give the closing report's figures of what the run changed in the set."""
    return {
        "unchanged": plan.num_unchanged,
        "changed": plan.contents.changes.num_changed,
        "removed": num_removed,
        "passed_over": dict(plan.passed_over),
        "left_out": plan.num_left_out,
    }


def far_off_report(far_off: dict[str, float] | None, tokenizer: Tokenizer) -> dict[str, Any]:
    """Give the closing report's words on whitened latents far from mean 0 and std 1; nothing if all is well."""
    return {"far_off": far_off} if far_off is not None and tokenizer.is_whitened else {}
