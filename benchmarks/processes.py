# ruff: noqa: INP001, T201 (a script of its own)
"""How fast several processes are beside one: `semdis encode` with and without `--processes`, in turns.

    python benchmarks/processes.py [--num-images 6400] [--processes 2] [--rounds 3] [--model semdis-small] [--old TREE]

Makes JPEGs of 256x256 pixels and, without `--model`, a tiny model; runs the real command in each way, `--rounds` times
in turns, and prints the medians: seconds of the run as its report has them and of the whole command, and CPU seconds of
all its processes (user and system; they are collected as orphans, so Linux alone). `--old`: a tree of another version,
whose single process takes its turn too. The sets have to be the same; `--json` prints an object.
"""

import argparse
import ctypes
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np  # noqa: TID253
from PIL import Image  # noqa: TID253

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, os.fspath(PROJECT))

from tests.store import lasting  # noqa: E402 (beside the package, not in it)
from tests.worlds import save_tiny_model  # noqa: E402

_PR_SET_CHILD_SUBREAPER = 36
_SIDE_PX = 256


@dataclass(frozen=True)
class Measured:
    """One command: seconds of its run, of all of it, and of the CPU."""

    run_s: float
    command_s: float
    cpu_s: float


def make_images(folder: Path, num_images: int) -> Path:
    """JPEGs that have something in them, each other than the rest."""
    generator = np.random.default_rng(0)
    for number in range(num_images):
        small = Image.fromarray(generator.integers(0, 256, (20, 20, 3), dtype=np.uint8))
        path = folder / f"{number // 1000:03d}" / f"{number:07d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small.resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BICUBIC).save(path, quality=90)
    return folder


def measure(arguments: list[str], output: Path, tree: Path) -> Measured:
    """Run the command, and wait for all processes that it has begun."""
    command = [sys.executable, "-m", "semdis_cli", "encode", *arguments, "-o", os.fspath(output), "-q"]
    before, started = cpu_s(), time.perf_counter()
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": os.fspath(tree)})  # noqa: S603 (this project)
    command_s = time.perf_counter() - started
    with suppress(ChildProcessError):
        while True:
            os.wait()
    report = json.loads((output / "report.json").read_bytes())
    return Measured(report["elapsed_s"], command_s, cpu_s() - before)


def cpu_s() -> float:
    """CPU seconds of all processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def medians(runs: list[Measured]) -> Measured:
    """The middle of each figure."""
    rows = [asdict(one).values() for one in runs]
    return Measured(*(statistics.median(column) for column in zip(*rows, strict=True)))


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-images", type=int, default=6400)
    parser.add_argument("--shard-images", type=int, default=200)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=None, help="of all processes together; default: cores")
    parser.add_argument("--model", default=None)
    parser.add_argument("--old", type=Path, default=None)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def compare(given: argparse.Namespace, folder: Path) -> dict[str, Measured]:
    """Measure all ways in turns; the medians of each."""
    images = make_images(folder / "images", given.num_images)
    model = given.model or os.fspath(save_tiny_model(folder / "model"))
    options = [os.fspath(images), "--model", model, "--device", "cpu", "--size", str(_SIDE_PX)]
    options += ["--shard-images", str(given.shard_images)]
    options += [] if given.workers is None else ["--workers", str(given.workers)]
    ways = {"old": (options, given.old)} if given.old is not None else {}
    ways |= {"one": (options, PROJECT)}
    ways |= {f"{given.processes} processes": ([*options, "--processes", str(given.processes)], PROJECT)}
    runs: dict[str, list[Measured]] = {way: [] for way in ways}
    for number in range(given.rounds):
        for way, (arguments, tree) in ways.items():
            runs[way].append(measure(arguments, folder / f"{way}-{number}", tree))
    sets = [lasting(folder / f"{way}-0") for way in ways]
    assert all(one == sets[0] for one in sets), "the sets differ"
    return {way: medians(each) for way, each in runs.items()}


def main() -> None:
    """Measure, and print."""
    given = parse()
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory() as name:
        figures = compare(given, Path(name))
    if given.json:
        print(json.dumps({way: asdict(figure) for way, figure in figures.items()}))
        return
    print(f"{'':>14} {'run':>8} {'command':>9} {'CPU':>8}  images/s of the run")
    for way, figure in figures.items():
        seconds = f"{figure.run_s:>6.2f} s {figure.command_s:>7.2f} s {figure.cpu_s:>6.2f} s"
        print(f"{way:>14} {seconds}  {given.num_images / figure.run_s:.1f}")


if __name__ == "__main__":
    main()
