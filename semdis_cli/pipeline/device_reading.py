"""Reading where the device of the model decodes JPEGs: threads read files, and a model call has its images decoded.

What is no plain JPEG, and what the device refuses, a CPU decodes. The first pictures are compared with those of a CPU.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import chain
from threading import Lock
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from semdis_cli.errors import UsageError
from semdis_cli.events import Failure
from semdis_cli.images.formats.exif import upright_size
from semdis_cli.images.formats.jpeg.on_device import DeviceJpegs, DeviceTroubleError, device_decoder
from semdis_cli.images.loader import Loader
from semdis_cli.images.resize_on_device import fit_on_device
from semdis_cli.memory import Room
from semdis_cli.metrics.measure import MAX_PSNR_DB
from semdis_cli.metrics.psnr import psnr_db
from semdis_cli.pipeline.reading import DecodedOn, LoadedCall, ThreadReading, by_file
from semdis_cli.pipeline.workers import Timed, Workers, timed
from semdis_cli.records import LoadedImage, PlannedImage, UndecodedImage
from semdis_cli.tensors import is_out_of_memory, wait_for_device

R = TypeVar("R")
Read = LoadedImage | UndecodedImage | Failure
Alone = Callable[[], AbstractContextManager[None]]
_REFUSED = "the GPU could not decode it: decoded by the CPU"
_COMPARED = 16  # pictures, with those of a CPU
_LEAST_DB, _COARSER = 20.0, 8  # to the pixels of a CPU, both that much coarser: colours of fine lines may well differ
_MOST_PIXELS = 1 << 26  # that are decoded by one call of the decoder: 200 MB of the device's memory


class DeviceReading:
    """Reads in threads, and decodes by `jpegs`; the pixels of a call lie on the device.

    `without_calls`: keeps model calls from the device, where its memory is short.
    """

    def __init__(self, threads: ThreadReading, jpegs: DeviceJpegs, without_calls: Alone = nullcontext) -> None:
        self._threads, self._loader = threads, threads.loader
        self._decoding = _Decoding(threads.loader, threads.workers, jpegs, without_calls)

    @property
    def room(self) -> Room:
        """Memory for images that are read by threads."""
        return self._threads.room

    @property
    def decoded_on(self) -> DecodedOn:
        """Pictures by who has decoded them, and how close they came to those of a CPU."""
        return self._decoding.decoded_on

    def share(self, images: Sequence[PlannedImage], share_of_room: float) -> float:
        """Return it with that of the files, which lie in memory, and once more while they are decoded."""
        num_bytes = sum(2 * views[0].source.num_bytes for views in by_file(images))
        return share_of_room + self._threads.workers.share_of_bytes(num_bytes)

    def submit(self, images: Sequence[PlannedImage], compute: Callable[[LoadedCall], R]) -> "Future[R]":
        """Have a model call made, as `Reading` says."""

        def call(read: list[Timed[list[Read]]]) -> R:
            read_s = sum(one.seconds for one in read)
            outcomes = [*chain.from_iterable(one.value for one in read)]
            read.clear()  # whoever called holds it while the model computes, and with it the files
            decoded = self._decoding.decode(outcomes)
            return compute(replace(decoded, read_s=read_s + decoded.read_s))

        self._loader.expect(images)
        read_views = partial(timed, self._loader.read_views)
        return self._threads.workers.submit_call(read_views, by_file(images), call)


class _Decoding:
    """Images of calls, from files to pixels on a device. Any number of threads may decode."""

    def __init__(self, loader: Loader, workers: Workers, jpegs: DeviceJpegs, without_calls: Alone) -> None:
        self._loader, self._workers, self._jpegs, self._without_calls = loader, workers, jpegs, without_calls
        self._lock = Lock()
        self._left_to_compare = _COMPARED
        self.decoded_on = DecodedOn((str(jpegs.device),), device_decoder())

    def decode(self, read: list[Read]) -> LoadedCall:
        """Return the images of a call, in order, in one piece of the device's memory; `read` is empty then.

        Raises `UsageError` where a picture comes back as another one.
        """
        with self._jpegs.alone():
            started = time.perf_counter()
            rows = self._with_memory(partial(_rows_for, read, self._jpegs.device))
            if isinstance(rows, str):
                failures = [one if isinstance(one, Failure) else _failed(one, rows) for one in read]
                return LoadedCall((), failures, time.perf_counter() - started)
            waiting = {place: one for place, one in enumerate(read) if isinstance(one, UndecodedImage)}
            found = self._by_device(waiting, rows)
            decode_s = time.perf_counter() - started
        others = {place: one for place, one in enumerate(read) if not isinstance(one, UndecodedImage)}
        planned = {place: one.planned for place, one in waiting.items()}
        waiting.clear()  # they hold the files
        read.clear()
        refused = {place: one for place, one in planned.items() if place not in found}
        decoded = [place for place, one in found.items() if isinstance(one, LoadedImage)]
        others |= self._by_cpu(refused)
        self._note(decoded, others)
        for place in decoded[: self._num_to_compare(len(decoded))]:
            self._compare(planned[place], rows[place])
        return replace(self._joined(found, others, rows), read_s=decode_s)

    def _by_device(self, waiting: Mapping[int, UndecodedImage], rows: Tensor) -> dict[int, LoadedImage | Failure]:
        """Decode images into their rows; without those that the device refuses."""
        found: dict[int, LoadedImage | Failure] = {}
        for portion in _portions(waiting):
            decoded = _unless_trouble(partial(self._portion, portion, rows))
            if isinstance(decoded, str):
                for place, one in portion.items():
                    found |= self._one(place, one, rows)
            else:
                found |= decoded
        return found

    def _one(self, place: int, one: UndecodedImage, rows: Tensor) -> Mapping[int, LoadedImage | Failure]:
        """Decode an image by itself, with all memory that there is."""
        decoded = self._with_memory(partial(self._portion, {place: one}, rows))
        return {place: _failed(one, decoded)} if isinstance(decoded, str) else decoded

    def _portion(self, portion: Mapping[int, UndecodedImage], rows: Tensor) -> dict[int, LoadedImage]:
        """Decode as many as go at a time; as `_by_device`. Raises `RuntimeError` where the device is in trouble."""
        files = {id(one.data): one.data for one in portion.values()}  # of several images of a file once
        pixels = dict(zip(files, self._jpegs.decode([*files.values()]), strict=True))
        found: dict[int, LoadedImage] = {}
        for place, one in portion.items():
            stored, geometry = pixels[id(one.data)], one.image.record.geometry
            if stored is not None and tuple(stored.shape) == (3, *upright_size(geometry.source, one.orientation)):
                rows[place].copy_(fit_on_device(stored, geometry, one.orientation))
                found[place] = one.image
        return found

    def _with_memory(self, function: Callable[[], R]) -> R | str:
        """Call it, and once more while no model call runs if the device is in trouble; why, if it still is."""
        done = _unless_trouble(function)
        if not isinstance(done, str):
            return done
        with self._without_calls():
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            return _unless_trouble(function)

    def _by_cpu(self, refused: Mapping[int, PlannedImage]) -> dict[int, LoadedImage | Failure]:
        """Decode by the threads of the run; what comes of it has a note, for its pixels are others."""
        loading = [self._workers.submit(self._loader.load_views, views) for views in by_file(refused.values())]
        loaded = chain.from_iterable(map(self._workers.result, loading))
        return {place: _noted(one) for place, one in zip(refused, loaded, strict=True)}

    def _note(self, decoded: Sequence[int], others: Mapping[int, LoadedImage | Failure]) -> None:
        """Count images by who has decoded them."""
        by_cpu = sum(isinstance(one, LoadedImage) for one in others.values())
        with self._lock:
            self.decoded_on = self.decoded_on.plus(by_device=len(decoded), by_cpu=by_cpu)

    def _num_to_compare(self, most: int) -> int:
        with self._lock:
            number = min(most, self._left_to_compare)
            self._left_to_compare -= number
            return number

    def _compare(self, planned: PlannedImage, pixels: Tensor) -> None:
        """Hold a picture against that of a CPU."""
        expected = self._loader.load(planned)
        if isinstance(expected, Failure) or expected.pixels.shape != pixels.shape:  # its file is another by now
            return
        pixels = pixels.cpu()
        if (closeness := psnr_db(_coarser(pixels), _coarser(expected.pixels))) < _LEAST_DB:
            reason = f"--decode-on cuda makes another picture of it than a CPU does ({closeness:.1f} dB between them)"
            raise UsageError(f"{reason}; leave the option out", place=planned.source.key)
        with self._lock:
            closeness = min(psnr_db(pixels, expected.pixels), MAX_PSNR_DB)
            self.decoded_on = self.decoded_on.plus(closeness_db=(closeness,))

    def _joined(
        self,
        by_device: Mapping[int, LoadedImage | Failure],
        others: Mapping[int, LoadedImage | Failure],
        rows: Tensor,
    ) -> LoadedCall:
        """Put the images of a call together, whose pixels are in `rows` where the device has decoded them."""
        found = dict(sorted([*by_device.items(), *others.items()]))
        images = {place: one for place, one in found.items() if isinstance(one, LoadedImage)}
        call = LoadedCall([*images.values()], [one for one in found.values() if isinstance(one, Failure)])
        for place in images.keys() & others.keys():
            rows[place].copy_(images[place].pixels)
        for number, place in enumerate(images):
            if number != place:  # some that come before it have failed
                rows[number].copy_(rows[place])
        rows = rows[: len(images)]
        wait_for_device(self._jpegs.device)  # the memory that was made for another stream is free for others then
        return call.lying_in(rows.permute(0, 2, 3, 1)) if images else call


def _rows_for(read: Sequence[Read], device: torch.device) -> Tensor:
    """Return memory for the pixels of a call, uint8 [B,3,H,W]. Raises `RuntimeError` where there is not as much."""
    images = [one.image if isinstance(one, UndecodedImage) else one for one in read]
    bucket = next((image.record.geometry.bucket for image in images if isinstance(image, LoadedImage)), (0, 0))
    return torch.empty(len(read), 3, *bucket, dtype=torch.uint8, device=device)


def _portions(waiting: Mapping[int, UndecodedImage]) -> Iterator[dict[int, UndecodedImage]]:
    """Cut images into parts whose files have about as many pixels as are decoded at a time; at least one image each."""
    portion: dict[int, UndecodedImage] = {}
    num_pixels = 0
    last: bytes | None = None
    for place, one in waiting.items():
        height, width = one.image.record.geometry.source
        is_new = one.data is not last
        if portion and is_new and num_pixels + height * width > _MOST_PIXELS:
            yield portion
            portion, num_pixels = {}, 0
        num_pixels += height * width if is_new else 0
        portion[place], last = one, one.data
    if portion:
        yield portion


def _unless_trouble(function: Callable[[], R]) -> R | str:
    """Call it; return why the device could not do it now, mostly for want of memory."""
    try:
        return function()
    except DeviceTroubleError as error:
        return str(error)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return "out of memory"


def _coarser(pixels: Tensor) -> Tensor:
    """Return means of squares of pixels, uint8; of small pictures the picture."""
    if min(pixels.shape[1:]) < _COARSER:
        return pixels
    return functional.avg_pool2d(pixels.float(), _COARSER).round().to(torch.uint8)


def _noted(image: LoadedImage | Failure) -> LoadedImage | Failure:
    """Note that an image has other pixels than a device would have given it."""
    if isinstance(image, Failure):
        return image
    return replace(image, record=replace(image.record, notes=(*image.record.notes, _REFUSED)))


def _failed(one: LoadedImage | UndecodedImage, reason: str) -> Failure:
    image = one.image if isinstance(one, UndecodedImage) else one
    return Failure(image.record.key, f"the GPU could not decode it now ({reason:.100}); leave --decode-on out")
