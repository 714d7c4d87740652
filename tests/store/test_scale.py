"""Memory for each image of a run, from its plan to the verified set: twice as many images need hardly more."""

from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from semdis_cli.files import growing
from semdis_cli.files.image_list import ImageList
from semdis_cli.files.images import Images
from semdis_cli.files.planned_images import PlannedImages
from semdis_cli.provenance import Provenance
from semdis_cli.records import EncodedImage, FileDigest, Geometry, ImageRecord
from semdis_cli.sources.files import ON_DISK
from semdis_cli.store.verifying.verify import NO_DATA
from semdis_cli.store.writing.comparison import find_changes
from semdis_cli.store.writing.finished import NO_BASE, Base
from semdis_cli.store.writing.latent_set import LatentSetWriter
from semdis_cli.store.writing.plan import SetPlan, plan_sha256, plan_shards
from tests.store import CHANNELS, MTIME_NS, PROVENANCE, hashes_of, peak_bytes, problems

BUCKETS = [(16, 16 * number) for number in range(1, 9)]  # so shards have rows between each other's
RECORD = Provenance.from_json(PROVENANCE)
SHARD_IMAGES = 250


def listed(num_images: int) -> ImageList:
    """Files as a listing gives them, with keys of 22 characters."""
    images = ImageList()
    root = images.root(ON_DISK, "photos/")
    for number in range(num_images):
        times = MTIME_NS + 3 * number, MTIME_NS + 3 * number + 1
        images.extend(root, [f"{number // 1000:08d}/{number:09d}.png"], [number % 97, *times])
    return images


def plan_of(images: Images, base: Base) -> SetPlan:
    changes = find_changes(base, images, (), hashes_of)
    new = changes.to_encode
    codes = array("I", (number % len(BUCKETS) for number in range(len(new))))
    shards = plan_shards(
        PlannedImages(new, BUCKETS, codes),
        RECORD.layout,
        shard_bytes=1,
        shard_images=SHARD_IMAGES,
        first_number=base.next_number,
    )
    return SetPlan(tuple(shards), (), changes, plan_sha256(RECORD, shards, (), base, changes))


def bytes_per_image(of: Callable[[int], int], few: int) -> float:
    """Bytes by which the peak grows with each image, from so many of them to twice as many."""
    return (of(2 * few) - of(few)) / few


@pytest.mark.slow
def test_a_plan_takes_few_bytes_an_image_beyond_the_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing, "_MOST_BYTES", 1 << 12)  # so that the listing lies in files

    def peak(num_images: int) -> int:
        images = listed(num_images)
        return peak_bytes(lambda: plan_of(images, NO_BASE))

    assert bytes_per_image(peak, 10_000) < 60, "as objects, an image would take 590 bytes"


def test_a_listing_takes_no_memory_once_it_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing, "_MOST_BYTES", 1 << 12)
    assert bytes_per_image(lambda number: peak_bytes(lambda: listed(number)), 10_000) < 10


@dataclass(frozen=True)
class World:
    """A set of so many images in a folder."""

    root: Path
    images: Images

    @contextmanager
    def begun(self) -> Iterator[LatentSetWriter]:
        with LatentSetWriter(self.root, RECORD) as latents:
            while not latents.begin(plan_of(self.images, latents.base), hashes_of):
                pass
            yield latents

    def write(self) -> None:
        """Write what is missing, and stop."""
        with self.begun() as latents:
            self._write(latents)

    def _write(self, latents: LatentSetWriter) -> None:
        for planned in latents.remaining:
            rows = latents.open_shard(planned)
            for source in (image.source for image in planned.images):
                geometry = Geometry((100, 900), (50, 450), (1, 2), planned.bucket, planned.bucket)
                record = ImageRecord(source.key, geometry, FileDigest(source.num_bytes, "0" * 64))
                values = torch.ones(CHANNELS, *RECORD.layout.grid(planned.bucket), dtype=torch.bfloat16)
                rows.add(EncodedImage(record, values, source.mtime_ns, source.ctime_ns))
            latents.publish(rows.finish())

    def finish(self) -> None:
        with self.begun() as latents:
            self._write(latents)
            latents.finish()

    def verify(self) -> None:
        assert problems(self.root, NO_DATA) == []


@pytest.mark.slow  # a minute: Python counts every allocation
def test_resuming_finishing_growing_and_verifying_take_few_bytes_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing, "_MOST_BYTES", 1 << 12)
    monkeypatch.setattr("semdis_cli.files.images._AT_ONCE", 1 << 9)  # images, of which two stretches are held at most
    peaks: dict[str, list[int]] = {}
    for num_images in (4000, 8000):
        world = World(tmp_path / f"{num_images}", listed(num_images))
        grown = World(world.root, listed(num_images + SHARD_IMAGES))
        world.write()
        for name, step in (
            ("resume", world.write),
            ("finish", world.finish),
            ("again", world.finish),
            ("verify", world.verify),
            ("growth", grown.finish),
        ):
            peaks.setdefault(name, []).append(peak_bytes(step))
    beyond = {name: (more - few) / 4000 for name, (few, more) in peaks.items()}
    assert {name: number for name, number in beyond.items() if number > 100} == {}, beyond
