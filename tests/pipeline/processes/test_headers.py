"""Headers that are read by processes: the plan of threads, whatever is wrong with some of the files."""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from semdis_cli.errors import KilledProcessError
from semdis_cli.events import Planning
from semdis_cli.images.loader import Chosen, Loader
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.encode_plan import plan_encode
from semdis_cli.pipeline.fleet.sending import SentReaders
from semdis_cli.pipeline.processes import headers, shared
from semdis_cli.pipeline.processes.headers import ProcessHeaders, header_reading
from semdis_cli.records import SourceImage
from semdis_cli.settings import (
    CropSettings,
    EncodeSettings,
    FilterSettings,
    GeometrySettings,
    LoadSettings,
    TokenizerSettings,
)
from semdis_cli.sources.find import FoundImages, find_images
from semdis_cli.sources.views import in_views
from tests.accelerated import Accelerated, kill_processes, refuse
from tests.torture.harness import wait_until_settled
from tests.worlds import save_noise

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has processes that read")

NUM_IMAGES, NUM_DAMAGED = 150 + 38 + 37, 3 + 1  # in the folder, and again in archives
BY_PROCESSES = partial(header_reading, is_on_cpu=False)


@pytest.fixture(autouse=True)
def few_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "_LEAST_IMAGES", 1)
    monkeypatch.setattr(shared, "_LEAST_IMAGES", 1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of many sizes in a folder, a zip and a tar; some are damaged. No time of theirs is a new one."""
    root = tmp_path_factory.mktemp("photos")
    folder = root / "images"
    for number in range(150):
        save_noise(folder / f"{number % 4}" / f"{number:03d}.png", number, (16 + number % 7, 16 + number % 40))
    for number in (3, 40, 141):
        (folder / f"{number % 4}" / f"{number:03d}.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    shutil.make_archive(str(root / "packed"), "zip", folder / "1")
    shutil.make_archive(str(root / "stored"), "tar", folder / "2")
    return wait_until_settled(root)


@cache  # the readers of two listings are no equals
def found_in(photos: Path) -> FoundImages:
    return find_images(sorted(photos.iterdir()))


def chosen(
    photos: Path, load: LoadSettings, filters: FilterSettings, reading: Callable[..., Any] | None
) -> tuple[Chosen, list[Planning]]:
    told: list[Planning] = []
    with Loader(load, 16, 2) as loader:
        planner = loader if reading is None else loader.reading_headers_by(reading)
        found = in_views(found_in(photos).images, [], load.views)[0]
        return planner.choose(found, filters, told.append), told


@pytest.mark.parametrize(
    ("load", "filters"),
    [
        (LoadSettings(), FilterSettings()),
        (LoadSettings(GeometrySettings(bucket_size=64)), FilterSettings(min_size=18, max_aspect=2.0)),
        (LoadSettings(GeometrySettings(size=32), crops=CropSettings(number=2)), FilterSettings(no_upscale=True)),
    ],
    ids=["native", "filters", "crops"],
)
def test_a_plan_is_the_same_whoever_reads_the_headers(
    photos: Path, monkeypatch: pytest.MonkeyPatch, load: LoadSettings, filters: FilterSettings
) -> None:
    expected, told = chosen(photos, load, filters, None)
    monkeypatch.delattr(Loader, "plan_each")
    monkeypatch.delattr(Loader, "begin_to_plan")
    found, also_told = chosen(photos, load, filters, BY_PROCESSES)
    assert list(found.images) == list(expected.images)
    assert found.failures == expected.failures
    assert found.left_out == expected.left_out
    assert also_told == told
    assert len(found.failures) >= NUM_DAMAGED


def test_images_that_no_process_can_read_are_read_by_threads(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    begin = Loader.begin_to_plan

    def counting(self: Loader, filters: FilterSettings, images: Sequence[SourceImage]) -> Any:
        calls.append(len(images))
        return begin(self, filters, images)

    expected, _ = chosen(photos, LoadSettings(), FilterSettings(), None)
    monkeypatch.setattr(Loader, "begin_to_plan", counting)
    monkeypatch.setattr(ProcessHeaders, "_can_send", lambda _, image: not image.key.startswith("images/3/"))
    found, _ = chosen(photos, LoadSettings(), FilterSettings(), BY_PROCESSES)
    assert list(found.images) == list(expected.images)
    assert 0 < sum(calls) < NUM_IMAGES


def test_where_no_process_can_read_none_is_begun(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = chosen(photos, LoadSettings(), FilterSettings(), None)
    monkeypatch.setattr(ProcessHeaders, "_can_send", lambda *_: False)
    monkeypatch.setattr(headers, "Processes", None)
    assert list(chosen(photos, LoadSettings(), FilterSettings(), BY_PROCESSES)[0].images) == list(expected.images)


def test_planning_beside_an_accelerator_has_them_read_by_processes(
    photos: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    plan_each = ProcessHeaders.plan_each

    def counting(self: ProcessHeaders, filters: FilterSettings, some: Sequence[Sequence[SourceImage]]) -> Any:
        read.extend(map(len, some))
        return plan_each(self, filters, some)

    monkeypatch.setattr(ProcessHeaders, "plan_each", counting)
    plans = []
    for kind in (Tokenizer, Accelerated):
        tokenizer = kind.load(str(tiny), TokenizerSettings(dtype="float32", batch_size=4, num_threads=1))
        with Loader(LoadSettings(), tokenizer.patch_size, 2) as loader:
            plans.append(plan_encode(found_in(photos), loader, tokenizer, EncodeSettings()))
    assert sum(read) == NUM_IMAGES
    shards = [[(shard.name, list(shard.images)) for shard in plan.shards] for plan in plans]
    assert shards[0] == shards[1]
    assert plans[0].failures == plans[1].failures


def test_leaving_does_not_wait_for_headers_that_nobody_wants(photos: Path) -> None:
    images = list(found_in(photos).images)
    with Loader(LoadSettings(), 16, 2) as loader, ProcessHeaders(loader) as reader:
        assert len(next(iter(reader.plan_each(FilterSettings(), [images[:1], images])))) == 1
        assert reader._begun is not None
        flag = reader._begun.memory.flat(0)
        assert flag.tolist() == [0]
    assert flag.tolist() == [1]
    readers = SentReaders()
    task = headers._Task([readers.image(image) for image in images], readers.named([1]), FilterSettings())
    with Loader(LoadSettings(), 16, 1) as loader, pytest.raises(CancelledError):
        headers._Planner(loader, flag).plan(task)


def test_without_a_process_to_be_had_threads_read(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    assert len(chosen(photos, LoadSettings(), FilterSettings(), BY_PROCESSES)[0].images) == NUM_IMAGES - NUM_DAMAGED


def test_a_process_that_is_killed_ends_it_in_a_line(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan_each = ProcessHeaders.plan_each

    def killing(self: ProcessHeaders, filters: FilterSettings, some: Sequence[Sequence[SourceImage]]) -> Any:
        yield from plan_each(self, filters, some[:1])
        kill_processes(2)
        yield from plan_each(self, filters, some[1:])

    monkeypatch.setattr(ProcessHeaders, "plan_each", killing)
    with pytest.raises(KilledProcessError, match="a process that reads or writes images was killed"):
        chosen(photos, LoadSettings(), FilterSettings(), BY_PROCESSES)


def test_few_headers_and_those_of_a_model_on_a_cpu_are_read_by_threads(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(ProcessHeaders, "__init__")
    chosen(photos, LoadSettings(), FilterSettings(), partial(header_reading, is_on_cpu=True))
    monkeypatch.setattr(headers, "_LEAST_IMAGES", 1000)
    chosen(photos, LoadSettings(), FilterSettings(), BY_PROCESSES)
