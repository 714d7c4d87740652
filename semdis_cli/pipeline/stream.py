"""Latents on a pipe: images -> a file for each, as it is ready, and such files -> images, as they come."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from semdis_cli.defaults import DECODE_MARKER
from semdis_cli.errors import StoreError, UnreadableImageError
from semdis_cli.events import BatchDone, Event, Failure, RunStarted, ShardFailed, StageTimes, Tell, untold
from semdis_cli.files.claim import claimed_folder, claimed_settings
from semdis_cli.files.spelling import probe_spelling
from semdis_cli.files.tar import Member, is_tar_start, read_up_to, stream_members
from semdis_cli.images.formats.jpeg.decoder import jpeg_decoder
from semdis_cli.images.geometry import undo_padding
from semdis_cli.images.loader import Loader
from semdis_cli.memory import room_for_images
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.calls import (
    Volume,
    busy_threads,
    encoded_calls,
    image_calls,
    reading_of,
    start_workers,
    take_call,
)
from semdis_cli.pipeline.decode import decode_provenance, decoded_as, sampling_of, sampling_record
from semdis_cli.pipeline.encode import far_off_report
from semdis_cli.pipeline.encode_plan import plan_encode
from semdis_cli.pipeline.fit import CallMemory
from semdis_cli.pipeline.images_out import ImageWriter, StreamNames, image_file, renamed_record, too_long
from semdis_cli.pipeline.limits import within_limit
from semdis_cli.pipeline.reading import decoding_report
from semdis_cli.pipeline.report import RunTotals
from semdis_cli.pipeline.shard import check_fit
from semdis_cli.pipeline.shard_decoder import decode_calls
from semdis_cli.pipeline.workers import timed
from semdis_cli.provenance import Provenance
from semdis_cli.settings import WITHOUT_COLUMNS, DecodeSettings, EncodeSettings
from semdis_cli.sources.find import FoundImages
from semdis_cli.stops import received
from semdis_cli.store.exchange.stream import MAX_MEMBER_BYTES, MEMBER_SUFFIX, StreamWriter, join_shards, read_member
from semdis_cli.store.quantised import real_values
from semdis_cli.store.reader import LatentSource
from semdis_cli.store.shards import Shard

_NAME = "stdin"
_START_BYTES = 512  # a tar's first block


def encode_stream(
    found: FoundImages,
    loader: Loader,
    tokenizer: Tokenizer,
    settings: EncodeSettings,
    write: Callable[[bytes], object],
    tell: Tell = untold,
) -> Iterator[Event]:
    """Encode the images of `found` into a stream: a tar or, of a single image on stdin, its file alone.

    A bad image is a `Failure` event and has no file. `tell` hears of the planning. Raises what `write`, `plan_encode`
    and `within_limit` raise.
    """
    events = _encode_stream(found, loader, tokenizer, settings, write, tell)
    return within_limit(events, settings.max_errors, goes_on=False)


def _encode_stream(
    found: FoundImages,
    loader: Loader,
    tokenizer: Tokenizer,
    settings: EncodeSettings,
    write: Callable[[bytes], object],
    tell: Tell,
) -> Iterator[Event]:
    totals = RunTotals("encode", tokenizer, busy_threads(tokenizer, settings.num_workers))
    plan = plan_encode(found, loader, tokenizer, replace(settings, columns=WITHOUT_COLUMNS), tell=tell)
    is_single = found.is_single and len(loader.settings.views) == 1
    stream = StreamWriter(write, plan.provenance, as_tar=not is_single)
    with (
        start_workers(tokenizer, settings.num_workers) as workers,
        reading_of(Volume.of(plan.shards, tokenizer), loader, tokenizer, workers) as (reading, trouble),
    ):
        note = "; ".join(filter(None, (loader.note, trouble)))
        yield RunStarted(plan.num_inputs, 0, plan.megapixels(), note=note)
        yield from plan.failures
        yield from plan.contents.left_out
        for result in encoded_calls(image_calls(plan.shards, tokenizer), reading, tokenizer, settings.latents, workers):
            take_call(result, stream)
            yield totals.add(result.done())
            yield from result.failures
    stream.finish()
    yield totals.finish(
        None,
        num_ok=stream.num_images,
        num_failed=plan.num_inputs - stream.num_images,
        passed_over=dict(plan.passed_over),
        left_out=plan.num_left_out,
        jpeg_decoder=jpeg_decoder(),
        latent_bytes=stream.num_bytes,
        whitened=tokenizer.is_whitened,
        **decoding_report(reading.decoded_on),
        **far_off_report(stream.sums.far_off(), tokenizer),
    )


class LatentStream:
    """Latents that come on a pipe, image by image: in a tar or, if it `is_single`, as the file of one alone.

    The first good one is looked at ahead, for the model that made it. Raises `StoreError` if there is none.
    """

    def __init__(self, stream: BinaryIO) -> None:
        start = stream.read(_START_BYTES)
        self.is_single = not is_tar_start(start)
        self._items = self._single(start, stream) if self.is_single else self._members(start, stream)
        self._early: list[Shard | ShardFailed] = []
        self._provenance: Provenance | None = None
        self.source = LatentSource(Path(_NAME), self._look_ahead().provenance, sha256="", shards=(), keys=())

    def __iter__(self) -> Iterator[Shard | ShardFailed]:
        """Each image's latents, a shard of one row, or why they cannot be used; once only.

        Raises `StoreError` where the stream is cut off, after all that came whole.
        """
        yield from self._early
        yield from self._items

    def _look_ahead(self) -> Shard:
        for item in self._items:
            self._early.append(item)
            if isinstance(item, Shard):
                return item
        if self._early and isinstance(self._early[0], ShardFailed):
            raise StoreError(f"{self._early[0].reason} (and none of the {len(self._early):,} files is any better)")
        raise StoreError("no latents in it; give what semdis encode -o - writes", place=_NAME)

    def _members(self, start: bytes, stream: BinaryIO) -> Iterator[Shard | ShardFailed]:
        try:
            for member in stream_members(start, stream, MEMBER_SUFFIX, MAX_MEMBER_BYTES):
                yield self._check(member)
        except ValueError as error:
            raise StoreError(
                f"damaged or cut off ({error}); what came whole is decoded, run the pipeline again", place=_NAME
            ) from error

    def _check(self, member: Member) -> Shard | ShardFailed:
        try:
            shard = _read_member(member.name, member.data, member.num_bytes)
            self._provenance = self._provenance or shard.provenance
            if not self._provenance.is_of_one_kind(shard.provenance):
                raise StoreError("made with other settings than those before it", place=member.name)
        except StoreError as error:
            return ShardFailed(member.name, str(error), 1)
        return shard

    def _single(self, start: bytes, stream: BinaryIO) -> Iterator[Shard]:
        if not start:
            raise StoreError("empty; did the command fail that should write to it?", place=_NAME)
        if start[8:9] != b"{":
            raise StoreError("neither a tar nor a file of latents; give what semdis encode -o - writes", place=_NAME)
        data = start + read_up_to(MAX_MEMBER_BYTES, stream)
        yield _read_member(_NAME, data if len(data) <= MAX_MEMBER_BYTES else None, len(data))


def _read_member(name: str, data: bytes | None, num_bytes: int) -> Shard:
    if data is None:
        raise StoreError(f"{num_bytes:,} bytes are no latents of one image", place=name)
    return read_member(name, data)


def decode_stream(
    stream: LatentStream, tokenizer: Tokenizer, settings: DecodeSettings, output: Path
) -> Iterator[Event]:
    """Decode every image of `stream` below `output` as it comes; what an earlier run wrote there is written again.

    A damaged file is a `ShardFailed` event. Raises what `decode` raises and, where the stream is cut off, `StoreError`
    once all that came whole is on disk.
    """
    totals = RunTotals("decode", tokenizer, busy_threads(tokenizer, settings.num_workers))
    settings = decoded_as(settings, claimed_settings(output, DECODE_MARKER))
    sampling = sampling_of(settings)
    record = {
        "latents": "stream",
        "provenance": stream.source.provenance.to_json(),
        **decode_provenance(tokenizer, settings),
    }
    num_ok = num_failed = 0
    with (
        claimed_folder(output, DECODE_MARKER, record, ()),
        start_workers(tokenizer, settings.num_workers) as workers,
    ):
        receiver = _Receiver(output, tokenizer, settings)
        for event in decode_calls(receiver.calls(stream), tokenizer, sampling, receiver.writer, workers):
            num_ok += event.num_images if isinstance(event, BatchDone) else 0
            num_failed += isinstance(event, Failure | ShardFailed)
            yield totals.add(event)
        receiver.check_end()
    yield totals.finish(
        output,
        num_ok=num_ok,
        num_failed=num_failed,
        sampling=sampling_record(sampling),
        latents=_NAME,
        **renamed_record(receiver.names.renamed),
    )


def decode_single(
    stream: LatentStream, tokenizer: Tokenizer, settings: DecodeSettings, write: Callable[[bytes], object]
) -> Iterator[Event]:
    """Decode the only image of `stream` and hand its file to `write`."""
    totals, sampling = RunTotals("decode", tokenizer), sampling_of(settings)
    memory = CallMemory(tokenizer, room_for_images(), "decode", sampling.pdg)
    num_ok = num_failed = 0
    for shard in received(iter(stream)):
        assert isinstance(shard, Shard), "one file that is bad is no stream"
        check_fit(shard, tokenizer, shard.keys, _NAME)
        [record] = shard.records
        if refused := memory.refused(record.geometry.bucket, shard.keys):
            num_failed += 1
            yield from refused
            continue
        try:
            images, decode_s = timed(tokenizer.decode, real_values(shard.tensors).float(), shard.keys, sampling)
        except UnreadableImageError as error:
            num_failed += 1
            yield Failure(record.key, str(error))
            continue
        file = timed(image_file, undo_padding(images[0].numpy(), record.geometry), settings.write)
        write(file.value)
        num_ok += 1
        megapixels = images.shape[2] * images.shape[3] / 1e6
        yield totals.add(BatchDone(1, megapixels, StageTimes(decode_s=decode_s, write_s=file.seconds)))
    yield totals.finish(None, num_ok=num_ok, num_failed=num_failed, sampling=sampling_record(sampling), latents=_NAME)


class _Receiver:
    """Collects latents of one shape until they fill a model call, and gives each image its file name."""

    def __init__(self, output: Path, tokenizer: Tokenizer, settings: DecodeSettings) -> None:
        self._tokenizer = tokenizer
        self.names = StreamNames(settings.write.format, partial(probe_spelling, output))
        self._paths: dict[str, PurePosixPath] = {}
        self.writer = ImageWriter(output, self._paths, settings.write)
        self._collected: list[Shard] = []
        self._cut_off: StoreError | None = None

    def calls(self, stream: LatentStream) -> Iterator[Shard | Event]:
        """The latents of every model call, and what is to be told of those that cannot be used.

        Where the stream is cut off, this ends: then `check_end` raises.
        """
        try:
            for item in received(iter(stream)):
                yield from [item] if isinstance(item, ShardFailed) else self._take(item)
        except StoreError as error:  # the stream is cut off; every other one is an event by now
            self._cut_off = error
        yield from self._flush()

    def check_end(self) -> None:
        """Raise `StoreError` if the stream was cut off."""
        if self._cut_off is not None:
            raise self._cut_off

    def _take(self, shard: Shard) -> Iterator[Shard | Event]:
        """Collect one image; hand on what was collected before if it does not go with that, or fills a call."""
        patch, shape = self._tokenizer.patch_size, shard.latents.shape
        if self._collected and self._collected[0].latents.shape != shape:
            yield from self._flush()
        [key] = shard.keys
        try:
            check_fit(shard, self._tokenizer, shard.keys, _NAME)
            name = self.names.claim(key)
        except StoreError as error:
            yield ShardFailed(key, str(error), 1)
            return
        failures = too_long({key: name})
        yield from failures
        if not failures:
            self._paths[key] = name
            self.writer.sweep_beside(key)
            self._collected.append(shard)
        if len(self._collected) == self._tokenizer.images_per_call(shape[2] * patch, shape[3] * patch):
            yield from self._flush()

    def _flush(self) -> Iterator[Shard]:
        """Hand on what was collected."""
        if self._collected:
            yield join_shards(self._collected)
            self._collected = []
