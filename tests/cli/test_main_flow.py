"""The main job on real photographs with the bundled model, as real processes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from semdis_cli.store.index import read_rows
from tests.cli.conftest import PHOTOS, semdis


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder in which the sample photographs were encoded and decoded, nothing but defaults given."""
    cwd = tmp_path_factory.mktemp("main-flow")
    encoded = semdis("encode", PHOTOS, cwd=cwd, fresh=True)
    assert encoded.code == 0, encoded.stderr
    decoded = semdis("decode", cwd=cwd)
    assert decoded.code == 0, decoded.stderr
    return cwd


def upright(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"), np.float64)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.square(a - b).mean()))


def test_decoding_restores_every_name_and_every_upright_size(folder: Path) -> None:
    originals = {path.relative_to(PHOTOS).with_suffix(".png"): path for path in PHOTOS.rglob("*.jpg")}
    decoded = {path.relative_to(folder / "decoded") for path in (folder / "decoded").rglob("*.png")}
    assert decoded == set(originals)
    assert len(decoded) == 7
    for name, original in originals.items():
        assert upright(folder / "decoded" / name).shape == upright(original).shape


def test_decoded_photographs_look_like_the_originals(folder: Path) -> None:
    scores = [
        psnr(upright(path), upright(folder / "decoded" / path.relative_to(PHOTOS).with_suffix(".png")))
        for path in sorted(PHOTOS.rglob("*.jpg"))
    ]
    assert np.mean(scores) > 33.4  # 33.7 measured; per-patch PCA with 128 components is within 0.1 dB of it
    assert min(scores) > 26


def test_the_index_has_one_row_per_input_and_the_manifest_adds_up(folder: Path) -> None:
    rows = list(read_rows(folder / "latents" / "index.jsonl"))
    keys = sorted(path.relative_to(PHOTOS).as_posix() for path in PHOTOS.rglob("*.jpg"))
    assert [row.key for row in rows] == keys
    manifest = json.loads((folder / "latents" / "manifest.json").read_bytes())
    assert manifest["totals"] == {"ok": 7, "failed": 0, "removed": 0, "superseded": 0}
    assert manifest["provenance"]["model"]["name"] == "semdis-small"
    assert sum(shard["num_images"] for shard in manifest["shards"]) == 7
    assert max(abs(mean) for mean in manifest["latents"]["mean"]) < 0.5


def test_roundtrip_gives_the_pixels_and_the_figures_of_encode_and_decode(folder: Path) -> None:
    done = semdis("roundtrip", PHOTOS, "-o", "rt", cwd=folder)
    assert done.code == 0, done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[0] for line in lines].count("mean") == 1
    for key, score in lines:
        if key == "mean":
            continue
        name = Path(key).with_suffix(".png")
        assert (folder / "rt" / name).read_bytes() == (folder / "decoded" / name).read_bytes()
        assert float(score) == pytest.approx(psnr(upright(PHOTOS / key), upright(folder / "rt" / name)), abs=0.006)
    report = json.loads((folder / "rt" / "report.json").read_bytes())
    scores = [float(score) for key, score in lines if key != "mean"]
    assert report["psnr_db"]["mean"] == pytest.approx(np.mean(scores), abs=0.01)


def test_one_shard_sent_on_its_own_still_decodes(folder: Path, tmp_path: Path) -> None:
    shard = next((folder / "latents" / "shards").glob("*-32x22.safetensors"))
    mailed = tmp_path / "mailed.safetensors"
    mailed.write_bytes(shard.read_bytes())
    done = semdis("decode", mailed, "-o", "out", cwd=tmp_path)
    assert done.code == 0, done.stderr
    [image] = (tmp_path / "out").glob("*.png")
    assert image.read_bytes() == (folder / "decoded" / image.name).read_bytes()


def test_encoding_again_finds_everything_done(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (folder / "latents" / "shards").iterdir()}
    again = semdis("encode", PHOTOS, cwd=folder)
    assert again.code == 0
    assert "7 of 7 images done before" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in (folder / "latents" / "shards").iterdir()} == before
    assert not (folder / "latents" / "journal").exists()
