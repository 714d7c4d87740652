"""`semdis plan`: the plan of a set in a file, which encode takes up; the set has the bytes of one made without."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from semdis_cli.files.lock import FolderLock
from semdis_cli.store.index import read_rows
from semdis_cli.store.writing.plan_file import PlanFile
from tests import forks
from tests.cli.conftest import Outcome, Run
from tests.sources.test_tars import write_tar
from tests.store import contents, lasting
from tests.store.test_plan_file import signed
from tests.torture.harness import wait_until_settled
from tests.worlds import save_noise

LONG_AGO_S = time.time() - 3600
SIZES = ((32, 48), (48, 32), (32, 32))


def write_image(path: Path, seed: int) -> Path:
    save_noise(path, seed, SIZES[seed % 3])
    os.utime(path, (LONG_AGO_S + seed, LONG_AGO_S + seed))
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Nine images of three sizes in two folders, one that is none, and captions of some."""
    folder = tmp_path / "photos"
    for seed in range(9):
        image = write_image(folder / f"{'ab'[seed % 2]}/{seed}.png", seed)
        image.with_suffix(".txt").write_text(f"caption {seed}")
    (folder / "bad.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def same(tiny: Path, run: Run) -> Run:
    """Runs a command with the same options as all others."""

    def call(command: str, *arguments: str | Path, output: str = "latents") -> Outcome:
        options = ("-o", output, "--model", tiny, "--threads", "1", "--shard-images", "2")
        return run(command, *arguments, *options)

    return call


def plan_in(root: Path) -> Path:
    return root / "journal/plan"


def check_same_set(tmp_path: Path, same: Run, *arguments: str | Path) -> None:
    """A set that is made by a plan in a file is that which is made without."""
    plain = same("encode", *arguments, output="plain")
    planned = same("plan", *arguments)
    assert planned.code in {0, plain.code}, planned.stderr  # where sizes are fixed, no header is read
    assert plan_in(tmp_path / "latents").is_file()
    done = same("encode", *arguments)
    assert done.code == plain.code, done.stderr
    assert "semdis: by the plan of " in done.stderr
    assert lasting(tmp_path / "latents") == lasting(tmp_path / "plain")
    assert not (tmp_path / "latents/journal").exists()


# ---- The same sets ----


def test_a_folder_with_captions_and_failures(tmp_path: Path, photos: Path, same: Run) -> None:
    check_same_set(tmp_path, same, photos, "--captions", "txt")
    rows = {row.key: row for row in read_rows(tmp_path / "latents/index.jsonl")}
    assert rows["a/0.png"].record is not None
    assert rows["a/0.png"].record.columns["caption"] == "caption 0"
    assert rows["bad.png"].error is not None


@pytest.mark.parametrize(
    "options",
    [
        ("--size", "32,16", "--crops", "2", "--captions", "none"),
        ("--labels", "folders", "--min-size", "40"),
        ("--exclude", "b", "--dedupe"),
        ("--alpha", "mask", "--flip", "both", "--size", "32"),
    ],
)
def test_options_that_decide_a_plan(tmp_path: Path, photos: Path, same: Run, options: tuple[str, ...]) -> None:
    write_image(photos / "a/twin.png", 0)
    check_same_set(tmp_path, same, photos, *options)


def test_tars_named_by_braces_with_captions_and_classes(tmp_path: Path, photos: Path, same: Run) -> None:
    for number in range(2):
        members = [
            (f"{seed}.{suffix}", data)
            for seed in range(number, 9, 2)
            for suffix, data in (
                ("png", (photos / f"{'ab'[number]}/{seed}.png").read_bytes()),
                ("txt", f"caption {seed}".encode()),
                ("cls", b"7"),
            )
        ]
        write_tar(tmp_path / f"{number}.tar", members)
    check_same_set(tmp_path, same, "{0..1}.tar")


def test_parquet_and_a_table(tmp_path: Path, photos: Path, same: Run) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted(photos.glob("a/*.png"))]
    pq.write_table(
        pa.table({"image": images, "text": [f"about {n}" for n in range(len(images))]}), tmp_path / "0.parquet"
    )
    rows = [{"key": f"photos/b/{seed}.png", "caption": f"row {seed}"} for seed in (1, 3)]
    (tmp_path / "table.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    check_same_set(tmp_path, same, photos, "0.parquet", "--table", "table.jsonl", "--columns", "none")


def test_masks(tmp_path: Path, photos: Path, same: Run) -> None:
    for seed, name in enumerate(("0.png", "2.png.bmp", "4.tif", "6")):
        save_noise(tmp_path / f"masks/a/{seed}.png", seed, SIZES[2 * seed % 3])
        with Image.open(tmp_path / f"masks/a/{seed}.png") as image:
            image.save(tmp_path / f"masks/a/{name}", "PNG")
        if name != f"{seed}.png":
            (tmp_path / f"masks/a/{seed}.png").unlink()
        os.utime(tmp_path / f"masks/a/{name}", (LONG_AGO_S, LONG_AGO_S + seed))
    check_same_set(tmp_path, same, photos, "--masks", "masks")
    again = json.loads(same("encode", photos, "--masks", "masks", "--json").stdout)
    assert again["images"]["this_run"] == 0
    (tmp_path / "masks/a/6").write_bytes((tmp_path / "masks/a/0.png").read_bytes())
    assert same("plan", photos, "--masks", "masks").code in {0, 3}  # whether the failure counts as known
    changed = json.loads(same("encode", photos, "--masks", "masks", "--json").stdout)
    assert changed["images"]["this_run"] == 1


@pytest.mark.slow
def test_a_set_that_grows(tmp_path: Path, photos: Path, same: Run) -> None:
    for output in ("latents", "plain"):
        assert same("encode", photos, output=output).code == 3
    (photos / "a/0.png").unlink()
    write_image(photos / "a/2.png", 11)
    write_image(photos / "c/new.png", 12)
    wait_until_settled(photos / "a")
    wait_until_settled(photos / "c")
    check_same_set(tmp_path, same, photos)


def test_a_run_that_was_stopped_goes_on_by_its_plan(tmp_path: Path, photos: Path, same: Run) -> None:
    assert same("encode", photos, output="plain").code == 3
    (photos / "b/1.png").rename(tmp_path / "kept.png")
    assert same("plan", photos).code == 3
    (tmp_path / "kept.png").rename(photos / "b/1.png")
    assert same("encode", photos, "--max-errors", "0").code == 3  # stopped, with nothing or something done
    assert same("plan", photos).code == 3
    assert same("encode", photos).code == 3
    assert lasting(tmp_path / "latents") == lasting(tmp_path / "plain")


def test_encode_lists_nothing_where_there_is_a_plan(tmp_path: Path, photos: Path, same: Run) -> None:
    assert same("plan", photos).code == 3
    write_image(photos / "c/later.png", 20)
    assert same("encode", photos).code == 3
    assert "c/later.png" not in {row.key for row in read_rows(tmp_path / "latents/index.jsonl")}
    assert same("encode", photos).code == 3
    assert "c/later.png" in {row.key for row in read_rows(tmp_path / "latents/index.jsonl")}


# ---- Parts ----


def test_parts_by_one_plan_make_the_set_that_one_run_makes(tmp_path: Path, photos: Path, same: Run) -> None:
    plain = same("encode", photos, "--captions", "txt", output="plain")
    assert same("plan", photos, "--captions", "txt").code == 3
    write_image(photos / "c/later.png", 20)  # nobody looks for it
    done = [same("encode", photos, "--captions", "txt", "--part", part) for part in ("2/3", "0/3", "1/3")]
    assert [each.code for each in done] == [0, 3, 3], done[-1].stderr
    assert all("semdis: by the plan of " in each.stderr for each in done)
    assert "all parts are done" in done[-1].stderr
    assert plain.code == 3
    assert lasting(tmp_path / "latents") == lasting(tmp_path / "plain")
    assert not (tmp_path / "latents/journal").exists()


def test_a_set_grows_by_parts_of_a_plan(tmp_path: Path, photos: Path, same: Run) -> None:
    for output in ("latents", "plain"):
        assert same("encode", photos, output=output).code == 3
    (photos / "a/0.png").unlink()
    write_image(photos / "a/2.png", 11)
    for seed in range(12, 20):
        write_image(photos / f"c/{seed}.png", seed)
    assert same("encode", photos, output="plain").code == 3
    assert same("plan", photos).code == 3
    assert [same("encode", photos, "--part", part).code for part in ("0/2", "1/2")] == [3, 3]
    assert lasting(tmp_path / "latents") == lasting(tmp_path / "plain")


def test_a_part_reads_its_own_shards_of_the_plan_alone(tmp_path: Path, photos: Path, same: Run) -> None:
    assert same("plan", photos).code == 3
    path = plan_in(tmp_path / "latents")
    file = PlanFile.read(path)
    assert file is not None
    data = bytearray(path.read_bytes())
    for shard in file.shards[1::2]:
        data[shard.line.offset : shard.line.offset + shard.line.num_bytes] = bytes(shard.line.num_bytes)
    path.write_bytes(data)
    for _ in range(2):  # done, and looked at again
        assert same("encode", photos, "--part", "0/2").code == 3
    refused(same("encode", photos, "--part", "1/2"), 4, "the plan is damaged", "make it again with semdis plan")


def test_a_plan_is_made_again_between_parts_but_not_while_one_is_at_work(
    tmp_path: Path, photos: Path, same: Run
) -> None:
    assert same("encode", photos, output="plain").code == 3
    assert same("plan", photos).code == 3
    assert same("encode", photos, "--part", "1/3").code == 0
    with FolderLock(tmp_path / "latents/journal", "0-of-3"):
        refused(same("plan", photos), 7, "other semdis runs are writing there (--part 0/3)")
    done = (tmp_path / "latents/journal/1-of-3.jsonl").read_bytes()
    assert same("plan", photos).code == 3
    assert (tmp_path / "latents/journal/1-of-3.jsonl").read_bytes() == done
    assert [same("encode", photos, "--part", part).code for part in ("0/3", "2/3")] == [3, 3]
    assert lasting(tmp_path / "latents") == lasting(tmp_path / "plain")


def test_what_parts_have_done_stays_where_a_plan_of_other_inputs_is_made(
    tmp_path: Path, photos: Path, same: Run
) -> None:
    assert same("plan", photos).code == 3
    assert same("encode", photos, "--part", "0/2").code == 3
    num_done = len(list((tmp_path / "latents/shards").iterdir()))
    write_image(photos / "c/new.png", 20)
    assert same("plan", photos).code == 3
    told = [json.loads(same("encode", photos, "--json", "--part", part).stdout) for part in ("0/2", "1/2")]
    assert sum(each["images"]["this_run"] for each in told) == 10 - 2 * num_done
    rows = {row.key for row in read_rows(tmp_path / "latents/index.jsonl") if row.error is None}
    assert rows == {path.relative_to(photos).as_posix() for path in photos.glob("?/*.png")}


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.02, 0.05])
def test_a_plan_that_is_killed_while_it_is_written_is_in_nobodys_way(
    tmp_path: Path, photos: Path, tiny: Path, same: Run, after_s: float
) -> None:
    assert same("encode", photos, output="plain").code == 3
    options = ("-o", "latents", "--model", str(tiny), "--threads", "1", "--shard-images", "2")
    process = subprocess.Popen(
        [*forks.FRESH, "plan", str(photos), *options],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not (tmp_path / "latents/journal").exists():
        time.sleep(0.001)
    time.sleep(after_s)
    process.kill()
    process.wait()
    PlanFile.read(plan_in(tmp_path / "latents"))  # whole, or not there
    assert same("plan", photos).code == 3
    assert [same("encode", photos, "--part", part).code for part in ("0/2", "1/2")] == [3, 3]
    assert lasting(tmp_path / "latents") == lasting(tmp_path / "plain")


@pytest.mark.slow
def test_processes_share_a_plan(tmp_path: Path, photos: Path, same: Run) -> None:
    assert same("encode", photos, "--captions", "txt", output="plain").code == 3
    options = (photos, "--captions", "txt", "--processes", "2", "--workers", "2")
    assert same("plan", *options).code == 3
    done = same("encode", *options)
    assert done.code == 3, done.stderr
    assert lasting(tmp_path / "latents") == lasting(tmp_path / "plain")


def test_finish_says_which_parts_of_a_plan_are_missing(tmp_path: Path, photos: Path, same: Run, run: Run) -> None:
    assert same("plan", photos).code == 3
    refused(run("finish", "latents"), 2, "of 6 shards are not there")
    assert same("encode", photos, "--part", "0/2").code == 3
    refused(run("finish", "latents"), 2, "run again semdis encode with --part 1/2")
    assert same("encode", photos, "--part", "1/2").code == 3
    assert (tmp_path / "latents/manifest.json").is_file()


# ---- What is said ----


def test_what_is_planned_is_said_as_a_dry_run_says_it(tmp_path: Path, photos: Path, same: Run) -> None:
    dry = json.loads(same("encode", photos, "--dry-run", "--json").stdout)
    done = same("plan", photos, "--json")
    told = json.loads(done.stdout)
    path = plan_in(tmp_path / "latents")
    assert told.pop("plan_bytes") == path.stat().st_size
    assert told.pop("plan") == "latents/journal/plan"
    assert dry.pop("estimated_s") >= 0
    assert told | {"command": ""} == dry | {"command": ""}
    assert "failed: bad.png: is no image" in done.stderr or "failed: bad.png: " in done.stderr
    assert (
        same("plan", photos).stdout.splitlines()[1]
        == f"the plan is in latents/journal/plan, {path.stat().st_size:,} bytes"
    )


def test_where_nothing_is_left_to_do_nothing_is_written(tmp_path: Path, photos: Path, same: Run) -> None:
    (photos / "bad.png").unlink()
    assert same("encode", photos).code == 0
    before = contents(tmp_path / "latents")
    done = same("plan", photos)
    assert (done.code, done.stdout.splitlines()[-1]) == (0, "nothing is left to encode, and nothing was written")
    assert contents(tmp_path / "latents") == before


def test_troubles_with_tables_are_told_once_by_plan(tmp_path: Path, photos: Path, same: Run) -> None:
    (photos / "bad.png").unlink()
    (tmp_path / "table.csv").write_text("key,caption\na/0.png,one\nno.png,two\n")
    options = (photos, "--table", "table.csv", "--captions", "none", "--columns", "caption_")
    (tmp_path / "table.csv").write_text(
        "key,caption_\n" + "".join(f"{'ab'[s % 2]}/{s}.png,x\n" for s in range(9)) + "no.png,y\n"
    )
    planned = same("plan", *options)
    assert planned.code == 3
    assert "column: no.png: has a row in table.csv, but is no image of this run" in planned.stderr
    done = same("encode", *options)
    assert (done.code, "no.png" in done.stderr) == (0, False)


# ---- Refusals, each in a line and before work ----


def refused(done: Outcome, code: int, *parts: str) -> None:
    assert done.code == code, done.stderr
    told = " ".join(done.stderr.replace("│", " ").split())
    assert all(part in told for part in parts), told
    assert "Traceback" not in told
    assert done.stdout == ""


def test_a_plan_of_something_else_is_refused_with_the_difference(tmp_path: Path, photos: Path, same: Run) -> None:
    assert same("plan", photos).code == 3
    before = contents(tmp_path / "latents")
    again = "make it again with semdis plan, or delete it"
    refused(same("encode", photos, "--exclude", "x"), 2, "--exclude: [] -> ['x']", again)
    refused(same("encode", photos / "a"), 2, "SOURCE: ", again)
    refused(same("encode", photos, "--shard-size", "3"), 2, "--shard-size: 256 -> 3", again)
    refused(same("encode", photos, "--size", "32"), 2, "made for other settings", "size: None -> 32", again)
    (tmp_path / "list.txt").write_text("photos/a/0.png\n")
    refused(same("encode", "--files-from", "list.txt"), 2, "--files-from: None -> list.txt")
    assert contents(tmp_path / "latents") == before
    assert same("plan", photos, "--exclude", "a").code == 3
    assert same("encode", photos, "--exclude", "a").code == 3


def test_sources_that_are_gone_are_said_before_work(tmp_path: Path, photos: Path, same: Run) -> None:
    assert same("plan", photos).code == 3
    before = contents(tmp_path / "latents")
    photos.rename(tmp_path / "away")
    refused(same("encode", photos), 2, "photos: no such file or folder")
    assert contents(tmp_path / "latents") == before
    (tmp_path / "away").rename(photos)
    (photos / "a/4.png").unlink()
    assert same("encode", photos).code == 3
    rows = {row.key: row for row in read_rows(tmp_path / "latents/index.jsonl")}
    assert "No such file" in str(rows["a/4.png"].error)
    assert rows["a/6.png"].error is None


def test_a_damaged_plan_is_said(tmp_path: Path, photos: Path, same: Run) -> None:
    assert same("plan", photos).code == 3
    path = plan_in(tmp_path / "latents")
    path.write_bytes(path.read_bytes()[:-100])
    refused(same("encode", photos), 4, "latents/journal/plan: the plan is damaged", "make it again with semdis plan")
    assert same("plan", photos).code == 3
    assert same("encode", photos).code == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda head: head["shards"][0].__setitem__(0, "00000000-2x2.safetensors"),  # which the set has already
        lambda head: head["shards"][0].__setitem__(0, "00000099-9x9.safetensors"),
        lambda head: head["shards"][0].__setitem__(1, 5),
        lambda head: head["shards"][0].__setitem__(2, [1, 33]),
        lambda head: head["about"].update(columns={}),
        lambda head: head["about"].update(request=[]),
        lambda head: head["about"].update(num_found=-1),
        lambda head: head["about"].update(provenance={"a": float("1e400")}),
    ],
)
def test_a_plan_that_somebody_has_edited_is_refused(
    tmp_path: Path, photos: Path, same: Run, change: Callable[[dict[str, Any]], object]
) -> None:
    assert same("encode", photos).code == 3
    write_image(photos / "c/2.png", 2)
    assert same("plan", photos).code == 3
    before = contents(tmp_path / "latents/shards")
    signed(plan_in(tmp_path / "latents"), change)
    refused(same("encode", photos), 4, "latents/journal/plan: the plan is damaged")
    assert contents(tmp_path / "latents/shards") == before


def test_a_plan_of_a_set_that_has_changed_since_is_refused(tmp_path: Path, photos: Path, same: Run) -> None:
    assert same("plan", photos).code == 3
    plan = plan_in(tmp_path / "latents").read_bytes()
    assert same("encode", photos).code == 3
    plan_in(tmp_path / "latents").parent.mkdir()
    plan_in(tmp_path / "latents").write_bytes(plan)
    assert same("encode", photos).code == 3  # that plan has been carried out: it is as if it were gone
    write_image(photos / "c/new.png", 30)
    assert same("plan", photos).code == 3
    plan = plan_in(tmp_path / "latents").read_bytes()
    (photos / "a/0.png").unlink()
    plan_in(tmp_path / "latents").unlink()
    assert same("encode", photos).code == 3
    plan_in(tmp_path / "latents").parent.mkdir()
    plan_in(tmp_path / "latents").write_bytes(plan)
    refused(same("encode", photos), 2, "the set has changed since the plan was made", "semdis plan")


def test_a_plan_beside_shards_of_another_one_is_refused(tmp_path: Path, photos: Path, same: Run) -> None:
    assert same("plan", photos).code == 3
    first = plan_in(tmp_path / "latents").read_bytes()
    write_image(photos / "c/new.png", 20)
    assert same("plan", photos).code == 3
    assert same("encode", photos, "--part", "0/2").code == 3
    second = plan_in(tmp_path / "latents").read_bytes()
    plan_in(tmp_path / "latents").write_bytes(first)
    refused(same("encode", photos, "--part", "1/2"), 2, "begun with other inputs")
    refused(same("encode", photos), 2, "shards were published under another one", "semdis plan")
    plan_in(tmp_path / "latents").write_bytes(second)
    assert same("encode", photos, "--part", "1/2").code == 3
    rows = {row.key for row in read_rows(tmp_path / "latents/index.jsonl") if row.error is None}
    assert rows == {path.relative_to(photos).as_posix() for path in photos.glob("?/*.png")}


def test_what_no_plan_can_hold_is_refused(tmp_path: Path, photos: Path, same: Run) -> None:
    (tmp_path / "list.txt").write_text("photos/a/0.png\n")
    refused(same("plan", "-"), 2, "stdin")
    refused(same("plan", "--files-from", "list.txt"), 2, "--files-from")
    refused(same("plan", photos, output="memory://x/y"), 2, "URL")
    refused(same("plan"), 2, "SOURCE")
    assert not (tmp_path / "latents").exists()
