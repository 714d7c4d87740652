"""Nothing escapes: whatever names, keys and links there are, encode and decode touch no file outside their folder."""

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import save as serialize
from torch import zeros

from semdis_cli.parts import LATENTS
from semdis_cli.records import Geometry
from semdis_cli.store.reader import open_latents
from semdis_cli.store.shard_header import METADATA_KEY, canonical_json
from semdis_cli.store.shards import Shard, shard_bytes
from tests.cli.conftest import Outcome
from tests.store import contents as all_contents
from tests.torture.harness import decode_arguments, differences, encode_arguments, temporaries
from tests.torture.points import POINTS, World
from tests.torture.watch import Stop

SHARD = "00000000-1x1.safetensors"
PRECIOUS = b"precious\n" * 40


def outside(tmp_path: Path) -> Path:
    """A folder of somebody else's, with names in it that could be ours."""
    folder = tmp_path / "outside"
    folder.mkdir()
    for name in (SHARD, "0.jsonl", ".0123456789abcdef.semdis-tmp", "00.png", "file"):
        (folder / name).write_bytes(PRECIOUS)
    (folder / "empty").mkdir()
    (folder / "nothing").touch()
    return folder


def is_untouched(folder: Path) -> bool:
    found = all_contents(folder)
    wanted = dict.fromkeys((SHARD, "0.jsonl", ".0123456789abcdef.semdis-tmp", "00.png", "file"), PRECIOUS)
    return found == {**wanted, "empty": None, "nothing": b""}


def assert_one_line(outcome: Outcome, *codes: int) -> None:
    """A refusal, or success; never a traceback."""
    assert "Traceback" not in outcome.stderr, outcome.stderr
    assert outcome.code in codes, outcome.stderr


# --- links planted in a folder of latents ---------------------------------------------------------------------------

# Where a link is planted -> where it leads, below the folder outside.
LINKS = {
    "shards": "",
    "shards ": "empty",
    "journal": "",
    "journal ": "empty",
    f"shards/{SHARD}": "file",
    f"shards/{SHARD} ": "nowhere",
    "journal/0.jsonl": "file",
    "journal/0.jsonl ": "nothing",
    "journal/0.jsonl  ": "nowhere",
    "shards/.fedcba9876543210.semdis-tmp": "file",
    ".fedcba9876543210.semdis-tmp": "empty",
    ".semdis-lock": "file",
    ".semdis-lock ": "nowhere",
    "index.jsonl": "file",
    "SHA256SUMS": "nowhere",
    "manifest.json": "file",
    "manifest.json ": "nowhere",
    "report.json": "file",
    "seen.jsonl": "file",
    "items.table": "file",
}
SLOW_STATES = [pytest.param(state, marks=pytest.mark.slow) for state in ("begun", "finished", "finished, more to come")]
STATES = ["stopped", *SLOW_STATES]


def make_state(world: World, state: str, disk: Path) -> list[str]:
    """A folder of latents in one of `STATES`; the command that goes on with it."""
    situation = world.situation("a set that grows" if "more" in state else "a new set")
    situation.begin(disk)
    arguments = [*situation.arguments(disk), "--quiet"]
    if state == "finished":
        assert world.runner.run(arguments).code == 3
    elif "more" not in state:
        name = "plan safe, no shard begun" if state == "begun" else "second shard half written"
        stop = next(point for point in POINTS if point.name == name).find(situation.steps)
        assert world.runner.watch(arguments, disk, stop)[0].code == -9
    return arguments


@pytest.mark.parametrize("state", STATES)
def test_encode_follows_no_link_out_of_its_folder(tmp_path: Path, world: World, state: str) -> None:
    elsewhere, whole = outside(tmp_path), tmp_path / "whole"
    arguments = make_state(world, state, whole)
    for name, target in LINKS.items():
        disk = Path(shutil.copytree(whole, tmp_path / "disk"))
        plant(disk / "latents" / name.strip(), elsewhere / target)
        done = world.runner.run([text.replace(str(whole), str(disk)) for text in arguments])
        assert_one_line(done, 2, 3, 4)
        assert is_untouched(elsewhere), f"{name} -> {target}"
        if done.code == 3:
            assert not [path for path in disk.rglob("*") if path.is_symlink()], f"{name} -> {target}"
            assert temporaries(disk) == []
        shutil.rmtree(disk)


def plant(link: Path, target: Path) -> None:
    """Put a link in the place of whatever is there."""
    if link.is_dir() and not link.is_symlink():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(target)


def test_a_folder_with_a_temporary_file_s_name_stops_nobody(tmp_path: Path, world: World) -> None:
    arguments = make_state(world, "stopped", tmp_path / "disk")
    planted = tmp_path / "disk" / "latents" / "shards" / ".fedcba9876543210.semdis-tmp"
    planted.mkdir()
    (planted / "file").write_bytes(PRECIOUS)
    done = world.runner.run(arguments)
    assert done.code == 3, done.stderr
    assert (planted / "file").read_bytes() == PRECIOUS


def test_an_output_folder_may_itself_be_reached_through_a_link(tmp_path: Path, world: World) -> None:
    situation = world.situation("a new set")
    (tmp_path / "large disk").mkdir()
    (tmp_path / "latents").symlink_to(tmp_path / "large disk")
    done = world.runner.run(situation.arguments(tmp_path))
    assert done.code == 3, done.stderr
    assert differences(tmp_path / "large disk", situation.expected) == []


# --- links planted in a folder of images ----------------------------------------------------------------------------


@pytest.fixture
def deep(tmp_path: Path, world: World) -> Path:
    """Latents of images at several depths."""
    images = tmp_path / "deep"
    for number, name in enumerate(("00.png", "sub/00.png", "sub/deeper/00.png")):
        path = images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (number * 100, 0, 0)).save(path)
    done = world.runner.run(encode_arguments(images, tmp_path / "latents", world.model))
    assert done.code == 0, done.stderr
    return tmp_path / "latents"


DECODED_LINKS = {
    "sub": "",
    "sub ": "empty",
    "sub/deeper": "empty",
    "00.png": "00.png",
    "00.png ": "nowhere",
    "sub/deeper/00.png": "file",
    ".fedcba9876543210.semdis-tmp": "file",
    "sub/.fedcba9876543210.semdis-tmp": "empty",
    ".semdis-lock": "file",
    ".semdis-lock ": "nowhere",
    "report.json": "file",
    ".semdis-decode.json": "file",
    ".semdis-decode.json ": "nowhere",
}


@pytest.mark.slow
@pytest.mark.parametrize("state", ["stopped", "finished"])
def test_decode_follows_no_link_out_of_its_folder(tmp_path: Path, world: World, deep: Path, state: str) -> None:
    elsewhere, whole = outside(tmp_path), tmp_path / "whole"
    done, changes = world.runner.watch(decode_arguments(deep, whole / "decoded"), whole)
    assert done.code == 0, done.stderr
    if state == "stopped":
        shutil.rmtree(whole)
        number = [change.number for change in changes if change.operation == "rename"][-2]
        world.runner.watch(decode_arguments(deep, whole / "decoded"), whole, Stop(number, "before"))
    for name, target in DECODED_LINKS.items():
        disk = Path(shutil.copytree(whole, tmp_path / "disk"))
        plant(disk / "decoded" / name.strip(), elsewhere / target)
        done = world.runner.run([*decode_arguments(deep, disk / "decoded"), "--quiet"])
        assert_one_line(done, 0, 2, 4)
        assert is_untouched(elsewhere), f"{name} -> {target}"
        shutil.rmtree(disk)


# --- keys and names -------------------------------------------------------------------------------------------------

HOSTILE = [
    *(
        "../escaped.png",
        "a/../../escaped.png",
        "/tmp/escaped.png",
        "//escaped.png",
        "..",
        ".",
        "",
        "a//b.png",
        "a/./b.png",
    ),
    *("nul\0.png", "a/", "\ud800.png"),
]
ORDINARY_HERE = [
    *("C:\\escaped.png", "C:escaped.png", "..\\escaped.png", "\\\\host\\share\\a.png", "CON.png", "aux", "nul.png"),
    *("LPT1", "two\nlines.png", "tab\t.png", "a\x1b[2J.png", " ", "trailing ", "dot.", "-rf", "~root.png", "$(id).png"),
    *("ü.png", "u\u0308.png", "\u202egnp.png", "\U0001f600.png", os.fsdecode(b"latin-\xe9.png"), "x" * 251 + ".png"),
]


def write_hostile_shard(path: Path, world: World, keys: list[str]) -> None:
    """A shard with all checksums right, as somebody could write it who wants us to write elsewhere."""
    made = open_latents(world.situation("a new set").expected)
    geometry = Geometry(source=(16, 16), resized=(16, 16), crop=(0, 0), image=(16, 16), bucket=(16, 16))
    first = made.read(made.shards[0])
    latents = zeros(len(keys), *first.latents.shape[1:], dtype=first.latents.dtype)
    records = tuple(replace(first.records[0], key=key, geometry=geometry) for key in keys)
    data = shard_bytes(Shard(latents, records, made.provenance))
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    record = json.loads(header["__metadata__"][METADATA_KEY]) | {"keys": keys}  # as they are: ours would be escaped
    del record["record_sha256"]
    record.pop("escaped", None)
    record["record_sha256"] = hashlib.sha256(canonical_json(record).encode()).hexdigest()
    path.write_bytes(serialize({LATENTS: latents}, {METADATA_KEY: canonical_json(record)}))


@pytest.mark.parametrize("key", HOSTILE, ids=repr)
def test_a_key_that_leads_out_of_the_folder_is_refused_and_nothing_is_written(
    tmp_path: Path, world: World, key: str
) -> None:
    shard, root = tmp_path / "in" / "hostile.safetensors", tmp_path / "in" / "between" / "decoded"
    shard.parent.mkdir()
    write_hostile_shard(shard, world, ["good.png", key])
    done = world.runner.run([*decode_arguments(shard, root), "--quiet"])
    assert_one_line(done, 4)
    assert len(done.stderr.splitlines()) == 1
    assert not root.exists()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["hostile.safetensors", "in"]
    assert not Path("/tmp/escaped.png").exists()


def test_a_name_that_other_systems_fear_is_one_file_in_the_folder(tmp_path: Path, world: World) -> None:
    shard = tmp_path / "odd.safetensors"
    write_hostile_shard(shard, world, ORDINARY_HERE)
    done = world.runner.run([*decode_arguments(shard, tmp_path / "decoded"), "--quiet"])
    assert done.code == 0, done.stderr
    images = [path for path in (tmp_path / "decoded").iterdir() if path.suffix == ".png"]
    assert len(images) == len(ORDINARY_HERE)
    assert all(path.is_file() for path in images)
    assert {path.name for path in tmp_path.iterdir()} == {"odd.safetensors", "decoded"}


def test_names_of_every_kind_go_through_encode_and_decode(tmp_path: Path, world: World) -> None:
    visible = [name for name in ORDINARY_HERE if not name.startswith(".")]
    names = {name if name.endswith(".png") else f"{name}.png" for name in visible} | {"A.png", "a.png", "Ü.png"}
    images = tmp_path / "images"
    images.mkdir()
    for number, name in enumerate(sorted(names)):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(images / name)
    if len(list(images.iterdir())) < len(names):
        pytest.skip("this file system does not tell all of the names apart")
    done = world.runner.run([*encode_arguments(images, tmp_path / "latents", world.model), "--quiet"])
    assert (done.code, done.stderr) == (0, "")
    done = world.runner.run([*decode_arguments(tmp_path / "latents", tmp_path / "decoded"), "--quiet"])
    assert (done.code, done.stderr) == (0, "")
    assert {path.name for path in (tmp_path / "decoded").glob("*.png")} == names
    assert {path.name for path in tmp_path.iterdir()} == {"images", "latents", "decoded"}


@pytest.mark.parametrize(
    "key",
    [
        pytest.param("x" * 252 + ".png", id="file name of 256 bytes"),
        pytest.param("ü" * 148 + ".png", id="file name of 300 bytes"),
        pytest.param("x" * 256 + "/b.png", id="folder name of 256 bytes"),
        pytest.param("x" * 200 + "/" + "y" * 5000 + "/b.png", id="folder name of 5000 bytes"),
        pytest.param("/".join(["x" * 100] * 60) + "/b.png", id="path of 6000 bytes"),
    ],
)
def test_a_name_that_no_file_can_have_costs_its_image_alone(tmp_path: Path, world: World, key: str) -> None:
    shard = tmp_path / "long.safetensors"
    write_hostile_shard(shard, world, ["a.png", key])
    done = world.runner.run([*decode_arguments(shard, tmp_path / "decoded"), "--quiet"])
    assert_one_line(done, 3)
    assert [path.name for path in (tmp_path / "decoded").rglob("*.png")] == ["a.png"]
