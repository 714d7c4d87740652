"""Stdout and stderr that are gone, closed, full, held up or of another charset: real pipes, terminals and processes."""

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semdis_cli.errors import ExitCode

# What a verb does with its streams, without the model: progress, failures with odd names, a result, an exit code.
TALK = """
import sys, time
from semdis_cli.cli.display import Position, open_display
from semdis_cli.cli.streams import install, put
install()
with open_display(quiet=False) as display:
    for n in range({count}):
        display.show(Position(n, {count}, "images", "1.0 images/s", 3.0))
        display.say(f"failed: photo {{n}} \\u4e2d\\udce9 caf\\xe9.png")
    time.sleep({pause})
put("a result")
sys.exit(3)
"""


def talk(count: int = 50, pause: float = 0.0) -> list[str]:
    return [sys.executable, "-c", TALK.format(count=count, pause=pause)]


SLOW = pytest.mark.slow


def gone() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def held_up() -> int:
    """A pipe that is full, and that nobody reads; its reading end stays open as long as the tests run."""
    _, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    return writer


def held_up_and_not_waiting() -> int:
    writer = held_up()
    os.set_blocking(writer, False)
    return writer


def full() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def read_only() -> int:
    return os.open("/dev/null", os.O_RDONLY)


@pytest.mark.parametrize(
    "make",
    [gone, pytest.param(held_up, marks=SLOW), pytest.param(held_up_and_not_waiting, marks=SLOW), full, read_only],
)
def test_messages_that_nobody_can_have_change_neither_results_nor_exit_code(make: Callable[[], int]) -> None:
    stderr = make()
    done = subprocess.run(talk(count=400), stdout=subprocess.PIPE, stderr=stderr, timeout=60, check=False)
    os.close(stderr)
    assert (done.returncode, done.stdout) == (3, b"a result\n")


def test_messages_come_whole_and_in_order_to_a_reader_that_is_slow() -> None:
    with subprocess.Popen(talk(count=2000), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        time.sleep(1)
        lines = [line for line in process.stderr if line.startswith(b"failed")]
    assert ([int(line.split()[2]) for line in lines], process.returncode) == (list(range(2000)), 3)


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_streams_that_are_closed_stay_free_of_files(tmp_path: Path, closed: str) -> None:
    script = (
        "import os, sys\nfrom semdis_cli.cli.streams import install, put, say\ninstall()\n"
        "file = open('file', 'wb')\nos.write(2, b'a library speaks')\nsay('a message')\nput('a result')\n"
        "print('through print', file=sys.stderr)\nassert file.fileno() > 2\nsys.exit(3)"
    )
    done = subprocess.run(["bash", "-c", f'{sys.executable} -c "$0" {closed}', script], cwd=tmp_path, check=False)
    assert (done.returncode, (tmp_path / "file").read_bytes()) == (3, b"")


@pytest.mark.parametrize(
    ("charset", "expected"),
    [
        ({"PYTHONIOENCODING": "utf-8"}, "failed: photo 0 中\udce9 café.png"),
        ({"PYTHONIOENCODING": "ascii"}, "failed: photo 0 \\u4e2d\udce9 caf\\xe9.png"),
        ({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, "failed: photo 0 \\u4e2d\udce9 caf\\xe9.png"),
        ({"PYTHONIOENCODING": "latin-1"}, "failed: photo 0 \\u4e2d\udce9 caf\udce9.png"),
    ],
)
def test_names_of_any_script_are_said_in_any_charset(charset: Mapping[str, str], expected: str) -> None:
    done = subprocess.run(talk(count=1), capture_output=True, env=os.environ | charset, check=False)
    assert (done.returncode, os.fsdecode(done.stderr).splitlines()) == (3, [expected])


# ---- Results ----


def test_a_result_without_a_reader_ends_with_141_and_on_a_full_disk_with_5_in_a_line() -> None:
    for make, code, says in [(gone, ExitCode.OUTPUT_CLOSED, ""), (full, ExitCode.NO_SPACE, "stdout: no space left")]:
        command = [sys.executable, "-m", "semdis_cli", "--version"]
        done = subprocess.run(command, stdout=make(), stderr=subprocess.PIPE, check=False, text=True)
        assert (done.returncode, says in done.stderr, done.stderr.count("\n")) == (code, True, bool(says))


def test_results_wait_for_a_reader_that_is_slow() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    script = "from semdis_cli.cli.streams import install, put\ninstall()\nfor n in range(30000): put(str(n))"
    with subprocess.Popen([sys.executable, "-c", script], stdout=writer) as process, os.fdopen(reader) as results:
        os.close(writer)
        time.sleep(0.5)
        assert [int(line) for line in results] == list(range(30000))
    assert process.returncode == 0


# ---- Terminals ----


def on_a_terminal(
    command: list[str], env: Mapping[str, str], *, columns: int = 80, until: bytes | None = None
) -> tuple[int, bytes]:
    """Exit code, and what came on the terminal; it goes away, with nobody hung up, as soon as it has shown `until`."""
    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24 if columns else 0, columns, 0, 0))
    process = subprocess.Popen(
        command,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={name: value for name, value in os.environ.items() if name != "TERM"} | dict(env),
    )
    os.close(terminal)
    shown = b""
    for part in parts_of(screen):
        shown += part
        if until is not None and until in shown:
            break
    os.close(screen)
    return process.wait(60), shown


def parts_of(screen: int) -> Iterator[bytes]:
    with suppress(OSError):  # EIO: all who had the terminal have ended
        while select.select([screen], [], [], 60)[0]:
            yield os.read(screen, 65536)


@pytest.mark.parametrize("term", ["xterm", "dumb", None])
@pytest.mark.parametrize("columns", [80, 20, 0])
def test_any_terminal_shows_what_is_said(term: str | None, columns: int) -> None:
    code, shown = on_a_terminal(talk(3), {} if term is None else {"TERM": term}, columns=columns)
    assert (code, b"Traceback" in shown, b"\x1b[" in shown) == (3, False, term == "xterm")
    assert b"failed: photo 2" in shown.replace(b"\r\n", b"")
    assert b"a result" in shown


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_a_terminal_that_goes_away_takes_nothing_with_it(term: str) -> None:
    assert on_a_terminal(talk(2000, pause=0.5), {"TERM": term}, until=b"photo 9 ")[0] == 3


def test_a_run_whose_terminal_goes_away_finishes_its_set(tmp_path: Path, tiny: Path) -> None:
    for number in range(4):
        Image.fromarray(np.full((32, 32 + 16 * number, 3), number, np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "4.png").write_bytes((tmp_path / "3.png").read_bytes()[:-40])
    command = [sys.executable, "-m", "semdis_cli", "encode", str(tmp_path), "-o", str(tmp_path / "latents")]
    options = ["--model", str(tiny), "--shard-images", "1", "--threads", "1"]
    code, _ = on_a_terminal([*command, *options], {"TERM": "xterm"}, until=b"kernels)")
    rows = [json.loads(line) for line in (tmp_path / "latents" / "index.jsonl").read_text().splitlines()]
    assert (code, [row["status"] for row in rows]) == (3, ["ok"] * 4 + ["failed"])
    assert (tmp_path / "latents" / "manifest.json").exists()


# ---- Nothing to do ----


def test_what_is_no_image_ends_in_one_line_before_the_model_is_loaded_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    for source, advice in (("images.zip", "nothing in it"), ("- < images.zip", "unpack it and give the folder")):
        script = f"{sys.executable} -X importtime -m semdis_cli encode {source} -o latents --model nowhere"
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
        [line] = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
        imported = [line for line in done.stderr.splitlines() if line.endswith("| torch")]
        assert (done.returncode, done.stdout, imported) == (2, "", [])
        assert "a zip archive" in line
        assert advice in line
        assert [path.name for path in tmp_path.iterdir()] == ["images.zip"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped_while_its_commands_are_loaded_says_so_in_a_line(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    (tmp_path / "typer.py").write_text(f"import os, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(60)\n")
    command = [sys.executable, "-c", "from semdis_cli.cli import main; main()", "--version"]
    path = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])}
    done = subprocess.run(command, env=os.environ | path, capture_output=True, text=True, check=False, timeout=50)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(f"semdis: stopped by {number.name}; ")
    assert done.stderr.count("\n") == 1
