"""A fresh process that loads the model and calls it, and tells how long each step took and how much memory it needed.

    python -m semdis_cli.bench.child REQUEST

REQUEST and what comes on stdout are JSON. Nothing heavy is imported before the clock runs.
"""

import json
import re
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from semdis_cli.model.tokenizer import Tokenizer


@dataclass(frozen=True)
class Request:
    """What the process is to do. `verb`: encode or decode.

    `run`, `sampling`: the fields of `TokenizerSettings` and `FCDMDiffAEInferenceConfig`.
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


class _Clock:
    """Seconds since it was last asked."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap_s(self) -> float:
        now = time.perf_counter()
        elapsed_s, self._last = now - self._last, now
        return elapsed_s


def answer(request: Request) -> Steps:
    """Do what is asked, step by step."""
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
    """What is measured, and how much it was. `cuda`: the module `torch.cuda`."""
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
    """Resident memory of this process, now or at its peak; None where the system does not tell.

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
