# ruff: noqa: INP001, T201 (a script of its own)
"""What a Ray cluster costs beside processes of one machine: `semdis encode` by both, in turns.

    python benchmarks/ray_overhead.py [--num-images 6400] [--shard-images 400] [--rounds 3] [--model semdis-small]

Begins a cluster of two nodes with a core each on this machine. Makes JPEGs of 256x256 pixels and, without `--model`, a
tiny model, and has them encoded by `--processes 2` and by `--engine ray`. Prints medians: the seconds until the first
shard is on disk, and from there to the last one the milliseconds of an image. The sets have to be the same.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np  # noqa: TID253
from PIL import Image  # noqa: TID253

sys.path.insert(0, os.fspath(Path(__file__).parents[1]))

from tests.cluster import RayCluster
from tests.store import lasting
from tests.worlds import save_tiny_model

_SIDE_PX = 256


class Cost(NamedTuple):
    """Seconds until a shard is there, and milliseconds of an image from then on."""

    first_s: float
    image_ms: float


def make_images(folder: Path, num_images: int) -> None:
    """JPEGs that have something in them, each other than the rest."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    for number in range(num_images):
        small = Image.fromarray(generator.integers(0, 256, (20, 20, 3), dtype=np.uint8))
        small.resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BICUBIC).save(folder / f"{number:07d}.jpg", quality=90)


def cost_of(cluster: RayCluster, arguments: list[str], output: Path, num_images: int) -> Cost:
    """Run the command, and see from its shards what it has cost."""
    command = [sys.executable, "-m", "semdis_cli", "encode", *arguments, "-o", os.fspath(output), "-q"]
    started = time.time()
    subprocess.run(command, check=True, env=cluster.env)  # noqa: S603 (this project)
    times = sorted(path.stat().st_mtime for path in (output / "shards").iterdir())
    num_after = num_images * (len(times) - 1) / len(times)
    return Cost(times[0] - started, 1000 * (times[-1] - times[0]) / num_after)


def medians(costs: list[Cost]) -> Cost:
    """The middle of each figure."""
    return Cost(*map(statistics.median, zip(*costs, strict=True)))


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-images", type=int, default=6400)
    parser.add_argument("--shard-images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", help="default: a tiny one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="semdis-") as name:
        measure(options, Path(name))


def measure(options: argparse.Namespace, folder: Path) -> None:
    """Run both ways in turns."""
    make_images(folder / "images", options.num_images)
    model = options.model or os.fspath(save_tiny_model(folder / "tiny"))
    cluster = RayCluster(folder)
    ways = {"--processes 2": ["--processes", "2"], "--engine ray": ["--engine", "ray", "--address", cluster.address]}
    costs: dict[str, list[Cost]] = {way: [] for way in ways}
    common = [os.fspath(folder / "images"), "--model", model, "--device", "cpu", "--shard-images"]
    common.append(str(options.shard_images))
    try:
        cluster.begin()
        cluster.join()
        for number in range(options.rounds):
            outputs = [folder / f"{number}{way}" for way in ways]
            for way, output in zip(ways, outputs, strict=True):
                costs[way].append(cost_of(cluster, [*common, *ways[way]], output, options.num_images))
                print(
                    f"{way}: {costs[way][-1].first_s:.1f} s, then {costs[way][-1].image_ms:.2f} ms an image", flush=True
                )
            sets = list(map(lasting, outputs))
            assert sets[0] == sets[1], "the sets differ"
    finally:
        cluster.end()
    for way, found in costs.items():
        middle = medians(found)
        print(f"median, {way}: {middle.first_s:.1f} s, then {middle.image_ms:.2f} ms an image")


if __name__ == "__main__":
    main()
