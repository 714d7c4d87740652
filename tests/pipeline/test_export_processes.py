"""Exports that several processes write: the files of one process, whatever happens to them."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from threading import Thread
from typing import Any

import pytest

from semdis_cli.events import Event, Failure, ProcessDied, RunFinished, ShardFailed
from semdis_cli.pipeline.export import export
from semdis_cli.pipeline.export_parts import ExportPart, WrittenPart, parts_of, write_part
from semdis_cli.pipeline.export_sinks import lightningdit
from semdis_cli.pipeline.export_sinks.registry import SINKS
from semdis_cli.pipeline.export_sinks.sink import ExportJob
from semdis_cli.settings import ExportSettings, ProcessSettings
from semdis_cli.store.reader import open_latents
from semdis_cli.threads import WatchedThreads
from tests.accelerated import children_of
from tests.store import contents, flip_last_bit
from tests.store.labelled import CLASSES, write_labelled

NUM_IMAGES, SHARD_IMAGES = 1200, 40
TWO, THREE = ProcessSettings(num_processes=2), ProcessSettings(num_processes=3)
LABELS = {f"{CLASSES[n % 3]}/{n:04d}.jpg": n % 3 for n in range(NUM_IMAGES)}
FORMATS: dict[str, dict[str, Any]] = {
    "webdataset": {"tar_mib": 1},
    "safetensors": {},
    "npy": {},
    "parquet": {"tar_mib": 1},
    "mds": {"tar_mib": 1},
    "litdata": {"tar_mib": 1},
    "lightningdit": {"twins": "same"},
    "edm2": {"std": "zero"},
    "mar": {"twins": "same", "std": "zero"},
    "kohya": {},
}
SOME = 12
QUICK = {"webdataset", "npy"}
OF_THE_RUN = {"report.json"}


def settings_of(form: str) -> ExportSettings:
    return ExportSettings(format=form, num_workers=2, **FORMATS[form])  # type: ignore[arg-type] # it is one of them


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of one size in thirty shards; each image has a label."""
    return write_labelled(tmp_path_factory.mktemp("sets") / "latents", LABELS, shard_images=SHARD_IMAGES)


def run(root: Path, output: Path, form: str, processes: ProcessSettings = TWO) -> list[Event]:
    return [*export(open_latents(root), settings_of(form), output, processes)]


def files_in(output: Path) -> dict[str, bytes | None]:
    return {name: data for name, data in contents(output).items() if name not in OF_THE_RUN}


def report_of(events: list[Event]) -> dict[str, Any]:
    assert isinstance(events[-1], RunFinished)
    return events[-1].report


@pytest.mark.parametrize(
    "form", [form if form in QUICK else pytest.param(form, marks=pytest.mark.slow) for form in FORMATS]
)
def test_processes_write_the_files_of_one(root: Path, tmp_path: Path, form: str) -> None:
    alone = report_of(run(root, tmp_path / "alone", form, ProcessSettings()))
    shared = report_of(run(root, tmp_path / "shared", form, THREE))
    assert files_in(tmp_path / "shared") == files_in(tmp_path / "alone")
    assert shared["images"] == alone["images"] == {"ok": NUM_IMAGES, "failed": 0, "this_run": NUM_IMAGES}
    several = {"webdataset": 3, "parquet": 2, "mds": 2, "litdata": 2, "lightningdit": None}.get(form, 3)
    assert shared.get("processes") == several
    before = files_in(tmp_path / "shared")
    assert report_of(run(root, tmp_path / "shared", form))["images"]["this_run"] == 0
    assert files_in(tmp_path / "shared") == before


@pytest.mark.parametrize("form", ["litdata", pytest.param("npy", marks=pytest.mark.slow)])
def test_what_is_missing_is_made_by_processes_again(root: Path, tmp_path: Path, form: str) -> None:
    run(root, tmp_path / "out", form, ProcessSettings())
    whole = files_in(tmp_path / "out")
    gone = sorted(name for name, data in whole.items() if data is not None and name != "export.json")[1::3]
    for name in gone:
        (tmp_path / "out" / name).unlink()
    run(root, tmp_path / "out", form)
    assert files_in(tmp_path / "out") == whole


def written_here(root: Path, output: Path, form: str, num_processes: int = 16) -> Iterator[ExportPart]:
    """Write all parts in this process, one after the other, and yield them; only they write files of images."""
    job, kind = ExportJob(open_latents(root), settings_of(form), output), SINKS[settings_of(form).format]
    names = kind.name_files(job)
    output.mkdir()
    sink = kind(job, names)
    written: list[WrittenPart] = []

    def write(part: ExportPart) -> Iterator[Event]:
        with WatchedThreads(1, "test") as pool:
            written.append((yield from write_part(part, job.settings, output, pool)))

    for part in (planned.pack(job, names) for planned in parts_of(job, sink, num_processes)):
        assert [event for event in write(part) if isinstance(event, Failure | ShardFailed)] == []
        assert (written[-1].name, written[-1].troubles) == (part.name, [])
        for record in written[-1].records:
            sink.add_record(record)
        yield part
    sink.conclude()


@pytest.mark.parametrize(
    ("form", "num_processes"),
    [
        pytest.param(form, number, marks=[] if form in {"npy", "lightningdit"} and number == SOME else pytest.mark.slow)
        for form in FORMATS
        for number in (1, SOME, 99)
    ],
)
def test_parts_have_whole_files_and_all_images_once(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, num_processes: int
) -> None:
    monkeypatch.setattr(lightningdit, "_FILE_IMAGES", 70)
    run(root, tmp_path / "alone", form, ProcessSettings())
    parts = [*written_here(root, tmp_path / "parts", form, num_processes)]
    assert sorted(key for part in parts for key in part.source.keys) == sorted(LABELS)
    assert len({part.name for part in parts}) == len(parts) > 1
    expected = {name: data for name, data in files_in(tmp_path / "alone").items() if name != "export.json"}
    assert files_in(tmp_path / "parts") == expected
    for part in parts:
        assert isinstance(part.first_file, int)
        assert all(isinstance(name, PurePosixPath) for name in part.names.values())
        assert part.source.latents is None


@pytest.mark.parametrize("form", ["parquet", pytest.param("npy", marks=pytest.mark.slow)])
def test_a_damaged_shard_is_told_once_and_costs_its_own_images(root: Path, tmp_path: Path, form: str) -> None:
    damaged = Path(shutil.copytree(root, tmp_path / "set"))
    shards = sorted((damaged / "shards").iterdir())
    for number in (0, 7, 14):
        flip_last_bit(shards[number])
    alone = run(damaged, tmp_path / "alone", form, ProcessSettings())
    shared = run(damaged, tmp_path / "shared", form)
    assert files_in(tmp_path / "shared") == files_in(tmp_path / "alone")
    told = [[event for event in events if isinstance(event, ShardFailed)] for events in (alone, shared)]
    assert told[0] == told[1]
    assert sum(event.num_images for event in told[1]) == 3 * SHARD_IMAGES
    assert report_of(shared)["images"]["failed"] == 3 * SHARD_IMAGES
    for number in (0, 7, 14):
        flip_last_bit(shards[number])
    run(damaged, tmp_path / "shared", form)
    run(root, tmp_path / "whole", form, ProcessSettings())
    assert files_in(tmp_path / "shared") == files_in(tmp_path / "whole")


def test_images_that_a_format_does_not_hold_are_told(tmp_path: Path) -> None:
    labels = {**LABELS, "eel/none.jpg": None, "dog/none.jpg": None}
    write_labelled(tmp_path / "set", labels, shard_images=SHARD_IMAGES)
    alone = run(tmp_path / "set", tmp_path / "alone", "mar", ProcessSettings())
    shared = run(tmp_path / "set", tmp_path / "shared", "mar")
    failed = [[event for event in events if isinstance(event, Failure)] for events in (alone, shared)]
    assert failed[0] == failed[1]
    assert {event.key for event in failed[1]} == {"eel/none.jpg", "dog/none.jpg"}
    assert files_in(tmp_path / "shared") == files_in(tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["webdataset", "npy"])
def test_a_process_that_is_killed_costs_nothing(root: Path, tmp_path: Path, form: str) -> None:
    run(root, tmp_path / "alone", form, ProcessSettings())
    before = children_of(os.getpid())
    killed: list[int] = []

    def kill_one() -> None:
        for _ in range(2000):
            new = [pid for pid in children_of(os.getpid()) if pid not in before]
            if new and any((tmp_path / "shared").glob("*[!n]/*" if form == "npy" else "*.tar")):
                os.kill(new[-1], signal.SIGKILL)
                killed.append(new[-1])
                return
            time.sleep(0.002)

    killer = Thread(target=kill_one)
    killer.start()
    events = run(root, tmp_path / "shared", form)
    killer.join()
    if killed and any(isinstance(event, ProcessDied) for event in events):
        assert report_of(events)["processes_died"] == 1
    assert files_in(tmp_path / "shared") == files_in(tmp_path / "alone")


def test_a_shard_on_its_own_needs_no_process(root: Path, tmp_path: Path) -> None:
    shard = min((root / "shards").iterdir())
    events = run(shard, tmp_path / "out", "webdataset")
    assert "processes" not in report_of(events)
    assert report_of(events)["images"]["ok"] == SHARD_IMAGES


def test_a_part_knows_the_number_of_its_first_file(root: Path, tmp_path: Path) -> None:
    names = [part.first_file for part in written_here(root, tmp_path / "parts", "webdataset")]
    assert names == [*range(len(names))]
