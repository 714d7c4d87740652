"""Pipes: real commands in real shells, whole and broken."""

import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open

from tests import forks
from tests.cli.conftest import Outcome
from tests.disks import small_disk

NAMES = ("a.jpg", "b/c.png", "b/d.png", "e.webp")


@dataclass(frozen=True)
class Shell:
    """A shell in a folder that holds `photos/`. In its scripts `encode` and `decode` are the commands, quiet."""

    folder: Path
    tiny: Path

    def start(self, script: str, command: Sequence[str] = forks.FRESH) -> "subprocess.Popen[bytes]":
        functions = (
            f'semdis() {{ {shlex.join(command)} "$@"; }}\n'
            f'encode() {{ semdis encode "$@" --model {self.tiny} --size 32 --batch-size 2 --threads 1 --quiet; }}\n'
            'decode() { semdis decode "$@" --threads 1 --quiet; }\n'
            "set -o pipefail\n"
        )
        return subprocess.Popen(
            ["bash", "-c", functions + script],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def run(self, script: str, *, fresh: bool = False) -> Outcome:
        process = self.start(script, forks.FRESH if fresh else forks.semdis())
        stdout, stderr = process.communicate(timeout=120)
        return Outcome(process.returncode, os.fsdecode(stdout), os.fsdecode(stderr))

    def do(self, script: str) -> None:
        """Run what must succeed, and say nothing."""
        done = self.run(script)
        assert (done.code, done.stderr) == (0, "")


def make_photos(folder: Path) -> None:
    with Image.open(Path(__file__).parents[1] / "photos" / "lake-sherburne.jpg") as photo:
        for number, name in enumerate(NAMES):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            photo.resize((40 + 8 * number, 40)).save(folder / name)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Shell:
    """Photos, the same in a tar, and what becomes of them without a pipe: `expected/` and `images/`."""
    shell = Shell(tmp_path_factory.mktemp("streams"), tiny)
    make_photos(shell.folder / "photos")
    shell.do("tar cf photos.tar -C photos . && encode photos -o expected && decode expected -o images")
    return shell


@pytest.fixture
def shell(world: Shell, tmp_path: Path) -> Shell:
    """A shell in a folder of its own, with the world's photos."""
    for name in ("photos", "photos.tar", "expected", "images"):
        (tmp_path / name).symlink_to(world.folder / name)
    return Shell(tmp_path, world.tiny)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file but those that are about the run."""
    about = {"report.json", "decode.json", "seen.jsonl"}
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in about
    }


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- Tars as sources ----


def test_a_tar_on_stdin_gives_the_set_that_the_folder_gives(shell: Shell) -> None:
    shell.do("tar c -C photos . | encode - -o latents")
    assert tree(shell.folder / "latents") == tree(shell.folder / "expected")
    assert [name for name in names_in(shell.folder / "latents") if name.startswith(".")] == []


@pytest.mark.slow
def test_a_tar_by_its_name_gives_the_same_latents_and_several_do_not_mix(shell: Shell) -> None:
    shell.do("cp photos.tar packed.tar && encode packed.tar -o alone && encode packed.tar photos -o both")
    assert keys_of(shell.folder / "alone") == [f"packed/{name}" for name in NAMES]
    assert keys_of(shell.folder / "both") == [f"{source}/{name}" for source in ("packed", "photos") for name in NAMES]
    shell.do("cp -rL photos our && cp photos.tar our.tar && encode our.tar our -o third")
    assert keys_of(shell.folder / "third") == [f"{source}/{name}" for source in ("our.tar", "our") for name in NAMES]
    before = tree(shell.folder / "expected")
    shell.do("cp -rL expected mine && encode photos.tar -o mine")  # as sets of one tar were, before it gave its name
    assert tree(shell.folder / "mine") == before


def keys_of(root: Path) -> list[str]:
    return [json.loads(line)["key"] for line in (root / "index.jsonl").read_bytes().splitlines()]


@pytest.mark.slow
def test_the_same_pipeline_again_changes_nothing_and_a_changed_one_only_what_changed(shell: Shell) -> None:
    shell.do("cp -rL photos mine && tar c -C mine . | encode - -o latents")
    before = tree(shell.folder / "latents")
    done = shell.run("tar c -C mine . | encode - -o latents --json")
    assert json.loads(done.stdout)["images"]["this_run"] == 0
    assert tree(shell.folder / "latents") == before
    with Image.open(shell.folder / "mine" / "b" / "c.png") as image:
        flipped = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    flipped.save(shell.folder / "mine" / "b" / "c.png")
    done = shell.run("tar c --mtime=@0 -C mine . | encode - -o latents --json")
    assert json.loads(done.stdout)["images"]["this_run"] == 1


@pytest.mark.slow
def test_a_killed_pipeline_goes_on_to_the_same_bytes_and_leaves_no_copy_behind(shell: Shell) -> None:
    shell.do("encode photos -o whole --shard-images 1")
    script = "tar c -C photos . | encode - -o latents --shard-images 1"
    process = shell.start(script)
    shards = shell.folder / "latents" / "shards"
    while process.poll() is None and not (shards.is_dir() and any(shards.iterdir())):
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    shell.do(script)
    assert tree(shell.folder / "latents") == tree(shell.folder / "whole")


def test_a_command_killed_while_it_copies_stdin_leaves_nothing(shell: Shell) -> None:
    process = shell.start("{ head -c 100K photos.tar; sleep 60; } | encode - -o latents")
    time.sleep(0.2)
    while process.poll() is None and not is_copying(process.pid):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert names_in(shell.folder) == ["expected", "images", "photos", "photos.tar"]


def is_copying(group: int) -> bool:
    """Whether a process of the group has a deleted file open that something was written to."""
    return any(holds_deleted(process) for process in Path("/proc").glob("[0-9]*") if is_member(process, group))


def is_member(process: Path, group: int) -> bool:
    try:
        return os.getpgid(int(process.name)) == group
    except OSError:
        return False


def holds_deleted(process: Path) -> bool:
    try:
        links = list((process / "fd").iterdir())
        return any("(deleted)" in str(link.readlink()) and link.stat().st_size for link in links)
    except OSError:
        return False


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("head -c 3000 photos.tar", "stdin: cannot be read as an uncompressed tar"),
        ("gzip -c photos.tar", "zcat photos.tar.* | semdis encode -"),
        ("echo a text", "stdin: neither a tar nor an image"),
        ("true", "stdin is empty"),
        ("cat photos.tar photos.tar", "goes on behind its end"),
        ("tar c --exclude=*.jpg --transform 's/.*webp/.hidden/;s/.*png/.x/' -C photos .", "no images found"),
    ],
    ids=["cut off", "compressed", "text", "nothing", "two", "no images"],
)
@pytest.mark.slow
def test_what_cannot_be_used_on_stdin_is_one_line_and_harms_nothing(shell: Shell, script: str, says: str) -> None:
    done = shell.run(f"cp -rL expected latents; {script} | encode - -o latents; echo $?")
    assert done.stdout.split()[0] == "2"
    assert says in done.stderr.splitlines()[0]
    assert tree(shell.folder / "latents") == tree(shell.folder / "expected")


@pytest.mark.slow
def test_a_full_disk_while_stdin_is_copied_ends_with_5(shell: Shell) -> None:
    with small_disk(shell.folder / "disk", "size=64k") as disk:
        done = shell.run(f"head -c 200K /dev/zero | encode - -o {disk}/latents")
        assert done.code == 5
        [line] = done.stderr.splitlines()
        assert "no space left for what comes on stdin" in line
        assert list(disk.iterdir()) == []


@pytest.mark.slow
def test_an_occupied_folder_is_refused_before_stdin_is_read(shell: Shell) -> None:
    (shell.folder / "mine").mkdir()
    (shell.folder / "mine" / "thesis.txt").write_text("mine")
    done = shell.run("{ cat photos.tar; sleep 60; } | encode - -o mine; kill -9 0")
    assert "holds other files" in done.stderr


@pytest.mark.slow
def test_a_list_of_names_on_stdin_still_works(shell: Shell) -> None:
    shell.do("cd photos/ && find . -type f -print0 | encode --files-from - -0 -o $OLDPWD/latents")
    assert tree(shell.folder / "latents") == tree(shell.folder / "expected")
    done = shell.run("encode --files-from - - -o other < /dev/null")
    assert (done.code, done.stderr.count("\n")) == (2, 1)


# ---- Latents on stdout, and back ----


def test_a_pipeline_decodes_to_what_the_set_decodes_to(shell: Shell) -> None:
    shell.do("tar c -C photos . | encode - -o - | decode - -o out")
    assert tree(shell.folder / "out") == tree(shell.folder / "images")


@pytest.mark.slow
def test_stdout_is_a_tar_and_nothing_else_the_same_for_any_number_of_workers(shell: Shell) -> None:
    shell.do("encode photos -o - --workers 1 > one.tar && encode photos -o - --workers 3 > three.tar")
    assert (shell.folder / "one.tar").read_bytes() == (shell.folder / "three.tar").read_bytes()
    done = shell.run(f"semdis encode photos -o - --model {shell.tiny} --size 32 --json > loud.tar")
    assert done.code == 0
    with tarfile.open(shell.folder / "loud.tar") as archive:
        assert sorted(archive.getnames()) == [f"{name}.safetensors" for name in NAMES]
    report = json.loads(done.stderr.splitlines()[-1])
    assert (report["images"]["ok"], report["output"]) == (4, "-")
    assert names_in(shell.folder) == ["expected", "images", "loud.tar", "one.tar", "photos", "photos.tar", "three.tar"]


@pytest.mark.slow
def test_every_file_of_the_tar_proves_itself_and_tar_can_unpack_it(shell: Shell) -> None:
    shell.do("mkdir unpacked && encode photos -o - | tar x -C unpacked && decode unpacked/b/c.png.safetensors -o one")
    assert sorted(tree(shell.folder / "unpacked")) == [f"{name}.safetensors" for name in NAMES]
    with safe_open(shell.folder / "unpacked" / "b" / "c.png.safetensors", framework="np") as file:
        record = json.loads(file.metadata()["semdis"])
    source = (shell.folder / "photos" / "b" / "c.png").read_bytes()
    assert record["sources"] == [{"num_bytes": len(source), "sha256": hashlib.sha256(source).hexdigest(), "notes": []}]
    assert tree(shell.folder / "one")["b/c.png"] == tree(shell.folder / "images")["b/c.png"]


@pytest.mark.slow
def test_a_bad_image_is_listed_and_has_no_file(shell: Shell) -> None:
    shell.do("cp -rL photos mine; echo no image > mine/bad.jpg")
    done = shell.run("encode mine -o - > out.tar")
    assert done.code == 3
    assert done.stderr.startswith("failed: bad.jpg: is plain text, which is not read: give images instead")
    assert done.stderr.count("\n") == 1
    with tarfile.open(shell.folder / "out.tar") as archive:
        assert sorted(archive.getnames()) == [f"{name}.safetensors" for name in NAMES]


@pytest.mark.slow
def test_names_of_all_kinds_pass_through(shell: Shell) -> None:
    photos = shell.folder / "odd"
    long = "/".join(["folder-" * 10] * 4)
    names = [os.fsdecode(name) for name in (b"caf\xe9.png", "grüße.png".encode(), b"a\nb.png", b"-.png")]
    for name in (*names, f"{long}/x.png"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(shell.folder / "photos" / "b" / "c.png", photos / name)
    shell.do("tar c -C odd . | encode - -o - | decode - -o out")
    assert sorted(tree(shell.folder / "out")) == sorted(tree(photos))


def test_a_reader_that_goes_ends_the_writer_quietly(shell: Shell) -> None:
    for number in range(40):  # more than a pipe holds: all of a few images would be written before the reader goes
        shutil.copytree(shell.folder / "photos", shell.folder / "many" / str(number))
    done = shell.run("encode many -o - | head -c 1000 > part; echo ${PIPESTATUS[*]}")
    assert (done.stdout, done.stderr) == ("141 0\n", "")
    assert (shell.folder / "part").stat().st_size == 1000
    assert names_in(shell.folder) == ["expected", "images", "many", "part", "photos", "photos.tar"]


@pytest.mark.slow
def test_a_stream_that_breaks_off_is_decoded_as_far_as_it_came(shell: Shell) -> None:
    done = shell.run("encode photos -o - | head -c 5500 | decode - -o out; echo ${PIPESTATUS[*]}")
    assert done.stdout == "141 0 4\n"
    [line] = done.stderr.splitlines()
    assert line.startswith("semdis: stdin: damaged or cut off")
    assert "run the pipeline again" in line
    found = tree(shell.folder / "out")
    assert 0 < len(found) < len(NAMES)
    assert found.items() <= tree(shell.folder / "images").items()
    shell.do("encode photos -o - | decode - -o out")
    assert tree(shell.folder / "out") == tree(shell.folder / "images")


@pytest.mark.slow
def test_a_flipped_bit_costs_one_image(shell: Shell) -> None:
    shell.do("encode photos -o - > out.tar")
    data = bytearray((shell.folder / "out.tar").read_bytes())
    with tarfile.open(shell.folder / "out.tar") as archive:
        member = archive.getmembers()[1]
    data[member.offset_data + member.size - 1] ^= 4
    (shell.folder / "out.tar").write_bytes(data)
    done = shell.run("decode - -o out < out.tar")
    assert done.code == 4
    [line] = done.stderr.splitlines()
    assert line.startswith(f"failed: {member.name}: ")
    assert len(tree(shell.folder / "out")) == len(NAMES) - 1


@pytest.mark.slow
def test_a_full_stdout_ends_with_5(shell: Shell) -> None:
    done = shell.run("encode photos -o - > /dev/full")
    assert done.code == 5
    [line] = done.stderr.splitlines()
    assert "stdout: no space left" in line


@pytest.mark.slow
def test_a_failed_encode_is_seen_by_the_decode(shell: Shell) -> None:
    done = shell.run("encode nowhere -o - | decode - -o out; echo ${PIPESTATUS[*]}")
    assert done.stdout == "2 4\n"
    assert "stdin: empty; did the command fail" in done.stderr
    assert not (shell.folder / "out").exists()


# ---- One image ----


def test_one_image_goes_through_two_pipes(shell: Shell) -> None:
    shell.do("encode - < photos/b/c.png | decode - > c.png")
    with Image.open(shell.folder / "c.png") as image:
        assert (image.format, image.size) == ("PNG", (32, 32))


@pytest.mark.slow
def test_one_images_file_is_a_shard_like_any_other(shell: Shell) -> None:
    shell.do("encode - -o - < photos/b/c.png > c.safetensors && decode - -o - --format webp < c.safetensors > c.webp")
    with Image.open(shell.folder / "c.webp") as image:
        assert (image.format, image.size) == ("WEBP", (32, 32))
    shell.do("decode - -o out < c.safetensors && decode c.safetensors -o same")
    assert tree(shell.folder / "out") == tree(shell.folder / "same")
    assert sorted(tree(shell.folder / "out")) == ["stdin.png"]
    shell.do("decode - < c.safetensors > c.png")
    assert tree(shell.folder / "out")["stdin.png"] == (shell.folder / "c.png").read_bytes()


@pytest.mark.slow
def test_one_image_on_stdin_can_go_into_a_set(shell: Shell) -> None:
    shell.do("encode - photos -o latents < photos/a.jpg")
    rows = [json.loads(line) for line in (shell.folder / "latents" / "index.jsonl").read_bytes().splitlines()]
    assert [row["key"] for row in rows] == [*(f"photos/{name}" for name in NAMES), "stdin.jpg"]


@pytest.mark.slow
def test_a_broken_image_gives_no_bytes(shell: Shell) -> None:
    done = shell.run("head -c 300 photos/a.jpg | encode -")
    assert (done.code, done.stdout) == (3, "")
    assert done.stderr.startswith("failed: stdin.jpg: ")
    done = shell.run("encode - < photos/a.jpg | head -c 1000 | decode -")
    assert (done.code, done.stdout) == (4, "")
    assert "stdin: not a semdis shard" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_only_one_image_can_be_decoded_to_stdout(shell: Shell) -> None:
    done = shell.run("encode photos -o - | decode - -o - ; decode expected -o -")
    assert (done.code, done.stdout) == (2, "")
    assert [line for line in done.stderr.splitlines() if "give -o a folder" in line] == done.stderr.splitlines()[:2]


@pytest.fixture
def terminal() -> Iterator[int]:
    pty = pytest.importorskip("pty")
    one, other = pty.openpty()
    yield other
    os.close(one)
    os.close(other)


@pytest.mark.parametrize("command", ["encode photos -o -", "encode -", "decode -"])
@pytest.mark.slow
def test_a_terminal_gets_no_data(shell: Shell, terminal: int, command: str) -> None:
    shell.do("encode - < photos/a.jpg > a.safetensors")
    stdin = "a.safetensors" if command.startswith("decode") else "photos/a.jpg"
    model = [] if command.startswith("decode") else ["--model", str(shell.tiny)]
    with (shell.folder / stdin).open("rb") as file:
        done = subprocess.run(
            forks.semdis(*command.split(), *model),
            cwd=shell.folder,
            stdin=file,
            stdout=terminal,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 2
    [line] = done.stderr.decode().splitlines()
    assert "data is not written to a terminal" in line


def test_a_terminal_is_no_source(shell: Shell, terminal: int) -> None:
    for arguments in ("encode - -o x", "decode - -o x"):
        done = subprocess.run(
            forks.semdis(*arguments.split()), cwd=shell.folder, stdin=terminal, capture_output=True, check=False
        )
        assert done.returncode == 2
        assert b"stdin is a terminal" in done.stderr


def test_closed_streams_are_one_line(shell: Shell) -> None:
    done = shell.run("encode - <&-; echo $?; encode photos -o - >&-; echo $? >&2", fresh=True)
    assert done.stdout == "2\n"
    assert [line.partition(";")[0] for line in done.stderr.splitlines()] == [
        "semdis: stdin is closed",
        "semdis: stdout is closed",
        "2",
    ]
