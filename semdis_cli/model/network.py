"""The network of a `Tokenizer`: the plain modules on any device, or packed weights on a CPU."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock, local
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from semdis_cli.errors import UsageError
from semdis_cli.model.autoencoder import FCDMDiffAE
from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.model.cpu.inference import PackedNetwork
from semdis_cli.model.cpu.kernels import onednn_works
from semdis_cli.model.layers import FCDMBlock
from semdis_cli.model.pixels import float_to_images, images_to_float
from semdis_cli.model.posterior import EncoderPosterior

T = TypeVar("T")
_MOST_COMPILED = 1024  # blocks of an encoder and of a decoder, for every size and number of threads


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

    @property
    def kernels(self) -> str:
        """The word "torch"."""
        return "torch"

    def posterior(self, images: Tensor) -> EncoderPosterior:
        """uint8 [B,3,H,W] of any strides -> raw posterior [B,Z,h,w] float32."""
        self._model.check_size(*images.shape[2:])
        return self._model.posterior(images_to_float(to_device(images, self._model.device)))

    def images(self, latents: Tensor, noise: Tensor, config: FCDMDiffAEInferenceConfig) -> Tensor:
        """Whitened latents [B,Z,h,w] float32 (raw without statistics) -> uint8 [B,3,H,W].

        `noise`: [B,3,H,W] float32 of std `pixel_noise_std`.
        """
        self._model.check_latents(latents, *noise.shape[2:])
        latents, noise = (to_device(batch, self._model.device) for batch in (latents, noise))
        return float_to_images(self._model.sample_images(latents, noise, config))


class CompiledNetwork(PlainNetwork):
    """`FCDMDiffAE` with its blocks compiled, once for every size of call.

    Where the first size fails, nothing is compiled, and `note` says why; a later one raises `UsageError`, since what
    was computed so far is on record as compiled, and so does one that would be one too many. Without CUDA graphs: those
    belong to the thread that recorded them, and any thread may call.
    """

    def __init__(self, model: FCDMDiffAE) -> None:
        super().__init__(model)
        self._lock = Lock()
        self._compiled: set[tuple[str, torch.Size]] = set()
        self._of_thread = local()
        self.note: str | None = None
        for block in self._blocks():
            block.compile(dynamic=False)

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
        if not hasattr(self._of_thread, "is_prepared"):
            _allow_many_sizes()
            self._of_thread.is_prepared = True
        if key in self._compiled:
            return call()
        with self._lock:
            try:
                result = call()
            except _compiler_errors() as error:
                if isinstance(error, torch.OutOfMemoryError) or self.note is not None:
                    raise
                if self._compiled:
                    size = "x".join(map(str, key[1]))
                    raise UsageError(
                        f"compiling for {size} failed ({_first_line(error)}); use --compile off"
                    ) from error
                self._give_up(error)
                result = call()
            self._compiled.add(key)
            return result

    def _give_up(self, error: Exception) -> None:
        self.note = f"not compiled: {_first_line(error)}"
        for block in self._blocks():
            block._compiled_call_impl = None  # noqa: SLF001 (what `Module.compile` sets; there is no way back but this)

    def _blocks(self) -> list[FCDMBlock]:
        return [module for module in self._model.modules() if isinstance(module, FCDMBlock)]


def _allow_many_sizes() -> None:
    """Let the calling thread compile for more than torch's eight sizes; the limits are each thread's own since 2.12.

    Where they are reached, torch would go on with uncompiled blocks and other last bits: it is to fail instead.
    """
    limits = torch._dynamo.config  # noqa: SLF001 (there is no other name for it)
    names = ("recompile_limit", "accumulated_recompile_limit", "cache_size_limit", "accumulated_cache_size_limit")
    for name in names[:2] if hasattr(limits, names[0]) else names[2:]:  # the latter up to torch 2.6
        setattr(limits, name, _MOST_COMPILED)
    if hasattr(limits, "fail_on_recompile_limit_hit"):
        limits.fail_on_recompile_limit_hit = True


def _compiler_errors() -> tuple[type[Exception], ...]:
    """Return the errors that torch's compiler raises: it has many, most of them a `RuntimeError`."""
    return RuntimeError, getattr(torch._dynamo.exc, "FailOnRecompileLimitHit", RuntimeError)  # noqa: SLF001


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{lines[0]:.200}" if lines else type(error).__name__


def choose_network(model: FCDMDiffAE, *, compiled: bool = False) -> tuple[Network, str | None]:
    """Packed weights on a CPU whose PyTorch has the operators for the dtype; else the plain modules, or compiled ones.

    Also why it is not compiled, if that was asked for: packed weights are as fast on a CPU, without the wait. PyTorch's
    own switch for oneDNN, `torch.backends.mkldnn.enabled`, switches packed weights off too.
    """
    if model.device.type == "cpu" and bool(torch.backends.mkldnn.enabled) and onednn_works(model.dtype):
        return PackedNetwork(model), "not compiled: packed weights are as fast on a CPU" if compiled else None
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
    torch.cuda.current_stream(batch.device).synchronize()
    return host


class CallStreams:
    """A CUDA stream for each calling thread: one thread's copies go on beside another's kernels."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._of_thread = local()

    @contextmanager
    def current(self) -> Iterator[None]:
        """The calling thread's own stream, behind what that thread gave the device before; nothing on a CPU."""
        if self._device.type != "cuda":
            yield
            return
        if not hasattr(self._of_thread, "stream"):
            self._of_thread.stream = torch.cuda.Stream(self._device)
        self._of_thread.stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._of_thread.stream):
            yield
