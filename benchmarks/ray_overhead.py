# ruff: noqa: INP001, T201 (a script of its own)
"""What a Ray cluster costs beside processes of one machine: `semdis encode` by both, in turns.

    python benchmarks/ray_overhead.py [--num-images 3200] [--shard-images 800] [--rounds 3] [--model semdis-small]

Begins a cluster of two nodes with a core each on this machine. Makes JPEGs of 256x256 pixels and, without `--model`, a
tiny model; has half of them, and all of them, encoded by `--processes 2` and by `--engine ray`. Prints medians of the
seconds of a run, and of the CPU seconds of all its processes (of Ray those of the cluster too); beginning costs both
the same number of times, so the second half says what an image costs. The sets have to be the same.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np  # noqa: TID253
from PIL import Image  # noqa: TID253

sys.path.insert(0, os.fspath(Path(__file__).parents[1]))

from tests.cluster import RayCluster
from tests.store import lasting
from tests.worlds import save_tiny_model

_SIDE_PX = 256
# Runs a command, and waits for all processes that it has left: 36 is PR_SET_CHILD_SUBREAPER.
_COLLECT = """import ctypes, os, subprocess, sys
ctypes.CDLL(None).prctl(36, 1)
code = subprocess.run(sys.argv[1:]).returncode
try:
    while True:
        os.wait()
except ChildProcessError:
    sys.exit(code)"""
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Cost(NamedTuple):
    """Seconds of a run by the clock, and of the CPU."""

    run_s: float
    cpu_s: float


def make_images(folder: Path, num_images: int) -> None:
    """JPEGs that have something in them, each other than the rest."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    for number in range(num_images):
        small = Image.fromarray(generator.integers(0, 256, (20, 20, 3), dtype=np.uint8))
        small.resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BICUBIC).save(folder / f"{number:07d}.jpg", quality=90)


def session_cpu_s(sessions: set[int]) -> float:
    """CPU seconds of all processes of these sessions, and of their children that have ended."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) in sessions:
                ticks += sum(map(int, fields[11:15]))
    return ticks / _TICKS_PER_S


def ended_cpu_s() -> float:
    """CPU seconds of our own processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def cost_of(cluster: RayCluster, arguments: list[str], output: Path) -> Cost:
    """Run the command, and see what it has cost."""
    sessions = {node.process.pid for node in cluster.nodes}
    before = ended_cpu_s() + session_cpu_s(sessions)
    collect = [sys.executable, "-c", _COLLECT]
    command = [*collect, sys.executable, "-m", "semdis_cli", "encode", *arguments, "-o", os.fspath(output), "-q"]
    subprocess.run(command, check=True, env=cluster.env)  # noqa: S603 (this project)
    cpu_s = ended_cpu_s() + session_cpu_s(sessions) - before
    return Cost(json.loads((output / "report.json").read_bytes())["elapsed_s"], cpu_s)


def medians(costs: list[Cost]) -> Cost:
    """The middle of each figure."""
    return Cost(*map(statistics.median, zip(*costs, strict=True)))


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-images", type=int, default=3200)
    parser.add_argument("--shard-images", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", help="default: a tiny one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="semdis-") as name:
        measure(options, Path(name))


def measure(options: argparse.Namespace, folder: Path) -> None:
    """Run both ways in turns, over half of the images and over all."""
    sizes = options.num_images // 2, options.num_images
    for size in sizes:
        make_images(folder / str(size), size)
    model = options.model or os.fspath(save_tiny_model(folder / "tiny"))
    cluster = RayCluster(folder)
    ways = {"--processes 2": ["--processes", "2"], "--engine ray": ["--engine", "ray", "--address", cluster.address]}
    costs: dict[tuple[str, int], list[Cost]] = {(way, size): [] for way in ways for size in sizes}
    try:
        cluster.begin()
        cluster.join()
        for number in range(options.rounds):
            for (way, size), found in costs.items():
                common = [os.fspath(folder / str(size)), "--model", model, "--device", "cpu"]
                output = folder / f"{size}-{len(way)}-{number}"
                shards = ["--shard-images", str(options.shard_images)]
                found.append(cost_of(cluster, [*common, *shards, *ways[way]], output))
                print(f"{way}, {size} images: {found[-1].run_s:.1f} s, {found[-1].cpu_s:.1f} s of CPU", flush=True)
            sets = [lasting(folder / f"{sizes[1]}-{len(way)}-{number}") for way in ways]
            assert sets[0] == sets[1], "the sets differ"
    finally:
        cluster.end()
    for way in ways:
        half, whole = (medians(costs[way, size]) for size in sizes)
        run_ms, cpu_ms = (1000 * (after - before) / sizes[0] for before, after in zip(half, whole, strict=True))
        print(f"{way}: {sizes[1]} images in {whole.run_s:.1f} s, {whole.cpu_s:.1f} s of CPU; ", end="")
        print(f"of the second half, an image: {run_ms:.2f} ms, {cpu_ms:.2f} ms of CPU")


if __name__ == "__main__":
    main()
