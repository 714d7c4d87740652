# ruff: noqa: INP001 (a script of its own)
"""Finishing a set that many parts have written, against reading their journals once: seconds and memory.

    python benchmarks/finish_parts.py [--num-images 1000000] [--num-parts 100] [--folder FOLDER]

Writes the parts with tiny latents of random numbers, in all else as `encode --part` does, a shard each. Then, each in a
process of its own: all journals are read, every line parsed, checked and held against its sha256, as for a run that
takes them up; and `semdis finish` writes the set. Wall-clock seconds, CPU seconds and peak memory (Linux, macOS). A
folder that is given keeps the parts, for the next time, so that two versions can be compared on them in turns.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch  # noqa: TID253

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, os.fspath(PROJECT))

from semdis_cli.provenance import Provenance  # noqa: E402
from semdis_cli.records import EncodedImage, FileDigest, Geometry, ImageRecord, PlannedImage, SourceImage  # noqa: E402
from semdis_cli.shares import Share  # noqa: E402
from semdis_cli.sources.files import ON_DISK  # noqa: E402
from semdis_cli.store.writing.changes import Changes  # noqa: E402
from semdis_cli.store.writing.plan import SetPlan, plan_sha256, plan_shards  # noqa: E402
from semdis_cli.store.writing.set_share import SetShareWriter  # noqa: E402
from tests.store import PROVENANCE  # noqa: E402 (beside the package, not in it)

BUCKETS = ((16, 16), (16, 32), (32, 16), (32, 32))
READ = """
import sys
from pathlib import Path
from semdis_cli.store.writing.journal_file import JournalEntry, parse_journal_line
num_rows = 0
for path in Path(sys.argv[1], "journal").glob("*.jsonl"):
    with path.open("rb") as file:
        next(file)
        for line in file:
            num_rows += len(parse_journal_line(line, JournalEntry.from_json).rows)
print(f"{num_rows:,} rows")
"""
FINISH = """
import sys
from pathlib import Path
from semdis_cli.store.writing.finish_set import finish_by_journal
print(f"{finish_by_journal(Path(sys.argv[1])).num_ok:,} images")
"""


def measure(name: str, code: str, latents: Path) -> None:
    """Run Python, and say how long it took and how much memory it had."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", code, os.fspath(latents)], stdout=subprocess.PIPE, cwd=PROJECT)  # noqa: S603
    assert process.stdout is not None
    said = process.stdout.read().decode().strip()
    _, status, usage = os.wait4(process.pid, 0)
    elapsed_s = time.perf_counter() - started
    peak_mib = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    cpu_s = usage.ru_utime + usage.ru_stime
    sys.stdout.write(f"{name:30} {elapsed_s:8.1f} s  {cpu_s:8.1f} CPU s  {peak_mib:7.0f} MiB  {said}\n")
    sys.stdout.flush()
    if status:
        sys.exit(f"{name}: exit status {os.waitstatus_to_exitcode(status)}")


def make_plan(provenance: Provenance, num_images: int, num_parts: int) -> SetPlan:
    """Images of a few sizes, which take turns, in about as many shards as there are parts."""
    images = []
    for number in range(num_images):
        key = f"photos/{number // 1000:05d}/{number:09d}.jpg"
        source = SourceImage(key, ON_DISK, key, 1000 + number % 7, 10**18 + number, 10**18 + number + 1)
        images.append(PlannedImage(source, BUCKETS[number % len(BUCKETS)]))
    shards = plan_shards(images, provenance.layout, shard_bytes=1 << 40, shard_images=-(-num_images // num_parts))
    sha256 = plan_sha256(provenance, shards, ())
    return SetPlan(tuple(shards), (), Changes(), sha256)


def write_part(root: Path, provenance: Provenance, plan: SetPlan, share: Share) -> None:
    """Write a part as `encode` would, but for its latents; whoever comes last does not finish the set."""
    with SetShareWriter(root, provenance, share) as latents:
        latents.begin(plan, lambda _: ())
        for planned in latents.remaining:
            layout = provenance.layout
            values = torch.randn((layout.channels, *layout.grid(planned.bucket))).bfloat16()
            geometry = Geometry(planned.bucket, planned.bucket, (0, 0), planned.bucket, planned.bucket)
            rows = latents.open_shard(planned)
            for image in planned.images:
                source = image.source
                digest = FileDigest(source.num_bytes, hashlib.sha256(source.key.encode()).hexdigest())
                record = ImageRecord(source.key, geometry, digest)
                rows.add(EncodedImage(record, values, source.mtime_ns, source.ctime_ns))
            latents.publish(rows.finish())
    sys.stderr.write(f"\r{share} written")


def run(folder: Path, num_images: int, num_parts: int) -> None:
    """Make the parts unless they are there, and measure."""
    provenance, parts = Provenance.from_json(PROVENANCE), folder / "parts"
    if not parts.exists():
        plan = make_plan(provenance, num_images, num_parts)
        for index in range(num_parts):
            write_part(parts, provenance, plan, Share(index, num_parts))
        sys.stderr.write("\n")
    measure("read all journals", READ, parts)
    latents = folder / "latents"
    shutil.rmtree(latents, ignore_errors=True)
    shutil.copytree(parts, latents, copy_function=os.link)
    measure("finish", FINISH, latents)
    with (latents / "SHA256SUMS").open("rb") as file:
        sys.stdout.write(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  SHA256SUMS\n")


def main() -> None:
    """Parse the arguments, and measure."""
    parser = argparse.ArgumentParser(description="What finishing a set takes that many parts have written.")
    parser.add_argument("--num-images", type=int, default=1_000_000)
    parser.add_argument("--num-parts", type=int, default=100)
    parser.add_argument("--folder", type=Path, help="where the files go, and stay; default: a temporary folder")
    arguments = parser.parse_args()
    if arguments.folder is not None:
        run(arguments.folder, arguments.num_images, arguments.num_parts)
        return
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), arguments.num_images, arguments.num_parts)


if __name__ == "__main__":
    main()
