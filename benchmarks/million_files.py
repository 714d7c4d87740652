# ruff: noqa: INP001 (a script of its own)
"""A million small files: how long planning, encoding, recognising the finished set and adding to it take.

    python benchmarks/million_files.py [--num-images 1000000] [--folder FOLDER]

Makes the JPEGs and a tiny model, and runs the real command, each time in a process of its own: its wall-clock seconds
and peak memory (Linux, macOS). Encoding takes by far the longest; --plan-only leaves it and what follows out. A folder
that is given keeps the files, for the next time.
"""

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np  # noqa: TID253
from PIL import Image  # noqa: TID253

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, os.fspath(PROJECT))

from tests.worlds import save_tiny_model  # noqa: E402 (beside the package, not in it)

IMAGES_PER_FOLDER = 1000
NUM_CONTENTS = 16
NUM_NEW = 10


def make_images(folder: Path, num_images: int) -> None:
    """JPEGs of 16x16 px, of a few contents, a thousand to a folder; what is there already is left."""
    generator = np.random.default_rng(0)
    contents = []
    for _ in range(NUM_CONTENTS):
        file = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file, "JPEG")
        contents.append(file.getvalue())
    for number in range(num_images):
        path = folder / f"{number // IMAGES_PER_FOLDER:05d}" / f"{number:09d}.jpg"
        if number % IMAGES_PER_FOLDER == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(contents[number % NUM_CONTENTS])


def measure(name: str, *arguments: str | Path) -> None:
    """Run `semdis`, and say how long it took and how much memory it had."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "semdis_cli", *map(str, arguments)], stdout=subprocess.DEVNULL)  # noqa: S603
    _, status, usage = os.wait4(process.pid, 0)
    elapsed_s = time.perf_counter() - started
    peak_mib = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    cpu_s = usage.ru_utime + usage.ru_stime
    sys.stdout.write(f"{name:40} {elapsed_s:8.1f} s  {cpu_s:8.1f} CPU s  {peak_mib:7.0f} MiB\n")
    sys.stdout.flush()
    if status:
        sys.exit(f"{name}: exit status {os.waitstatus_to_exitcode(status)}")


def run(folder: Path, num_images: int, *, plan_only: bool) -> None:
    """All measurements, in `folder`."""
    photos, latents, model = folder / "photos", folder / "latents", folder / "model"
    make_images(photos, num_images)
    save_tiny_model(model)
    command = ["encode", photos, "-o", latents, "--model", model, "--quiet"]
    measure("plan, sizes from the headers", *command, "--dry-run")
    if plan_only:
        return
    command += ["--size", "16", "--batch-size", "256"]
    measure("encode", *command)
    measure("the same again: nothing to do", *command)
    for number in range(NUM_NEW):
        name = f"new-{time.time_ns()}-{number}.jpg"
        (photos / name).write_bytes((photos / "00000" / "000000000.jpg").read_bytes())
    measure(f"{NUM_NEW} images more", *command)


def main() -> None:
    """Parse the arguments, and measure."""
    parser = argparse.ArgumentParser(description="A million small files through semdis encode.")
    parser.add_argument("--num-images", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the files go, and stay; default: a temporary folder")
    parser.add_argument("--plan-only", action="store_true")
    arguments = parser.parse_args()
    if arguments.folder is not None:
        run(arguments.folder, arguments.num_images, plan_only=arguments.plan_only)
        return
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), arguments.num_images, plan_only=arguments.plan_only)


if __name__ == "__main__":
    main()
