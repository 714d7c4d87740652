"""The machine: what it is, and how fast it multiplies matrices."""

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

from semdis_cli.bench.limit import Spread
from semdis_cli.bench.timing import Effort, Rounds, time_rounds
from semdis_cli.files.disk import count_cores
from semdis_cli.images.formats.jpeg.decoder import jpeg_decoder
from semdis_cli.pipeline.workers import Workers
from semdis_cli.stops import looking

_CPU_SIDE, _CUDA_SIDE = 2048, 8192
_PACKAGES = ("semdis", "torch", "torchvision", "numpy", "pillow", "simplejpeg", "safetensors", "diffusers")


@dataclass(frozen=True)
class Machine:
    """A machine.

    `num_cores`: those that this process may use. `jpeg_decoder`: what decodes plain JPEGs, with its version.
    `versions`: of the packages that are installed.
    """

    system: str
    processor: str
    num_cores: int
    memory_mib: int
    accelerator: str | None
    accelerator_memory_mib: int | None
    python: str
    jpeg_decoder: str
    versions: dict[str, str]


def describe_machine(device: torch.device) -> Machine:
    """Describe the machine with `device`."""
    cuda = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return Machine(
        system=platform.platform(),
        processor=_processor(),
        num_cores=count_cores(),
        memory_mib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        accelerator=None if device.type == "cpu" else (cuda.name if cuda else device.type),
        accelerator_memory_mib=cuda.total_memory // 2**20 if cuda else None,
        python=platform.python_version(),
        jpeg_decoder=jpeg_decoder(),
        versions={name: found for name in _PACKAGES if (found := _version(name))},
    )


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="ascii", errors="replace") as cpuinfo:
            names = [line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")]
    except OSError:  # not Linux
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@dataclass(frozen=True)
class GemmRate:
    """TFLOP/s of `side` x `side` matrix products in `dtype`.

    On a CPU both as one product with all cores, and as one for each core at once, each with one thread.
    """

    side: int
    dtype: str
    one_call_tflop_per_s: Spread
    call_a_core_tflop_per_s: Spread | None

    @property
    def tflop_per_s(self) -> float:
        """Return the better of the two rates: a model's rate is told as a share of it."""
        ways = (self.one_call_tflop_per_s, self.call_a_core_tflop_per_s)
        return max(way.median for way in ways if way is not None)

    def and_again(self, other: "GemmRate") -> "GemmRate":
        """Join measurements of the same products at two times."""
        one_call = Spread.over([self.one_call_tflop_per_s, other.one_call_tflop_per_s])
        call_a_core = None
        if self.call_a_core_tflop_per_s is not None and other.call_a_core_tflop_per_s is not None:
            call_a_core = Spread.over([self.call_a_core_tflop_per_s, other.call_a_core_tflop_per_s])
        return GemmRate(self.side, self.dtype, one_call, call_a_core)


def measure_gemm(device: torch.device, dtype: torch.dtype, workers: Workers, effort: Effort) -> GemmRate:
    """Measure the rate of the machine's own matrix products on `device`, with the threads of `workers` on a CPU."""
    side = _CPU_SIDE if device.type == "cpu" else _CUDA_SIDE
    a, b = _random_matrix(side, side, device, dtype), _random_matrix(side, side, device, dtype)
    tflop = 2 * side**3 / 1e12
    with intra_op_threads(workers.num_threads), torch.inference_mode():
        one_call = time_rounds(_multiplications(a, b), effort)
    call_a_core = None
    if device.type == "cpu":
        rounds = time_rounds(_multiplications_of_workers(a, b, workers), effort, multiple=workers.num_threads)
        call_a_core = rounds.rate(tflop)
    return GemmRate(side, str(dtype).removeprefix("torch."), one_call.rate(tflop), call_a_core)


def measure_product(
    shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype, workers: Workers, effort: Effort
) -> Rounds:
    """Time products of `shape` (rows, inner, columns): on a CPU one for each thread of `workers` at once."""
    rows, inner, columns = shape
    a, b = _random_matrix(rows, inner, device, dtype), _random_matrix(inner, columns, device, dtype)
    if device.type == "cpu":
        return time_rounds(_multiplications_of_workers(a, b, workers), effort, multiple=workers.num_threads)
    with torch.inference_mode():
        return time_rounds(_multiplications(a, b), effort)


def _random_matrix(rows: int, columns: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).to(device, dtype)


def _multiplications(a: Tensor, b: Tensor) -> Callable[[int], None]:
    def multiply(count: int) -> None:
        for _ in looking(range(count)):
            torch.mm(a, b)
        synchronise(a.device)

    return multiply


def _multiplications_of_workers(a: Tensor, b: Tensor, workers: Workers) -> Callable[[int], None]:
    def multiply_once() -> None:
        with torch.inference_mode():
            torch.mm(a, b)

    def multiply(count: int) -> None:
        for future in [workers.submit(multiply_once) for _ in range(count)]:
            workers.result(future)

    return multiply


@contextmanager
def intra_op_threads(num_threads: int) -> Iterator[None]:
    """Let a torch call of this thread use `num_threads` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def synchronise(device: torch.device) -> None:
    """Wait until `device` has done all that it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
