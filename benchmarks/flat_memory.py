# ruff: noqa: INP001 (a script of its own)
"""Whether `semdis encode` runs in flat memory: its resident memory over a run of many small images.

    python benchmarks/flat_memory.py [--num-images 10000] [--size 32] [--folder FOLDER]

Makes the images and a tiny model, runs the real command in a process of its own, and reads its memory (VmRSS and, at
the end, VmHWM of /proc/PID/status; Linux) ten times a second, beside the number of images that it has done by then.
Pin it to one core to disturb nobody: taskset -c 1 python benchmarks/flat_memory.py
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np  # noqa: TID253
from PIL import Image  # noqa: TID253

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, os.fspath(PROJECT))

from tests.worlds import save_tiny_model  # noqa: E402 (beside the package, not in it)

SHARD_IMAGES = 100
WARM_UP_IMAGES = 1000
INTERVAL_S = 0.1


@dataclass(frozen=True, slots=True)
class Sample:
    """Resident memory when so many images were in published shards."""

    num_images: int
    rss_mib: float


def make_images(folder: Path, num_images: int) -> Path:
    """Small PNGs of noise, a thousand to a folder."""
    generator = np.random.default_rng(0)
    for number in range(num_images):
        path = folder / f"{number // 1000:03d}" / f"{number:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(path, compress_level=1)
    return folder


def watch(process: subprocess.Popen[bytes], root: Path) -> Iterator[Sample]:
    """Memory and progress until the process ends."""
    while process.poll() is None:
        rss_mib = memory_mib(process.pid, "VmRSS")
        if rss_mib is not None:
            yield Sample(len(list(root.glob("shards/*.safetensors"))) * SHARD_IMAGES, rss_mib)
        time.sleep(INTERVAL_S)


def memory_mib(pid: int, field: str) -> float | None:
    """A field of the process's status, in MiB; None once it has ended."""
    try:
        found = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(found[1]) / 1024 if found else None


def report(samples: Sequence[Sample], num_images: int, elapsed_s: float) -> str:
    """A line per tenth of the run, and the growth of the peak after the warm-up."""
    lines = [f"{num_images:,} images in {elapsed_s:,.0f} s, {num_images / elapsed_s:,.0f} images/s", "images  peak MiB"]
    step = max(num_images // 10, SHARD_IMAGES)
    for first in range(0, num_images, step):
        peak = max((s.rss_mib for s in samples if first <= s.num_images < first + step), default=0.0)
        lines.append(f"{first:6,}  {peak:8.1f}")
    early = max(s.rss_mib for s in samples if s.num_images <= WARM_UP_IMAGES)
    late = max(s.rss_mib for s in samples)
    grown_bytes = (late - early) * 2**20 / max(1, num_images - WARM_UP_IMAGES)
    lines.append(
        f"peak of the first {WARM_UP_IMAGES:,}: {early:.1f} MiB; of the whole run: {late:.1f} MiB "
        f"({late / early - 1:+.1%}, {grown_bytes:,.0f} bytes an image)"
    )
    return "\n".join(lines)


def main() -> None:
    """Make, encode, watch, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-images", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=32, help="side of the square that is encoded, pixels")
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="semdis-memory-", dir=options.folder) as folder:
        images = make_images(Path(folder) / "images", options.num_images)
        model, root = save_tiny_model(Path(folder) / "model"), Path(folder) / "latents"
        paths = [os.fspath(images), "-o", os.fspath(root), "--model", os.fspath(model)]
        command = [sys.executable, "-m", "semdis_cli", "encode", *paths, "--quiet"]
        command += ["--size", str(options.size), "--shard-images", str(SHARD_IMAGES), "--threads", "1"]
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=PROJECT)  # noqa: S603 (our own command)
        samples = list(watch(process, root))
        if process.returncode != 0:
            sys.exit(f"semdis encode ended with {process.returncode}")
        print(report(samples, options.num_images, time.perf_counter() - started))  # noqa: T201


if __name__ == "__main__":
    main()
