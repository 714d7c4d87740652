# ruff: noqa: INP001 (a script of its own)
"""A million small files: what planning, encoding, recognising the finished set, adding to it and opening it take.

    python benchmarks/million_files.py [--num-images 1000000] [--folder FOLDER] [--made-up]

Makes the JPEGs and a tiny model, and runs the real command, each time in a process of its own: its wall-clock seconds,
CPU seconds and peak memory (Linux, macOS). Encoding takes by far the longest: --made-up writes the set with latents of
random numbers instead, in all else as `encode` does; --plan-only leaves it and what follows out. A folder that is given
keeps the files, for the next time. To compare two versions, run each version's copy of this file on one folder of
images in turns.
"""

import argparse
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np  # noqa: TID253
import torch  # noqa: TID253
from PIL import Image  # noqa: TID253
from torch import Tensor  # noqa: TID253

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, os.fspath(PROJECT))

from semdis_cli.files.set_names import SHARD_FOLDER  # noqa: E402
from semdis_cli.images.loader import Loader  # noqa: E402
from semdis_cli.model.tokenizer import Tokenizer  # noqa: E402
from semdis_cli.pipeline.encode_plan import encode_provenance, plan_encode  # noqa: E402
from semdis_cli.records import EncodedImage, FileDigest, Geometry, ImageRecord, SourceImage  # noqa: E402
from semdis_cli.settings import EncodeSettings, GeometrySettings, LoadSettings, TokenizerSettings  # noqa: E402
from semdis_cli.sources.find import find_images  # noqa: E402
from semdis_cli.store.writing.latent_set import LatentSetWriter  # noqa: E402
from semdis_cli.store.writing.shard_writer import ShardRows, publish_shard  # noqa: E402
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


OPEN = """
import resource, sys, time
import torch
from semdis_cli import LatentDataset
peak, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
dataset = LatentDataset(sys.argv[1])
elapsed_s, peak = time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
mib = peak / (2**20 if sys.platform == "darwin" else 2**10)
print(f"of it, LatentDataset of {len(dataset):,}: {elapsed_s:.2f} CPU s, {mib:.1f} MiB more at the peak")
"""


def measure(name: str, *arguments: str | Path) -> None:
    """Run `semdis`, and say how long it took and how much memory it had."""
    measure_python(name, "-m", "semdis_cli", *arguments, stdout=subprocess.DEVNULL)


def measure_python(name: str, *arguments: str | Path, stdout: int | None = None) -> None:
    """Run Python, and say how long it took and how much memory it had."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *map(str, arguments)], stdout=stdout, cwd=PROJECT)  # noqa: S603
    _, status, usage = os.wait4(process.pid, 0)
    elapsed_s = time.perf_counter() - started
    peak_mib = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    cpu_s = usage.ru_utime + usage.ru_stime
    sys.stdout.write(f"{name:40} {elapsed_s:8.1f} s  {cpu_s:8.1f} CPU s  {peak_mib:7.0f} MiB\n")
    sys.stdout.flush()
    if status:
        sys.exit(f"{name}: exit status {os.waitstatus_to_exitcode(status)}")


def made_up_image(source: SourceImage, values: Tensor) -> EncodedImage:
    """An image as encoding it gives it, but for its latents."""
    with source.reader.open(source) as file:
        data = file.read()
    geometry = Geometry((16, 16), (16, 16), (0, 0), (16, 16), (16, 16))
    record = ImageRecord(source.key, geometry, FileDigest(len(data), hashlib.sha256(data).hexdigest()))
    return EncodedImage(record, values, source.mtime_ns, source.ctime_ns)


def make_up(photos: Path, latents: Path, model: Path) -> None:
    """Write the set that `encode` would, with random numbers for latents."""
    load, settings = LoadSettings(GeometrySettings(size=16)), EncodeSettings()
    tokenizer, found = Tokenizer.load(str(model), TokenizerSettings(batch_size=256)), find_images([photos])
    values = torch.randn((tokenizer.latent_channels, 1, 1), generator=torch.Generator().manual_seed(0)).bfloat16()
    provenance, patch = encode_provenance(tokenizer, load, settings.latents), tokenizer.patch_size
    with Loader(load, patch, 1) as loader, LatentSetWriter(latents, provenance) as writer:
        plan = plan_encode(found, loader, tokenizer, settings, writer.base, writer.provenance)
        writer.begin(plan.contents, loader.hashes)
        for planned in writer.remaining:
            rows = ShardRows(planned, plan.layout)
            for image in planned.images:
                rows.add(made_up_image(image.source, values))
            writer.record(publish_shard(rows.finish(), latents / SHARD_FOLDER, provenance))
        writer.finish()


def run(folder: Path, num_images: int, *, plan_only: bool, made_up: bool) -> None:
    """All measurements, in `folder`."""
    photos, latents, model = folder / "photos", folder / "latents", folder / "model"
    make_images(photos, num_images)
    save_tiny_model(model)
    command: list[str | Path] = ["encode", photos, "-o", latents, "--model", model, "--quiet"]
    measure("plan, sizes from the headers", *command, "--dry-run")
    if plan_only:
        return
    command += ["--size", "16", "--batch-size", "256"]
    if made_up:
        make_up(photos, latents, model)
    else:
        measure("encode", *command)
    measure("the same again: nothing to do", *command)
    for number in range(NUM_NEW):
        name = f"new-{time.time_ns()}-{number}.jpg"
        (photos / name).write_bytes((photos / "00000" / "000000000.jpg").read_bytes())
    measure(f"{NUM_NEW} images more", *command)
    measure_python("open it", "-c", OPEN, latents)


def main() -> None:
    """Parse the arguments, and measure."""
    parser = argparse.ArgumentParser(description="A million small files through semdis encode.")
    parser.add_argument("--num-images", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the files go, and stay; default: a temporary folder")
    parser.add_argument("--plan-only", action="store_true")
    parser.add_argument("--made-up", action="store_true", help="no model run: latents of random numbers")
    arguments = parser.parse_args()
    if arguments.folder is not None:
        run(arguments.folder, arguments.num_images, plan_only=arguments.plan_only, made_up=arguments.made_up)
        return
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), arguments.num_images, plan_only=arguments.plan_only, made_up=arguments.made_up)


if __name__ == "__main__":
    main()
