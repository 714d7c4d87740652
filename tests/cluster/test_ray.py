"""Runs by a Ray cluster: the bytes of one process, whatever nodes come, and go."""

import json
import os
import shutil
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from semdis_cli.errors import MissingExtraError, UsageError
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.on_ray.cluster import check_address
from semdis_cli.pipeline.on_ray.record import DistantTokenizer, in_cluster
from semdis_cli.pipeline.on_ray.resources import actors_on
from semdis_cli.pipeline.report import compute_record
from semdis_cli.settings import ProcessSettings, TokenizerSettings
from tests.cli.conftest import Outcome, semdis
from tests.cluster import RayCluster, cluster_in
from tests.extras import needs
from tests.store import flip_last_bit, lasting
from tests.torture.harness import PROJECT, encode_arguments, make_images, wait_for_shards, wait_until_settled

NUM_IMAGES, SHARD_IMAGES = 480, 4
IN_CLUSTER = ("--engine", "ray", "--device", "cpu", "--address")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wait_until_settled(make_images(tmp_path_factory.mktemp("images") / "many", NUM_IMAGES))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, many: Path, tiny: Path) -> Path:
    """The set that one process makes."""
    output = tmp_path_factory.mktemp("alone") / "latents"
    done = semdis(*arguments(many, output, tiny), cwd=PROJECT)
    assert done.code == 0, done.stderr
    return output


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    needs("ray")
    yield from cluster_in(tmp_path_factory.mktemp("r"))  # short: sockets lie in it


def arguments(images: Path, output: Path, model: Path, *more: str) -> list[str]:
    return encode_arguments(images, output, model, *(more or ("--device", "cpu")), shard_images=SHARD_IMAGES)


def begin(cluster: RayCluster, images: Path, output: Path, model: Path, *more: str) -> "subprocess.Popen[str]":
    command = [str(Path(sys.executable).with_name("semdis"))]
    command += arguments(images, output, model, *IN_CLUSTER, cluster.address, *more)
    with said_by(output).open("w") as stderr:
        return subprocess.Popen(command, cwd=PROJECT, env=cluster.env, stderr=stderr, text=True)


def said_by(output: Path) -> Path:
    """Return the file in which a run into `output` says what it has to say."""
    return output.with_suffix(".stderr")


def end_of(process: "subprocess.Popen[str]", output: Path) -> Outcome:
    process.wait(timeout=240)
    return Outcome(process.returncode, "", said_by(output).read_text())


def run(cluster: RayCluster, images: Path, output: Path, model: Path, *more: str) -> Outcome:
    return end_of(begin(cluster, images, output, model, *more), output)


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- without a cluster ---


def test_ray_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'semdis\[ray\]'"):
        check_address(None)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1:1", "127.0.0.1:1: no Ray cluster answers there"),
        ("nowhere", "no Ray cluster answers there"),
        ("ray://head:10001", "is not the HOST:PORT of a head"),
        ("http://head:8265", "use ray job submit"),
    ],
)
def test_an_address_of_nothing_is_refused_before_anything_is_listed(tmp_path: Path, address: str, why: str) -> None:
    needs("ray")
    done = semdis("encode", "no-such-folder", "--engine", "ray", "--address", address, cwd=tmp_path)
    assert done.code == 2
    assert why in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--engine", "ray", "--devices", "0"], "does not go with --engine ray"),
        (["--gpus-per-worker", "0.5"], "goes with --engine ray"),
        (["--cpus-per-worker", "2"], "goes with --engine ray"),
        (["--engine", "ray", "-o", "-"], "does not go with -"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path: Path, options: list[str], why: str) -> None:
    done = semdis("encode", "photos", *options, cwd=tmp_path)
    assert done.code == 2
    assert why in " ".join(done.stderr.replace("│", " ").split())


def test_a_part_of_a_gpu_is_from_a_hundredth_to_all_of_one() -> None:
    assert ProcessSettings(engine="ray", gpus_per_worker=0.25).is_given
    for number in (0.0, 1.5):
        with pytest.raises(UsageError, match="gpus-per-worker"):
            ProcessSettings(engine="ray", gpus_per_worker=number)


def test_as_many_actors_go_onto_a_node_as_the_scarcest_resource_allows() -> None:
    node = {"CPU": 16.0, "GPU": 2.0}
    assert actors_on(node, {"CPU": 1, "GPU": 0}) == 16
    assert actors_on(node, {"CPU": 4, "GPU": 0.5}) == 4
    assert actors_on(node, {"CPU": 12, "GPU": 0.5}) == 1
    assert actors_on({"CPU": 16.0}, {"CPU": 1, "GPU": 1}) == 0


# --- with one ---


@pytest.mark.slow
def test_two_nodes_make_the_set_of_one_process_and_its_images(
    cluster: RayCluster, many: Path, tiny: Path, tmp_path: Path, alone: Path
) -> None:
    cluster.begin()
    cluster.join()
    done = run(cluster, many, tmp_path / "latents", tiny)
    assert done.code == 0, done.stderr
    assert "480 images" in done.stderr
    assert all(line.startswith("semdis: ") for line in done.stderr.splitlines()), "nothing of Ray's is seen"
    assert lasting(tmp_path / "latents") == lasting(alone)
    how = (*IN_CLUSTER, cluster.address)
    for name, more in (("ray", how), ("here", ("--device", "cpu"))):
        again = semdis("decode", alone, "-o", tmp_path / name, *more, cwd=tmp_path, env=cluster.env)
        assert again.code == 0, again.stderr
    assert lasting(tmp_path / "ray") == lasting(tmp_path / "here")
    few = wait_until_settled(make_images(tmp_path / "few", 12))
    for name, more in (("trip", how), ("trip-here", ("--device", "cpu"))):
        again = semdis("roundtrip", few, "-o", tmp_path / name, "--model", tiny, *more, cwd=tmp_path, env=cluster.env)
        assert again.code == 0, again.stderr
    assert lasting(tmp_path / "trip") == lasting(tmp_path / "trip-here")
    for form in ("webdataset", "npy"):
        for name, who in ((f"{form}-ray", ("--engine", "ray", "--address", cluster.address)), (f"{form}-here", ())):
            command = "export", alone, "-o", tmp_path / name, "--format", form, "--tar-size", "1"
            again = semdis(*command, *who, cwd=tmp_path, env=cluster.env)
            assert again.code == 0, again.stderr
        assert lasting(tmp_path / f"{form}-ray") == lasting(tmp_path / f"{form}-here")


@pytest.mark.slow
def test_two_nodes_find_what_one_process_finds_in_a_set_and_say_where_it_is_not_seen(
    cluster: RayCluster, tmp_path: Path, alone: Path
) -> None:
    root = shutil.copytree(alone, tmp_path / "latents")
    shards = sorted((root / "shards").iterdir())
    for number in (1, 40, 90):
        flip_last_bit(shards[number])
    shards[60].unlink()
    cluster.begin()
    cluster.join()
    how = "--data", "--engine", "ray", "--address", cluster.address
    here = semdis("verify", root, "--data", "--json", cwd=tmp_path)
    there = semdis("verify", root, *how, "--json", cwd=tmp_path, env=cluster.env)
    assert here.code == there.code == 4, there.stderr
    found, expected = ([json.loads(line) for line in done.stdout.splitlines()] for done in (there, here))
    for report in (found[-1], expected[-1]):
        del report["elapsed_s"]
    assert found == expected
    assert len(expected) > 4
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        return  # no mounts of its own for a process here
    cluster.join(hiding=root)
    refused = semdis("verify", root, *how, cwd=tmp_path, env=cluster.env)
    assert refused.code == 2, refused.stderr
    assert f"does not see the folder {root}" in refused.stderr.splitlines()[-1]


@pytest.mark.slow
def test_one_process_several_parts_and_a_cluster_make_one_set(
    cluster: RayCluster, many: Path, tiny: Path, tmp_path: Path, alone: Path
) -> None:
    on_cpu = "--device", "cpu"
    ways: dict[str, list[tuple[str, ...]]] = {
        "processes": [(*on_cpu, "--processes", "2")],
        "parts": [(*on_cpu, "--part", f"{index}/3") for index in (2, 0, 1)],
        "parts of processes": [(*on_cpu, "--processes", "2", "--part", f"{index}/2") for index in range(2)],
    }
    for name, runs in ways.items():
        for more in runs:
            done = semdis(*arguments(many, tmp_path / name, tiny, *more), cwd=PROJECT)
            assert done.code == 0, done.stderr
    cluster.begin()
    cluster.join()
    begun = semdis(*arguments(many, tmp_path / "cluster", tiny, *on_cpu, "--part", "1/4"), cwd=PROJECT)
    assert begun.code == 0, begun.stderr
    for part in ("0/4", "2/4", "3/4"):
        done = run(cluster, many, tmp_path / "cluster", tiny, "--part", part)
        assert done.code == 0, done.stderr
    sets = {name: lasting(tmp_path / name) for name in (*ways, "cluster")}
    assert all(found == lasting(alone) for found in sets.values())


@pytest.mark.slow
def test_a_node_that_is_killed_costs_nothing_and_one_that_joins_late_gets_work(
    cluster: RayCluster, many: Path, tiny: Path, tmp_path: Path, alone: Path
) -> None:
    first, second = cluster.begin(), cluster.join()
    process = begin(cluster, many, tmp_path / "latents", tiny)
    wait_for_shards(tmp_path / "latents", 6, process)  # of one of them at least
    with first.paused():
        second.kill()
        num_shards = len(list((tmp_path / "latents/shards").iterdir()))
        cluster.join()
        wait_for_shards(tmp_path / "latents", num_shards + 6, process)
    done = end_of(process, tmp_path / "latents")
    assert done.code == 0, done.stderr
    assert lasting(tmp_path / "latents") == lasting(alone)
    assert not list((tmp_path / "latents").glob(".*")), "the token is gone"


@pytest.mark.slow
def test_a_head_that_dies_ends_the_run_in_a_line_and_any_run_goes_on(
    cluster: RayCluster, many: Path, tiny: Path, tmp_path: Path, alone: Path
) -> None:
    head = cluster.begin()
    cluster.join()
    process = begin(cluster, many, tmp_path / "latents", tiny)
    wait_for_shards(tmp_path / "latents", 6, process)
    for node in (*cluster.nodes[1:], head):  # the other first, or it might do the rest
        node.kill()
    done = end_of(process, tmp_path / "latents")
    assert done.code == 6, done.stderr
    last = done.stderr.splitlines()[-1]
    assert "does not answer any more" in last
    assert "what is done is kept: run the same command again" in last
    again = semdis(*arguments(many, tmp_path / "latents", tiny), cwd=PROJECT)
    assert again.code == 0, again.stderr
    assert "images done before, going on" in again.stderr
    assert lasting(tmp_path / "latents") == lasting(alone)


@pytest.mark.slow
def test_actors_that_die_again_and_again_end_the_run_and_what_is_done_is_kept(
    cluster: RayCluster, many: Path, tiny: Path, tmp_path: Path, alone: Path
) -> None:
    node = cluster.begin()
    process = begin(cluster, many, tmp_path / "latents", tiny, "--processes", "1")
    wait_for_shards(tmp_path / "latents", 4, process)
    killed: set[int] = set()
    while process.poll() is None:
        for pid in node.workers():
            if pid not in killed:
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    done = end_of(process, tmp_path / "latents")
    assert done.code == 6, done.stderr
    assert "actors died" in done.stderr.splitlines()[-1]
    assert "run the same command again" in done.stderr.splitlines()[-1]
    again = run(cluster, many, tmp_path / "latents", tiny)
    assert again.code == 0, again.stderr
    assert "images done before, going on" in again.stderr
    assert lasting(tmp_path / "latents") == lasting(alone)


@pytest.mark.slow
def test_a_run_that_is_interrupted_keeps_what_is_done(
    cluster: RayCluster, many: Path, tiny: Path, tmp_path: Path, alone: Path
) -> None:
    node = cluster.begin(2)
    process = begin(cluster, many, tmp_path / "latents", tiny, "--cpus-per-worker", "2")
    wait_for_shards(tmp_path / "latents", 4, process)
    process.send_signal(signal.SIGINT)
    done = end_of(process, tmp_path / "latents")
    assert done.code == 130, done.stderr
    deadline = time.monotonic() + 20
    while node.workers():
        assert time.monotonic() < deadline, "an actor outlives the run"
        time.sleep(0.1)
    again = run(cluster, many, tmp_path / "latents", tiny)
    assert again.code == 0, again.stderr
    assert "images done before, going on" in again.stderr
    assert lasting(tmp_path / "latents") == lasting(alone)


class _Silent(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        time.sleep(30)


@pytest.mark.slow
def test_what_is_no_cluster_and_clusters_of_other_versions_are_refused_in_a_line(
    cluster: RayCluster, many: Path, tiny: Path, tmp_path: Path
) -> None:
    with socketserver.ThreadingTCPServer(("", 0), _Silent) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_address[1]}"
        started = time.monotonic()
        done = semdis(*arguments(many, tmp_path / "a", tiny, *IN_CLUSTER, address), cwd=PROJECT, env=cluster.env)
        server.shutdown()
    assert done.code == 2, done.stderr
    assert f"{address}: what listens there does not answer as a Ray cluster" in done.stderr.splitlines()[-1]
    assert time.monotonic() - started < 90
    cluster.begin(version="2.1.0")
    done = run(cluster, many, tmp_path / "b", tiny)
    assert done.code == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert "Version mismatch" in last
    assert "2.1.0" in last


@pytest.mark.slow
def test_a_node_with_other_folders_is_named_before_work(
    cluster: RayCluster, many: Path, tiny: Path, tmp_path: Path
) -> None:
    """Here the second node has its own, empty folder where the images are, and one where the output is."""
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no mounts of its own for a process here")
    cluster.begin()
    refuse = partial(run, cluster, many, model=tiny)
    for hidden, why in ((many, "does not see the sources"), (tmp_path, "does not see the folder")):
        node = cluster.join(hiding=hidden)
        done = refuse(output=tmp_path / "latents")
        assert done.code == 2, done.stderr
        last = done.stderr.splitlines()[-1]
        assert "node " in last
        assert why in last
        node.kill()
    assert not list((tmp_path / "latents").glob("shards/*"))


@pytest.mark.slow
def test_a_node_of_another_version_is_refused_before_work_and_left_out_when_it_comes_late(
    cluster: RayCluster, many: Path, tiny: Path, tmp_path: Path, alone: Path
) -> None:
    head = cluster.begin()
    process = begin(cluster, many, tmp_path / "latents", tiny)
    wait_for_shards(tmp_path / "latents", 4, process)
    with head.paused():
        cluster.join(packages={"pillow": "1.1.7"})
        wait_until(lambda: "left out: " in said_by(tmp_path / "latents").read_text())
    done = end_of(process, tmp_path / "latents")
    assert done.code == 0, done.stderr
    assert lasting(tmp_path / "latents") == lasting(alone)
    [line] = [line for line in done.stderr.splitlines() if "left out: node " in line]
    assert "reader: pillow" in line
    assert "-> pillow 1.1.7" in line
    again = run(cluster, many, tmp_path / "other", tiny)
    assert again.code == 2, again.stderr
    assert "would make other latents" in again.stderr.splitlines()[-1]
    assert not list((tmp_path / "other").glob("shards/*"))


@pytest.mark.slow
def test_gpus_that_are_not_what_the_cluster_says_are_named_with_their_node(
    cluster: RayCluster, many: Path, tiny: Path, tmp_path: Path
) -> None:
    cluster.begin(1, "--num-gpus", "1")
    how = ("--engine", "ray", "--gpus-per-worker", "0.5", "--address", cluster.address)
    done = semdis(*arguments(many, tmp_path / "latents", tiny, *how), cwd=PROJECT, env=cluster.env)
    assert done.code == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert "node " in last
    assert "cuda" in last


@pytest.mark.slow
def test_how_the_cluster_computes_is_asked_of_it_where_this_machine_cannot_know(
    cluster: RayCluster, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.begin()
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, cluster.env[name])
    here = Tokenizer.load(str(tiny), TokenizerSettings(device="cpu", dtype="bfloat16"))
    other = Tokenizer.load(str(tiny), TokenizerSettings(device="cpu", dtype="float32"))
    there = in_cluster(here, ProcessSettings(engine="ray", address=cluster.address), "cpu")
    assert compute_record(there) == compute_record(here) != compute_record(other)
    assert compute_record(DistantTokenizer(other, there._record)) == compute_record(here)
