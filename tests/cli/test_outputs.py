"""Where commands may write, what `-` means to them, and what they say of a path that is none of theirs."""

import shutil
import signal
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from semdis_cli.errors import StoreError, UsageError
from semdis_cli.files.claim import check_image_folder
from semdis_cli.stops import StoppedError
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.writing.finished import check_latents_folder
from tests.cli.conftest import PHOTOS, Outcome, Run
from tests.store import contents, make_plan, write_next, write_set

COLOSSEUM = PHOTOS / "roman-colosseum.jpg"
FIRST = "latents/shards/00000000-1x2.safetensors"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A finished set in the folder in which commands run."""
    write_set(tmp_path / "latents")
    return tmp_path / "latents"


def is_refused(done: Outcome, says: str) -> bool:
    """Whether a command ended with 2, and with one line that `says` why."""
    return done.code == 2 and done.stderr.count("\n") == 1 and says in done.stderr and done.stdout == ""


# --- In a set ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("decode", "latents", "-o", "latents/dec"),
        ("decode", FIRST, "-o", "latents/shards/dec"),
        ("decode", FIRST, "-o", "elsewhere/../latents/dec"),
        ("decode", FIRST, "-o", "link/deep/er"),
        ("export", "latents", "-o", "latents/exp"),
        ("export", FIRST, "-o", "latents/exp"),
        ("export", FIRST, "-o", "latents/journal"),
        ("import", FIRST, "-o", "latents/again"),
        ("encode", COLOSSEUM, "-o", "latents/sub"),
        ("roundtrip", COLOSSEUM, "-o", "latents/shards/sub"),
        ("init", COLOSSEUM, "-o", "latents/model"),
        ("train", COLOSSEUM, "-o", "latents/model"),
    ],
    ids=lambda arguments: f"{arguments[0]} {arguments[-1]}",
)
def test_no_command_writes_into_a_set_of_latents(
    run: Run, root: Path, tmp_path: Path, arguments: tuple[str | Path, ...]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(root)
    before = contents(tmp_path)
    done = run(*arguments, "--quiet")
    assert is_refused(done, f"lies in {root}, a set of latents; give -o a folder of its own"), done.stderr
    assert contents(tmp_path) == before
    assert run("verify", "latents", "--data").code == 0


def test_a_set_that_is_only_begun_takes_no_outputs_either(tmp_path: Path) -> None:
    with make_plan().open(tmp_path / "begun") as latents:
        write_next(latents)
    for output in ("begun/dec", "begun/shards/dec", "begun/journal/dec"):
        with pytest.raises(UsageError, match="lies in"):
            check_image_folder(tmp_path / output, "any.json")
        with pytest.raises(UsageError, match="lies in"):
            check_latents_folder(tmp_path / output)


def test_beside_a_set_and_in_folders_with_names_like_ours_outputs_are_welcome(root: Path, tmp_path: Path) -> None:
    for name in ("page/manifest.json", "code/journal/x", "data/shards/x", "index/index.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("{}")
    for folder in (root.parent, *(tmp_path / name for name in ("page", "code", "data", "index"))):
        check_image_folder(folder / "out", "any.json")
        check_latents_folder(folder / "out")
    check_latents_folder(root)  # itself does not lie in itself


def test_a_folder_in_which_another_run_begins_and_ends_is_not_taken_for_one_of_other_files(tmp_path: Path) -> None:
    """The run that is refused there says that another is at work, which it learns from the lock: it must get so far."""

    def write(root: Path) -> None:
        (root / "journal").mkdir()
        (root / "journal" / "0.jsonl").touch()
        (root / "shards").mkdir()
        (root / "index.jsonl").touch()
        (root / "manifest.json").touch()
        shutil.rmtree(root / "journal")

    with ThreadPoolExecutor(1) as rival:
        for number in range(200):
            root = tmp_path / str(number)
            root.mkdir()
            done = rival.submit(write, root)
            while not done.done():
                check_latents_folder(root)
            done.result()


# --- Names that cannot be folders -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("export", "latents", "-o", "loop"),
        ("export", "latents", "-o", "loop/deeper"),
        ("export", "latents", "-o", "x" * 300),
        ("decode", "latents", "-o", "loop"),
        ("import", "latents", "-o", "loop"),
        ("encode", COLOSSEUM, "-o", "loop"),
        ("roundtrip", COLOSSEUM, "-o", "loop/deeper"),
        ("init", COLOSSEUM, "-o", "missing/../loop"),
    ],
    ids=lambda arguments: f"{arguments[0]} {arguments[-1]:.12}",
)
def test_links_in_a_circle_and_impossible_names_are_one_line(
    run: Run, root: Path, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str | Path, ...]
) -> None:
    assert root.is_dir()
    monkeypatch.setenv("SEMDIS_MODEL", str(tiny))
    (tmp_path / "loop").symlink_to("loop")
    assert is_refused(run(*arguments), ": cannot be ")


def test_a_link_in_a_circle_is_nothing_to_read_either(run: Run, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert is_refused(run("import", "loop", "-o", "imported"), "loop")
    assert run("export", "loop").code == 4


# --- `-` --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("export", "latents", "-o", "-"),
        ("export", "-"),
        ("import", "latents", "-o", "-"),
        ("import", "-"),
        ("roundtrip", COLOSSEUM, "-o", "-"),
        ("roundtrip", "-"),
        ("train", "-"),
        ("train", COLOSSEUM, "-o", "-"),
        ("train", COLOSSEUM, "--held-out", "-"),
        ("init", "-"),
        ("init", COLOSSEUM, "-o", "-"),
        ("verify", "-"),
        ("verify", "latents", "--against", "-"),
        ("inspect", "-"),
    ],
    ids=lambda arguments: " ".join(str(argument)[-12:] for argument in arguments),
)
def test_commands_without_pipes_say_which_have_them(
    run: Run, root: Path, tmp_path: Path, arguments: tuple[str | Path, ...]
) -> None:
    shutil.copytree(root, tmp_path / "-")  # not that either
    before = contents(tmp_path)
    assert is_refused(run(*arguments), "encode and decode alone read and write pipes")
    assert contents(tmp_path) == before


# --- What is no set ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["decode", "inspect", "export", "verify"])
def test_a_folder_of_anything_else_is_no_unfinished_set(run: Run, root: Path, tmp_path: Path, verb: str) -> None:
    (tmp_path / "photos").mkdir()
    shutil.copy(COLOSSEUM, tmp_path / "photos")
    assert run("export", root, "-o", "exported").code == 0
    for folder in ("photos", "exported"):
        done = run(verb, folder)
        assert done.code == 4
        assert f"{folder}: not a set of latents" in done.stderr
        assert "finish" not in done.stderr


def test_a_set_that_is_begun_says_how_to_finish_it(tmp_path: Path) -> None:
    with make_plan().open(tmp_path / "begun") as latents:
        write_next(latents)
    with pytest.raises(StoreError, match="not a finished set of latents; run the same semdis encode again"):
        Manifest.read(tmp_path / "begun")


def test_a_set_that_lost_its_manifest_is_not_told_to_be_finished(run: Run, root: Path) -> None:
    (root / "manifest.json").unlink()
    done = run("verify", root)
    assert done.code == 4
    assert "bad: manifest.json: missing, and no journal to finish the set from; restore it" in done.stderr


def test_a_tar_is_told_from_a_shard(run: Run, root: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(root / "shards")
    assert is_refused(run("decode", "x.tar"), "x.tar: a tar; ")
    assert "semdis decode - < x.tar" in run("decode", "x.tar").stderr
    (tmp_path / "zeros").write_bytes(bytes(1024))
    assert run("decode", "zeros").code == 4


# --- What is said -----------------------------------------------------------------------------------------------------


def test_images_of_a_set_that_has_grown_say_so_without_hashes(run: Run, root: Path) -> None:
    assert run("export", root, "-o", "exported").code == 0
    write_set(root, make_plan(keys=("new.png",)))
    done = run("export", root, "-o", "exported")
    assert is_refused(done, "exported: the latents have changed since, or are others; give -o a new folder")
    other = run("export", root, "-o", "exported", "--format", "npy", "--quiet")
    assert is_refused(other, "exported: the latents have changed since, or are others, and made with other settings (")
    assert "sha256" not in other.stderr


def test_one_image_is_not_called_images(run: Run, tmp_path: Path) -> None:
    write_set(tmp_path / "latents", make_plan(keys=("a.png",), shard_images=1))
    assert "semdis: 1 image as webdataset in exported; " in run("export").stderr
    assert run("import", "-o", "imported").stderr.startswith("semdis: 1 image in 1 shard, ")


def test_what_goes_on_after_a_stop_is_all_named() -> None:
    said = str(StoppedError(signal.SIGTERM))
    assert "encode, decode, roundtrip, eval, export, import and train go on where they were" in said


def test_inspect_takes_quiet_like_the_others(run: Run, root: Path) -> None:
    assert run("inspect", root, "-q") == run("inspect", root)


def test_the_json_of_verify_is_told_as_lines(run: Run) -> None:
    help_text = " ".join(run("verify", "--help").stdout.replace("│", "").split())
    assert "one JSON object" not in help_text
    assert "a JSON object a line" in help_text
