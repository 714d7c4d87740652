"""Images that are written by processes: the same files as by threads, and nothing lost when one of them is killed."""

import os
import sys
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from semdis_cli.errors import KilledProcessError, UsageError
from semdis_cli.events import BatchDone, Event, Failure, RunFinished, RunStarted
from semdis_cli.files.atomic import is_temporary
from semdis_cli.images.loader import Loader
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.decode import decode
from semdis_cli.pipeline.encode import encode
from semdis_cli.pipeline.images_out import ImageWriter, Pictures
from semdis_cli.pipeline.processes import shared
from semdis_cli.pipeline.processes.writing import ProcessWriter
from semdis_cli.pipeline.workers import Workers
from semdis_cli.settings import (
    DecodeSettings,
    EncodeSettings,
    ImageFormat,
    LoadSettings,
    ShardSettings,
    TokenizerSettings,
    WriteSettings,
)
from semdis_cli.sources.find import find_images
from semdis_cli.store.reader import open_latents
from tests.accelerated import Accelerated, kill_processes, killing_at_third, refuse
from tests.worlds import save_noise

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has processes that write")

NUM_IMAGES, CALL_IMAGES = 18, 4


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Tokenizer:
    return Accelerated.load(str(tiny), TokenizerSettings(dtype="float32", batch_size=CALL_IMAGES, num_threads=1))


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """Images of two sizes, both to be cropped on decoding, in two folders."""
    photos, output = tmp_path_factory.mktemp("photos"), tmp_path_factory.mktemp("set") / "latents"
    for number in range(NUM_IMAGES):
        save_noise(photos / f"{number % 2}" / f"{number:02d}.png", number, (50, 33) if number % 3 == 0 else (30, 48))
    settings = EncodeSettings(num_workers=2, shards=ShardSettings(shard_images=8))
    with Loader(LoadSettings(), tokenizer.patch_size, 2) as loader:
        list(encode(find_images([photos]), loader, tokenizer, settings, output))
    return output


@pytest.fixture
def by_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_LEAST_IMAGES", 1)


def run(latents: Path, tokenizer: Tokenizer, output: Path, form: ImageFormat = "png") -> list[Event]:
    settings = DecodeSettings(num_workers=2, write=WriteSettings(format=form))
    return list(decode(open_latents(latents), tokenizer, settings, output))


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in {".png", ".jpg"}
    }


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note each call that threads write."""
    calls: list[int] = []
    submit = ImageWriter.submit

    def counting(self: ImageWriter, images: Pictures, workers: Workers) -> object:
        calls.append(len(images))
        return submit(self, images, workers)

    monkeypatch.setattr(ImageWriter, "submit", counting)
    return calls


@pytest.mark.parametrize("form", ["png", "jpg"])
def test_files_are_the_same_whoever_writes_them(
    latents: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: ImageFormat
) -> None:
    run(latents, tokenizer, tmp_path / "threads", form)
    monkeypatch.setattr(shared, "_LEAST_IMAGES", 1)
    calls = counted(monkeypatch)
    *events, finished = run(latents, tokenizer, tmp_path / "processes", form)
    assert calls == [], "processes wrote them"
    assert isinstance(finished, RunFinished)
    assert sum(event.num_images for event in events if isinstance(event, BatchDone)) == NUM_IMAGES
    written = files_of(tmp_path / "processes")
    assert len(written) == NUM_IMAGES
    assert written == files_of(tmp_path / "threads")


@pytest.mark.usefixtures("by_processes")
def test_calls_that_no_slot_holds_are_written_by_threads(
    latents: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "_most_bytes", lambda: 6 * CALL_IMAGES * 30 * 48 * 3)  # of six slots
    calls = counted(monkeypatch)
    run(latents, tokenizer, tmp_path / "both")
    assert 0 < sum(calls) < NUM_IMAGES
    assert len(files_of(tmp_path / "both")) == NUM_IMAGES


@pytest.mark.usefixtures("by_processes")
def test_without_memory_threads_write_and_it_is_said(
    latents: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    started, *_ = run(latents, tokenizer, tmp_path / "decoded")
    assert isinstance(started, RunStarted)
    assert started.note == "images are written by threads, not by processes (No space left on device)"
    assert len(files_of(tmp_path / "decoded")) == NUM_IMAGES


@pytest.mark.usefixtures("by_processes")
@pytest.mark.parametrize("number", [1, 2])
def test_a_writer_that_is_killed_ends_the_run_in_a_line_and_nothing_is_lost(
    latents: Path, tokenizer: Tokenizer, tmp_path: Path, number: int
) -> None:
    match = r"was killed, .* what is done is kept: run the same command again"
    with killing_at_third(ProcessWriter, number), pytest.raises(KilledProcessError, match=match):
        run(latents, tokenizer, tmp_path / "decoded")
    run(latents, tokenizer, tmp_path / "decoded")
    run(latents, tokenizer, tmp_path / "whole")
    assert files_of(tmp_path / "decoded") == files_of(tmp_path / "whole")
    assert not [path for path in (tmp_path / "decoded").rglob(".*") if is_temporary(path.name)]


def pictures(names: list[str]) -> Pictures:
    generator = np.random.default_rng(0)
    return [(name, generator.integers(0, 256, (3, 8, 8), dtype=np.uint8)) for name in names]


def writer_of(folder: Path, names: list[str]) -> ImageWriter:
    folder.mkdir(exist_ok=True)
    return ImageWriter(folder, {name: PurePosixPath(name) for name in names}, WriteSettings())


def test_a_name_that_the_disk_does_not_take_costs_itself(tmp_path: Path) -> None:
    names = ["a.png", f"{'x' * 300}.png", "b.png"]
    with Workers(1) as workers, ProcessWriter(writer_of(tmp_path / "out", names), workers, 1000) as writer:
        written = workers.result(writer.submit(pictures(names), workers))
    assert [failure.key for failure in written.failures] == [names[1]]
    assert all(isinstance(failure, Failure) for failure in written.failures)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.png", "b.png"}


def test_what_ends_a_run_is_the_same_error_with_its_place(tmp_path: Path) -> None:
    folder, images = tmp_path / "out", pictures(["sub/a.png"])
    threads = writer_of(folder, ["sub/a.png"])
    with Workers(1) as workers, ProcessWriter(threads, workers, 1000) as writer:
        folder.rmdir()
        folder.write_bytes(b"in the way")
        with pytest.raises(UsageError) as by_process:
            workers.result(writer.submit(images, workers))
        with pytest.raises(UsageError) as by_thread:
            workers.result(threads.submit(images, workers))
    assert str(by_process.value) == str(by_thread.value)
    assert by_process.value.place == by_thread.value.place


def test_a_process_that_died_between_calls_is_said(tmp_path: Path) -> None:
    images = pictures(["a.png"])
    with Workers(1) as workers, ProcessWriter(writer_of(tmp_path / "out", ["a.png"]), workers, 1000) as writer:
        workers.result(writer.submit(images, workers))
        kill_processes(1)
        with pytest.raises(KilledProcessError):
            workers.result(writer.submit(images, workers))
