"""Images -> latents -> images, without storing latents: what tokenizers do to these pictures, in figures."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from semdis_cli.defaults import EVAL_MARKER, ROUNDTRIP_MARKER
from semdis_cli.events import Event, RunStarted, ShardDecoded
from semdis_cli.files.claim import PLAN_SHA256, claimed_folder, claimed_settings
from semdis_cli.files.disk import remove_folder
from semdis_cli.files.spelling import give_own_names
from semdis_cli.images.formats.jpeg.decoder import jpeg_decoder
from semdis_cli.images.loader import Loader
from semdis_cli.metrics.fid import why_none
from semdis_cli.metrics.measure import Measurer
from semdis_cli.metrics.registry import BITS_PER_PIXEL, PSNR_DB
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.contenders.contender import Contender
from semdis_cli.pipeline.contenders.tokenized import TokenizedContender
from semdis_cli.pipeline.decode import decoded_as, sampling_record
from semdis_cli.pipeline.encode_plan import EncodePlan, sampled_as
from semdis_cli.pipeline.fleet.roundtrip_job import roundtrip_engine
from semdis_cli.pipeline.images_out import ImageWriter, output_names, renamed_record, too_long
from semdis_cli.pipeline.limits import within_limit
from semdis_cli.pipeline.measuring.comparing import Measuring
from semdis_cli.pipeline.measuring.figures import FigureSpool
from semdis_cli.pipeline.measuring.figures_out import write_figures
from semdis_cli.pipeline.measuring.kept_pictures import PICTURES_FOLDER, PictureChoice, PictureKeeper
from semdis_cli.pipeline.measuring.measured import Finish, Measured, Rfid, nothing_more
from semdis_cli.pipeline.report import RunTotals
from semdis_cli.pipeline.shard_roundtrip import RoundtripWork
from semdis_cli.provenance import Provenance
from semdis_cli.settings import RoundtripSettings
from semdis_cli.store.writing.plan import PlannedShard, plan_sha256

_SHARD_IMAGES = 512  # that are done at once: what a run that is stopped has to do again, at most
_MEASURED_ANEW = (
    "the run that was stopped here had other figures, contenders or pictures of a page: all images are measured anew"
)


@dataclass(frozen=True)
class _Trip:
    """A run: `contenders` on the images of `plan`, into `output`.

    `finish`: makes more of what was measured, and returns what the report says of that.
    """

    verb: str
    marker: str
    plan: EncodePlan
    loader: Loader
    first: TokenizedContender
    settings: RoundtripSettings
    output: Path
    finish: Finish
    others: tuple[Contender, ...] = ()
    names: dict[str, PurePosixPath] = field(default_factory=dict)

    @property
    def contenders(self) -> tuple[Contender, ...]:
        return self.first, *self.others

    @property
    def has_files(self) -> bool:
        """Tell whether the reconstructions are written."""
        return self.verb == "roundtrip"


def roundtrip(
    plan: EncodePlan,
    loader: Loader,
    tokenizer: Tokenizer,
    settings: RoundtripSettings,
    output: Path,
    finish: Finish = nothing_more,
) -> Iterator[Event]:
    """Encode and decode every planned image, write the reconstructions into `output` and measure them.

    Latents pass through the stored dtype, so the figures are those of `encode` followed by `decode`. They are against
    the pixels that the model was given, padding left out; PSNR counts as 100 dB where nothing differs. `figures.jsonl`
    has one row per input. A run that was stopped is gone on with. Raises `UsageError` if the folder holds something
    else, `NoSpaceError` if the disk fills up, and what `within_limit` raises.
    """
    first = TokenizedContender.of(tokenizer, settings)
    keys = (image.source.key for shard in plan.shards for image in shard.images)
    names = output_names(keys, settings.decode.write.format)
    trip = _Trip("roundtrip", ROUNDTRIP_MARKER, plan, loader, first, settings, output, finish, names=names)
    return within_limit(_run(trip), settings.max_errors)


def evaluate(
    plan: EncodePlan,
    loader: Loader,
    contenders: tuple[TokenizedContender, *tuple[Contender, ...]],
    settings: RoundtripSettings,
    output: Path,
    finish: Finish = nothing_more,
) -> Iterator[Event]:
    """Measure what each of `contenders` makes of every planned image; only figures go into `output`.

    All are given the same pixels, a model call of the first one at a time. Goes on and raises as `roundtrip`.
    """
    first, *others = contenders
    trip = _Trip("eval", EVAL_MARKER, plan, loader, first, settings, output, finish, tuple(others))
    return within_limit(_run(trip), settings.max_errors)


def _run(trip: _Trip) -> Iterator[Event]:
    totals = RunTotals(trip.verb, trip.first.tokenizer)
    measurer = Measurer.of(trip.settings.measures, trip.first.tokenizer.model.device)
    with claimed_folder(trip.output, trip.marker, _claim(trip), trip.names.values()):
        # What there is to do
        names, renamed = give_own_names(trip.names, trip.output)
        failures = [*trip.plan.failures, *too_long(names)]
        shards = _cut(_usable(trip.plan.shards, {failure.key for failure in failures}))
        choice = _choice(trip, shards)
        spool = FigureSpool.open(trip.output, _record(trip, measurer, choice), measurer.num_features)
        work = _work(trip, names, measurer, spool, choice)
        remaining = [shard for shard in shards if shard.name not in spool.done]

        # Read -> encode -> decode -> measure -> file
        with (
            roundtrip_engine(work, trip.settings, remaining) as engine,
            closing(engine.run(remaining, partial(_note, spool, {shard.name: shard for shard in remaining}))) as events,
        ):
            yield _started(trip, spool, work.measuring.keeper, remaining, engine.note)
            yield from failures
            spool.add_others(failures)
            for event in events:
                spool.take(event)
                yield totals.add(event)
            totals.num_threads = engine.num_threads

        # Figures
        yield _finish(trip, totals, _sum_up(trip, spool, measurer, choice), renamed_record(renamed) | engine.report())


def _claim(trip: _Trip) -> dict[str, Any]:
    """Return what the folder is claimed for: the images, how they are encoded, and what becomes of them."""
    before = _find_provenance(claimed_settings(trip.output, trip.marker))
    claim = {
        "encode": trip.plan.provenance.to_json(),
        PLAN_SHA256: _plan_sha256(trip.plan, before),
        "sampling": sampling_record(trip.first.sampling),
    }
    return claim | {"write": asdict(trip.settings.decode.write)} if trip.has_files else claim


def _record(trip: _Trip, measurer: Measurer, choice: PictureChoice | None) -> dict[str, Any]:
    """Return what figures and pictures follow from: under another record none of an earlier run count."""
    return {
        "claim": _claim(trip),
        "contenders": [[one.title, one.record()] for one in trip.contenders],
        "measures": measurer.to_json(),
        "pictures": None if choice is None or trip.settings.page.report is None else asdict(choice),
        "shard_images": _SHARD_IMAGES,
    }


def _choice(trip: _Trip, shards: Sequence[PlannedShard]) -> PictureChoice | None:
    page = trip.settings.page
    if page.report is None:
        return PictureChoice(0.0, 1) if page.keeps_worst else None
    return PictureChoice.of(page.num_pictures, sum(len(shard.images) for shard in shards))


def _work(
    trip: _Trip,
    names: dict[str, PurePosixPath],
    measurer: Measurer,
    spool: FigureSpool,
    choice: PictureChoice | None,
) -> RoundtripWork:
    pictures = trip.output / PICTURES_FOLDER
    if not spool.done:
        remove_folder(pictures)
    keeper = None if choice is None else PictureKeeper(pictures, choice)
    measuring = Measuring(measurer, spool.take_features if measurer.num_features else None, keeper)
    writer = ImageWriter(trip.output, names, trip.settings.decode.write) if trip.has_files else None
    return RoundtripWork(trip.loader, trip.first, measuring, writer, trip.others)


def _started(
    trip: _Trip, spool: FigureSpool, keeper: PictureKeeper | None, remaining: Sequence[PlannedShard], note: str
) -> RunStarted:
    """Return the event that says what there is to do; `keeper` hears of what an earlier run has measured.

    `note`: of what does it.
    """
    num_done = num_failed = 0
    for row in spool.rows():
        num_done += 1
        num_failed += row.error is not None
        if keeper is not None and row.error is None:
            keeper.know(row.key, row.figures[0][PSNR_DB])
    megapixels = sum(len(shard.images) * shard.bucket[0] * shard.bucket[1] for shard in remaining) / 1e6
    notes = *_notes_of(spool, trip.plan.num_inputs), note
    return RunStarted(trip.plan.num_inputs, num_done, megapixels, num_failed, "; ".join(filter(None, notes)))


def _notes_of(spool: FigureSpool, num_images: int) -> tuple[str | None, str | None]:
    """Return what a person should know who may want to stop the run; None for nothing."""
    return _MEASURED_ANEW if spool.replaced else None, why_none(num_images) if spool.num_features else None


def _note(spool: FigureSpool, shards: dict[str, PlannedShard], done: ShardDecoded) -> None:
    """Publish the figures of a shard, all of whose images are on disk."""
    spool.finish(shards[done.name])


def _sum_up(trip: _Trip, spool: FigureSpool, measurer: Measurer, choice: PictureChoice | None) -> Measured:
    """Write the tables, and return what was measured."""
    titles = [one.title for one in trip.contenders]
    metrics = [*measurer.names, BITS_PER_PIXEL]
    figures = write_figures(trip.output, trip.settings.page.tables, titles, metrics, spool.rows())
    return Measured(
        contenders=tuple((one.title, one.record()) for one in trip.contenders),
        measures=measurer.to_json(),
        figures=figures,
        rows=spool,
        pictures=trip.output / PICTURES_FOLDER,
        choice=choice,
        rfid=Rfid.of(spool, len(titles)) if measurer.num_features else None,
        provenance=trip.plan.provenance,
    )


def _finish(trip: _Trip, totals: RunTotals, measured: Measured, facts: dict[str, Any]) -> Event:
    """Make of it what is to be made, write the report, and remove what it was made of."""
    more = trip.finish(measured)
    finished = totals.finish(
        trip.output,
        num_ok=measured.figures.num_ok,
        num_failed=measured.figures.num_failed,
        passed_over=dict(trip.plan.passed_over),
        sampling=sampling_record(trip.first.sampling),
        jpeg_decoder=jpeg_decoder(),
        measures=measured.measures,
        worst=measured.worst(),
        **(measured.report() if trip.has_files else measured.comparison()),
        **facts,
        **more,
    )
    measured.rows.remove()
    remove_folder(measured.pictures)
    return finished


def as_begun(settings: RoundtripSettings, output: Path, marker: str = ROUNDTRIP_MARKER) -> RoundtripSettings:
    """Return `settings`, with the noise of an earlier run in `output`; before planning."""
    recorded = claimed_settings(output, marker)
    latents = sampled_as(settings.latents, _find_provenance(recorded))
    return replace(settings, latents=latents, decode=decoded_as(settings.decode, recorded))


def _find_provenance(recorded: dict[str, Any]) -> Provenance | None:
    """Return the record of encoding in that of a roundtrip; None for nothing on record, or what is no record."""
    with suppress(ValueError):
        return Provenance.from_json(recorded.get("encode"))
    return None


def _plan_sha256(plan: EncodePlan, before: Provenance | None) -> str:
    """Hash the images and settings; under the record of an earlier run if only the name of its model is another."""
    provenance = before if before is not None and before.is_same(plan.provenance) else plan.provenance
    return plan_sha256(provenance, plan.shards, plan.failures)


def _usable(shards: Sequence[PlannedShard], unusable: Collection[str]) -> Sequence[PlannedShard]:
    """Leave images out of shards, and shards without any others."""
    if not unusable:
        return shards
    images = [tuple(one for one in shard.images if one.source.key not in unusable) for shard in shards]
    return [replace(shard, images=left) for shard, left in zip(shards, images, strict=True) if left]


def _cut(shards: Sequence[PlannedShard]) -> list[PlannedShard]:
    """Cut shards into parts that are done at once."""
    return [
        replace(shard, name=f"{Path(shard.name).stem}-{start}", images=shard.images[start : start + _SHARD_IMAGES])
        for shard in shards
        for start in range(0, len(shard.images), _SHARD_IMAGES)
    ]
