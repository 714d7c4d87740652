"""Fresh processes: how long the real command takes to start, and what the model needs in a process of its own.

    python -m semdis_cli.bench.processes REQUEST

loads the model and calls it. REQUEST is JSON, and so is the answer on stdout. What is heavy is imported by the clock.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semdis_cli.bench.limit import Spread
from semdis_cli.errors import UsageError
from semdis_cli.stops import LOOK_S, look

if TYPE_CHECKING:
    from semdis_cli.model.tokenizer import Tokenizer


@dataclass(frozen=True)
class StartUp:
    """Seconds of `semdis --help`, and of `semdis encode` with a single image from start to end.

    The steps of the latter were timed in a process that does just these; `rest_s` is what they leave: starting Python,
    reading the image, writing the set.
    """

    help_s: Spread
    first_image_s: Spread
    import_torch_s: float
    import_rest_s: float
    load_model_s: float
    first_call_s: float
    rest_s: float


@dataclass(frozen=True)
class PeakMemory:
    """Peak memory of the model's calls, as many at once as in a run; `kind` says what was measured."""

    kind: str
    loaded_mib: float | None
    encode_mib: float
    decode_mib: float


@dataclass(frozen=True)
class Request:
    """A request to a fresh process. `verb`: encode or decode.

    `run`: fields of `TokenizerSettings`; `sampling`: those of `FCDMDiffAEInferenceConfig`; `size`: H and W, px.
    """

    verb: str
    model: str
    revision: str | None
    run: dict[str, Any]
    num_workers: int
    size: tuple[int, int]
    sampling: dict[str, Any]


@dataclass(frozen=True)
class Steps:
    """Seconds of the steps to the first result, and peak memory once every thread was in a model call.

    `memory_kind`: what was measured, in words. `loaded_mib`: before the first call; None where only a peak is known.
    """

    import_torch_s: float
    import_rest_s: float
    load_model_s: float
    first_call_s: float
    memory_kind: str
    loaded_mib: float | None
    peak_memory_mib: float


def measure_start_up(image: Path, options: Sequence[str], steps: Steps, folder: Path, num_runs: int) -> StartUp:
    """Time `semdis --help` and `semdis encode` of one image into `folder`, `num_runs` times each.

    `options`: of `semdis encode`; `steps`: those of its model. Raises `UsageError` if a process fails.
    """
    help_s = [_semdis_s("--help") for _ in range(num_runs)]
    encode = ("encode", str(image), "--quiet", *options)
    first_image_s = [_semdis_s(*encode, "-o", str(folder / f"start-{number}")) for number in range(num_runs)]
    known_s = steps.import_torch_s + steps.import_rest_s + steps.load_model_s + steps.first_call_s
    first = Spread.of(first_image_s)
    return StartUp(
        help_s=Spread.of(help_s),
        first_image_s=first,
        import_torch_s=steps.import_torch_s,
        import_rest_s=steps.import_rest_s,
        load_model_s=steps.load_model_s,
        first_call_s=steps.first_call_s,
        rest_s=max(0.0, first.median - known_s),
    )


def ask_child(request: Request) -> Steps:
    """Let a fresh process load the model and call it. Raises `UsageError` if it fails."""
    answer = _run("semdis_cli.bench.processes", json.dumps(asdict(request)))
    return Steps(**json.loads(answer))


def peak_memory(encode: Steps, decode: Steps) -> PeakMemory:
    """Join what two fresh processes told, one for each verb."""
    return PeakMemory(encode.memory_kind, encode.loaded_mib, encode.peak_memory_mib, decode.peak_memory_mib)


def _semdis_s(*arguments: str) -> float:
    """Return the seconds that the command takes."""
    started = time.perf_counter()
    _run("semdis_cli", *arguments)
    return max(time.perf_counter() - started, 1e-9)  # a clock may stand still


def _run(module: str, *arguments: str) -> str:
    """Run a Python module and return its stdout. Raises `UsageError` with what it said last if it fails."""
    look()
    # -P: torch is not looked for in the folder where the user happens to be
    command = [sys.executable, "-P", "-m", module, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            stdout, stderr = _communicate(process)
        finally:
            process.kill()  # if it has not ended
    if process.returncode:
        last = (stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UsageError(f"python -m {module} ended with {process.returncode}: {last:.300}")
    return stdout


def _communicate(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """Wait for a process to end; returns its stdout and stderr. Raises `StoppedError` if a signal asks for it."""
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=LOOK_S)
        look()


# --- In the fresh process ---


class _Clock:
    """Seconds since it was last asked."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap_s(self) -> float:
        now = time.perf_counter()
        elapsed_s, self._last = now - self._last, now
        return elapsed_s


def answer(request: Request) -> Steps:
    """Carry out a request, step by step."""
    clock = _Clock()
    import torch

    import_torch_s = clock.lap_s()
    from semdis_cli.bench.model import decoding_call, encoding_call, run_calls
    from semdis_cli.model.config import FCDMDiffAEInferenceConfig
    from semdis_cli.model.tokenizer import Tokenizer
    from semdis_cli.pipeline.calls import start_workers
    from semdis_cli.settings import TokenizerSettings

    import_rest_s = clock.lap_s()
    tokenizer = Tokenizer.load(request.model, TokenizerSettings(**request.run), revision=request.revision)
    load_model_s = clock.lap_s()
    loaded_mib = _resident_mib(peak=False) if tokenizer.is_on_cpu else None
    sampling = FCDMDiffAEInferenceConfig(**request.sampling)
    size, count = request.size, tokenizer.images_per_call(*request.size)
    if request.verb == "encode":
        call = encoding_call(tokenizer, size, count)
    else:
        call = decoding_call(tokenizer, size, count, sampling)
    with start_workers(tokenizer, request.num_workers) as workers:
        run_calls(call, workers)(1)
        first_call_s = clock.lap_s()
        run_calls(call, workers)(3 * workers.num_model_threads)
    kind, peak_memory_mib = _peak(tokenizer, torch.cuda)
    return Steps(import_torch_s, import_rest_s, load_model_s, first_call_s, kind, loaded_mib, peak_memory_mib)


def _peak(tokenizer: "Tokenizer", cuda: Any) -> tuple[str, float]:
    """Return the kind of memory that is measured, and its peak in MiB. `cuda`: the module `torch.cuda`."""
    if tokenizer.model.device.type == "cuda":
        return "allocated on the GPU", cuda.max_memory_allocated(tokenizer.model.device) / 2**20
    resident_mib = _resident_mib(peak=True)
    if resident_mib is not None:
        return "resident memory of a fresh process", resident_mib
    import resource

    per_mib = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / per_mib
    return "ru_maxrss of a fresh process", peak_mib


def _resident_mib(*, peak: bool) -> float | None:
    """Return the resident memory of this process, now or at its peak; None where the system does not tell.

    Not `ru_maxrss`: on Linux that begins with the size of the process that started this one.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    match = re.search(rf"{'VmHWM' if peak else 'VmRSS'}:\s+(\d+) kB", status.read_text(encoding="ascii"))
    return int(match[1]) / 2**10 if match else None


def main() -> None:
    """Answer the request on the command line."""
    fields = json.loads(sys.argv[1])
    steps = answer(Request(**fields | {"size": tuple(fields["size"])}))
    sys.stdout.write(json.dumps(asdict(steps)))


if __name__ == "__main__":
    main()
