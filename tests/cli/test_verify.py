"""`semdis verify`: what is wrong with latents, one line each, and exit code 4."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from semdis_cli.cli.report import one_line
from semdis_cli.dataset.latent_dataset import LatentDataset
from semdis_cli.errors import StoreError
from tests.cli.conftest import PHOTOS, Run, semdis
from tests.store import KEYS, make_plan, write_set, write_some
from tests.store.test_versions import write_mixed_set

Json = dict[str, Any]
ASCII_KEYS = KEYS[:-1]  # whose size is their length
FIRST = "shards/00000000-1x2.safetensors"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_set(tmp_path / "latents", make_plan(ASCII_KEYS))
    return tmp_path / "latents"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """The sources of the small set, in which the content of each file is its key."""
    for key in (*ASCII_KEYS, "z.png"):
        path = tmp_path / "photos" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("" if key == "z.png" else key)
    (tmp_path / "photos" / "b" / "b.png").write_text("")  # no folder any more, but it was none of the latents
    return tmp_path / "photos"


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"\x99")


def objects(stdout: str) -> list[Json]:
    return [json.loads(line) for line in stdout.splitlines()]


@pytest.mark.parametrize(
    "options", [(), ("--data",), ("--sample", "50%"), ("--sample", "1"), ("--data", "--workers", "3")]
)
def test_a_whole_set_ends_with_0(run: Run, root: Path, options: tuple[str, ...]) -> None:
    outcome = run("verify", root, *options)
    assert (outcome.code, outcome.stdout) == (0, "")
    assert "all is well; 4 shards, 7 images" in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert run("verify", root, *options, "--quiet").stderr == ""


def test_every_problem_is_a_line_on_stderr_and_ends_with_4(run: Run, root: Path) -> None:
    (root / FIRST).unlink()
    (root / "notes\x1b[2J.txt").write_text("mine")
    outcome = run("verify", root, "--quiet")
    assert (outcome.code, outcome.stdout) == (4, "")
    assert outcome.stderr.splitlines() == [
        f"bad: {FIRST}: missing",
        "bad: notes\\x1b[2J.txt: no part of the set; not a file of semdis",
    ]


def test_damage_in_the_data_is_found_with_data_alone(run: Run, root: Path) -> None:
    damage(root / FIRST)
    assert run("verify", root).code == 0
    outcome = run("verify", root, "--data")
    assert outcome.code == 4
    assert f"bad: {FIRST}: its bytes do not match the sha256 in the manifest" in outcome.stderr


def test_a_single_shard_is_verified(run: Run, root: Path) -> None:
    assert run("verify", root / FIRST, "--data").code == 0
    damage(root / FIRST)
    assert run("verify", root / FIRST, "--data").code == 4


def test_json_has_a_line_for_each_problem_and_a_report(run: Run, root: Path) -> None:
    (root / FIRST).unlink()
    (root / "x").write_text("")
    outcome = run("verify", root, "--json", "--quiet")
    first, second, report = objects(outcome.stdout)
    assert first == {"event": "problem", "file": FIRST, "kind": "missing", "what": "missing"}
    assert (second["file"], second["kind"]) == ("x", "surplus")
    assert set(report) == {
        "event", "command", "latents", "is_whole", "problems", "shards", "bytes_read", "data", "images", "elapsed_s",
    }  # fmt: skip
    assert (report["event"], report["is_whole"], report["problems"]) == ("report", False, {"missing": 1, "surplus": 1})
    assert report["images"] == {"ok": 7, "failed": 3, "removed": 0}
    (whole,) = objects(run("verify", root / "shards" / "00000002-2x2.safetensors", "--json", "--quiet").stdout)
    assert (whole["is_whole"], "images" in whole, whole["data"]) == (True, False, "none")


def test_many_problems_of_a_kind_are_cut_short_on_stderr_and_not_in_json(run: Run, root: Path) -> None:
    for number in range(30):
        (root / f"x{number}").write_text("")
    outcome = run("verify", root, "--json")
    assert outcome.stderr.count("bad: ") == 20
    assert "... and 10 more problems of the kind surplus" in outcome.stderr
    assert len(objects(outcome.stdout)) == 31


def test_an_unfinished_set_says_how_to_go_on(run: Run, tmp_path: Path) -> None:
    write_some(tmp_path / "latents", 1)
    outcome = run("verify")
    assert outcome.code == 4
    assert "run the same semdis encode again to finish it" in outcome.stderr


@pytest.mark.parametrize("sample", ["", "x", "-1", "101%", "5 %", "1e3", "5%%", "٣%", "NaN%", "0", "0%", "0.0%", "00"])
def test_a_sample_that_is_none_is_wrong_usage(run: Run, root: Path, sample: str) -> None:
    outcome = run("verify", root, "--sample", sample)
    assert outcome.code == 2
    assert "--sample" in outcome.stderr


def test_a_seed_without_a_sample_is_wrong_usage(run: Run, root: Path) -> None:
    for options in ((), ("--data",)):
        outcome = run("verify", root, *options, "--seed", "0")
        assert outcome.code == 2
        assert "--sample" in outcome.stderr
    assert run("verify", root, "--sample", "1", "--seed", "7").code == 0


def test_the_summary_says_how_much_was_read(run: Run, root: Path) -> None:
    said = {"1": "a sample of the data read", "0.001%": "a sample of the data read", "100%": "every byte read"}
    for sample, depth in said.items():
        assert depth in run("verify", root, "--sample", sample).stderr


def test_an_edited_shard_that_is_mailed_is_refused_by_every_reader(run: Run, root: Path) -> None:
    path = root / FIRST
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = data[8:start].rstrip().replace(b'{"__metadata__":{', b'{"__metadata__":{"format":"pt",', 1)
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[start:])
    assert run("verify", path).code == 4
    assert run("export", path, "-o", "files").code == 4
    with pytest.raises(StoreError, match=f"^{path}: not a semdis shard"):
        LatentDataset(path)


def test_data_and_a_sample_clash(run: Run, root: Path) -> None:
    assert run("verify", root, "--data", "--sample", "1").code == 2


def test_missing_latents_end_with_4(run: Run, tmp_path: Path) -> None:
    outcome = run("verify", tmp_path / "none")
    assert outcome.code == 4
    assert outcome.stderr.count("\n") == 1


def test_versions_that_made_a_set_are_listed_with_their_differences(run: Run, tmp_path: Path) -> None:
    root = write_mixed_set(tmp_path / "mixed")
    verified = run("verify", root)
    assert verified.code == 0
    assert re.search(r"version 2: 2 latents in .* \(compute.torch: 2.12 -> 2.13\)", verified.stderr)
    versions = json.loads(run("inspect", root, "--json").stdout)["versions"]
    assert [(made["latents"], made["differs"]) for made in versions] == [(8, []), (2, ["compute.torch: 2.12 -> 2.13"])]


# --- against the sources --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--data",)])
def test_the_sources_of_then_are_those_of_the_index(
    run: Run, root: Path, photos: Path, options: tuple[str, ...]
) -> None:
    outcome = run("verify", root, "--against", photos, *options)
    assert (outcome.code, outcome.stderr.count("\n")) == (0, 1)


@pytest.mark.parametrize(
    ("change", "key", "what"),
    [
        (lambda photos: (photos / "a.png").unlink(), "a.png", "missing"),
        (lambda photos: (photos / "z.png").unlink(), "z.png", "missing"),
        (lambda photos: (photos / "b" / "new.png").write_text("new"), "b/new.png", "new"),
        (lambda photos: (photos / "e.png").write_text("longer"), "e.png", "changed: 6 bytes, but 5"),
    ],
)
def test_sources_that_differ_are_told(
    run: Run, root: Path, photos: Path, change: Callable[[Path], object], key: str, what: str
) -> None:
    change(photos)
    outcome = run("verify", root, "--against", photos, "--quiet", "--json")
    problem, _ = objects(outcome.stdout)
    assert (outcome.code, problem["file"], problem["kind"]) == (4, key, "source")
    assert problem["what"].startswith(what)


@pytest.mark.parametrize("more", [(), ("--data",)])
def test_a_source_of_the_same_size_is_told_from_its_content(
    run: Run, root: Path, photos: Path, more: tuple[str, ...]
) -> None:
    (photos / "e.png").write_text("other"[:5])
    outcome = run("verify", root, "--against", photos, "--quiet", *more)
    assert outcome.stderr == "bad: e.png: changed: has another sha256 than when it was encoded\n"


def test_removed_inputs_are_not_missing_but_told_when_they_are_back(run: Run, root: Path, photos: Path) -> None:
    write_set(root, make_plan(ASCII_KEYS[1:]))
    back = run("verify", root, "--against", photos, "--quiet")
    assert back.stderr == "bad: a.png: is there again, but marked as removed in the index\n"
    (photos / "a.png").unlink()
    assert run("verify", root, "--against", photos, "--data").code == 0


def test_a_damaged_index_cannot_be_compared(run: Run, root: Path, photos: Path) -> None:
    (root / "index.jsonl").unlink()
    outcome = run("verify", root, "--against", photos)
    assert "bad: index.jsonl: missing or damaged: the sources cannot be compared with it" in outcome.stderr


def test_a_source_that_does_not_exist_is_wrong_usage(run: Run, root: Path, tmp_path: Path) -> None:
    assert run("verify", root, "--against", tmp_path / "none").code == 2


@pytest.mark.slow
def test_real_latents_are_verified_by_a_real_process(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(PHOTOS, tmp_path / "photos")
    assert semdis("encode", "photos", "--model", tiny, "--size", "64", cwd=tmp_path).code == 0
    outcome = semdis("verify", "--data", "--against", "photos", cwd=tmp_path)
    assert (outcome.code, outcome.stdout) == (0, "")
    shard = min((tmp_path / "latents" / "shards").iterdir())
    damage(shard)
    assert semdis("verify", "--data", cwd=tmp_path).code == 4
    assert semdis("decode", "--model", tiny, cwd=tmp_path).code == 4


def test_printed_names_are_one_line() -> None:
    assert one_line("a\nb\x1b") == "a b\\x1b"
