"""`semdis export` and `semdis import` as real commands: said what is said, killed and continued, on full disks."""

import dataclasses
import json
import os
import random
import signal
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path

import pytest

from semdis_cli.store.manifest import Manifest
from semdis_cli.store.shards import write_shard
from tests.cli.conftest import Run, semdis
from tests.disks import remount, small_disk
from tests.forks import Started
from tests.store import GOOD_KEYS, flip_last_bit, lasting, make_plan, make_shard, write_set
from tests.torture.harness import Runner

MANY = tuple(f"folder-{number % 7}/{number:03d}.jpg" for number in range(300))


def make_set(root: Path, keys: tuple[str, ...] = GOOD_KEYS, shard_images: int = 3) -> Path:
    """A finished set in which nothing failed."""
    write_set(root, dataclasses.replace(make_plan(keys, shard_images=shard_images), failures=()))
    return root


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images of two sizes in four shards."""
    return make_set(tmp_path_factory.mktemp("sets") / "latents")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three hundred images in a hundred shards."""
    return make_set(tmp_path_factory.mktemp("sets") / "many", MANY)


# --- what is said ---------------------------------------------------------------------------------------------------


def test_a_real_process_does_the_same(latents: Path, tmp_path: Path) -> None:
    done = semdis("export", latents, "-o", "out", "--quiet", cwd=tmp_path)
    assert (done.code, done.stdout, done.stderr) == (0, "", "")
    done = semdis("import", "out/000000.tar", "-o", "back", "--shard-images", "3", "--quiet", cwd=tmp_path)
    assert (done.code, done.stdout, done.stderr) == (0, "", "")
    assert lasting(tmp_path / "back") == lasting(latents)


def test_that_npy_has_no_bfloat16_is_said(run: Run, latents: Path) -> None:
    done = run("export", latents, "-o", "out", "--format", "npy")
    assert "npy has no bfloat16: each value is written as float32, which holds it exactly" in done.stderr
    assert "8 images as npy in out; 0 failed" in done.stderr
    assert done.stdout == ""


def test_that_digits_are_lost_is_said_even_if_nothing_else_is(run: Run, latents: Path) -> None:
    done = run("export", latents, "-o", "out", "--format", "npy", "--dtype", "float16", "--quiet")
    assert done.code == 0
    [line] = done.stderr.splitlines()
    assert line.startswith("semdis: float16 does not hold every value of bfloat16: digits are lost")


def test_nothing_is_said_of_digits_where_none_are_lost(run: Run, tmp_path: Path) -> None:
    write_shard(tmp_path / "one", make_shard(dtype="float16"))
    done = run("export", "one", "-o", "out", "--format", "npy", "--quiet")
    assert (done.code, done.stderr) == (0, "")


def test_the_report_is_on_stdout_and_in_the_folder(run: Run, latents: Path, tmp_path: Path) -> None:
    done = run("export", latents, "-o", "out", "--json", "--quiet", "--format", "npy")
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "out" / "report.json").read_bytes())
    assert report["images"] == {"ok": 8, "failed": 0, "this_run": 8}
    assert (report["command"], report["format"], report["dtype"], report["lossless"]) == (
        "export",
        "npy",
        "float32",
        True,
    )
    assert run("export", latents, "-o", "files", "--format", "safetensors").code == 0
    done = run("import", "files", "-o", "back", "--json", "--quiet")
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "back" / "report.json").read_bytes())
    assert (report["command"], report["images"]["ok"], report["shards"]) == ("import", 8, 2)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--format", "npy", "--member", "npy"], "goes with --format webdataset alone"),
        (["--dtype", "float16"], "goes with npy alone"),
        (["--format", "safetensors", "--dtype", "float32"], "goes with npy alone"),
        (["--tar-size", "0"], "--tar-size"),
    ],
)
def test_options_that_say_nothing_are_refused(
    run: Run, latents: Path, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    done = run("export", latents, "-o", "out", *arguments)
    assert done.code == 2
    assert complaint in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_damaged_shard_ends_with_4_and_a_damaged_file_with_3(run: Run, tmp_path: Path) -> None:
    root = make_set(tmp_path / "latents")
    shard = min((root / "shards").iterdir())
    flip_last_bit(shard)
    done = run("export", root, "-o", "out", "--format", "safetensors")
    assert done.code == 4
    assert f"failed: {shard}: its bytes do not match the sha256 in the manifest" in done.stderr
    assert "5 images as safetensors in out; 3 failed" in done.stderr
    flip_last_bit(tmp_path / "out" / "d.png.safetensors")
    done = run("import", "out", "-o", "back")
    assert done.code == 3
    assert "failed: d.png: d.png.safetensors: not a semdis shard (the latents do not match" in done.stderr
    assert "semdis: 5 images found, but 8 were to be exported to out" in done.stderr
    assert (Manifest.read(tmp_path / "back").num_ok, Manifest.read(tmp_path / "back").num_failed) == (4, 1)


@pytest.mark.parametrize("how", [["--format", "safetensors"], ["--tar-size", "1"]])
def test_what_an_export_lacks_ends_with_3_and_is_counted(run: Run, tmp_path: Path, how: list[str]) -> None:
    root = make_set(tmp_path / "latents", tuple(f"{number}.png" for number in range(450)), shard_images=100)
    assert run("export", root, "-o", "out", *how).code == 0
    max((tmp_path / "out").glob("*.safetensors" if "safetensors" in how else "*.tar")).unlink()
    done = run("import", "out", "-o", "back", "--quiet", "--json")
    assert done.code == 3
    images = json.loads(done.stdout)["images"]
    assert images["ok"] + images["missing"] == 450
    assert (images["failed"], images["missing"] > 0) == (0, True)
    found = f"{images['ok']} images found, but 450 were to be exported to out: {images['missing']} missing"
    assert done.stderr == f"semdis: {found}; the same semdis export, run again, writes them or says why it cannot\n"
    assert run("export", root, "-o", "out", *how).code == 0
    done = run("import", "out", "-o", "back", "--quiet", "--json")
    assert (done.code, done.stderr, json.loads(done.stdout)["images"]["missing"]) == (0, "", 0)


def test_a_single_tar_of_several_lacks_nothing(run: Run, tmp_path: Path) -> None:
    root = make_set(tmp_path / "latents", tuple(f"{number}.png" for number in range(450)), shard_images=100)
    assert run("export", root, "-o", "out", "--tar-size", "1").code == 0
    done = run("import", "out/000000.tar", "-o", "back", "--quiet", "--json")
    assert (done.code, done.stderr, json.loads(done.stdout)["images"]["missing"]) == (0, "", 0)
    assert Manifest.read(tmp_path / "back").num_ok < 450


@pytest.mark.parametrize("how", [[], ["--format", "safetensors"]])
def test_several_exports_in_a_folder_are_counted_together(run: Run, tmp_path: Path, how: list[str]) -> None:
    for name, keys in (("one", ("a.png", "b.png", "c.png")), ("two", ("d.png", "e.png"))):
        assert run("export", make_set(tmp_path / name, keys), "-o", f"out/{name}", *how).code == 0
    assert run("import", "out", "-o", "back").code == 0
    for path in (tmp_path / "out" / "one").glob("*.tar" if not how else "*.safetensors"):
        path.unlink()
    done = run("import", "out", "-o", "less", "--quiet")
    assert done.code == 3
    assert "2 images found, but 5 were to be exported to out: 3 missing" in done.stderr


def test_joined_tars_end_with_3_and_what_to_do(run: Run, latents: Path, tmp_path: Path) -> None:
    assert run("export", latents, "-o", "out").code == 0
    tar = (tmp_path / "out" / "000000.tar").read_bytes()
    (tmp_path / "ab.tar").write_bytes(tar * 2)
    done = run("import", "ab.tar", "-o", "back")
    assert done.code == 3
    assert "failed: ab.tar: " in done.stderr
    assert "goes on behind its end; tars that were joined must be given one by one" in done.stderr
    assert json.loads((tmp_path / "back" / "report.json").read_bytes())["images"]["ok"] == 8


def test_folders_that_lie_in_one_another_are_refused(run: Run, latents: Path, tmp_path: Path) -> None:
    assert run("export", latents, "-o", latents / "out").code == 2
    assert not (latents / "out").exists()
    run("export", latents, "-o", "out")
    assert run("import", "out", "-o", "out/back").code == 2
    assert run("import", "out", "-o", ".").code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


# --- killed ---------------------------------------------------------------------------------------------------------

HOW = {
    "tars": ["--format", "webdataset"],
    "tars of npy": ["--member", "npy"],
    "safetensors": ["--format", "safetensors"],
    "npy": ["--format", "npy"],
}
EVERY = [pytest.param(15, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[Runner]:
    modules = ["semdis_cli.pipeline.export", "semdis_cli.pipeline.gather", "semdis_cli.store.exchange.samples"]
    runner = Runner(tmp_path_factory.mktemp("runner"), tiny, modules)
    yield runner
    runner.close()


def check_kills(runner: Runner, arguments: list[str], folder: Path, whole: Path, step: int) -> None:
    """Kill the command before each `step`-th file operation below its output folder; then it gets to the same bytes."""
    for operation in count(1, step):
        output = folder / str(operation)
        if runner.run([*arguments, os.fspath(output)], before=(operation, output)).code != -signal.SIGKILL:
            break
        done = runner.run([*arguments, os.fspath(output)])
        assert done.code == 0, done.stderr
        assert lasting(output) == lasting(whole), f"killed before file operation {operation}"
    assert operation > 6


@pytest.mark.parametrize("step", EVERY)
@pytest.mark.parametrize("how", HOW)
def test_an_export_killed_before_any_of_its_file_operations_is_completed_to_the_same_bytes(
    runner: Runner, latents: Path, tmp_path: Path, how: str, step: int
) -> None:
    arguments = ["export", os.fspath(latents), *HOW[how], "--workers", "1", "-o"]
    assert runner.run([*arguments, os.fspath(tmp_path / "whole")]).code == 0
    check_kills(runner, arguments, tmp_path, tmp_path / "whole", step)


@pytest.mark.parametrize("step", EVERY)
@pytest.mark.parametrize("how", ["tars", "safetensors"])
def test_an_import_killed_before_any_of_its_file_operations_is_completed_to_the_same_bytes(
    runner: Runner, latents: Path, tmp_path: Path, how: str, step: int
) -> None:
    out = os.fspath(tmp_path / "out")
    assert runner.run(["export", os.fspath(latents), *HOW[how], "-o", out]).code == 0
    check_kills(runner, ["import", out, "--shard-images", "3", "-o"], tmp_path, latents, step)


def num_files(folder: Path, suffixes: tuple[str, ...]) -> int:
    return sum(name.endswith(suffixes) for _, _, names in os.walk(folder) for name in names)


def kill_real_command(arguments: list[str], progress: Callable[[], int], targets: Iterable[int]) -> list[int]:
    """Start the command again and again, each time until it has got so far, and kill it; then let it get to its end."""
    chance, codes = random.Random(0), []
    for target in targets:
        process = Started(arguments, cwd=Path.cwd())
        deadline = time.monotonic() + 120
        while process.poll() is None and progress() < target:
            assert time.monotonic() < deadline, "no progress in two minutes"
            time.sleep(0.0005)
        time.sleep(chance.uniform(0, 0.01))
        process.kill()
        process.communicate()
        codes.append(process.returncode)
    done = semdis(*arguments, cwd=Path.cwd())
    return [*codes, done.code]


@pytest.mark.slow
def test_a_real_export_killed_at_random_times_ends_with_the_same_bytes(
    runner: Runner, many: Path, tmp_path: Path
) -> None:
    out, arguments = tmp_path / "out", ["export", os.fspath(many), "--format", "npy", "-o"]
    assert runner.run([*arguments, os.fspath(tmp_path / "whole")]).code == 0
    codes = kill_real_command([*arguments, os.fspath(out)], lambda: num_files(out, (".npy",)), (20, 110, 200))
    assert codes == [-signal.SIGKILL] * 3 + [0]
    assert lasting(out) == lasting(tmp_path / "whole")


def test_a_real_import_killed_at_random_times_ends_with_the_same_bytes(
    runner: Runner, many: Path, tmp_path: Path
) -> None:
    out, back = tmp_path / "out", tmp_path / "back"
    assert runner.run(["export", os.fspath(many), "-o", os.fspath(out)]).code == 0
    arguments = ["import", os.fspath(out), "-o", os.fspath(back), "--shard-images", "3"]
    codes = kill_real_command(arguments, lambda: num_files(back, (".safetensors",)), (7, 40, 70))
    assert codes == [-signal.SIGKILL] * 3 + [0]
    assert lasting(back) == lasting(many)


def test_an_import_asked_to_stop_says_so_and_goes_on(runner: Runner, many: Path, tmp_path: Path) -> None:
    out, back = tmp_path / "out", tmp_path / "back"
    assert runner.run(["export", os.fspath(many), "-o", os.fspath(out)]).code == 0
    arguments = ["import", os.fspath(out), "-o", os.fspath(back), "--shard-images", "3"]
    stopped = runner.run(arguments, kill=signal.SIGTERM, before=(100, back))
    assert stopped.code == 143
    assert "run the same command again" in stopped.stderr
    assert runner.run(arguments).code == 0
    assert lasting(back) == lasting(many)


# --- full disks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [[], ["--format", "safetensors"], ["--format", "npy"]])
@pytest.mark.parametrize("num_pages", [2, 5, 9, 14])
def test_an_export_on_a_full_disk_ends_with_5_and_can_go_on(
    run: Run, latents: Path, tmp_path: Path, how: list[str], num_pages: int
) -> None:
    assert run("export", latents, "-o", "whole", *how).code == 0
    with small_disk(tmp_path / "disk", f"size={num_pages * os.sysconf('SC_PAGESIZE')}") as disk:
        stopped = run("export", latents, "-o", disk / "out", *how)
        if stopped.code != 0:
            assert stopped.code == 5, stopped.stderr
            assert "make room" in stopped.stderr.splitlines()[-1]
            assert not num_files(disk, ("-tmp",))
        remount(disk, "size=16m")
        done = run("export", latents, "-o", disk / "out", *how)
        assert done.code == 0, done.stderr
        assert lasting(disk / "out") == lasting(tmp_path / "whole")


@pytest.mark.parametrize("num_pages", [3, 6, 8])
def test_an_import_on_a_full_disk_ends_with_5_and_can_go_on(
    run: Run, latents: Path, tmp_path: Path, num_pages: int
) -> None:
    run("export", latents, "-o", "out")
    with small_disk(tmp_path / "disk", f"size={num_pages * os.sysconf('SC_PAGESIZE')}") as disk:
        stopped = run("import", "out", "-o", disk / "back", "--shard-images", "3")
        assert stopped.code == 5, stopped.stderr
        remount(disk, "size=16m")
        done = run("import", "out", "-o", disk / "back", "--shard-images", "3")
        assert done.code == 0, done.stderr
        assert lasting(disk / "back") == lasting(latents)


# --- names that join with captions ----------------------------------------------------------------------------------

SAMPLES = ("00000/000000000.jpg", "00000/000000001.x.jpg", "00001/000010000.png")


def members(tar: Path) -> list[str]:
    with tarfile.open(tar) as file:
        return file.getnames()


@pytest.mark.parametrize(("names", "folders"), [("stem", ("00000/", "00000/", "00001/")), ("basename", ("", "", ""))])
@pytest.mark.parametrize("member", ["npy", "safetensors"])
def test_samples_are_called_as_webdataset_called_those_of_the_images(
    tmp_path: Path, run: Run, names: str, folders: tuple[str, ...], member: str
) -> None:
    latents = make_set(tmp_path / "latents", SAMPLES)
    done = run("export", latents, "-o", "wds", "--sample-names", names, "--member", member)
    assert done.code == 0, done.stderr
    stems = ("000000000", "000000001", "000010000")
    assert members(tmp_path / "wds" / "000000.tar") == [
        f"{folder}{stem}.{suffix}"
        for folder, stem in zip(folders, stems, strict=True)
        for suffix in (member, "semdis.json")
    ]
    with tarfile.open(tmp_path / "wds" / "000000.tar", "a") as tar:  # joined with captions
        for suffix in ("json", "txt"):
            (tmp_path / "caption").write_text('{"caption": "a lake"}')
            tar.add(tmp_path / "caption", f"{folders[0]}000000000.{suffix}")
    if member == "safetensors":
        assert run("import", "wds", "-o", "back", "--shard-images", "3").code == 0
        assert lasting(tmp_path / "back") == lasting(latents)
    assert run("export", latents, "-o", "wds", "--member", member).code == 2, "by other names"


def test_images_of_one_sample_name_are_failures_that_say_so(tmp_path: Path, run: Run) -> None:
    keys = ("a.jpg", "a.png", "b/c.d.jpg", "b/c.jpg", "c.jpg")
    latents = make_set(tmp_path / "latents", keys)
    for _ in range(2):
        done = run("export", latents, "-o", "wds", "--sample-names", "stem", "--json")
        assert done.code == 3
        report = json.loads(done.stdout)
        assert (report["images"]["ok"], report["images"]["failed"]) == (3, 2)
        assert (
            "a.png: its sample would be called 'a', as that of 'a.jpg'; export with --sample-names key" in done.stderr
        )
        assert "b/c.jpg: its sample would be called 'b/c', as that of 'b/c.d.jpg'" in done.stderr
    assert members(tmp_path / "wds" / "000000.tar")[::2] == ["a.safetensors", "b/c.safetensors", "c.safetensors"]
    refused = run("export", latents, "-o", "files", "--format", "npy", "--sample-names", "stem")
    assert (refused.code, "goes with --format webdataset alone" in refused.stderr) == (2, True)
