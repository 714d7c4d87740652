# ruff: noqa: INP001 (a script of its own)
"""Memory and time of all that grows with the number of images, from listing them to verifying their set.

    python benchmarks/scale.py [--num-images 1000000] [--shard-images 4096] [--limit-mib 1024] [--json]
                               [--folder FOLDER] [STEP ...]

Makes names of images (hard links to tiny JPEGs, a thousand to a folder, keys of 40 characters) and a tiny model, and
runs each step in a process of its own. No pixel is read and no model runs: latents are made up, one value a channel,
and all else is as `encode` does it. The steps, each on what the one before has left:

    start     nothing: the interpreter, torch and the model, which all steps have
    plan      list the images, and plan a new set
    write     the same, and write its shards and their journal, as a run does that is stopped before it finishes
    resume    take that up again: list, plan, and find every shard in the journal
    finish    the same, and write index, table, times of files, checksums and manifest
    verify    `semdis verify`
    again     the same images again: nothing is to be done
    growth    a hundredth of the images is new, another is gone: list, compare, plan, write, finish

Of each: wall-clock and CPU seconds, the peak of its anonymous memory (RssAnon of /proc/PID/status, looked at every
20 ms; Linux) and of all that is resident (VmHWM: also files that it has mapped, which the system may drop), bytes of
anonymous memory an image beyond those of `start`, and the size of the folder. `--limit-mib`: each step runs in a memory
cgroup (v1, as root) of that size, page cache included, and is killed if it needs more. A folder that is given keeps its
files: another call goes on from there with the steps that are named. At ten million images it takes some 25 GB of disk
and an hour.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch  # noqa: TID253
from PIL import Image  # noqa: TID253

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, os.fspath(PROJECT))

from semdis_cli.files.set_names import SHARD_FOLDER  # noqa: E402
from semdis_cli.images.loader import Loader  # noqa: E402
from semdis_cli.model.tokenizer import Tokenizer  # noqa: E402
from semdis_cli.pipeline.encode_plan import EncodePlan, encode_provenance, plan_encode  # noqa: E402
from semdis_cli.records import EncodedImage, FileDigest, Geometry, ImageRecord, SourceImage  # noqa: E402
from semdis_cli.settings import (  # noqa: E402
    EncodeSettings,
    GeometrySettings,
    LoadSettings,
    ShardSettings,
    TokenizerSettings,
)
from semdis_cli.sources.find import FoundImages, find_images  # noqa: E402
from semdis_cli.store.writing.held_rows import HeldRows  # noqa: E402
from semdis_cli.store.writing.latent_set import LatentSetWriter  # noqa: E402
from semdis_cli.store.writing.plan import PlannedShard  # noqa: E402
from semdis_cli.store.writing.shard_writer import ShardRows, publish_shard  # noqa: E402
from tests.worlds import save_tiny_model  # noqa: E402 (beside the package, not in it)

IMAGES_PER_FOLDER = 1000
SIDE_PX = 16
INTERVAL_S = 0.02
GEOMETRY = Geometry(*((SIDE_PX, SIDE_PX),) * 2, (0, 0), *((SIDE_PX, SIDE_PX),) * 2)
CGROUPS = Path("/sys/fs/cgroup/memory")


def make_images(folder: Path, num_images: int, name: str = "photo") -> None:
    """Make hard links to a JPEG of each folder's own; folders that are there are left."""
    for first in range(0, num_images, IMAGES_PER_FOLDER):
        inner = folder / f"{name}-{first // IMAGES_PER_FOLDER:08d}"
        if inner.exists():
            continue
        inner.mkdir(parents=True)
        numbers = range(first, min(first + IMAGES_PER_FOLDER, num_images))
        paths = [f"{inner}/{'image-':-<{35 - len(inner.name) - 9}}{number:09d}.jpg" for number in numbers]
        Image.new("RGB", (SIDE_PX, SIDE_PX), (first % 251, first % 241, first % 239)).save(paths[0])
        for path in paths[1:]:
            os.link(paths[0], path)


class World:
    """The set of a folder, and all that a run of `encode` on it has."""

    def __init__(self, folder: Path, shard_images: int) -> None:
        self.photos, self.latents = folder / "photos", folder / "latents"
        self.load = LoadSettings(GeometrySettings(size=SIDE_PX))
        self.settings = EncodeSettings(shards=ShardSettings(shard_images=shard_images))
        self.tokenizer = Tokenizer.load(str(folder / "model"), TokenizerSettings(batch_size=256))
        self.provenance = encode_provenance(self.tokenizer, self.load, self.settings.latents)

    @contextmanager
    def begun(self) -> Iterator[LatentSetWriter]:
        """Give the set, once its images are listed and what is to be done is planned."""
        held = HeldRows(self.latents)
        found = find_images([self.photos], held=held if held.is_set else None)
        with (
            Loader(self.load, self.tokenizer.patch_size, 1) as loader,
            LatentSetWriter(self.latents, self.provenance) as writer,
        ):
            while not writer.begin(self._plan(found, loader, writer).contents, loader.hashes):
                pass
            writer.check_space()
            yield writer

    def _plan(self, found: FoundImages, loader: Loader, writer: LatentSetWriter) -> EncodePlan:
        return plan_encode(found, loader, self.tokenizer, self.settings, writer.base, writer.provenance)

    def write(self, writer: LatentSetWriter) -> None:
        """Write the shards that are left, with latents that are made up."""
        values = torch.ones((self.tokenizer.latent_channels, 1, 1)).bfloat16()
        for planned in writer.remaining:
            self._write_shard(writer, planned, values)

    def _write_shard(self, writer: LatentSetWriter, planned: PlannedShard, values: torch.Tensor) -> None:
        rows = ShardRows(planned, self.provenance.layout)
        images = [made_up_image(image.source, values) for image in planned.images]
        rows.add_call(images, {"latents": values.expand(len(images), *values.shape).contiguous()})
        writer.record(publish_shard(rows.finish(), self.latents / SHARD_FOLDER, writer.provenance))


def made_up_image(source: SourceImage, values: torch.Tensor) -> EncodedImage:
    """An image as encoding it gives it, but for its latents and the sha256 of its file."""
    record = ImageRecord(source.key, GEOMETRY, FileDigest(source.num_bytes, "0" * 64))
    return EncodedImage(record, values, source.mtime_ns, source.ctime_ns)


def start(world: World) -> None:
    """Do nothing."""


def plan(world: World) -> None:
    """List, and plan a new set."""
    with Loader(world.load, world.tokenizer.patch_size, 1) as loader:
        plan_encode(find_images([world.photos]), loader, world.tokenizer, world.settings)


def write(world: World) -> None:
    """Write all shards, and stop."""
    with world.begun() as writer:
        world.write(writer)


def resume(world: World) -> None:
    """Take up what is written, and stop."""
    with world.begun() as writer:
        assert not writer.remaining


def finish(world: World) -> None:
    """Write what is left, which may be nothing, and finish."""
    with world.begun() as writer:
        world.write(writer)
        writer.finish()


STEPS: dict[str, Callable[[World], None]] = {"start": start, "plan": plan, "write": write, "resume": resume}
STEPS |= {"finish": finish, "again": finish, "growth": finish}
ALL_STEPS = ("start", "plan", "write", "resume", "finish", "verify", "again", "growth")


def prepare_growth(folder: Path, num_images: int) -> None:
    """Add images, and move some away: their folders alone, as removing a link changes the time of all others."""
    number = max(IMAGES_PER_FOLDER, num_images // 100)
    make_images(folder / "photos", number, f"new{time.time_ns() // 10**6 % 10**9:09d}")
    gone = folder / "gone"
    gone.mkdir(exist_ok=True)
    for inner in sorted((folder / "photos").iterdir())[-number // IMAGES_PER_FOLDER :]:
        inner.rename(gone / inner.name)
    time.sleep(3)  # until times are old enough to be believed


def command_of(step: str, options: argparse.Namespace) -> list[str]:
    """Return the command of a step."""
    if step == "verify":
        return [sys.executable, "-m", "semdis_cli", "verify", os.fspath(options.folder / "latents"), "--quiet"]
    facts = ["--folder", os.fspath(options.folder), "--shard-images", str(options.shard_images)]
    return [sys.executable, __file__, *facts, "--run", step]


def memory_kib(pid: int) -> tuple[int, int]:
    """Return anonymous memory now, and the peak of all that was resident; zeros once the process has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0
    found = [re.search(rf"{name}:\s+(\d+) kB", text) for name in ("RssAnon", "VmHWM")]
    return tuple(int(each[1]) if each else 0 for each in found)  # type: ignore[return-value] # there are two


def enter(group: Path) -> None:
    """Put this process into a group."""
    (group / "cgroup.procs").write_text(str(os.getpid()))


@contextmanager
def limited(limit_mib: int | None) -> Iterator[Callable[[], None] | None]:
    """Give what puts a new process into a group with so much memory; None without a limit."""
    if limit_mib is None:
        yield None
        return
    group = CGROUPS / f"semdis-scale-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(limit_mib << 20))
        yield lambda: enter(group)
    finally:
        group.rmdir()


def measure(step: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run a step, and return its figures."""
    started, peak_kib, resident_kib = time.perf_counter(), 0, 0
    with limited(options.limit_mib) as limit:
        process = subprocess.Popen(command_of(step, options), cwd=PROJECT, preexec_fn=limit)  # noqa: S603, PLW1509
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            anonymous, resident = memory_kib(process.pid)
            peak_kib, resident_kib = max(peak_kib, anonymous), max(resident_kib, resident)
            time.sleep(INTERVAL_S)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{step}: exit status {process.returncode}")
    return {
        "step": step,
        "wall_s": round(time.perf_counter() - started, 1),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "anonymous_mib": round(peak_kib / 1024, 1),
        "resident_mib": round(resident_kib / 1024, 1),
        "folder_mib": round(folder_bytes(options.folder / "latents") / 2**20, 1),
    }


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder, which need not be there."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def run(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Make what is missing, and measure the steps one after the other."""
    make_images(options.folder / "photos", options.num_images)
    if not (options.folder / "model").exists():
        save_tiny_model(options.folder / "model")
    time.sleep(3)  # until times are old enough to be believed
    start_mib = 0.0
    for step in options.steps:
        if step == "growth":
            prepare_growth(options.folder, options.num_images)
        found = measure(step, options)
        start_mib = found["anonymous_mib"] if step == "start" else start_mib
        beyond = round((found["anonymous_mib"] - start_mib) * 2**20 / options.num_images) if start_mib else None
        yield found | {"anonymous_bytes_per_image": beyond}


def main() -> None:
    """Parse the arguments, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", default=ALL_STEPS, metavar="STEP", help=", ".join(ALL_STEPS))
    parser.add_argument("--num-images", type=int, default=1_000_000)
    parser.add_argument("--shard-images", type=int, default=4096, help="in a shard: as many as by itself at 256x256")
    parser.add_argument("--limit-mib", type=int, help="memory that a step may have")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each step, as it ends")
    parser.add_argument("--folder", type=Path, help="where the files go, and stay; default: a temporary folder")
    parser.add_argument("--run", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run is not None:
        STEPS[options.run](World(options.folder, options.shard_images))
        return
    if set(options.steps) - set(ALL_STEPS):
        parser.error(f"no such step: {', '.join(sorted(set(options.steps) - set(ALL_STEPS)))}")
    with tempfile.TemporaryDirectory() as temporary:
        options.folder = options.folder or Path(temporary)
        if not options.json:
            sys.stdout.write("step      wall s    CPU s  anonymous MiB  resident MiB  bytes an image  folder MiB\n")
        for found in run(options):
            if options.json:
                sys.stdout.write(json.dumps({"num_images": options.num_images, **found}) + "\n")
            else:
                step, wall_s, cpu_s, anonymous, resident, size, beyond = found.values()
                figures = f"{anonymous:13.1f}  {resident:12.1f}  {'-' if beyond is None else beyond:>14}  {size:10.1f}"
                sys.stdout.write(f"{step:8} {wall_s:7.1f}  {cpu_s:7.1f}  {figures}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
