"""Real commands on disks and in containers that refuse system calls, by the shims of tests/shims."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from semdis_cli.cli.failures import run_guarded
from semdis_cli.files import lock
from semdis_cli.files.disk_sync import open_disk
from semdis_cli.store.verifying.verify import ALL_DATA, VerifySettings, verify_latents
from tests.cli.conftest import Outcome, Run, semdis
from tests.shims import Names, Refuse, Space, environment, pretend, slow
from tests.worlds import save_noise

# Runs commands one after the other in one process, which imports torch once; prints the exit code of each.
_SEVERAL = """
import json, sys
from semdis_cli.cli import main

for arguments in json.loads(sys.argv[1]):
    sys.argv = ["semdis", *arguments]
    try:
        main()
    except SystemExit as ended:
        print("\\x1f", ended.code or 0, file=sys.stderr)
"""

# Refusals that a run is to go on without, all at once: of a share of an old NAS, and of a sandbox.
_POOR_DISK = [
    ("fsync_folder", errno.EINVAL),
    ("fsync_file", errno.ENOTSUP),
    ("open_nofollow", errno.EINVAL),
    ("open_nonblock", errno.EINVAL),
    ("open_tmpfile", errno.EOPNOTSUPP),
    ("rename_over", errno.EPERM),
    ("mmap", errno.ENODEV),
    ("chmod", errno.EPERM),
    ("utime", errno.EPERM),
    ("link", errno.EPERM),
    ("symlink", errno.EPERM),
    ("truncate", errno.ENOSYS),
    ("fallocate", errno.EOPNOTSUPP),
    ("copy_file_range", errno.EXDEV),
]


def several(commands: Sequence[Sequence[object]], cwd: Path, env: dict[str, str]) -> list[Outcome]:
    """`semdis` several times in one process; what each said, and how it ended."""
    texts = json.dumps([[str(argument) for argument in command] for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", _SEVERAL, texts], cwd=cwd, env=os.environ | env, capture_output=True, check=False
    )
    said = os.fsdecode(done.stderr).split("\x1f")
    outcomes = [Outcome(int(after.splitlines()[0]), "", before) for before, after in pairwise(said)]
    assert len(outcomes) == len(commands), os.fsdecode(done.stderr)
    return outcomes


def files(folder: Path) -> dict[str, bytes]:
    """Return what is in a folder, but for reports, which tell of times."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name not in {"report.json", "seen.jsonl"})
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param([pretend("flock"), ("open_folder", errno.EACCES)], id="a network disk", marks=pytest.mark.slow),
        pytest.param([("flock", errno.ENOLCK), ("rename_across", errno.EXDEV)], id="mergerfs", marks=pytest.mark.slow),
    ],
)
def test_a_disk_that_refuses_much_gets_the_same_files(run: Run, tmp_path: Path, tiny: Path, extra: list[Any]) -> None:
    disk, reference = tmp_path / "disk", tmp_path / "reference"
    save_noise(tmp_path / "photos" / "a.png", 1)
    save_noise(tmp_path / "more" / "a.png", 1)
    save_noise(tmp_path / "more" / "b.png", 2)

    def commands(root: Path) -> list[list[str | Path]]:
        return [
            ["encode", "photos", "-o", root / "l", "--model", tiny, "--quiet"],
            ["encode", "more", "-o", root / "l", "--model", tiny, "--quiet"],
            ["decode", root / "l", "-o", root / "images", "--format", "jpg", "--quiet"],
            ["export", root / "l", "-o", root / "arrays", "--format", "npy", "--quiet"],
            ["verify", root / "l", "--data", "--quiet"],
        ]

    refusals = [item if isinstance(item, Refuse) else Refuse(item[0], item[1], disk) for item in (*_POOR_DISK, *extra)]
    system = [Refuse("memfd_create", errno.ENOSYS), Refuse("sched_getaffinity", errno.EPERM)]
    poor = several(commands(disk), tmp_path, environment(*refusals, *system, Space(disk)))
    assert [outcome.code for outcome in poor] == [0] * 5, [outcome.stderr for outcome in poor]
    for command in commands(reference):
        assert run(*command).code == 0
    assert files(disk) == files(reference)
    assert not [path for path in disk.rglob(".*") if path.is_file()]


@pytest.mark.slow
def test_without_proc_and_temporary_folders_a_stream_goes_through(tmp_path: Path, tiny: Path) -> None:
    save_noise(tmp_path / "a.png", 1)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(tmp_path / "a.png", "a.png")
    nowhere = tmp_path / "nowhere"
    nowhere.mkdir()
    shim = environment(*(Refuse("create", errno.EROFS, Path(folder)) for folder in ("/tmp", "/var/tmp", "/usr/tmp")))
    no_folder = shim | {"TMPDIR": str(tmp_path / "missing")}
    command = (sys.executable, "-m", "semdis_cli", "encode", "-", "--model", tiny, "--quiet", "-o")

    def encode(output: str | Path, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
        base = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        return subprocess.run(
            [*command, output], cwd=cwd, input=packed.getvalue(), capture_output=True, env=base | env, check=False
        )

    expected = encode("-", tmp_path, {})
    assert expected.returncode == 0
    in_memory = encode("-", nowhere, no_folder)
    assert (in_memory.returncode, in_memory.stdout) == (0, expected.stdout), in_memory.stderr
    no_proc = [Refuse(call, errno.ENOENT, Path("/proc")) for call in ("open", "stat", "list", "readlink")]
    no_proc += [Refuse(call, errno.ENOENT, Path("/dev/fd")) for call in ("open", "stat", "list", "readlink")]
    named = encode(tmp_path / "l", tmp_path, environment(*no_proc))
    assert named.returncode == 0, named.stderr
    assert [event for event in verify_latents(tmp_path / "l", VerifySettings(ALL_DATA)) if hasattr(event, "what")] == []
    assert not list(tmp_path.rglob("*.semdis-*"))


def is_synced_whole(folder: Path) -> bool:
    descriptor = open_disk(folder)
    if descriptor is None:
        return False
    os.close(descriptor)
    return True


@pytest.mark.slow
def test_names_that_a_disk_confuses_or_refuses_cost_nothing_or_their_own_image(tmp_path: Path, tiny: Path) -> None:
    keys = ["IMG.png", "X/p.png", "caf\xe9.png", "cafe\u0301.png", "img.png", "x/p.png", "x./p.png"]
    bad = ["a:b.png", "fo:lder/c.png", "fo:lder/d.png", f"{'n' * 150}.png"]
    for seed, name in enumerate((*keys, *bad)):
        save_noise(tmp_path / "photos" / name, seed)
    disk = tmp_path / "disk"
    disk.mkdir()
    odd = Names(
        disk, bad_characters=":", most_bytes=143, blind="case unicode ends", error=errno.ENAMETOOLONG, lookups=True
    )
    encode = ["encode", "photos", "-o", "l", "--model", tiny, "--quiet"]
    decode = ["decode", "l", "-o", disk / "decoded", "--quiet"]
    outcomes = several(
        [
            encode,
            decode,
            decode,
            ["roundtrip", "photos", "-o", disk / "round", "--model", tiny, "--quiet"],
            ["export", "l", "-o", disk / "exported", "--format", "safetensors", "--quiet"],
            ["decode", "l", "-o", tmp_path / "plain", "--quiet"],
        ],
        tmp_path,
        environment(odd),
    )
    assert [outcome.code for outcome in outcomes] == [0, 3, 3, 3, 3, 0], [outcome.stderr for outcome in outcomes]
    for outcome in outcomes[1:5]:
        assert all(f"failed: {name}" in outcome.stderr for name in bad), outcome.stderr
    plain = {path.relative_to(tmp_path / "plain").as_posix() for path in (tmp_path / "plain").rglob("*.png")}
    assert plain == {*keys, *bad}  # nothing changes on a disk that tells all of them apart
    contents = {path.read_bytes() for path in (disk / "decoded").rglob("*.png")}
    assert contents == {(tmp_path / "plain" / key).read_bytes() for key in keys}
    report = json.loads((disk / "decoded" / "report.json").read_bytes())
    assert report["images"]["ok"] == len(keys)
    assert report["renamed"] == {
        "caf\xe9.png": "caf\xe9.2.png",
        "img.png": "img.2.png",
        "x./p.png": "x./p.2.png",
        "x/p.png": "x/p.3.png",
    }


@pytest.mark.slow
def test_a_broken_disk_ends_the_run_and_is_no_fault_of_names(tmp_path: Path, tiny: Path) -> None:
    for seed in range(3):
        save_noise(tmp_path / "photos" / f"{seed}.png", seed)
    assert semdis("encode", "photos", "-o", "l", "--model", tiny, "--quiet", cwd=tmp_path).code == 0
    broken = {
        "eio": Refuse("fsync_file", errno.EIO, tmp_path / "eio", part=".semdis-tmp"),
        "rofs": Refuse("create", errno.EROFS, tmp_path / "rofs", part=".semdis-tmp", after=1),
        "all": Refuse("rename", errno.EINVAL, tmp_path / "all", after=1),
        "full": Refuse("write", errno.EDQUOT, tmp_path / "full", after=2),
    }
    if is_synced_whole(tmp_path):
        broken["whole"] = Refuse("syncfs", errno.EIO, tmp_path / "whole")
    commands = [["decode", "l", "-o", tmp_path / name, "--quiet"] for name in broken]
    outcomes = several(commands, tmp_path, environment(*broken.values()))
    codes = [outcome.code for outcome in outcomes]
    assert codes == [5 if name == "full" else 2 for name in broken], [outcome.stderr for outcome in outcomes]
    assert not list(tmp_path.rglob("*.semdis-tmp"))
    assert not any("failed:" in outcome.stderr for outcome in outcomes)


@pytest.mark.slow
def test_where_everybody_gets_the_lock_a_second_run_is_refused_and_one_after_a_kill_goes_on(
    tmp_path: Path, tiny: Path
) -> None:
    for height in range(1, 13):
        save_noise(tmp_path / "photos" / f"{height}.png", height, (16 * height, 16))
    without_locks = environment(pretend("flock", tmp_path))
    env = environment(pretend("flock", tmp_path), slow("create", 1.5, tmp_path / "l" / "shards"))
    arguments = ("encode", "photos", "-o", "l", "--model", tiny, "--quiet")
    command = [sys.executable, "-m", "semdis_cli", *map(str, arguments)]
    with subprocess.Popen(command, cwd=tmp_path, env=os.environ | env) as first:
        deadline = time.monotonic() + 60
        while not (tmp_path / "l" / "shards").is_dir() and time.monotonic() < deadline:
            time.sleep(0.02)
        second = semdis(*arguments, cwd=tmp_path, env=env, fresh=True)
        assert (second.code, first.poll()) == (7, None)
        assert "another semdis run is writing there" in second.stderr
        first.kill()
    started = time.monotonic()
    assert semdis(*arguments, cwd=tmp_path, env=without_locks, fresh=True).code == 0
    assert time.monotonic() - started < lock.WATCH_S


# --- What lies beside, and links ------------------------------------------------------------------------------------


def put_beside(folder: Path) -> dict[str, bytes]:
    """Return what systems, a NAS, a hub and people put in a folder that is otherwise empty."""
    for name in ("lost+found", "@eaDir", "#recycle", "System Volume Information", "$RECYCLE.BIN"):
        (folder / name).mkdir(parents=True)
        (folder / name / "inside.png").write_bytes(b"not ours")
    for name in ("Thumbs.db", "desktop.ini", "README.md", "LICENSE", ".gitattributes", ".DS_Store", "data.dvc"):
        (folder / name).write_bytes(b"not ours")
    return files(folder)


def test_what_systems_and_people_put_into_an_output_folder_is_left_alone(run: Run, tmp_path: Path, tiny: Path) -> None:
    save_noise(tmp_path / "photos" / "a.png", 1)
    before = {name: put_beside(tmp_path / name) for name in ("l", "images", "round", "files", "back")}
    commands = [
        ("encode", "photos", "-o", "l", "--model", tiny),
        ("encode", "photos", "-o", "l", "--model", tiny),
        ("decode", "l", "-o", "images"),
        ("roundtrip", "photos", "-o", "round", "--model", tiny),
        ("export", "l", "-o", "files", "--format", "safetensors"),
        ("import", "files", "-o", "back"),
        ("verify", "l", "--data"),
        ("verify", "back", "--data"),
    ]
    for command in commands:
        done = run(*command, "--quiet")
        assert done.code == 0, done.stderr
    for name, there in before.items():
        assert there.items() <= files(tmp_path / name).items()
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "thesis.doc").write_bytes(b"not ours")
    for command in (("encode", "photos", "-o", "others", "--model", tiny), ("decode", "l", "-o", "others")):
        assert run(*command, "--quiet").code == 2


@pytest.mark.parametrize("layout", ["all files", "shards alone", "the folder", "the folder of shards"])
def test_a_set_of_links_is_read_and_grows_and_what_they_lead_to_stays(
    run: Run, tmp_path: Path, tiny: Path, layout: str
) -> None:
    for seed, name in enumerate(("photos/a.png", "more/a.png", "more/b.png")):
        save_noise(tmp_path / name, seed // 2)
    encode = ("encode", "photos", "-o", "l", "--model", tiny, "--quiet")
    assert run(*encode).code == 0
    root, blobs = tmp_path / "l", tmp_path / "hub" / "blobs"
    num_links = link_to_blobs(root, blobs, layout)
    before = files(tmp_path / "hub")
    done = run("verify", "l", "--data", "--json")
    assert (done.code, json.loads(done.stdout).get("links", 0)) == (0, num_links), done.stderr
    assert ("of its files are links" in done.stderr) == (num_links > 0)
    assert run("decode", "l", "-o", "images", "--quiet").code == 0
    assert run(*encode).code == (2 if layout == "the folder of shards" else 0)
    grown = run("encode", "more", "-o", "l", "--model", tiny, "--quiet")
    if layout == "the folder of shards":
        assert (grown.code, "shards: a link" in grown.stderr) == (2, True)
    else:
        assert grown.code == 0, grown.stderr
        assert run("verify", "l", "--data", "--quiet").code == 0
    if layout != "the folder":
        assert files(tmp_path / "hub") == before


@pytest.mark.parametrize("name", ["manifest.json", "index.jsonl", "shards/00000000-2x3.safetensors"])
def test_content_that_was_not_fetched_is_named_with_what_to_do(run: Run, tmp_path: Path, tiny: Path, name: str) -> None:
    save_noise(tmp_path / "photos" / "a.png", 1)
    encode = ("encode", "photos", "-o", "l", "--model", tiny, "--quiet")
    assert run(*encode).code == 0
    (tmp_path / "l" / name).unlink()
    (tmp_path / "l" / name).symlink_to("../.git/annex/objects/SHA256E-s1--0a")
    for command in (encode, ("verify", "l"), ("decode", "l", "-o", "images"), ("export", "l", "-o", "arrays")):
        done = run(*command)
        assert done.code in {2, 4}
        assert "git annex get" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


def link_to_blobs(root: Path, blobs: Path, layout: str) -> int:
    """Put links in the place of files or folders of a set; how many of its files are links then."""
    blobs.mkdir(parents=True)
    if layout.startswith("the folder"):
        folder = root if layout == "the folder" else root / "shards"
        folder.rename(blobs / "0")
        folder.symlink_to(blobs / "0")
        return int(folder != root)
    paths = sorted(path for path in (root if layout == "all files" else root / "shards").rglob("*") if path.is_file())
    for number, path in enumerate(paths):
        path.rename(blobs / str(number))
        path.symlink_to(os.path.relpath(blobs / str(number), path.parent))
    return len(paths)


# --- Whatever else the disk keeps from us -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.EACCES, 2), (errno.EIO, 2), (errno.ESTALE, 2), (errno.ENOTCONN, 2), (errno.ENOSPC, 5), (errno.EDQUOT, 5)],
)
def test_what_the_disk_keeps_from_us_is_one_line_wherever_it_was_touched(
    capsys: pytest.CaptureFixture[str], number: int, code: int
) -> None:
    def touch() -> None:
        raise OSError(number, os.strerror(number), "/mnt/share/file")

    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    with pytest.raises(SystemExit) as ended:
        run_guarded(touch)
    for each, handler in handlers.items():
        signal.signal(each, handler)
    said = capsys.readouterr().err
    assert (ended.value.code, said.count("\n")) == (code, 1)
    assert said.startswith("semdis: /mnt/share/file: ")


@pytest.mark.parametrize(
    "error", [FileNotFoundError(2, "gone", "/file"), OSError(errno.EIO, "no file"), OSError("odd")]
)
def test_our_own_faults_keep_their_traceback(error: OSError) -> None:
    def fail() -> None:
        raise error

    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    with pytest.raises(OSError, match=str(error.strerror or error)):
        run_guarded(fail)
    for each, handler in handlers.items():
        signal.signal(each, handler)
