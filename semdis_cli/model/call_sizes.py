"""Sizes of model calls: images of a call, the memory that they take, and smaller calls where memory runs out."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Condition, Lock
from typing import Literal

import torch
from torch import Tensor

from semdis_cli.errors import UnreadableImageError
from semdis_cli.model.autoencoder import FCDMDiffAE
from semdis_cli.model.config import FCDMDiffAEConfig
from semdis_cli.model.cpu.inference import images_of_a_group
from semdis_cli.model.devices import calls_at_once
from semdis_cli.tensors import is_out_of_memory

BatchSize = int | Literal["auto"] | None
Half = Literal["encode", "decode"]
# Pixels of one call on a GPU where no batch size is given: they fill it up. Tiny images stop gaining before that, and
# each odd size is padded to a whole call: hence the second limit.
_GPU_BATCH_PIXELS, _GPU_BATCH_IMAGES = 64 * 256**2, 256
_USABLE_SHARE = 0.8  # of the memory that is free: the rest is for kernels' own workspace
# Float32 images that are alive at once beside the maps: a sampler step's with guidance, and what rounds its result.
_PLAIN_IMAGES: dict[Half, int] = {"encode": 2, "decode": 12}
_PACKED_IMAGES: dict[Half, int] = {"encode": 1, "decode": 8}
_IMAGES_SAVED = {"plain": 7, "packed": 4}  # of these, by a decode without guidance


class CallSizes:
    """The images of one call for every image size; halved where memory runs out, for as long as this object lives."""

    def __init__(self, batch_size: BatchSize, model: FCDMDiffAE) -> None:
        """`batch_size` None: by image size alone. "auto": the same, or what the GPU's free memory takes if less."""
        self.batch_size = batch_size
        self._config, self._device = model.config, model.device
        self._element_bytes = model.dtype.itemsize
        self._lock = Lock()
        self._turns = _Turns()
        self._most: dict[tuple[int, int], int] = {}
        self._halved: dict[tuple[Half, int, int], int] = {}

    @property
    def halved_to(self) -> dict[tuple[int, int], int]:
        """Images of one call by size (H, W), where memory ran out over more of them; the fewer of both halves."""
        found: dict[tuple[int, int], int] = {}
        with self._lock:
            for (_, *size), number in self._halved.items():
                found[size[0], size[1]] = min(number, found.get((size[0], size[1]), number))
        return found

    @property
    def chosen(self) -> dict[tuple[int, int], int]:
        """Images of one call by size (H, W), as far as anybody has asked, where a GPU's free memory decides."""
        with self._lock:
            return dict(self._most) if self._by_memory else {}

    @property
    def _by_memory(self) -> bool:
        return self.batch_size == "auto" and self._device.type == "cuda"

    def most(self, height: int, width: int) -> int:
        """Images that are given to one call; the same from the first question to the last."""
        if isinstance(self.batch_size, int):
            return self.batch_size
        with self._lock:
            if (height, width) not in self._most:
                self._most[height, width] = self._choose(height, width)
            return self._most[height, width]

    def run(self, half: Half, num_images: int, height: int, width: int, call: Callable[[slice, int], Tensor]) -> Tensor:
        """`call(part, size)` over `num_images` images, whose results [n,...] are joined in order.

        `part`: which images; `size`: to how many they may be padded. One call, unless memory runs out: then again while
        no other thread has a call, and if that is not enough half as many at a time, now and in later calls of this
        `half`. Raises `UnreadableImageError` if there is no memory for a single one.
        """
        most = self.most(height, width)
        assert num_images <= most, f"{num_images} images in a call for {most}"
        results: list[Tensor] = []
        start = 0
        while start < num_images:
            size = self._halved.get((half, height, width), most)
            part = slice(start, min(start + size, num_images))
            with self._turns.beside_others():
                result = _unless_out_of_memory(call, part, size)
            if result is None:
                with self._turns.alone():
                    result = _unless_out_of_memory(call, part, size)
            if result is not None:
                results.append(result)
                start = part.stop
            elif size == 1:
                raise UnreadableImageError(f"not enough memory at {height}x{width}; encode it with --max-pixels")
            else:
                self._halve((half, height, width), size)
        return results[0] if len(results) == 1 else torch.cat(results)

    def alone(self) -> AbstractContextManager[None]:
        """Wait until no call runs, and let none begin within."""
        return self._turns.alone()

    def _halve(self, calls: tuple[Half, int, int], size: int) -> None:
        with self._lock:
            if self._halved.get(calls, size) == size:  # another thread may have been first
                self._halved[calls] = size // 2

    def _choose(self, height: int, width: int) -> int:
        if self._device.type == "cpu":
            grid = (height // self._config.patch_size, width // self._config.patch_size)
            return images_of_a_group(grid, self._config.hidden_dim)
        most = max(1, min(_GPU_BATCH_IMAGES, _GPU_BATCH_PIXELS // (height * width)))
        if not self._by_memory:
            return most
        free_bytes, _ = torch.cuda.mem_get_info(self._device)
        kept_bytes = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        room = (free_bytes + kept_bytes) // calls_at_once(self._device)
        return images_that_fit(room, plain_call_bytes(self._config, height, width, 1, self._element_bytes), most)


class _Turns:
    """Model calls of any number of threads at once, or one with the memory to itself."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._num_calls = 0
        self._is_taken = False

    @contextmanager
    def beside_others(self) -> Iterator[None]:
        """Wait until nobody is, or wants to be, alone."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_taken)
            self._num_calls += 1
        try:
            yield
        finally:
            with self._changed:
                self._num_calls -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until all other calls have ended, and let none begin."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_taken)
            self._is_taken = True
        try:
            with self._changed:
                self._changed.wait_for(lambda: not self._num_calls)
            yield
        finally:
            with self._changed:
                self._is_taken = False
                self._changed.notify_all()


def images_that_fit(free_bytes: int, image_bytes: int, most: int) -> int:
    """Images of a call that needs `image_bytes` for each: a power of two, or `most` if that fits; at least one."""
    fitting = int(free_bytes * _USABLE_SHARE) // max(1, image_bytes)
    if fitting >= most:
        return most
    return 1 << max(0, fitting.bit_length() - 1)


def plain_call_bytes(
    config: FCDMDiffAEConfig, height: int, width: int, num_images: int, element_bytes: int, half: Half = "decode"
) -> int:
    """Memory that the plain modules take at their peak for `num_images` images: four hidden maps, and the sampler."""
    rows = num_images * (height // config.patch_size) * (width // config.patch_size)
    maps = rows * (4 * config.hidden_dim + 4 * config.model_dim) * element_bytes
    return maps + _PLAIN_IMAGES[half] * _image_bytes(config, height, width, num_images)


def packed_call_bytes(
    config: FCDMDiffAEConfig, height: int, width: int, num_images: int, element_bytes: int, half: Half = "decode"
) -> int:
    """Memory that the packed network takes: one group of images at a time, one hidden map."""
    grid = (height // config.patch_size, width // config.patch_size)
    group = images_of_a_group(grid, config.hidden_dim)
    rows = group * grid[0] * grid[1]
    maps = rows * (config.hidden_dim + 8 * config.model_dim) * element_bytes
    return maps + _PACKED_IMAGES[half] * _image_bytes(config, height, width, max(group, num_images))


def least_call_bytes(
    config: FCDMDiffAEConfig,
    size: tuple[int, int],
    num_images: int,
    element_bytes: int,
    half: Half,
    *,
    is_packed: bool,
    is_guided: bool,
) -> int:
    """Memory in bytes that a call cannot do without, for images of `size` (H, W): to refuse what is sure not to fit.

    Measured, as growth of the resident set, with models of width 32 and 384 in both dtypes, from 1 to 17 megapixels.
    """
    if is_packed:
        group = max(images_of_a_group(_grid(config, size), config.hidden_dim), num_images)
        maps = _rows(config, size, 1) * (config.hidden_dim + 2 * config.model_dim) * element_bytes
    else:
        group = num_images
        maps = _rows(config, size, num_images) * (4 * config.hidden_dim + 4 * config.model_dim) * element_bytes
    images = (_PACKED_IMAGES if is_packed else _PLAIN_IMAGES)[half]
    if half == "decode" and not is_guided:
        images -= _IMAGES_SAVED["packed" if is_packed else "plain"]
    return maps + images * _image_bytes(config, *size, group)


def _grid(config: FCDMDiffAEConfig, size: tuple[int, int]) -> tuple[int, int]:
    return size[0] // config.patch_size, size[1] // config.patch_size


def _rows(config: FCDMDiffAEConfig, size: tuple[int, int], num_images: int) -> int:
    height, width = _grid(config, size)
    return num_images * height * width


def _image_bytes(config: FCDMDiffAEConfig, height: int, width: int, num_images: int) -> int:
    """Return the bytes of `num_images` float32 images."""
    return 4 * num_images * config.in_channels * height * width


def _unless_out_of_memory(call: Callable[[slice, int], Tensor], part: slice, size: int) -> Tensor | None:
    """The result; None if memory ran out. The error, which holds on to the tensors of the call, is gone by then."""
    try:
        return call(part, size)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None
