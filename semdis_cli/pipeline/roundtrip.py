"""Images -> latents -> images, without storing latents: what the tokenizer does to these pictures, in dB."""

import statistics
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from semdis_cli.defaults import ROUNDTRIP_MARKER
from semdis_cli.errors import UnreadableImageError
from semdis_cli.events import BatchDone, Event, Failure, ImageMeasured, RunStarted, StageTimes
from semdis_cli.files.atomic import publish
from semdis_cli.files.claim import PLAN_SHA256, claimed_folder, claimed_settings
from semdis_cli.files.json_text import escape_text, key_fields, to_line
from semdis_cli.files.spelling import give_own_names
from semdis_cli.images.formats.jpeg.decoder import jpeg_decoder
from semdis_cli.images.geometry import undo_padding
from semdis_cli.images.loader import Loader
from semdis_cli.metrics import psnr_db
from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.parts import LATENTS
from semdis_cli.pipeline.calls import (
    ImageCall,
    as_stored,
    busy_threads,
    encode_images,
    fitting,
    image_calls,
    share_of_call,
    start_workers,
)
from semdis_cli.pipeline.decode import decoded_as, sampling_of, sampling_record
from semdis_cli.pipeline.encode_plan import EncodePlan, sampled_as
from semdis_cli.pipeline.fit import CallMemory
from semdis_cli.pipeline.images_out import (
    NOTHING_WRITTEN,
    ImageWriter,
    Writing,
    output_names,
    parts,
    renamed_record,
    too_long,
)
from semdis_cli.pipeline.limits import within_limit
from semdis_cli.pipeline.reading import LoadedCall
from semdis_cli.pipeline.report import RunTotals
from semdis_cli.pipeline.workers import Timed, Workers, done_already, in_order, timed
from semdis_cli.provenance import Provenance
from semdis_cli.records import LoadedImage
from semdis_cli.settings import LatentSettings, RoundtripSettings
from semdis_cli.store.quantised import real_values
from semdis_cli.store.writing.plan import plan_sha256

_PER_IMAGE_FILE = "psnr.jsonl"
_MAX_PSNR_DB = 100.0


def roundtrip(
    plan: EncodePlan,
    loader: Loader,
    tokenizer: Tokenizer,
    settings: RoundtripSettings,
    output: Path,
) -> Iterator[Event]:
    """Encode and decode every planned image, write the reconstructions into `output` and measure them.

    Latents pass through the stored dtype, so the figures are those of `encode` followed by `decode`. PSNR is against
    the pixels that the model was given, padding left out, and counts as 100 dB where nothing differs. `psnr.jsonl` has
    one row per input. Raises `UsageError` if the folder holds something else, `NoSpaceError` if the disk fills up, and
    what `within_limit` raises.
    """
    return within_limit(_roundtrip(plan, loader, tokenizer, settings, output), settings.max_errors, goes_on=False)


def _roundtrip(
    plan: EncodePlan, loader: Loader, tokenizer: Tokenizer, settings: RoundtripSettings, output: Path
) -> Iterator[Event]:
    decoding, sampling = settings.decode, sampling_of(settings.decode)
    totals = RunTotals("roundtrip", tokenizer, busy_threads(tokenizer, decoding.num_workers))
    keys = (image.source.key for shard in plan.shards for image in shard.images)
    names = output_names(keys, decoding.write.format)
    record = {
        "encode": plan.provenance.to_json(),
        PLAN_SHA256: _plan_sha256(plan, _find_provenance(claimed_settings(output, ROUNDTRIP_MARKER))),
        "sampling": sampling_record(sampling),
        "write": asdict(decoding.write),
    }
    yield RunStarted(plan.num_inputs, 0, plan.megapixels())
    errors = {failure.key: failure.reason for failure in plan.failures}
    yield from plan.failures

    # Read -> encode -> decode -> measure -> file
    scores: dict[str, float] = {}
    with (
        claimed_folder(output, ROUNDTRIP_MARKER, record, names.values()),
        start_workers(tokenizer, decoding.num_workers) as workers,
    ):
        names, renamed = give_own_names(names, output)
        unusable = too_long(names)
        errors |= {failure.key: failure.reason for failure in unusable}
        yield from unusable
        writer = ImageWriter(output, names, decoding.write)
        calls = _usable_calls(plan, tokenizer, {failure.key for failure in unusable})
        how = _Roundtrip(loader, tokenizer, settings.latents, sampling, writer, workers)
        for event in how.run(calls):
            if isinstance(event, ImageMeasured):
                scores[event.key] = event.psnr_db
            elif isinstance(event, Failure):
                errors[event.key] = event.reason
            yield totals.add(event)

    # Figures
    _publish_figures(output / _PER_IMAGE_FILE, scores, errors)
    yield totals.finish(
        output,
        num_ok=len(scores),
        num_failed=len(errors),
        passed_over=dict(plan.passed_over),
        sampling=sampling_record(sampling),
        jpeg_decoder=jpeg_decoder(),
        psnr_db=_summary(list(scores.values())),
        **renamed_record(renamed),
    )


def as_begun(settings: RoundtripSettings, output: Path) -> RoundtripSettings:
    """Return `settings`, with the noise of an earlier run in `output`; before planning."""
    recorded = claimed_settings(output, ROUNDTRIP_MARKER)
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


def _usable_calls(plan: EncodePlan, tokenizer: Tokenizer, unusable: Collection[str]) -> Iterator[ImageCall]:
    for call in image_calls(plan.shards, tokenizer):
        images = tuple(image for image in call.images if image.source.key not in unusable)
        if images:
            yield replace(call, images=images)


@dataclass(frozen=True)
class _RoundtripCall:
    """Outcome of a model call; its images are being measured and written."""

    failures: list[Failure]
    times: StageTimes
    megapixels: float = 0.0
    measuring: "Sequence[Future[list[ImageMeasured]]]" = ()
    writing: Writing = NOTHING_WRITTEN

    def events(self, workers: Workers) -> Iterator[Event]:
        """Wait until all images are on disk, and return the events that tell of them."""
        measured = [score for scores in self.measuring for score in workers.result(scores)]
        written = workers.result(self.writing)
        refused = {failure.key for failure in written.failures}
        scores = [score for score in measured if score.key not in refused]
        yield BatchDone(len(scores), self.megapixels, self.times + StageTimes(write_s=written.seconds))
        yield from scores
        yield from (*self.failures, *written.failures)


@dataclass(frozen=True)
class _Roundtrip:
    """Everything that a call goes through: reading, the two halves of the model, measuring and writing."""

    loader: Loader
    tokenizer: Tokenizer
    latents: LatentSettings
    sampling: FCDMDiffAEInferenceConfig
    writer: ImageWriter
    workers: Workers

    def run(self, calls: Iterable[ImageCall]) -> Iterator[Event]:
        """Several calls at once; events come in their order."""
        for result in in_order(fitting(calls, self._memory), self._start, self._share, self.workers.result):
            yield from result.events(self.workers)

    @property
    def _memory(self) -> CallMemory:
        return CallMemory(self.tokenizer, self.loader.room, "decode", self.sampling.pdg)

    def _start(self, call: ImageCall) -> "Future[_RoundtripCall]":
        if failures := self._memory.refused(call.bucket, call.keys):
            return done_already(_RoundtripCall(failures, StageTimes()))
        self.loader.expect(call.images)
        return self.workers.submit_call(partial(timed, self.loader.load), call.images, self._finish)

    def _share(self, call: ImageCall) -> float:
        return share_of_call(call.bucket, len(call.images), "decode", self.tokenizer, self.workers)

    def _finish(self, loaded: Sequence[Timed[LoadedImage | Failure]]) -> _RoundtripCall:
        """Encode and decode what could be read, measure it, and hand it to the threads that write."""
        call = LoadedCall.of(loaded)
        images, failures, times = call.images, list(call.failures), StageTimes(read_s=call.read_s)
        if not images:
            return _RoundtripCall(failures, times)
        try:
            with self._memory.taking(images[0].record.geometry.bucket, len(images)):
                encoded = timed(encode_images, call, self.tokenizer, self.latents)
                times += StageTimes(encode_s=encoded.seconds)
                images, stored, unusable = self._stored(images, encoded.value)
                failures += unusable
                if not images:
                    return _RoundtripCall(failures, times)
                decoded = timed(self.tokenizer.decode, stored, [image.record.key for image in images], self.sampling)
        except UnreadableImageError as error:
            failures += [Failure(image.record.key, str(error)) for image in images]
            return _RoundtripCall(failures, times)
        times += StageTimes(decode_s=decoded.seconds)
        megapixels = decoded.value[:, 0].numel() / 1e6
        return _RoundtripCall(failures, times, megapixels, *self._hand_on(images, decoded.value))

    def _stored(
        self, images: Sequence[LoadedImage], latents: Tensor
    ) -> tuple[list[LoadedImage], Tensor, list[Failure]]:
        """Pass `latents` [B,Z,h,w] through the stored dtype, to float32; what `encode` would refuse is a failure."""
        dtype = self.latents.store_dtype
        tried = [as_stored(image, {LATENTS: one}, dtype) for image, one in zip(images, latents, strict=True)]
        stored = [real_values(one).float() for one in tried if not isinstance(one, Failure)]
        kept = [image for image, one in zip(images, tried, strict=True) if not isinstance(one, Failure)]
        failures = [one for one in tried if isinstance(one, Failure)]
        return kept, torch.stack(stored) if stored else latents[:0], failures

    def _hand_on(
        self, images: Sequence[LoadedImage], reconstructions: Tensor
    ) -> "tuple[Sequence[Future[list[ImageMeasured]]], Writing]":
        """Have `reconstructions`, uint8 [B,3,H,W], measured and their files written."""
        pairs = [_Pair.of(image, one) for image, one in zip(images, reconstructions, strict=True)]
        num_pixels = reconstructions[0, 0].numel()
        measuring = self.workers.after_call(_measured, parts(pairs, num_pixels, self.workers.num_threads))
        return measuring, self.writer.submit([(pair.key, pair.kept) for pair in pairs], self.workers)


class _Pair(NamedTuple):
    """An image that came back, `kept`, and what was `given` to the model, both uint8 [3,H,W] without padding."""

    key: str
    kept: np.ndarray
    given: np.ndarray

    @classmethod
    def of(cls, image: LoadedImage, reconstruction: Tensor) -> Self:
        """Leave the padding of both out."""
        geometry = image.record.geometry
        kept, given = (undo_padding(pixels.numpy(), geometry) for pixels in (reconstruction, image.pixels))
        return cls(image.record.key, kept, given)


def _measured(pairs: Sequence[_Pair]) -> list[ImageMeasured]:
    return [ImageMeasured(pair.key, _psnr_db(pair.kept, pair.given)) for pair in pairs]


def _psnr_db(kept: np.ndarray, given: np.ndarray) -> float:
    return min(psnr_db(torch.from_numpy(kept), torch.from_numpy(given)), _MAX_PSNR_DB)


def _publish_figures(path: Path, scores: dict[str, float], errors: dict[str, str]) -> None:
    """One row per input, sorted by key: its PSNR, or why it has none."""
    rows = {key: to_line({**key_fields(key), "psnr_db": round(score, 4)}) for key, score in scores.items()}
    rows |= {key: to_line({**key_fields(key), "error": escape_text(reason)}) for key, reason in errors.items()}
    publish(path, (rows[key] for key in sorted(rows)))


def _summary(scores: list[float]) -> dict[str, float] | None:
    """Mean, median, least and greatest of the scores in dB; None without any."""
    if not scores:
        return None
    values = {
        "mean": statistics.fmean(scores),
        "median": statistics.median(scores),
        "min": min(scores),
        "max": max(scores),
    }
    return {name: round(value, 3) for name, value in values.items()}
