"""Reading where the device of the model decodes JPEGs: threads read files, and a model call has its images decoded.

What is no plain JPEG, and what the device refuses, a CPU decodes. The first pictures are compared with those of a CPU.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from itertools import chain
from threading import Lock
from typing import Any, TypeVar

import torch
from torch import Tensor

from semdis_cli.errors import UsageError
from semdis_cli.events import Failure
from semdis_cli.images.formats.exif import upright_size
from semdis_cli.images.formats.jpeg.on_device import LEAST_DB, DeviceJpegs, device_decoder
from semdis_cli.images.loader import Loader
from semdis_cli.images.resize_on_device import fit_on_device
from semdis_cli.memory import Room
from semdis_cli.metrics.measure import MAX_PSNR_DB
from semdis_cli.metrics.psnr import psnr_db
from semdis_cli.pipeline.reading import LoadedCall, ThreadReading, by_file
from semdis_cli.pipeline.workers import Timed, timed
from semdis_cli.records import LoadedImage, PlannedImage, UndecodedImage
from semdis_cli.tensors import is_out_of_memory

R = TypeVar("R")
Read = LoadedImage | UndecodedImage | Failure
_REFUSED = "the GPU could not decode it: decoded by the CPU"
_COMPARED = 16  # pictures, with those of a CPU
_MOST_PIXELS = 1 << 26  # that are decoded by one call of the decoder: 200 MB of the device's memory


class DeviceReading:
    """Reads in threads, and decodes by `jpegs`; the pixels of a call lie on the device."""

    def __init__(self, threads: ThreadReading, jpegs: DeviceJpegs) -> None:
        self._threads, self._loader = threads, threads.loader
        self._decoding = _Decoding(threads.loader, jpegs)

    @property
    def room(self) -> Room:
        """Memory for images that are read by threads."""
        return self._threads.room

    def share(self, share_of_room: float) -> float:
        """Return it as it is."""
        return share_of_room

    def report(self) -> dict[str, Any]:
        """Return what decoded, how many pictures, and how close they came to those of a CPU."""
        return {"decode_on": self._decoding.report()}

    def submit(self, images: Sequence[PlannedImage], compute: Callable[[LoadedCall], R]) -> "Future[R]":
        """Have a model call made, as `Reading` says."""

        def call(read: list[Timed[list[Read]]]) -> R:
            decoded = timed(self._decoding.decode, [*chain.from_iterable(one.value for one in read)])
            read_s = sum(one.seconds for one in read) + decoded.seconds
            return compute(replace(decoded.value, read_s=read_s))

        self._loader.expect(images)
        read_views = partial(timed, self._loader.read_views)
        return self._threads.workers.submit_call(read_views, by_file(images), call)


class _Decoding:
    """Images of calls, from files to pixels on a device. Any number of threads may decode."""

    def __init__(self, loader: Loader, jpegs: DeviceJpegs) -> None:
        self._loader, self._jpegs = loader, jpegs
        self._lock = Lock()
        self._num_images = self._by_device = 0
        self._closeness_db: list[float] = []

    def decode(self, read: Sequence[Read]) -> LoadedCall:
        """Return the images of a call, in order, in one piece of the device's memory.

        Raises `UsageError` where a picture comes back as another one.
        """
        with self._jpegs.alone():
            waiting = [one for one in read if isinstance(one, UndecodedImage)]
            decoded = iter([*chain.from_iterable(map(self._some, _portions(waiting)))])
            outcomes = [next(decoded) if isinstance(one, UndecodedImage) else one for one in read]
            images = [one for one in outcomes if isinstance(one, LoadedImage)]
            call = LoadedCall(images, [one for one in outcomes if isinstance(one, Failure)])
            if not images:
                return call
            pixels = torch.stack([image.pixels.to(self._jpegs.device) for image in images])
        with self._lock:
            self._num_images += len(images)
        return call.lying_in(pixels.permute(0, 2, 3, 1))

    def _some(self, waiting: Sequence[UndecodedImage]) -> Iterator[LoadedImage | Failure]:
        """Decode as many as go at a time."""
        files = {id(one.data): one.data for one in waiting}  # of several images of a file once
        pixels = dict(zip(files, self._unless_too_large([*files.values()]), strict=True))
        for one in waiting:
            yield self._fitted(one, pixels[id(one.data)])

    def _unless_too_large(self, files: Sequence[bytes]) -> list[Tensor | RuntimeError | None]:
        """Decode files, one by one if there is no memory for all; errors stand for those that need too much alone."""
        try:
            return [*self._jpegs.decode(files)]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            too_large = error.with_traceback(None)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(files) == 1:
            return [too_large]
        return [*chain.from_iterable(self._unless_too_large([file]) for file in files)]

    def _fitted(self, one: UndecodedImage, pixels: Tensor | RuntimeError | None) -> LoadedImage | Failure:
        """Carry out the plan of an image; on a CPU what the device could not decode."""
        if isinstance(pixels, RuntimeError):
            return _too_large(one)
        geometry = one.image.record.geometry
        if pixels is None or tuple(pixels.shape) != (3, *upright_size(geometry.source, one.orientation)):
            return _noted(self._loader.load(one.planned))
        try:
            image = one.decoded(fit_on_device(pixels, geometry, one.orientation))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return _too_large(one)
        with self._lock:
            self._by_device += 1
            is_compared = self._by_device <= _COMPARED
        if is_compared:
            self._compare(one.planned, image)
        return image

    def _compare(self, planned: PlannedImage, image: LoadedImage) -> None:
        expected = self._loader.load(planned)
        if isinstance(expected, Failure):  # it was removed by now, or is damaged in a way that the device passes over
            return
        closeness = min(psnr_db(image.pixels.cpu(), expected.pixels), MAX_PSNR_DB)
        if closeness < LEAST_DB:
            reason = f"--decode-on cuda makes another picture of it than a CPU does ({closeness:.1f} dB between them)"
            raise UsageError(f"{reason}; leave the option out", place=planned.source.key)
        with self._lock:
            self._closeness_db.append(closeness)

    def report(self) -> dict[str, Any]:
        """Return what decoded, and the figures of it."""
        with self._lock:
            found = sorted(self._closeness_db)
            closeness = {"mean": sum(found) / len(found), "min": found[0], "num_images": len(found)} if found else None
            return {
                "device": str(self._jpegs.device),
                "decoder": device_decoder(),
                "images_by_device": self._by_device,
                "images_by_cpu": self._num_images - self._by_device,
                "psnr_db_to_cpu": closeness,
            }


def _portions(waiting: Iterable[UndecodedImage]) -> Iterator[list[UndecodedImage]]:
    """Cut images into lists whose files have about as many pixels as are decoded at a time; at least one image each."""
    portion: list[UndecodedImage] = []
    num_pixels = 0
    for one in waiting:
        height, width = one.image.record.geometry.source
        is_new = not portion or portion[-1].data is not one.data
        if portion and is_new and num_pixels + height * width > _MOST_PIXELS:
            yield portion
            portion, num_pixels = [], 0
        num_pixels += height * width if is_new else 0
        portion.append(one)
    if portion:
        yield portion


def _noted(image: LoadedImage | Failure) -> LoadedImage | Failure:
    """Note that an image has other pixels than a device would have given it."""
    if isinstance(image, Failure):
        return image
    return replace(image, record=replace(image.record, notes=(*image.record.notes, _REFUSED)))


def _too_large(one: UndecodedImage) -> Failure:
    return Failure(one.image.record.key, "not enough memory on the device to decode it; leave --decode-on out")
