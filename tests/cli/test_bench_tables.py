"""What `semdis bench` shows of its figures: tables, sentences and the picture, from figures made up for it."""

import io
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from PIL import Image

from semdis_cli.bench.bench import BenchReport
from semdis_cli.bench.end_to_end import EndToEnd
from semdis_cli.bench.limit import Resource, Spread, StageCost, find_limit
from semdis_cli.bench.machine import GemmRate, Machine
from semdis_cli.bench.model import ModelSpeed, OwnGemmRate
from semdis_cli.bench.peers import Comparison, PeerSpeed
from semdis_cli.bench.processes import PeakMemory, StartUp
from semdis_cli.bench.stages import Stages
from semdis_cli.cli.bench import draw
from semdis_cli.cli.bench_tables import bench_text
from tests.extras import needs


def exactly(value: float) -> Spread:
    """A figure that was measured once."""
    return Spread(value, value, value, 1)


def stage(name: str, thread_s: float, resource: Resource = "cores") -> StageCost:
    return StageCost.of(name, resource, 2, 8, [(8 * thread_s, 0.0)])


ENCODE = (stage("reading images", 0.03), stage("model encode", 0.01))
DECODE = (stage("model decode", 0.04), stage("writing images", 0.01), stage("publishing files", 0.002, "disk"))


def run_of(stages: tuple[StageCost, ...], share: float) -> EndToEnd:
    limit = find_limit(stages, 2)
    rate = share * limit.images_per_s
    busy = {"read": 0.5, "encode": 0.25, "decode": 0.0, "write": 0.05, "wait": 0.2}
    return EndToEnd(
        40, exactly(40 / rate), exactly(rate), exactly(rate / 16), limit, exactly(share), busy, "It is as it is."
    )


def speed(images_per_s: float) -> ModelSpeed:
    spread = Spread(images_per_s, images_per_s - 1, images_per_s + 1, 3)
    return ModelSpeed(256, 512, 2, 2, spread, exactly(images_per_s / 8), exactly(0.0123), 10.0, 0.5, 0.4)


REPORT = BenchReport(
    machine=Machine("system", "An Abacus", 2, 1000, None, None, "3.12.0", "simplejpeg 1.9.0", {"torch": "2.13.0"}),
    settings={"model": {"name": "some-model", "weights_sha256": "0123456789abcdef"}, "workers": 2},
    images={"source": "synthetic", "num_images": 8, "mean_file_bytes": 1.5 * 2**20, "mean_input_megapixels": 0.13},
    gemm=GemmRate(2048, "bfloat16", exactly(1.0), exactly(1.25)),
    own_gemm=OwnGemmRate(16384, 896, 3584, exactly(1.0), exactly(0.5), 0.6667),
    model_encode=speed(1234.5),
    model_decode=speed(99.9),
    memory=PeakMemory("resident memory of a fresh process", 250.0, 300.0, 400.0),
    stages=Stages(ENCODE, DECODE, {"jpg": stage("writing images", 0.002)}, stage("reading images", 0.004), 0.13),
    encode=run_of(ENCODE, 0.8),
    decode=run_of(DECODE, 1.05),
    start_up=StartUp(exactly(0.25), exactly(2.5), 1.25, 0.25, 0.5, 0.1, 0.4),
    peer=None,
    elapsed_s=61.0,
)
SIDE = Comparison(exactly(100.0), exactly(5.0), Spread(20.0, 19.0, 21.0, 3), "NCHW, a call for each core")
PEER = PeerSpeed("flux2", "FLUX.2 VAE", 84_000_000, 256, 512, 2, 1, SIDE, SIDE)


def test_tables_in_a_pipe_are_plain_lines() -> None:
    text = bench_text(REPORT)
    lines = text.splitlines()
    assert text.isascii()
    assert [line for line in lines if line != line.rstrip()] == []
    assert lines[:3] == [
        "some-model (sha256 0123456789ab) in bfloat16, torch 2.13.0",
        "2 cores, An Abacus; JPEGs by simplejpeg 1.9.0",
        "8 images (synthetic), 1.50 MiB each, 0.13 megapixels for the model",
    ]


@pytest.mark.parametrize(
    "cells",
    [
        ["images/s", "1,234.5 (1,233.5-1,235.5)", "99.9 (98.9-100.9)"],
        ["one image alone, ms", "12.3", "12.3"],
        ["share of matrix products (2048 x 2048, 1.250 TFLOP/s)", "40%", "40%"],
        ["share of its own (16384 x 896 x 3584, 0.667 TFLOP/s)", "75%", "75%"],
        ["MiB, resident memory of a fresh process", "300", "400"],
        ["reading images", "66.7", "30.00", "2", "75% of cores"],
        ["publishing files", "1000.0", "2.00", "2", "0% of cores"],
        ["(writing images as jpg)", "1000.0", "2.00", "2"],
        ["encode", "40", "40.0", "2.50", "50.0", "80 %", "20%"],
        ["decode", "40", "42.0", "2.62", "40.0", "105 %", "20%"],
    ],
)
def test_every_figure_has_its_row(cells: list[str]) -> None:
    rows = [[cell for cell in line.split("  ") if cell] for line in bench_text(REPORT).splitlines()]
    assert cells in [[cell.strip() for cell in row] for row in rows]


def test_a_peer_has_a_table_of_its_own() -> None:
    assert "FLUX.2" not in bench_text(REPORT)
    text = bench_text(replace(REPORT, peer=PEER))
    assert "Beside FLUX.2 VAE (84.0 M parameters, random weights), 256x512, 2 and 1 images a call" in text
    assert "20.0 (19.0-21.0)" in text


def test_start_up_says_where_its_time_goes() -> None:
    assert "semdis --help 0.25 s; an image encoded 2.50 s after the start: torch 1.25 s, " in bench_text(REPORT)


@pytest.mark.parametrize("name", ["where.svg", "where.PNG"])
def test_the_picture_is_what_its_name_says(name: str, tmp_path: Path) -> None:
    needs("matplotlib")
    draw(REPORT, tmp_path / name)
    data = (tmp_path / name).read_bytes()
    if name.endswith("svg"):
        texts = [one.text for one in ET.fromstring(data).iter("{http://www.w3.org/2000/svg}text")]
        assert "Where the time goes: some-model, bfloat16, 2 threads, An Abacus" in texts
        assert texts[:4] == [
            "encode: 40.0 images/s, 80% of the limit (50.0 images/s)",
            "reading images 60%",
            "model encode 20%",
            "short of the limit 20%",
        ]
        assert "decode: 42.0 images/s, 105% of the limit (40.0 images/s)" in texts
        assert "importing torch 50%" in texts
    else:
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.format == "PNG"
