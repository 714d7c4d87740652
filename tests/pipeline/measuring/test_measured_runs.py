"""Runs over images that come back, cut short anywhere and gone on with: the figures and pictures of an unbroken one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from semdis_cli.events import Event, ImageMeasured, RunFinished, RunStarted
from semdis_cli.files.late import LateFiles
from semdis_cli.images.loader import Loader
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.contenders.make import make_contenders
from semdis_cli.pipeline.encode_plan import plan_encode
from semdis_cli.pipeline.measuring.figures import FigureSpool
from semdis_cli.pipeline.measuring.kept_pictures import kept_pictures
from semdis_cli.pipeline.measuring.measured import Measured
from semdis_cli.pipeline.roundtrip import evaluate
from semdis_cli.settings import (
    DecodeSettings,
    EncodeSettings,
    LoadSettings,
    RoundtripSettings,
    TokenizerSettings,
)
from semdis_cli.settings.contenders import parse_specs
from semdis_cli.settings.page import PageSettings
from semdis_cli.sources.find import find_images
from tests.worlds import save_noise

NUM_IMAGES = 24


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semdis_cli.pipeline.roundtrip._SHARD_IMAGES", 5)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(NUM_IMAGES):
        save_noise(folder / f"{number:02d}.png", number, [(32, 40), (16, 16)][number % 2])
    (folder / "07.png").write_bytes(b"no image")
    return folder


class Run:
    """What a run has left when all was measured."""

    def __init__(self, photos: Path, tiny: Path, output: Path) -> None:
        self._photos, self._output = photos, output
        self._tokenizer = Tokenizer.load(str(tiny), TokenizerSettings(dtype="float32", batch_size=2, num_threads=1))
        self.kept: dict[str, tuple[bytes, ...]] = {}

    @contextmanager
    def events(self, specs: tuple[str, ...] = ("steps=2",), num_pictures: int = 8) -> Iterator[Iterator[Event]]:
        """Measure with two contenders, keeping pictures."""
        page = PageSettings(report=Path("r.html"), num_pictures=num_pictures)
        settings = RoundtripSettings(decode=DecodeSettings(num_workers=2), page=page)
        contenders = make_contenders(parse_specs(specs), self._tokenizer, settings)
        with Loader(LoadSettings(), 16, 2) as loader:
            plan = plan_encode(find_images([self._photos]), loader, self._tokenizer, EncodeSettings())
            yield evaluate(plan, loader, contenders, settings, self._output, self._finish)

    def _finish(self, measured: Measured) -> dict[str, object]:
        for one in kept_pictures(measured.pictures, len(measured.contenders)):
            files = one.original, *one.versions
            self.kept[one.key] = (*(path.read_bytes() for path in files), one.latents.tobytes())
        assert measured.choice is not None
        return {"choice": asdict(measured.choice)}

    def whole(self, *specs: str) -> tuple[RunStarted, RunFinished]:
        """Go through to the end."""
        with self.events(specs or ("steps=2",)) as events:
            told = list(events)
        started = next(one for one in told if isinstance(one, RunStarted))
        assert isinstance(told[-1], RunFinished)
        return started, told[-1]

    def cut(self, num_measured: int) -> None:
        """Stop once so many images are measured."""
        with self.events() as events:
            measured = (event for event in events if isinstance(event, ImageMeasured))
            for _ in range(num_measured):
                next(measured)
            events.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("stops", [(1,), (6,), (11, 3), (NUM_IMAGES - 1,)])
def test_a_run_that_goes_on_has_the_figures_and_pictures_of_one_that_never_stopped(
    tmp_path: Path, photos: Path, tiny: Path, stops: tuple[int, ...]
) -> None:
    unbroken = Run(photos, tiny, tmp_path / "whole")
    _, expected = unbroken.whole()
    for number in stops:
        Run(photos, tiny, tmp_path / "cut").cut(number)
    again = Run(photos, tiny, tmp_path / "cut")
    started, finished = again.whole()
    assert (tmp_path / "cut/figures.jsonl").read_bytes() == (tmp_path / "whole/figures.jsonl").read_bytes()
    assert again.kept == unbroken.kept
    assert finished.report["contenders"] == expected.report["contenders"]
    assert (finished.num_ok, finished.num_failed) == (NUM_IMAGES - 1, 1)
    assert started.num_done <= sum(stops)
    assert finished.report["images"]["this_run"] <= NUM_IMAGES - 1


def test_pictures_are_safe_before_the_figures_of_their_part_are_noted(
    tmp_path: Path, photos: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def noting(kind: type[Any], name: str) -> None:
        call = getattr(kind, name)

        def noted(self: Any, *arguments: Any) -> Any:
            done.append(name)
            return call(self, *arguments)

        monkeypatch.setattr(kind, name, noted)

    noting(LateFiles, "settle")
    noting(FigureSpool, "finish")
    Run(photos, tiny, tmp_path / "run").whole()
    parts = done.count("finish")
    assert parts >= 5
    assert done[: 2 * parts] == ["settle", "finish"] * parts


def test_shards_that_were_done_are_not_measured_again(tmp_path: Path, photos: Path, tiny: Path) -> None:
    Run(photos, tiny, tmp_path / "cut").cut(NUM_IMAGES - 1)
    started, finished = Run(photos, tiny, tmp_path / "cut").whole()
    assert started.num_done >= 10
    assert started.num_failed_before == 0, "the file that is no image is told of again"
    assert finished.report["images"]["this_run"] == NUM_IMAGES - 1 - started.num_done


def test_with_other_contenders_all_is_measured_anew(tmp_path: Path, photos: Path, tiny: Path) -> None:
    Run(photos, tiny, tmp_path / "cut").cut(NUM_IMAGES - 1)
    started, finished = Run(photos, tiny, tmp_path / "cut").whole("steps=3")
    assert started.num_done == 0
    assert finished.report["images"]["this_run"] == NUM_IMAGES - 1
    assert [one["title"] for one in finished.report["contenders"]] == ["tiny", "3 steps"]
