"""Sets that are written to a store: the same bytes as on a disk, whatever happens to the run and to the store."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from semdis_cli.errors import UsageError
from semdis_cli.files.url import Url
from semdis_cli.store.writing.far_set import FarSet
from tests.cli.conftest import PHOTOS, Run
from tests.forks import pid_of, semdis
from tests.store import contents
from tests.stores import S3Server, s3_environment
from tests.stores.proxy import Answer, Proxy, proxy_of

OPTIONS = ("--size", "16", "--shard-images", "2", "-q")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return Path(shutil.copytree(PHOTOS, tmp_path / "photos"))


@pytest.fixture
def local(run: Run, photos: Path, tiny: Path, tmp_path: Path) -> Path:
    """Set of the same photographs on the disk."""
    assert run("encode", photos, "-o", "local", "--model", tiny, *OPTIONS).code == 0
    return tmp_path / "local"


@pytest.fixture
def bucket(s3: S3Server, tmp_path: Path) -> str:
    """Name of a bucket that no other test has."""
    name = f"set-{abs(hash(tmp_path))}"
    s3.put(f"{name}/other/file", b"x")
    return name


OF_THE_RUN = {"report.json", "seen.jsonl"}  # they have times


def stored(s3: S3Server, name: str) -> dict[str, bytes]:
    """Return all files of a set in the store but those of the run."""
    assert s3.names(name).count("seen.jsonl") == s3.names(name).count("report.json") == 1
    return {each: s3.get(f"{name}/{each}") for each in s3.names(name) if each not in OF_THE_RUN}


def expected(local: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(local).items() if data is not None and name not in OF_THE_RUN}


# ---- What comes about ----


def test_a_set_in_a_store_has_the_bytes_of_one_on_a_disk(
    run: Run, s3: S3Server, photos: Path, tiny: Path, local: Path, bucket: str, tmp_path: Path
) -> None:
    url, arguments = f"s3://{bucket}/a[1] b#c/latents", ("--model", tiny, *OPTIONS, "--stage", "stage")
    done = run("encode", photos, "-o", url, *arguments, "--json")
    assert (done.code, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert (report["output"], report["images"]["ok"], report["shards"]) == (url, 7, 4)
    assert json.loads(s3.get(f"{bucket}/a[1] b#c/latents/report.json")) == report
    assert stored(s3, f"{bucket}/a[1] b#c/latents") == expected(local)
    assert list((tmp_path / "stage" / "shards").iterdir()) == []
    assert json.loads(run("encode", photos, "-o", url, *arguments, "--json").stdout)["unchanged"] == 7
    assert run("verify", url, "--data", "--against", photos, "-q").code == 0


@pytest.mark.slow
def test_a_set_in_a_store_grows_with_its_stage_and_without(
    run: Run, s3: S3Server, photos: Path, tiny: Path, local: Path, bucket: str
) -> None:
    url = f"s3://{bucket}/latents"

    def encode_both(stage: str) -> None:
        for output in (["local"], [url, "--stage", stage]):
            done = run("encode", photos, "-o", *output, "--model", tiny, *OPTIONS)
            assert (done.code, done.stderr) == (0, "")
        assert stored(s3, f"{bucket}/latents") == expected(local)

    encode_both("one")
    (photos / "lake-sherburne.jpg").unlink()
    shutil.copy(photos / "roman-colosseum.jpg", photos / "new.jpg")
    encode_both("two")  # as on another machine
    shutil.copy(photos / "the-spices-of-life.jpg", photos / "roman-colosseum.jpg")
    encode_both("one")  # whose lists are out of date
    encode_both("one")


def test_a_dry_run_touches_neither_store_nor_disk(
    run: Run, s3: S3Server, photos: Path, tiny: Path, bucket: str, tmp_path: Path
) -> None:
    arguments = ("encode", photos, "-o", f"s3://{bucket}/latents", "--model", tiny, *OPTIONS)
    assert json.loads(run(*arguments, "--dry-run", "--json").stdout)["images"]["unchanged"] == 0
    assert s3.names(f"{bucket}/latents") == []
    assert run(*arguments, "--stage", "stage").code == 0
    before = stored(s3, f"{bucket}/latents")
    assert json.loads(run(*arguments, "--dry-run", "--json").stdout)["images"]["unchanged"] == 7
    assert stored(s3, f"{bucket}/latents") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "stage"]


def test_without_a_stage_there_is_one_for_each_url_in_the_cache(
    run: Run, photos: Path, tiny: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("a", "b", "a"):
        assert run("encode", photos, "-o", f"s3://{bucket}/{name}", "--model", tiny, *OPTIONS).code == 0
    stages = sorted((tmp_path / "cache" / "semdis" / "stages").iterdir())
    assert len(stages) == 2
    assert all((stage / "manifest.json").exists() and not list((stage / "shards").iterdir()) for stage in stages)


@pytest.mark.slow
def test_a_file_that_is_sent_in_parts_arrives_whole(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    data = bytes(range(251)) * 480_000  # 120 MB: s3fs sends what has 100 MiB and more in parts
    (tmp_path / "shard").write_bytes(data)
    url = Url(f"s3://{bucket}/large")
    url.put(tmp_path / "shard")
    assert re.fullmatch(r'"[0-9a-f]{32}-\d+"', s3.tag(f"{bucket}/large"))  # that of parts
    assert s3.get(f"{bucket}/large") == data
    assert url.read_bytes() == data


# ---- What is refused ----


def test_what_belongs_to_others_is_left_alone(
    run: Run, s3: S3Server, photos: Path, tiny: Path, local: Path, bucket: str
) -> None:
    def refusal(name: str, stage: str) -> str:
        before = {each: s3.get(f"{bucket}/{each}") for each in s3.names(bucket)}
        done = run("encode", photos, "-o", f"s3://{bucket}/{name}", "--model", tiny, *OPTIONS, "--stage", stage)
        assert done.code == 2
        assert before == {each: s3.get(f"{bucket}/{each}") for each in s3.names(bucket)}
        return done.stderr

    assert "holds other files (file, ...)" in refusal("other", "one")
    s3.put_folder(f"{bucket}/tensors", local)
    s3.put(f"{bucket}/tensors/columns/00000000-t5.safetensors", b"x")
    assert "has columns of tensors, with which a set in a store cannot grow: add to a copy" in refusal(
        "tensors", "four"
    )
    s3.put_folder(f"{bucket}/partial/shards", local / "shards")
    assert "parts of a set without its manifest.json" in refusal("partial", "two")
    s3.put(f"{bucket}/held/journal/stage.json", b'{"machine": "elsewhere", "token": "0"}')
    held = refusal("held", "three")
    assert "a run on elsewhere is writing there, or was stopped" in held
    assert f"delete s3://{bucket}/held/journal/stage.json" in held
    assert f"is the stage of s3://{bucket}/held; give another --stage" in refusal("else", "three")


def test_of_two_runs_that_begin_at_once_one_stops_before_it_writes(
    run: Run, s3: S3Server, photos: Path, tiny: Path, bucket: str, tmp_path: Path
) -> None:
    url = Url(f"s3://{bucket}/latents")
    first, second = (FarSet.at(url, tmp_path / name) for name in ("one", "two"))
    for each in (first, second):
        each.fetch()
    for each in (first, second):
        each.claim()
    shard = tmp_path / "00000000-1x1.safetensors"
    shard.write_bytes(b"x")
    with pytest.raises(UsageError, match="another semdis run has taken over"):
        first.take(shard)
    with pytest.raises(UsageError, match="another semdis run has taken over"):
        first.push_names(tmp_path, ["index.jsonl"])
    assert s3.names(f"{bucket}/latents") == ["journal/stage.json"]
    arguments = ("encode", photos, "-o", str(url), "--model", tiny, *OPTIONS, "--stage")
    assert "is writing there, or was stopped" in run(*arguments, "one").stderr
    assert run(*arguments, "two").code == 0


def test_other_settings_are_refused_and_nobody_is_kept_out(run: Run, photos: Path, tiny: Path, bucket: str) -> None:
    url = f"s3://{bucket}/latents"
    assert run("encode", photos, "-o", url, "--model", tiny, *OPTIONS, "--stage", "one").code == 0
    done = run("encode", photos, "-o", url, "--model", tiny, "--size", "32", "--stage", "one")
    assert done.code == 2
    assert f"semdis: {url}: begun with other settings" in done.stderr
    assert run("encode", photos, "-o", url, "--model", tiny, *OPTIONS, "--stage", "two").code == 0


def test_a_stage_without_a_url_is_refused(run: Run, photos: Path, tiny: Path) -> None:
    done = run("encode", photos, "-o", "latents", "--model", tiny, "--stage", "x")
    assert done.code == 2
    assert "goes with a URL for -o" in done.stderr


# ---- What happens meanwhile ----


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[Proxy]:
    with proxy_of(s3.address) as proxy:
        yield proxy


class _Kill:
    """Kills the run at its n-th writing request, before or after the store has heard of it."""

    def __init__(self, number: int, *, is_heard: bool) -> None:
        self._number, self._is_heard = number, is_heard
        self.client: subprocess.Popen[str] | None = None

    def __call__(self, method: str, path: str) -> Answer:
        del path
        self._number -= method in {"PUT", "POST", "DELETE"}
        if self._number >= 0:
            return Answer.PASS
        assert self.client is not None
        if self.client.poll() is None:
            os.kill(pid_of(self.client), 9)
        return Answer.LOST if self._is_heard else Answer.ERROR


@pytest.mark.slow
@pytest.mark.parametrize("is_heard", [False, True])
def test_a_run_that_is_killed_at_any_request_ends_with_the_same_bytes(
    *,
    run: Run,
    s3: S3Server,
    proxy: Proxy,
    photos: Path,
    tiny: Path,
    local: Path,
    bucket: str,
    tmp_path: Path,
    is_heard: bool,
) -> None:
    environment = os.environ | s3_environment(proxy.address)
    for number in count():
        url, stage = f"s3://{bucket}/{number}", tmp_path / f"stage-{number}"
        arguments: list[str | Path] = ["encode", photos, "-o", url, "--model", tiny, *OPTIONS, "--stage", stage]
        kill = _Kill(number, is_heard=is_heard)
        kill.client = subprocess.Popen(
            semdis(*arguments), cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
        )
        proxy.choose = kill
        kill.client.communicate(timeout=120)
        found = s3.names(f"{bucket}/{number}")
        if kill.client.returncode == 0:
            break
        if "manifest.json" in found:  # published means whole
            assert run("verify", url, "--data", "-q").code == 0
        done = run(*arguments)
        assert (done.code, done.stderr) == (0, "")
        assert stored(s3, f"{bucket}/{number}") == expected(local)
        assert list((stage / "shards").iterdir()) == []
    assert number == 1 + 4 + 5 + 1 + 1  # claim, shards, lists, report; and the claim's end


@pytest.mark.slow
def test_a_store_that_refuses_for_good_costs_nothing_that_is_encoded(
    s3: S3Server, proxy: Proxy, photos: Path, tiny: Path, local: Path, bucket: str, tmp_path: Path
) -> None:
    environment = os.environ | s3_environment(proxy.address) | {"AWS_MAX_ATTEMPTS": "2"}
    command = semdis(
        "encode", photos, "-o", f"s3://{bucket}/latents", "--model", tiny, *OPTIONS, "--stage", "stage", "--json"
    )

    def encode() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    proxy.choose = lambda method, path: Answer.ERROR if method == "PUT" and "/shards/" in path else Answer.PASS
    done = encode()
    assert done.returncode == 2
    assert "what is encoded is kept: the same command again continues" in done.stderr
    assert "manifest.json" not in s3.names(f"{bucket}/latents")
    kept = len(list((tmp_path / "stage" / "shards").iterdir()))
    assert kept > 0
    proxy.choose = lambda _method, _path: Answer.PASS
    done = encode()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"]["this_run"] <= 7 - kept
    assert stored(s3, f"{bucket}/latents") == expected(local)


@pytest.mark.slow
def test_two_processes_make_the_set_of_one_from_a_store_and_in_it(
    s3: S3Server, bucket: str, photos: Path, local: Path, tiny: Path, tmp_path: Path
) -> None:
    for path in filter(Path.is_file, photos.rglob("*")):
        s3.put(f"{bucket}/photos/{path.relative_to(photos)}", path.read_bytes())
    options = (*OPTIONS, "--stage", "stage", "--processes", "2", "--device", "cpu")
    arguments = ("encode", f"s3://{bucket}/photos", "-o", f"s3://{bucket}/set", "--model", str(tiny), *options)
    done = subprocess.run(semdis(*arguments), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(s3.get(f"{bucket}/set/report.json"))["processes"] == 2
    assert stored(s3, f"{bucket}/set") == expected(local)
