# ruff: noqa: INP001, TID253 (a script of its own, which may load torch at once)
"""How many latents a second `LatentDataset` gives at random, from the page cache.

    python benchmarks/latent_dataset.py [--num-latents 20000] [--workers 0 2] [--folder FOLDER]

Makes a set of made-up latents of 256x256 pixels (128 channels, 16x16 positions, bfloat16: 64 KiB each), reads it once,
and measures. Pin it to one core to see what one core does: taskset -c 1 python benchmarks/latent_dataset.py
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from semdis_cli.dataset.latent_dataset import LatentDataset
from semdis_cli.dataset.sampler import BucketBatchSampler
from semdis_cli.files.atomic import publish
from semdis_cli.files.json_text import to_line
from semdis_cli.files.set_names import INDEX_FILE, MANIFEST_FILE, SHARD_FOLDER
from semdis_cli.provenance import Provenance
from semdis_cli.records import FileDigest, Geometry, ImageRecord
from semdis_cli.store.index import IndexRow
from semdis_cli.store.manifest import Manifest, ShardEntry
from semdis_cli.store.shards import Shard, write_shard
from semdis_cli.store.statistics import ChannelSums

CHANNELS, SIDE, SHARD_IMAGES, BATCH_SIZE = 128, 16, 4096, 64
LATENT_BYTES = CHANNELS * SIDE * SIDE * 2
SQUARE = Geometry((1080, 1920), (256, 455), (0, 99), (256, 256), (256, 256))
PROVENANCE = Provenance.from_json(
    {
        "model": {"name": "made up"},
        "channels": CHANNELS,
        "patch_size": 16,
        "whitened": True,
        "whitening": {"mean": [0.5] * CHANNELS, "std": [2.0] * CHANNELS},
        "dtype": "bfloat16",
    }
)


def make_set(root: Path, num_latents: int) -> None:
    """Write a finished set of random latents."""
    (root / SHARD_FOLDER).mkdir(parents=True)
    entries: list[ShardEntry] = []
    index = publish(root / INDEX_FILE, _write_shards(root, num_latents, entries))
    sums = ChannelSums.zero(CHANNELS)
    manifest = Manifest(PROVENANCE, "0" * 64, num_latents, 0, 0, 0, tuple(entries), index, sums)
    publish(root / MANIFEST_FILE, [manifest.to_bytes()])


def _write_shards(root: Path, num_latents: int, entries: list[ShardEntry]) -> Iterator[bytes]:
    """Write the shards, note them in `entries`, and give the lines of the index."""
    for first in range(0, num_latents, SHARD_IMAGES):
        keys = tuple(f"{number:08d}.jpg" for number in range(first, min(first + SHARD_IMAGES, num_latents)))
        latents = torch.randn((len(keys), CHANNELS, SIDE, SIDE)).to(torch.bfloat16)
        name = f"{len(entries):08d}-{SIDE}x{SIDE}.safetensors"
        records = tuple(ImageRecord(key, SQUARE, FileDigest(1, "0" * 64)) for key in keys)
        file = write_shard(root / SHARD_FOLDER / name, Shard(latents, records, PROVENANCE))
        entries.append(ShardEntry(name, len(keys), file))
        for row, record in enumerate(records):
            yield to_line(IndexRow.of_image(record, name, row).to_json())


def say(name: str, run: Callable[[], int], unit: str = "latents") -> None:
    """Run `run` and write how many it did in a second, and in a second of this process' CPU time."""
    started, cpu_started = time.perf_counter(), time.process_time()
    count = run()
    elapsed_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    sys.stdout.write(f"{name:44} {count / elapsed_s:10,.0f} {unit}/s {count / cpu_s:10,.0f} per CPU second\n")
    sys.stdout.flush()


def one_by_one(dataset: LatentDataset, seed: int) -> int:
    """Every item once, at random."""
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed)).tolist()
    for index in order:
        dataset[index]
    return len(order)


def batches(dataset: LatentDataset, num_workers: int, epoch: int) -> int:
    """Every item once, in batches of a `DataLoader`."""
    sampler = BucketBatchSampler(dataset, BATCH_SIZE, seed=0)
    sampler.set_epoch(epoch)
    return sum(len(batch.latents) for batch in DataLoader(dataset, batch_sampler=sampler, num_workers=num_workers))


def measure(root: Path, num_workers: list[int]) -> None:
    """All measurements on the set in `root`, the second of which fills the page cache."""
    say("opening", lambda: len(LatentDataset(root)), "entries")
    dataset = LatentDataset(root)
    one_by_one(dataset, seed=0)
    for attempt in (1, 2, 3):
        say(f"dataset[i], run {attempt}", partial(one_by_one, dataset, attempt))
    say("dataset[i], raw float32", partial(one_by_one, LatentDataset(root, whitened=False, dtype=torch.float32), 4))
    for count in num_workers:
        for attempt in (1, 2):
            say(f"DataLoader, {count} workers, run {attempt}", partial(batches, dataset, count, attempt))


def main() -> None:
    """Make the set in a temporary folder, measure, and remove it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-latents", type=int, default=20_000, help="latents of 64 KiB each")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2], help="workers of the DataLoader")
    parser.add_argument("--folder", type=Path, default=None, help="where the set is made, and removed again")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        needed, free = arguments.num_latents * (LATENT_BYTES + 1024), shutil.disk_usage(folder).free
        if free < needed:
            sys.exit(f"{folder}: needs {needed / 2**20:,.0f} MiB, has {free / 2**20:,.0f}; give another --folder")
        make_set(Path(folder) / "latents", arguments.num_latents)
        measure(Path(folder) / "latents", arguments.workers)


if __name__ == "__main__":
    main()
