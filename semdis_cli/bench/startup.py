"""How long it takes until something happens: the real command in processes of its own."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from semdis_cli.bench.child import Request, Steps
from semdis_cli.bench.rounds import Spread, elapsed_s
from semdis_cli.errors import UsageError


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


def measure_start_up(image: Path, options: Sequence[str], steps: Steps, folder: Path, num_runs: int) -> StartUp:
    """`options`: of `semdis encode`, which writes into `folder`, once for each of `num_runs`. `steps`: of its model."""
    help_s = [elapsed_s(lambda _: _semdis("--help"), 1) for _ in range(num_runs)]
    first_image_s = []
    for number in range(num_runs):
        command = ("encode", str(image), "-o", str(folder / f"start-{number}"), "--quiet", *options)
        first_image_s.append(elapsed_s(lambda _, command=command: _semdis(*command), 1))  # type: ignore[misc]
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
    """What a fresh process tells of the model."""
    answer = _run("semdis_cli.bench.child", json.dumps(asdict(request)))
    return Steps(**json.loads(answer))


def peak_memory(encode: Steps, decode: Steps) -> PeakMemory:
    """Of what two fresh processes told, one for each verb."""
    return PeakMemory(encode.memory_kind, encode.loaded_mib, encode.peak_memory_mib, decode.peak_memory_mib)


def _semdis(*arguments: str) -> str:
    return _run("semdis_cli", *arguments)


def _run(module: str, *arguments: str) -> str:
    """Stdout of a Python module. Raises `UsageError` with what it said last if it fails."""
    # -P: torch is not looked for in the folder where the user happens to be
    command = [sys.executable, "-P", "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UsageError(f"python -m {module} ended with {done.returncode}: {last:.300}")
    return done.stdout
