"""What a bench measures, on a tiny model and small images: that everything is there, finite, and adds up."""

import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from semdis_cli.bench import stages as stages_module
from semdis_cli.bench.end_to_end import Costs, run_decode, run_encode, summarise
from semdis_cli.bench.limit import Reached, Spread, explain, find_limit
from semdis_cli.bench.machine import GemmRate, describe_machine, intra_op_threads, measure_gemm
from semdis_cli.bench.model import measure_decode, measure_encode, measure_own_gemm
from semdis_cli.bench.peers import check_size, measure_peer
from semdis_cli.bench.processes import Request, ask_child, measure_start_up, peak_memory
from semdis_cli.bench.sample import gather_images, middle_size, repeated, spread_out
from semdis_cli.bench.stages import Picture, Stages, measure_stages
from semdis_cli.bench.timing import Effort, StageBench
from semdis_cli.errors import UsageError
from semdis_cli.images.formats.jpeg.decoder import jpeg_decoder
from semdis_cli.images.loader import Loader
from semdis_cli.images.synthetic import jpeg_of
from semdis_cli.model.peers import PEERS, find_peer, make_peer
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.calls import EncodedCall, ImageCall, start_workers
from semdis_cli.pipeline.decode import sampling_of
from semdis_cli.pipeline.workers import Workers
from semdis_cli.records import PlannedImage, SourceImage
from semdis_cli.settings import (
    DecodeSettings,
    EncodeSettings,
    GeometrySettings,
    LoadSettings,
    SamplingSettings,
    TokenizerSettings,
)
from semdis_cli.sources.files import ON_DISK
from semdis_cli.sources.find import find_images
from semdis_cli.store.shards import Shard

EFFORT = Effort(num_warmup_rounds=0, num_rounds=2, round_s=1e-3)
LOAD = LoadSettings(GeometrySettings(size=32))
ENCODING = EncodeSettings(num_workers=2)
DECODING = DecodeSettings(SamplingSettings(num_steps=2, pdg=True), num_workers=2)
SAMPLING = sampling_of(DECODING)
RUN = asdict(TokenizerSettings(device="cpu", dtype="float32", batch_size=2))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images of two shapes."""
    folder = tmp_path_factory.mktemp("photos")
    for number, size in enumerate([(48, 40), (40, 64), (48, 40), (40, 64)]):
        (folder / f"{number}.jpg").write_bytes(jpeg_of(size, seed=number))
    return folder


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Tokenizer:
    return Tokenizer.load(str(tiny), TokenizerSettings(device="cpu", dtype="float32", batch_size=2))


@pytest.fixture(scope="module")
def workers(tokenizer: Tokenizer) -> Iterator[Workers]:
    with start_workers(tokenizer, 2) as started:
        yield started


@pytest.fixture
def loader() -> Iterator[Loader]:
    with Loader(LOAD, 16, 2) as loader:
        yield loader


def figures(value: Any) -> Iterator[float]:
    """All numbers in plain JSON values."""
    if isinstance(value, dict):
        for part in value.values():
            yield from figures(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from figures(part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


# ---- The machine and the model ----


def test_the_machine_says_what_it_is() -> None:
    machine = describe_machine(torch.device("cpu"))
    assert machine.num_cores >= 1
    assert machine.memory_mib > 100
    assert machine.processor
    assert machine.accelerator is None
    assert machine.jpeg_decoder == jpeg_decoder()
    assert machine.versions["torch"].partition("+")[0] == torch.__version__.partition("+")[0]  # some name no build
    json.dumps(asdict(machine))


def test_matrix_products_are_timed_both_ways_and_the_better_one_counts(workers: Workers) -> None:
    gemm = measure_gemm(torch.device("cpu"), torch.float32, workers, EFFORT)
    assert gemm.call_a_core_tflop_per_s is not None
    rates = [gemm.one_call_tflop_per_s.median, gemm.call_a_core_tflop_per_s.median]
    assert gemm.tflop_per_s == max(rates)
    assert min(rates) > 1e-4
    assert (gemm.side, gemm.dtype) == (2048, "float32")


def test_threads_of_a_call_are_put_back_afterwards_also_after_an_error() -> None:
    def fail() -> None:
        with intra_op_threads(before + 1):
            assert torch.get_num_threads() == before + 1
            raise KeyError

    before = torch.get_num_threads()
    with pytest.raises(KeyError):
        fail()
    assert torch.get_num_threads() == before


def test_the_model_is_timed_with_its_arithmetic_beside_it(tokenizer: Tokenizer, workers: Workers) -> None:
    gemm = measure_gemm(torch.device("cpu"), torch.float32, workers, EFFORT)
    encode = measure_encode(tokenizer, (32, 64), gemm, workers, EFFORT)
    decode = measure_decode(tokenizer, (32, 64), SAMPLING, gemm, workers, EFFORT)
    for speed in (encode, decode):
        assert (speed.height_px, speed.width_px, speed.images_per_call, speed.num_calls_at_once) == (32, 64, 2, 2)
        assert all(math.isfinite(one) and one > 0 for one in figures(asdict(speed)))
        assert speed.tflop_per_s == pytest.approx(speed.images_per_s.median * speed.gflop_per_image / 1000)
        assert speed.share_of_gemm == pytest.approx(speed.tflop_per_s / gemm.tflop_per_s)
        assert speed.megapixels_per_s.median == pytest.approx(speed.images_per_s.median * 32 * 64 / 1e6)
    assert encode.gflop_per_image == tokenizer.encode_flops(32, 64) / 1e9
    assert decode.gflop_per_image == tokenizer.decode_flops(32, 64, 2, pdg=True) / 1e9


def test_the_products_of_a_models_own_blocks_are_timed(tokenizer: Tokenizer, workers: Workers) -> None:
    own = measure_own_gemm(tokenizer, (32, 64), workers, EFFORT)
    config = tokenizer.model.config
    assert own.rows == 2 * (32 // config.patch_size) * (64 // config.patch_size)
    assert (own.model_dim, own.hidden_dim) == (config.model_dim, config.hidden_dim)
    rates = own.up_tflop_per_s.median, own.down_tflop_per_s.median
    assert 0 < min(rates) <= own.tflop_per_s <= max(rates)


def test_products_that_were_measured_at_two_times_count_both() -> None:
    slow, fast = (GemmRate(2048, "float32", Spread(rate, rate, rate, 1), None) for rate in (1.0, 3.0))
    both = slow.and_again(fast)
    assert both.one_call_tflop_per_s == Spread(2.0, 1.0, 3.0, 2)
    assert (both.side, both.dtype, both.call_a_core_tflop_per_s, both.tflop_per_s) == (2048, "float32", None, 2.0)


# ---- The images ----


def test_images_are_taken_from_all_over_a_folder() -> None:
    images = tuple(SourceImage(f"{number:02d}", ON_DISK, "", 0) for number in range(10))
    assert [image.key for image in spread_out(images, 4)] == ["00", "02", "05", "07"]
    assert spread_out(images, 10) == spread_out(images, 99) == list(images)


def test_the_middle_size_has_as_many_larger_as_smaller_ones_beside_it() -> None:
    sizes = [(64, 64), (16, 16), (32, 48), (1024, 1024), (32, 32)]
    images = [PlannedImage(SourceImage(f"{number}", ON_DISK, "", 0), size) for number, size in enumerate(sizes)]
    assert middle_size(images) == (32, 48)


def test_images_that_cannot_be_used_are_passed_over_and_counted(photos: Path, loader: Loader, tmp_path: Path) -> None:
    for path in photos.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "4.jpg").write_bytes(b"no image")
    (tmp_path / "5.jpg").write_bytes((photos / "0.jpg").read_bytes()[:-200])
    sample = gather_images(tmp_path, 99, loader, tmp_path / "unused")
    assert [image.key for image in sample.found.images] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert sample.num_unusable == 2
    assert sample.num_bytes == sum(path.stat().st_size for path in photos.iterdir())
    assert sample.size == (32, 32)
    assert not (tmp_path / "unused").exists()


@pytest.mark.parametrize("name", ["empty", "bad"])
def test_a_folder_without_an_image_that_can_be_used_is_refused(name: str, loader: Loader, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    if name == "bad":
        (folder / "bad.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=rf"{name}: no image that can be used \(.+\)"):
        gather_images(folder, 8, loader, tmp_path / "unused")


def test_repeated_images_have_keys_of_their_own_and_the_same_mixture(photos: Path) -> None:
    found = find_images([photos])
    thrice = repeated(found, 3)
    assert len({image.key for image in thrice.images}) == 12
    assert [image.key for image in thrice.images] == sorted(image.key for image in thrice.images)
    assert {image.place for image in thrice.images} == {image.place for image in found.images}


# ---- Stages and whole runs ----


@pytest.fixture(scope="module")
def stages(photos: Path, tokenizer: Tokenizer, workers: Workers, tmp_path_factory: pytest.TempPathFactory) -> Stages:
    bench = StageBench(4, workers, tokenizer.is_on_cpu, EFFORT)
    verbs = (ENCODING, DECODING)
    with Loader(LOAD, 16, 2) as loader:
        folder = tmp_path_factory.mktemp("stages")
        return measure_stages(find_images([photos]), loader, tokenizer, verbs, bench, folder)


def test_every_stage_has_its_cost(stages: Stages) -> None:
    assert [one.name for one in stages.encode] == ["reading images", "model encode", "writing latents"]
    assert [one.name for one in stages.decode] == [
        "reading latents",
        "model decode",
        "writing images",
        "publishing files",
    ]
    assert set(stages.other_formats) == {"jpg", "webp"}
    assert stages.scaled_reading is not None
    assert stages.scaled_reading.name == stages.encode[0].name
    for cost in (*stages.encode, *stages.decode, *stages.other_formats.values(), stages.scaled_reading):
        assert cost.num_images == 4
        assert cost.images_per_s == pytest.approx(cost.num_threads / cost.thread_s_per_image.median)
        assert 0 < cost.thread_s_per_image.median < math.inf
        assert cost.cpu_s_per_image >= 0
    assert [one.resource for one in stages.decode] == ["cores", "cores", "cores", "disk"]
    assert stages.megapixels_per_image == 32 * 32 / 1e6


@pytest.mark.parametrize("num_images", [1, 3, 4])
def test_model_calls_are_full_as_in_a_long_run_and_every_thread_has_work(
    photos: Path,
    tokenizer: Tokenizer,
    workers: Workers,
    loader: Loader,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_images: int,
) -> None:
    sizes: dict[str, list[int]] = {"encode": [], "decode": []}
    do_encode, do_decode = stages_module.encode_images, stages_module.decode_latents

    def encode(call: ImageCall, *others: Any) -> EncodedCall:
        sizes["encode"].append(len(call.images))
        return do_encode(call, *others)

    def decode(call: Shard, *others: Any) -> list[Picture]:
        sizes["decode"].append(len(call.keys))
        return do_decode(call, *others)

    monkeypatch.setattr(stages_module, "encode_images", encode)
    monkeypatch.setattr(stages_module, "decode_latents", decode)
    found = find_images([photos])
    found = replace(found, images=found.images[:num_images])
    bench = StageBench(num_images, workers, tokenizer.is_on_cpu, replace(EFFORT, num_rounds=1))
    measure_stages(found, loader, tokenizer, (ENCODING, DECODING), bench, tmp_path)
    for verb in ("encode", "decode"):
        assert set(sizes[verb]) == {2}
        assert len(sizes[verb]) >= 4


def test_tasks_of_copies_and_tasks_that_are_repeated_count_once(workers: Workers) -> None:
    bench = StageBench(2, workers, is_on_cpu=True, effort=replace(EFFORT, num_rounds=1))
    sleep = partial(time.sleep, 0.02)
    for copies in (1, 5):
        for num_tasks in (copies, 4 * copies):
            _, cost = bench.run("reading images", [sleep] * num_tasks, [copies] * num_tasks)
            seconds = 0.02 * num_tasks / copies / 2  # of one copy of two images
            assert seconds <= cost.thread_s_per_image.median < 3 * seconds


def test_an_image_that_cannot_be_used_ends_the_bench(
    photos: Path, tokenizer: Tokenizer, workers: Workers, loader: Loader, tmp_path: Path
) -> None:
    found = find_images([photos])
    lost = replace(found.images[1], place=str(tmp_path / "gone.jpg"))
    bench = StageBench(4, workers, tokenizer.is_on_cpu, EFFORT)
    with pytest.raises(UsageError, match=r"1\.jpg: .+; measure with images that can be used"):
        measure_stages(
            replace(found, images=(lost, *found.images[2:])), loader, tokenizer, (ENCODING, DECODING), bench, tmp_path
        )


def test_whole_runs_are_measured_against_their_limit(
    photos: Path, tokenizer: Tokenizer, loader: Loader, stages: Stages, tmp_path: Path
) -> None:
    found = repeated(find_images([photos]), 2)
    latents, output = tmp_path / "latents", tmp_path / "decoded"
    encoded = [run_encode(found, loader, tokenizer, ENCODING, latents) for _ in range(2)]
    decoded = [run_decode(latents, tokenizer, DECODING, output) for _ in range(2)]
    assert len(list(output.rglob("*.png"))) == 8
    for verb, runs, costs in (("encode", encoded, stages.encode), ("decode", decoded, stages.decode)):
        half = [  # of its speed the machine had in the second run
            replace(cost, images_per_s=cost.images_per_s / 2, cpu_s_per_image=cost.cpu_s_per_image * 2)
            for cost in costs
        ]
        limit, slower = find_limit(costs, 2), find_limit(half, 2)
        whole = summarise(verb, runs, Costs(costs, [costs, half]), 2, [])
        shares = [run.images_per_s / near.images_per_s for run, near in zip(runs, (limit, slower), strict=True)]
        assert whole.num_images == 8
        assert whole.images_per_s.num_rounds == 2
        assert whole.share_of_limit == Spread.of(shares)
        assert whole.limit == limit
        assert whole.explanation == explain(
            verb, limit, Reached(whole.share_of_limit.median, whole.busy_shares["wait"]), []
        )
        assert set(whole.busy_shares) == {"read", "encode", "decode", "write", "wait"}
        assert all(0 <= share <= 1.01 for share in whole.busy_shares.values())
        assert all(math.isfinite(one) and one >= 0 for one in figures(asdict(whole)))


def test_a_run_in_which_images_fail_is_no_measurement(
    photos: Path, tokenizer: Tokenizer, loader: Loader, tmp_path: Path
) -> None:
    found = find_images([photos])
    lost = replace(found.images[0], place=str(tmp_path / "gone.jpg"))
    with pytest.raises(UsageError, match="1 image failed"):
        run_encode(replace(found, images=(lost,)), loader, tokenizer, ENCODING, tmp_path / "latents")


# ---- Fresh processes ----


@pytest.mark.slow
def test_fresh_processes_tell_how_long_each_step_took_and_their_memory(tiny: Path, tmp_path: Path) -> None:
    answers = [
        ask_child(Request(verb, str(tiny), None, RUN, 2, (32, 32), asdict(SAMPLING))) for verb in ("encode", "decode")
    ]
    for steps in answers:
        seconds = (steps.import_torch_s, steps.import_rest_s, steps.load_model_s, steps.first_call_s)
        assert all(0 < one < math.inf for one in seconds)
        assert steps.peak_memory_mib >= (steps.loaded_mib or 0) > 50
        assert "fresh process" in steps.memory_kind
    memory = peak_memory(*answers)
    assert (memory.encode_mib, memory.decode_mib) == tuple(steps.peak_memory_mib for steps in answers)
    (tmp_path / "one.jpg").write_bytes(jpeg_of((32, 32)))
    start = measure_start_up(tmp_path / "one.jpg", ["--model", str(tiny)], answers[0], tmp_path, num_runs=1)
    assert min(start.help_s.median, start.first_image_s.median) > 0
    assert start.import_torch_s == answers[0].import_torch_s
    assert start.rest_s >= 0


@pytest.mark.slow
def test_a_process_that_fails_says_why_and_takes_no_module_from_the_working_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "torch.py").write_text("raise RuntimeError('not this one')")
    monkeypatch.chdir(tmp_path)
    request = Request("encode", str(tmp_path), None, RUN, 1, (32, 32), {})
    with pytest.raises(UsageError, match=r"semdis_cli\.bench\.processes ended with 1: .*config\.json"):
        ask_child(request)


# ---- Peers ----


@pytest.mark.parametrize(("name", "good", "bad"), [("flux2", 24, 20), ("sd", 8, 12), ("dcae", 64, 48)])
def test_a_size_that_a_peer_cannot_take_is_refused(name: Any, good: int, bad: int) -> None:
    check_size(name, (good, 2 * good))
    with pytest.raises(UsageError, match=rf"--against {name}: .* multiples of \d+, not {good}x{bad}"):
        check_size(name, (good, bad))


def test_a_peer_without_its_package_is_refused_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)  # as if it were not installed
    with pytest.raises(
        UsageError, match=r"--against sd needs diffusers: pip install 'semdis\[peers\]' \(.*diffusers.*\)"
    ):
        find_peer("sd", "--against sd")


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
@pytest.mark.filterwarnings("ignore")  # of another project
def test_a_peer_is_run_beside_the_model(name: Any, tokenizer: Tokenizer, workers: Workers) -> None:
    pytest.importorskip("diffusers")
    speed = measure_peer(name, tokenizer, (64, 64), SAMPLING, workers, EFFORT)
    assert speed.num_parameters == sum(
        one.numel() for one in make_peer(name, torch.device("cpu"), torch.float32, "--against").network.parameters()
    )
    assert 50e6 < speed.num_parameters < 400e6
    for both in (speed.encode, speed.decode):
        assert both.ratio.median > 0
        assert both.peer_images_per_s.median > 0
