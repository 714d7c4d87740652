"""Sets of latents in a store: read where they are, shard by shard, as from a disk."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semdis_cli.dataset.latent_dataset import LatentDataset
from semdis_cli.errors import UsageError
from semdis_cli.files.url import Url
from semdis_cli.store.reader import open_latents
from tests.cli.conftest import PHOTOS, Run
from tests.store import contents
from tests.stores import S3Server

SET = "sets/[1] a#b%20/latents"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a set."""
    return tmp_path_factory.mktemp("sets") / "latents"


@pytest.fixture(scope="module", autouse=True)
def far(s3: S3Server, local: Path, tiny: Path) -> str:
    """URL of a copy of it."""
    from tests.cli.conftest import semdis

    arguments = ("--model", tiny, "--max-pixels", "9000", "--shard-images", "3")
    assert semdis("encode", PHOTOS, "-o", local, *arguments, cwd=local.parent).code == 0
    embeddings: dict[str, Any] = {
        path.relative_to(PHOTOS).as_posix(): np.ones((2, 4)) for path in PHOTOS.rglob("*.jpg")
    }
    np.savez(local.parent / "t5.npz", **embeddings)
    assert semdis("attach", local, "--tensors", "t5.npz", "--as", "t5", cwd=local.parent).code in {0, 3}
    assert (local / "columns").is_dir()
    s3.put_folder(SET, local)
    return f"s3://{SET}"


@pytest.mark.parametrize("command", [("inspect",), ("verify", "--data", "-q"), ("verify", "-q"), ("inspect", "--json")])
def test_a_far_set_is_said_to_be_what_it_is_here(run: Run, local: Path, far: str, command: tuple[str, ...]) -> None:
    here, there = run(command[0], local, *command[1:]), run(command[0], far, *command[1:])
    assert (there.code, there.stderr) == (0, "")
    assert there.stdout == here.stdout.replace(str(local), far)


def test_a_far_set_is_held_against_its_images(run: Run, far: str) -> None:
    assert run("verify", far, "--against", PHOTOS, "--data", "-q").code == 0


@pytest.mark.parametrize("arguments", [("export", "--format", "npy"), ("decode", "--model", "MODEL")])
def test_what_is_made_of_a_far_set_is_the_same(
    run: Run, local: Path, far: str, tiny: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    options = [str(tiny) if each == "MODEL" else each for each in arguments[1:]]
    for source, output in ((local, "here"), (far, "there")):
        assert run(arguments[0], source, "-o", output, *options, "-q").code == 0
    here, there = contents(tmp_path / "here"), contents(tmp_path / "there")
    assert here.pop("report.json") != there.pop("report.json")  # they name their latents
    assert here == there != {}


def test_one_far_shard_is_read_too(run: Run, local: Path, far: str) -> None:
    name = min(path.name for path in (local / "shards").iterdir())
    assert run("inspect", f"{far}/shards/{name}", "--json").code == 0
    shard = open_latents(Url(f"{far}/shards/{name}"))
    assert shard.keys == open_latents(local / "shards" / name).keys


def test_damage_is_found_and_costs_one_shard(run: Run, s3: S3Server, local: Path, tiny: Path) -> None:
    s3.put_folder("damaged/latents", local)
    first, *_ = sorted(path.name for path in (local / "shards").iterdir())
    data = s3.get(f"damaged/latents/shards/{first}")
    s3.put(f"damaged/latents/shards/{first}", data[:-1] + bytes([data[-1] ^ 1]))
    s3.put("damaged/latents/shards/other.txt", b"x")
    done = run("verify", "s3://damaged/latents/", "--data")
    assert done.code == 4
    assert "bad: shards/other.txt: no part of the set; not a file of semdis" in done.stderr
    assert f"bad: shards/{first}: its bytes do not match the sha256 in the manifest" in done.stderr
    done = run("decode", "s3://damaged/latents", "-o", "decoded", "--model", tiny)
    assert done.code == 4
    assert f"failed: s3://damaged/latents/shards/{first}: its bytes do not match the sha256" in done.stderr
    s3.remove(f"damaged/latents/shards/{first}")
    done = run("verify", "s3://damaged/latents/")
    assert f"bad: shards/{first}: missing" in done.stderr


def test_a_set_that_is_being_written_is_said_to_be_unfinished(run: Run, s3: S3Server, local: Path) -> None:
    s3.put("begun/latents/journal/stage.json", b"{}")
    s3.put_folder("begun/latents/shards", local / "shards")
    done = run("verify", "s3://begun/latents")
    assert done.code == 4
    assert "bad: manifest.json: missing: the set is unfinished; run the same semdis encode again" in done.stderr
    assert "no manifest.json, so not a finished set of latents" in run("inspect", "s3://begun/latents").stderr


def test_what_is_no_set_says_so_in_a_line(run: Run, s3: S3Server) -> None:
    s3.put("empty/latents/x", b"x")
    for url, what in (
        ("s3://empty/none", "no such latents; give the folder that semdis encode wrote, or one of its shards"),
        ("s3://empty/latents", "not a set of latents (no manifest.json); give the folder that semdis encode wrote"),
    ):
        done = run("inspect", url)
        assert (done.code, done.stderr) == (4, f"semdis: {url}: {what}\n")
    with pytest.raises(UsageError, match=r"^s3://empty/latents: latents are drawn at random from a disk"):
        LatentDataset("s3://empty/latents")
