"""`--store-dtype float8_e4m3` and `int8`: the real commands, from pictures to pictures, trainers and back."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from semdis_cli.dataset.latent_dataset import LatentDataset
from semdis_cli.metrics.psnr import psnr_db
from semdis_cli.model.autoencoder import FCDMDiffAE
from semdis_cli.parts import LATENTS, LATENTS_FLIP, LOG_SNR, LOG_SNR_FLIP, QUANTISED, SCALE, SCALE_FLIP
from semdis_cli.store.index import read_rows
from tests.cli.conftest import PHOTOS, Outcome, Run, semdis
from tests.store import contents, lasting
from tests.worlds import save_noise

each_dtype = pytest.mark.parametrize("dtype", QUANTISED)
SIZES = [(32, 48), (32, 48), (20, 41), (48, 32)]  # (height, width); of the third a part is padding


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed, size in enumerate(SIZES):
        save_noise(tmp_path / "photos" / f"{seed}.png", seed, size)
    return tmp_path / "photos"


@pytest.fixture
def encode(photos: Path, tiny: Path, run: Run) -> Run:
    def call(dtype: str, *options: str, output: str = "latents") -> Outcome:
        how = "--model", tiny, "--threads", "1", "--dtype", "float32"
        return run("encode", photos, "-o", output, *how, "--store-dtype", dtype, *options)

    return call


def pixels(folder: Path) -> dict[str, Any]:
    return {path.name: np.array(Image.open(path)) for path in sorted(folder.rglob("*.png"))}


def inspect(run: Run, path: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(run("inspect", path, "--json").stdout)
    return report


@each_dtype
def test_decoding_gives_the_pictures_that_roundtrip_measures(
    encode: Run, run: Run, photos: Path, tiny: Path, tmp_path: Path, dtype: str
) -> None:
    assert encode(dtype).code == 0
    how = "--threads", "1", "--dtype", "float32"
    assert run("decode", *how, "-o", "decoded").code == 0
    assert run("roundtrip", photos, "--model", tiny, *how, "--store-dtype", dtype).code == 0
    decoded, measured = pixels(tmp_path / "decoded"), pixels(tmp_path / "roundtrip")
    assert decoded.keys() == measured.keys() == {f"{number}.png" for number in range(len(SIZES))}
    assert all(np.array_equal(decoded[name], measured[name]) for name in decoded)


@each_dtype
def test_latents_are_close_to_those_of_float32_and_a_quarter_of_their_bytes(encode: Run, run: Run, dtype: str) -> None:
    assert encode(dtype).code == 0
    assert encode("float32", output="exact").code == 0
    for item, exact in zip(LatentDataset("latents"), LatentDataset("exact"), strict=True):
        step = exact.latents.abs().amax((1, 2), keepdim=True) / {"int8": 254, "float8_e4m3": 16}[dtype]
        assert ((item.latents - exact.latents).abs() <= step * 1.001).all()
        assert not torch.equal(item.latents, exact.latents)
    quantised, whole = inspect(run, "latents"), inspect(run, "exact")
    assert quantised["provenance"]["dtype"] == dtype
    scales = len(SIZES) * quantised["provenance"]["channels"] * 4
    assert quantised["bytes"]["latents"] == whole["bytes"]["latents"] // 4 + scales
    np.testing.assert_allclose(quantised["statistics"]["std"], whole["statistics"]["std"], rtol=0.1)
    shard = quantised["shards"][0]["name"]
    assert inspect(run, f"latents/shards/{shard}")["provenance"]["dtype"] == dtype
    [said] = [line.split() for line in run("inspect", "latents").stdout.splitlines() if line.split()[:1] == ["dtype"]]
    assert said == ["dtype", dtype]
    assert run("verify", "latents", "--data").code == 0


@each_dtype
def test_the_plan_counts_the_bytes_that_are_written(encode: Run, tmp_path: Path, dtype: str) -> None:
    plan = json.loads(encode(dtype, "--dry-run", "--json", "--flip", "both").stdout)
    assert encode(dtype, "--flip", "both").code == 0
    shards = [load_file(path) for path in (tmp_path / "latents" / "shards").iterdir()]
    assert plan["latent_bytes"] == sum(tensor.nbytes for shard in shards for tensor in shard.values())


@each_dtype
def test_posteriors_and_twins_go_with_it(encode: Run, tmp_path: Path, dtype: str) -> None:
    assert encode(dtype, "--posterior", "moments", "--flip", "both").code == 0
    for path in (tmp_path / "latents" / "shards").iterdir():
        tensors = load_file(path)
        assert set(tensors) == {LATENTS, LATENTS_FLIP, SCALE, SCALE_FLIP, LOG_SNR, LOG_SNR_FLIP}
        assert {tensors[name].dtype for name in (LOG_SNR, LOG_SNR_FLIP)} == {torch.float16}
    assert encode(dtype, output="modes").code == 0
    assert encode(dtype, "--flip", "both", output="both").code == 0
    for item, mode in zip(LatentDataset("latents"), LatentDataset("modes"), strict=True):
        assert torch.equal(item.latents, mode.latents)
    for item, twin in zip(LatentDataset("latents", flip=True), LatentDataset("both", flip=True), strict=True):
        assert torch.equal(item.latents, twin.latents)


@each_dtype
def test_a_set_goes_on_in_its_dtype_alone(encode: Run, photos: Path, tmp_path: Path, dtype: str) -> None:
    assert encode(dtype, "--shard-images", "1").code == 0
    before = lasting(tmp_path / "latents")
    done = encode("bfloat16", "--shard-images", "1")
    assert (done.code, lasting(tmp_path / "latents")) == (2, before)
    assert f"begun with other settings (dtype: {dtype} -> bfloat16)" in done.stderr
    save_noise(photos / "more.png", 9, (32, 48))
    assert encode(dtype, "--shard-images", "1").code == 0
    assert encode(dtype, output="new").code == 0
    grown, new = ({item.key: item.latents for item in LatentDataset(name)} for name in ("latents", "new"))
    assert grown.keys() == new.keys()
    assert all(torch.equal(grown[key], new[key]) for key in new)


@each_dtype
@pytest.mark.parametrize("format_name", ["webdataset", "safetensors"])
def test_files_keep_what_is_stored_and_make_the_set_again(encode: Run, run: Run, dtype: str, format_name: str) -> None:
    assert encode(dtype).code == 0
    done = run("export", "latents", "--format", format_name)
    assert f"files keep {dtype} and its scales: latents are latents.float() * scale" in done.stderr
    assert run("import", "exported", "-o", "back").code == 0
    assert contents(Path("latents/shards")) == contents(Path("back/shards"))
    assert run("verify", "back", "--data").code == 0


@each_dtype
def test_arrays_hold_values(encode: Run, run: Run, tmp_path: Path, dtype: str) -> None:
    assert encode(dtype).code == 0
    done = run("export", "latents", "--format", "npy", "--json")
    assert f"each {dtype} value is written times its scale, as float32, which holds that exactly" in done.stderr
    assert (json.loads(done.stdout)["dtype"], json.loads(done.stdout)["lossless"]) == ("float32", True)
    for item in LatentDataset("latents"):
        array = np.load(tmp_path / "exported" / f"{item.key}.npy", allow_pickle=False)  # noqa: TID251 # as others do
        assert np.array_equal(array, item.latents.numpy())
    done = run("export", "latents", "-o", "raw", "--format", "kohya")
    assert (done.code, dtype in done.stderr) == (0, False)
    done = run("export", "latents", "-o", "half", "--format", "npy", "--dtype", "float16", "--quiet")
    assert done.stderr == f"semdis: float16 does not hold every value of {dtype}: digits are lost\n"


@each_dtype
def test_latents_go_through_a_pipe(photos: Path, tiny: Path, tmp_path: Path, dtype: str) -> None:
    how = "--model", tiny, "--threads", "1", "--dtype", "float32"
    written = semdis("encode", photos, "-o", "-", *how, "--store-dtype", dtype, cwd=tmp_path)
    assert written.code == 0
    tar = written.stdout.encode(errors="surrogateescape")
    assert semdis("decode", "-", "-o", "piped", cwd=tmp_path, stdin=tar).code == 0
    assert semdis("encode", photos, *how, "--store-dtype", dtype, cwd=tmp_path).code == 0
    assert semdis("decode", "-o", "decoded", cwd=tmp_path).code == 0
    piped, decoded = pixels(tmp_path / "piped"), pixels(tmp_path / "decoded")
    assert piped.keys() == decoded.keys() != set()
    assert all(np.array_equal(piped[name], decoded[name]) for name in piped)


def test_latents_beyond_the_range_of_a_dtype_cost_their_image_alone(
    run: Run, photos: Path, tmp_path: Path, tiny: Path
) -> None:
    def encode(weight: float, dtype: str, output: str) -> Outcome:
        model = FCDMDiffAE.from_pretrained(tiny)
        model.encoder.to_bottleneck.weight.data.fill_(weight)
        model.save_pretrained(tmp_path / output / "model")
        how = "--dtype", "float32", "--store-dtype", dtype
        return run("encode", photos, "--model", f"{output}/model", *how, "-o", f"{output}/latents")

    assert encode(1e30, "float32", "exact").code == 0
    largest = max(item.latents.abs().max().item() for item in LatentDataset("exact/latents"))
    # One image has the largest latents; with the last weight all overflow.
    for weight, dtype, why, num_bad in (
        (1e30 / largest * 2e38, "int8", "its latents are too large for --store-dtype int8", 1),
        (3e38, "int8", "its latents are not finite (NaN or infinity)", len(SIZES)),
        (3e38, "float8_e4m3", "its latents are not finite (NaN or infinity)", len(SIZES)),
    ):
        name = f"{dtype}-{weight}"
        assert encode(weight, dtype, name).code == 3
        rows = read_rows(tmp_path / name / "latents" / "index.jsonl")
        assert [row.error for row in rows if row.error] == [why] * num_bad


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "most_db", "least_db"), [("int8", 0.15, 49), ("float8_e4m3", 1.5, 39)])
def test_a_photograph_loses_as_much_as_the_docs_say(
    run: Run, tmp_path: Path, dtype: str, most_db: float, least_db: float
) -> None:
    found, scores = [], []
    for each in ("float32", dtype):
        how = "--dtype", "float32", "--store-dtype", each, "-o", each, "--json", "-q"
        scores.append(json.loads(run("roundtrip", PHOTOS / "the-spices-of-life.jpg", *how).stdout)["psnr_db"]["mean"])
        [pixels_of] = pixels(tmp_path / each).values()
        found.append(torch.from_numpy(pixels_of))
    assert 0 < scores[0] - scores[1] < most_db
    assert psnr_db(found[1], found[0]) > least_db


def test_a_dtype_that_there_is_not_is_refused_with_those_that_there_are(run: Run, photos: Path) -> None:
    done = run("encode", photos, "--store-dtype", "int4")
    assert done.code == 2
    assert "'float8_e4m3', 'int8'" in done.stderr
