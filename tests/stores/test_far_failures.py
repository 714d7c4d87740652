"""Stores that fail halfway: an image that cannot be read is tried again the next time, and nothing else is lost."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Outcome, Run
from tests.forks import pid_of, semdis
from tests.store import contents
from tests.stores import S3Server, s3_environment
from tests.stores.proxy import Answer, Choose, Proxy, proxy_of
from tests.torture.harness import make_images

OPTIONS = ("--size", "16", "--shard-images", "4", "-q")
Encode = Callable[[Choose], Outcome]


@pytest.fixture(scope="module")
def images(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four images, here and in the store."""
    folder = make_images(tmp_path_factory.mktemp("images") / "photos", 24)
    s3.put_folder("failing/photos", folder)
    return folder


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[Proxy]:
    with proxy_of(s3.address) as proxy:
        yield proxy


@pytest.fixture
def encode(proxy: Proxy, images: Path, tiny: Path, tmp_path: Path) -> Encode:
    """Encode from the store while it answers in some way."""
    del images
    environment = os.environ | s3_environment(proxy.address) | {"AWS_MAX_ATTEMPTS": "2"}
    command = semdis("encode", "s3://failing/photos", "-o", "latents", "--model", tiny, *OPTIONS, "--json")

    def run(choose: Choose) -> Outcome:
        proxy.choose = choose
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


def well(_method: str, _path: str) -> Answer:
    return Answer.PASS


def names(images: Path) -> list[str]:
    return sorted(path.relative_to(images).as_posix() for path in images.rglob("*") if path.is_file())


@pytest.mark.slow
def test_one_image_that_the_store_does_not_give_costs_itself_once(run: Run, encode: Encode, images: Path) -> None:
    broken, cut, shaky, *_ = names(images)
    asked: list[str] = []

    def choose(_method: str, path: str) -> Answer:
        asked.append(path)
        if broken in path:
            return Answer.ERROR
        if cut in path:
            return Answer.CUT
        is_second = sum(shaky in each for each in asked) > 1
        return Answer.CUT if shaky in path and not is_second else Answer.PASS

    done = encode(choose)
    report = json.loads(done.stdout)
    assert (done.code, report["images"]["ok"], report["images"]["failed"]) == (3, 22, 2)
    assert [line.split(" (")[0] for line in done.stderr.splitlines()] == [
        f"failed: {broken}: cannot be read",
        f"failed: {cut}: cannot be read",
    ]
    done = encode(well)
    report = json.loads(done.stdout)
    assert (done.code, report["images"], report["unchanged"]) == (0, {"ok": 24, "failed": 0, "this_run": 2}, 22)
    assert run("verify", "latents", "--data", "--against", images, "-q").code == 0


@pytest.mark.slow
def test_a_store_that_goes_away_halfway_costs_what_it_did_not_give(
    run: Run, encode: Encode, images: Path, proxy: Proxy
) -> None:
    def choose(_method: str, _path: str) -> Answer:
        return Answer.PASS if len(proxy.asked) <= 10 else Answer.ERROR

    done = encode(choose)
    report = json.loads(done.stdout)
    assert done.code == 3
    assert report["images"]["ok"] + report["images"]["failed"] == 24
    assert 0 < report["images"]["failed"] < 24
    before = report["images"]["ok"]
    report = json.loads(encode(well).stdout)
    assert report["images"] == {"ok": 24, "failed": 0, "this_run": 24 - before}
    assert run("verify", "latents", "--data", "--against", images, "-q").code == 0


@pytest.mark.slow
def test_a_store_that_cannot_be_listed_is_said_in_a_line(encode: Encode) -> None:
    done = encode(lambda _method, _path: Answer.ERROR)
    assert done.code == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("semdis: s3://failing/photos: cannot be ")


@pytest.mark.slow
@pytest.mark.parametrize("number", [4, 13, 22])
def test_a_killed_run_goes_on_and_ends_with_the_bytes_of_a_local_one(
    run: Run, encode: Encode, images: Path, proxy: Proxy, tiny: Path, tmp_path: Path, number: int
) -> None:
    assert run("encode", images, "-o", "local", "--model", tiny, *OPTIONS).code == 0
    environment = os.environ | s3_environment(proxy.address)
    arguments = ["encode", "s3://failing/photos", "-o", "latents", "--model", str(tiny), *OPTIONS]
    client = subprocess.Popen(semdis(*arguments), cwd=tmp_path, env=environment)

    def choose(_method: str, _path: str) -> Answer:
        if len(proxy.asked) > number + 3 and client.poll() is None:
            os.kill(pid_of(client), 9)
        return Answer.PASS

    proxy.choose = choose
    assert client.wait(timeout=120) != 0
    assert encode(well).code == 0
    here, there = contents(tmp_path / "local"), contents(tmp_path / "latents")
    for name in ("report.json", "seen.jsonl"):  # they have times
        assert here.pop(name) is not None
        assert there.pop(name) is not None
    assert there == here
