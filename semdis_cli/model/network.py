"""The network of a `Tokenizer`: the plain modules on any device, or packed weights on a CPU."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Lock, local
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from semdis_cli.errors import UsageError
from semdis_cli.model.autoencoder import FCDMDiffAE
from semdis_cli.model.compiling import (
    allow_many_sizes,
    compile_modules,
    compiler_errors,
    compiler_trouble,
    first_line,
)
from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.model.cpu.inference import PackedNetwork
from semdis_cli.model.cpu.kernels import onednn_works
from semdis_cli.model.decoder import DecoderGrid
from semdis_cli.model.device_time import computing
from semdis_cli.model.devices import calls_at_once
from semdis_cli.model.layers import FCDMBlock
from semdis_cli.model.pixels import float_to_images, images_to_float
from semdis_cli.model.posterior import EncoderPosterior
from semdis_cli.settings import Schedule
from semdis_cli.tensors import is_out_of_memory, wait_for_device

T = TypeVar("T")
_MOST_GRIDS = 64  # that are kept; a run has one or two


class Network(Protocol):
    """A model for inference. Tensors come from the host; results stay on the device. Any thread may call."""

    @property
    def kernels(self) -> str:
        """Whose kernels compute: "onednn", "torch" or "inductor"."""

    @property
    def pads_calls(self) -> bool:
        """Tell whether a call must be padded to a fixed number of images, for their bytes not to depend on it."""

    def posterior(self, images: Tensor) -> EncoderPosterior:
        """uint8 [B,3,H,W] of any strides -> raw posterior [B,Z,h,w] float32."""

    def images(self, latents: Tensor, noise: Tensor, config: FCDMDiffAEInferenceConfig) -> Tensor:
        """Whitened latents [B,Z,h,w] float32 (raw without statistics) -> uint8 [B,3,H,W].

        `noise`: [B,3,H,W] float32 of std `pixel_noise_std`; it may be overwritten.
        """


class PlainNetwork:
    """`FCDMDiffAE` itself."""

    pads_calls = True

    def __init__(self, model: FCDMDiffAE) -> None:
        self._model = model
        self._grids: dict[tuple[int, Schedule], DecoderGrid] = {}

    @property
    def kernels(self) -> str:
        """The word "torch"."""
        return "torch"

    def posterior(self, images: Tensor) -> EncoderPosterior:
        """uint8 [B,3,H,W] of any strides -> raw posterior [B,Z,h,w] float32."""
        self._model.check_size(*images.shape[2:])
        images = to_device(images, self._model.device)
        with computing(self._model.device):
            return self._model.posterior(images_to_float(images))

    def images(self, latents: Tensor, noise: Tensor, config: FCDMDiffAEInferenceConfig) -> Tensor:
        """Whitened latents [B,Z,h,w] float32 (raw without statistics) -> uint8 [B,3,H,W].

        `noise`: [B,3,H,W] float32 of std `pixel_noise_std`.
        """
        self._model.check_latents(latents, *noise.shape[2:])
        latents, noise = (to_device(batch, self._model.device) for batch in (latents, noise))
        with computing(self._model.device):
            return float_to_images(self._model.sample_images(latents, noise, config, self._grid(config)))

    def _grid(self, config: FCDMDiffAEInferenceConfig) -> DecoderGrid:
        """Return what calls with these steps share.

        What is kept is kept for good: a call on another stream may still read it when it has returned here.
        """
        of_steps = config.num_steps, config.schedule
        if of_steps not in self._grids:
            grid = self._model.decoder_grid(config)
            if len(self._grids) >= _MOST_GRIDS:
                return grid
            wait_for_device(self._model.device)  # calls on other streams are going to use it
            self._grids.setdefault(of_steps, grid)
        return self._grids[of_steps]


class CompiledNetwork(PlainNetwork):
    """`FCDMDiffAE` with its blocks compiled, once for every size of call.

    Where nothing can be compiled, `note` says why, and the blocks are what they were. Where something can, but not
    these blocks for a size, calls raise `UsageError`, since what was computed so far is on record as compiled, and so
    does one size too many. Without CUDA graphs: those belong to the thread that recorded them, and any may call.
    """

    def __init__(self, model: FCDMDiffAE) -> None:
        super().__init__(model)
        self._lock = Lock()
        self._compiled: set[tuple[str, torch.Size]] = set()
        self._of_thread = local()
        trouble = compiler_trouble(model.device)
        self.note = None if trouble is None else f"not compiled: {trouble}"
        if trouble is None:
            compile_modules((module for module in model.modules() if isinstance(module, FCDMBlock)), model.device)

    @property
    def kernels(self) -> str:
        """Either "inductor", or "torch" where compiling failed."""
        return "inductor" if self.note is None else "torch"

    def posterior(self, images: Tensor) -> EncoderPosterior:
        """Encode as the plain network does."""
        return self._once_alone(("encode", images.shape), lambda: super(CompiledNetwork, self).posterior(images))

    def images(self, latents: Tensor, noise: Tensor, config: FCDMDiffAEInferenceConfig) -> Tensor:
        """Decode as the plain network does."""
        key = ("decode", noise.shape)
        return self._once_alone(key, lambda: super(CompiledNetwork, self).images(latents, noise, config))

    def _once_alone(self, key: tuple[str, torch.Size], call: Callable[[], T]) -> T:
        """`call()`; the first for a size, which compiles, while no other thread compiles."""
        if self.note is not None:
            return call()
        if not hasattr(self._of_thread, "is_prepared"):
            allow_many_sizes()
            self._of_thread.is_prepared = True
        if key in self._compiled:
            return call()
        with self._lock:
            try:
                result = call()
            except compiler_errors() as error:
                if isinstance(error, RuntimeError) and is_out_of_memory(error):
                    raise
                size = "x".join(map(str, key[1]))
                raise UsageError(f"compiling for {size} failed ({first_line(error)}); use --compile off") from error
            self._compiled.add(key)
            return result


def choose_network(model: FCDMDiffAE, *, compiled: bool = False) -> tuple[Network, str | None]:
    """Packed weights on a CPU whose PyTorch has the operators for the dtype; else the plain modules, or compiled ones.

    Also why it is not compiled, if that was asked for: packed weights are as fast on a CPU, without the wait. PyTorch's
    own switch for oneDNN, `torch.backends.mkldnn.enabled`, switches packed weights off too. On CUDA channels come last,
    as its matrix kernels want them, and cuDNN is told to be deterministic, for the whole process.
    """
    if model.device.type == "cpu" and bool(torch.backends.mkldnn.enabled) and onednn_works(model.dtype):
        return PackedNetwork(model), "not compiled: packed weights are as fast on a CPU" if compiled else None
    if model.device.type == "cuda":
        torch.backends.cudnn.deterministic = True  # else near a full memory another engine, of other last bits, may do
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return CompiledNetwork(model) if compiled else PlainNetwork(model), None


def to_device(batch: Tensor, device: torch.device) -> Tensor:
    """`batch` on `device`; to a GPU through pinned memory, without waiting for it."""
    if device.type != "cuda" or batch.device == device:
        return batch.to(device)
    held = batch.contiguous()
    return (held if held.is_pinned() else held.pin_memory()).to(device, non_blocking=True)


def pixels_to_device(images: Tensor, device: torch.device) -> Tensor:
    """uint8 [B,3,H,W] on `device`, contiguous on a GPU: it puts channels first in less time than the host needs.

    What lies as [B,H,W,3], as pixels do that were decoded, goes over as it lies.
    """
    rows = images.permute(0, 2, 3, 1)
    if device.type != "cuda" or images.device == device or not rows.is_contiguous():
        return to_device(images, device)
    return to_device(rows, device).permute(0, 3, 1, 2).contiguous()


def to_host(batch: Tensor) -> Tensor:
    """`batch` on the CPU; from a GPU into pinned memory, waiting for this thread's work only."""
    if batch.device.type != "cuda":
        return batch.cpu()
    host = torch.empty(batch.shape, dtype=batch.dtype, pin_memory=True)
    host.copy_(batch, non_blocking=True)
    wait_for_device(batch.device)
    return host


class CallStreams:
    """CUDA streams for the calls of a model: one call's copies go on beside another's kernels.

    They are as many as calls that pay, and are kept: what torch holds of the device's memory belongs to a stream.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._free: SimpleQueue[torch.cuda.Stream] = SimpleQueue()
        for _ in range(calls_at_once(device) if device.type == "cuda" else 0):
            self._free.put(torch.cuda.Stream(device))

    @contextmanager
    def current(self) -> Iterator[None]:
        """Give a stream that no other call has, behind what the thread gave the device before; nothing on a CPU.

        Waits for one; what is given to it has to be done at the end.
        """
        if self._device.type != "cuda":
            yield
            return
        stream = self._free.get()
        try:
            stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(stream):
                yield
        finally:
            self._free.put(stream)
