"""Round trips whose images are read and written by processes: the files and figures of threads."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from queue import LifoQueue

import pytest

from semdis_cli.errors import KilledProcessError
from semdis_cli.events import Event, Failure, ImageMeasured, RunFinished, RunStarted
from semdis_cli.images.loader import Loader
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.contenders.tokenized import TokenizedContender
from semdis_cli.pipeline.encode_plan import plan_encode
from semdis_cli.pipeline.measuring.comparing import Measuring
from semdis_cli.pipeline.measuring.kept_pictures import Trial
from semdis_cli.pipeline.processes import shared
from semdis_cli.pipeline.processes.reading import ProcessReading
from semdis_cli.pipeline.processes.writing import ProcessWriter
from semdis_cli.pipeline.reading import ThreadReading
from semdis_cli.pipeline.roundtrip import evaluate, roundtrip
from semdis_cli.settings import DecodeSettings, EncodeSettings, LoadSettings, RoundtripSettings, TokenizerSettings
from semdis_cli.sources.find import find_images
from tests.accelerated import Accelerated, killing_at_third, refuse
from tests.store import lasting
from tests.worlds import save_noise

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has processes that read and write")

NUM_IMAGES, CALL_IMAGES = 34, 3
SETTINGS = RoundtripSettings(decode=DecodeSettings(num_workers=2))


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Tokenizer:
    return Accelerated.load(str(tiny), TokenizerSettings(dtype="float32", batch_size=CALL_IMAGES, num_threads=1))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two sizes, both padded by the model, and one that is damaged."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(NUM_IMAGES):
        save_noise(folder / f"{number:02d}.png", number, (50, 33) if number % 3 == 0 else (30, 48))
    damaged = folder / "07.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    return folder


@pytest.fixture
def by_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_LEAST_IMAGES", 1)


def run(photos: Path, tokenizer: Tokenizer, output: Path, *, writes: bool = True) -> list[Event]:
    with Loader(LoadSettings(), tokenizer.patch_size, 2) as loader:
        plan = plan_encode(find_images([photos]), loader, tokenizer, EncodeSettings())
        if writes:
            return list(roundtrip(plan, loader, tokenizer, SETTINGS, output))
        contenders = TokenizedContender.of(tokenizer, SETTINGS), TokenizedContender.of(tokenizer, SETTINGS)
        return list(evaluate(plan, loader, contenders, SETTINGS, output))


def outcomes(events: Sequence[Event]) -> list[ImageMeasured | tuple[str, str]]:
    """Return figures and failures; times of files tell nothing while these are new."""
    of_images = (event for event in events if isinstance(event, Failure | ImageMeasured))
    return [one if isinstance(one, ImageMeasured) else (one.key, one.reason) for one in of_images]


def unless_timed(folder: Path) -> dict[str, bytes | None]:
    return {name: data for name, data in lasting(folder).items() if name != "report.json"}


@pytest.mark.parametrize("writes", [True, False], ids=["roundtrip", "eval"])
def test_files_and_figures_are_those_of_threads(
    photos: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, writes: bool
) -> None:
    expected = run(photos, tokenizer, tmp_path / "threads", writes=writes)
    monkeypatch.setattr(shared, "_LEAST_IMAGES", 1)
    monkeypatch.delattr(ThreadReading, "submit")
    monkeypatch.setattr(shared, "SimpleQueue", LifoQueue)  # a slot that was just given back is the next to be taken
    measure = Measuring.measure

    def late(self: Measuring, trials: Sequence[Trial]) -> list[ImageMeasured]:
        time.sleep(0.02)  # by now other images lie where these were read
        return measure(self, trials)

    monkeypatch.setattr(Measuring, "measure", late)
    found = run(photos, tokenizer, tmp_path / "processes", writes=writes)
    assert outcomes(found) == outcomes(expected)
    assert len(outcomes(found)) == NUM_IMAGES
    assert [one.key for one in found if isinstance(one, Failure)] == ["07.png"]
    assert unless_timed(tmp_path / "processes") == unless_timed(tmp_path / "threads")


@pytest.mark.usefixtures("by_processes")
@pytest.mark.parametrize("kind", [ProcessReading, ProcessWriter])
def test_a_killed_process_ends_the_run_and_the_next_one_goes_on(
    photos: Path, tokenizer: Tokenizer, tmp_path: Path, kind: type
) -> None:
    output = tmp_path / "trip"
    with killing_at_third(kind, 4), pytest.raises(KilledProcessError, match="was killed, perhaps for its memory"):
        run(photos, tokenizer, output)
    *_, finished = run(photos, tokenizer, output)
    assert isinstance(finished, RunFinished)
    run(photos, tokenizer, tmp_path / "again")
    assert unless_timed(output) == unless_timed(tmp_path / "again")


@pytest.mark.usefixtures("by_processes")
def test_without_memory_threads_do_it_and_it_is_said(
    photos: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    events = run(photos, tokenizer, tmp_path / "trip")
    started = next(event for event in events if isinstance(event, RunStarted))
    assert "images are read by threads, not by processes (No space left on device)" in started.note
    assert "images are written by threads, not by processes (No space left on device)" in started.note
    assert len(outcomes(events)) == NUM_IMAGES
