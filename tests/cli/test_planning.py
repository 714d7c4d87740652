"""Lines that tell of a run before anything is encoded."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semdis_cli.cli import display
from semdis_cli.cli.display import Lines, Position, planning_text
from semdis_cli.events import Planning
from semdis_cli.images.loader import Loader
from semdis_cli.settings import LoadSettings
from semdis_cli.sources.find import find_images
from tests.cli.test_messages import on_a_terminal

PLAN = """
import time
from semdis_cli.cli.display import open_display
from semdis_cli.cli.streams import install
from semdis_cli.events import Planning
install()
with open_display(quiet=False) as display:
    display.plan(Planning("reading headers", 3000, 12000))
    display.say("a line")
    time.sleep(0.4)
"""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(folder / "0.png")
    for number in range(1, 250):
        (folder / f"{number}.png").hardlink_to(folder / "0.png")
    return folder


def test_listing_reading_headers_and_hashing_are_counted(photos: Path) -> None:
    told: list[Planning] = []
    found = find_images([photos], tell=told.append)
    assert [(one.stage, one.done) for one in told] == [
        ("listing photos", 0),
        ("listing photos", 100),
        ("listing photos", 200),
    ]
    told.clear()
    with Loader(LoadSettings(), 16, 2) as loader:
        loader.plan(found.images, told.append)
        assert [one.done for one in told] == [64, 128, 192, 250]
        assert planning_text(told[-1]) == "reading headers: 250 of 250"
        told.clear()
        assert len(set(loader.hashes(found.images, told.append))) == 1
    assert [one.done for one in told] == list(range(1, 251))
    assert planning_text(Planning("listing photos", 120_000)) == "listing photos: 120,000 files so far"


@pytest.mark.parametrize("show_progress", [True, False])
def test_a_step_that_takes_long_is_told_of_and_the_run_itself_ends_that(
    show_progress: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(display, "_SECONDS_BEFORE_FIRST_LINE", 0.05)
    monkeypatch.setattr(display, "_SECONDS_BETWEEN_LINES", 0.05)
    with Lines(show_progress) as lines:
        lines.plan(Planning("loading the model"))
        time.sleep(0.3)
        lines.show(Position(0, 5, "images", "none", 0.0))
        during = capsys.readouterr().err.splitlines()
        time.sleep(0.3)
    assert len(during) > 1 if show_progress else not during
    assert set(during) <= {"semdis: loading the model", "semdis: 0/5 images, none, 0:00:00 left"}
    assert capsys.readouterr().err == ""


def test_a_bar_shows_it_and_lines_stand_above() -> None:
    code, shown = on_a_terminal([sys.executable, "-c", PLAN], {"TERM": "xterm"}, columns=100)
    assert (code, b"reading headers: 3,000 of 12,000" in shown, b"a line\r\n" in shown) == (0, True, True)


@pytest.mark.slow
def test_a_command_says_that_it_lists_while_the_list_is_slow_to_come_and_nothing_if_quiet(tmp_path: Path) -> None:
    script = f"sleep 7 | {sys.executable} -m semdis_cli encode --files-from - -o out"
    told, quiet = (
        subprocess.run(["bash", "-c", each], cwd=tmp_path, capture_output=True, text=True, check=False)
        for each in (script, f"{script} --quiet")
    )
    assert (told.returncode, quiet.returncode) == (2, 2)
    assert "semdis: listing photos" in told.stderr.splitlines()
    assert "listing" not in quiet.stderr
