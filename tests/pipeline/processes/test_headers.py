"""Headers that are read by processes: the plan of threads, whatever is wrong with some of the files."""

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from semdis_cli.errors import KilledProcessError
from semdis_cli.events import Planning
from semdis_cli.images.loader import Chosen, Loader
from semdis_cli.pipeline.processes import headers, shared
from semdis_cli.pipeline.processes.headers import ProcessHeaders, header_reading
from semdis_cli.records import SourceImage
from semdis_cli.settings import CropSettings, FilterSettings, GeometrySettings, LoadSettings
from semdis_cli.sources.find import find_images
from semdis_cli.sources.views import in_views
from tests.accelerated import kill_processes, refuse
from tests.worlds import save_noise

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has processes that read")

BY_PROCESSES = partial(header_reading, is_on_cpu=False)


@pytest.fixture(autouse=True)
def few_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "_LEAST_IMAGES", 1)
    monkeypatch.setattr(shared, "_LEAST_IMAGES", 1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of many sizes in a folder and a zip; some are damaged, or no images at all."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(150):
        save_noise(folder / f"{number % 4}" / f"{number:03d}.png", number, (16 + number % 7, 16 + number % 40))
    for number in (3, 40, 141):
        (folder / f"{number % 4}" / f"{number:03d}.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return folder


def chosen(
    photos: Path, load: LoadSettings, filters: FilterSettings, reading: Callable[..., Any] | None
) -> tuple[Chosen, list[Planning]]:
    told: list[Planning] = []
    with Loader(load, 16, 2) as loader:
        planner = loader if reading is None else loader.reading_headers_by(reading)
        found = in_views(find_images([photos]).images, [], load.views)[0]
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
    assert [one.key for one in found.failures] == [one.key for one in expected.failures]
    assert {one.reason for one in found.failures} == {one.reason for one in expected.failures}
    assert found.left_out == expected.left_out
    assert also_told == told
    assert len(found.failures) >= 3


def test_images_that_no_process_can_read_are_read_by_threads(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    begin = Loader.begin_to_plan

    def counting(self: Loader, filters: FilterSettings, images: Sequence[SourceImage]) -> Any:
        calls.append(len(images))
        return begin(self, filters, images)

    expected, _ = chosen(photos, LoadSettings(), FilterSettings(), None)
    monkeypatch.setattr(Loader, "begin_to_plan", counting)
    monkeypatch.setattr(ProcessHeaders, "_can_send", lambda _, image: not image.key.startswith("3/"))
    found, _ = chosen(photos, LoadSettings(), FilterSettings(), BY_PROCESSES)
    assert list(found.images) == list(expected.images)
    assert 0 < sum(calls) < 150


def test_without_a_process_to_be_had_threads_read(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    monkeypatch.delattr(ProcessHeaders, "plan_each")
    assert len(chosen(photos, LoadSettings(), FilterSettings(), BY_PROCESSES)[0].images) == 147


def test_a_process_that_is_killed_ends_it_in_a_line(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan_each = ProcessHeaders.plan_each

    def killing(self: ProcessHeaders, *given: Any) -> Any:
        kill_processes(2)
        return plan_each(self, *given)

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
