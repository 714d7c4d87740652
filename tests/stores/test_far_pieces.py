"""A set in a store whose index lies in pieces: only what is new is sent, what is no part of it goes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from semdis_cli.files.url import Url
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.reader import open_latents
from semdis_cli.store.writing import index_writer
from semdis_cli.store.writing.far_set import FarSet
from semdis_cli.store.writing.latent_set import LatentSetWriter
from tests.store import KEYS, SmallPlan, contents, hashes_of, make_plan, problems, write_next, write_set
from tests.stores import S3Server


@pytest.fixture(autouse=True)
def _three_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_writer, "PIECE_ROWS", 3)


@pytest.fixture
def url(s3: S3Server, tmp_path: Path) -> Url:
    bucket = f"pieces-{abs(hash(tmp_path))}"
    s3.put(f"{bucket}/other", b"x")
    return Url(f"s3://{bucket}/set")


def write(url: Url, stage: Path, plan: SmallPlan) -> None:
    with LatentSetWriter(stage, plan.provenance, far=FarSet.at(url, stage)) as latents:
        while not latents.begin(plan.on(latents.base), hashes_of):
            pass
        while latents.remaining:
            write_next(latents)
        latents.finish()


def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is sent from now on."""
    names: list[str] = []
    put = Url.put

    def note(url: Url, path: Path) -> None:
        names.append(str(url))
        put(url, path)

    monkeypatch.setattr(Url, "put", note)
    return names


def lists_of(names: Sequence[str], url: Url) -> list[str]:
    found = [name.removeprefix(f"{url}/") for name in names]
    return sorted(name for name in found if name.startswith(("index", "seen")))


def test_only_new_pieces_are_sent_and_old_ones_go(
    s3: S3Server, url: Url, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(url, tmp_path / "stage", make_plan())
    write_set(tmp_path / "set")
    grown = make_plan((*KEYS, "b/bb.png"))
    write_set(tmp_path / "set", grown)
    names = sent(monkeypatch)
    write(url, tmp_path / "stage", grown)
    new = ["index/00000004.jsonl", "index/00000005.jsonl"]
    assert lists_of(names, url)[:2] == new
    found = s3.names(str(url).removeprefix("s3://"))
    local = {name: data for name, data in contents(tmp_path / "set").items() if data is not None}
    assert sorted(found) == sorted(local)
    assert all(s3.get(f"{str(url).removeprefix('s3://')}/{name}") == data for name, data in local.items())
    assert open_latents(url).keys == open_latents(tmp_path / "set").keys
    assert problems(url) == []


def test_another_stage_fetches_the_pieces_that_it_has_not(
    url: Url, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(url, tmp_path / "one", make_plan())
    write(url, tmp_path / "two", make_plan((*KEYS, "b/bb.png")))
    opened: list[str] = []
    read = Url.open

    def note(url: Url, *arguments: Any, **more: Any) -> Any:
        opened.append(str(url))
        return read(url, *arguments, **more)

    monkeypatch.setattr(Url, "open", note)
    write(url, tmp_path / "one", make_plan((*KEYS, "b/bb.png", "z2.png")))
    fetched = [name for name in lists_of(opened, url) if name.startswith("index")]
    assert set(fetched) == {"index/00000004.jsonl", "index/00000005.jsonl"}
    assert problems(url) == []


def test_pieces_of_a_run_that_was_stopped_at_its_end_are_swept(s3: S3Server, url: Url, tmp_path: Path) -> None:
    write(url, tmp_path / "stage", make_plan())
    (tmp_path / "left").write_bytes(b"x")
    for name in ("index/00000009.jsonl", "seen/00000009.jsonl", "index.jsonl"):
        (url / name).put(tmp_path / "left")
    write(url, tmp_path / "stage", make_plan())
    assert sorted(s3.names(str(url).removeprefix("s3://"))) == sorted(
        name for name, data in contents(tmp_path / "stage").items() if data is not None and not name.startswith(".")
    ) + [f"shards/{shard.name}" for shard in Manifest.read(url).shards]


def break_manifest(stage: Path) -> None:
    (stage / "manifest.json").write_bytes(b"{")


def break_piece(stage: Path) -> None:
    path = stage / "index" / "00000002.jsonl"
    path.write_bytes(path.read_bytes()[:-2] + b"}\n")


def lose_piece(stage: Path) -> None:
    (stage / "index" / "00000002.jsonl").unlink()


@pytest.mark.parametrize(
    "damage", [lose_piece, *(pytest.param(each, marks=pytest.mark.slow) for each in (break_manifest, break_piece))]
)
def test_a_damaged_stage_is_made_good_by_what_the_store_has(
    url: Url, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    write(url, tmp_path / "one", make_plan())
    write(url, tmp_path / "two", make_plan((*KEYS, "b/bb.png")))
    damage(tmp_path / "one")
    write(url, tmp_path / "one", make_plan((*KEYS, "b/bb.png", "z2.png")))
    assert problems(url) == []
