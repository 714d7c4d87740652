"""Sets that the first version wrote: they open, verify, decode to the same pictures, and grow, with names of any bytes.

`tests/store/old_sets/*.tar.gz`, each with NAME (the set), NAME-images and NAME-decoded, were written by 0.1.0 with the
tiny model, `--device cpu --dtype float32 --shard-images 2`: "grown" by two runs, after which one image was changed, one
added and one removed; "failed" has an image that is none, and names that strict JSON cannot hold as they are.
"""

import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semdis_cli.dataset.latent_dataset import LatentDataset
from semdis_cli.defaults import DECODE_MARKER
from semdis_cli.store.index import read_rows
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.reader import open_latents
from tests.cli.conftest import Run

OLD_SETS = Path(__file__).parents[1] / "store" / "old_sets"
KEYS = {
    "grown": ["a.png", "b/b.png", "d.png"],
    "failed": ["caf\udce9.png", "good.png", "real-\ue0e9.png", "ü ☃ 😀.png"],
}


@pytest.fixture(params=list(KEYS))
def old(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    with tarfile.open(OLD_SETS / f"{request.param}.tar.gz") as tar:
        tar.extractall(tmp_path, filter="data")
    return str(request.param)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def begun_by_an_old_version(folder: Path) -> None:
    """Leave of a decoded folder what a run that was stopped at once has left: a record that names no noise."""
    record = json.loads((folder / DECODE_MARKER).read_bytes())
    assert record["sampling"].pop("noise") == "philox"
    (folder / DECODE_MARKER).write_text(json.dumps(record))
    for path in folder.rglob("*.png"):
        path.unlink()


def test_an_old_set_verifies_opens_and_decodes_to_the_same_pictures(
    old: str, run: Run, tmp_path: Path, tiny: Path
) -> None:
    root = tmp_path / old
    verified = run("verify", old, "--data")
    assert verified.code == 0, verified.stderr
    dataset = LatentDataset(root, verify=True)
    assert [dataset.key(item) for item in range(len(dataset))] == sorted(KEYS[old]) == list(open_latents(root).keys)
    assert dataset.versions == ()
    assert Manifest.read(root).to_bytes() == (root / "manifest.json").read_bytes()
    decode = "decode", old, "-o", "again", "--model", tiny, "--device", "cpu", "--dtype", "float32"
    assert run(*decode).code == 0
    begun_by_an_old_version(tmp_path / "again")
    decoded = run(*decode)
    assert decoded.code == 0, decoded.stderr
    for key in KEYS[old]:
        before, now = (pixels(tmp_path / folder / key) for folder in (f"{old}-decoded", "again"))
        assert np.abs(before - now).max() <= 1, key  # equal on the machine that wrote them


def test_an_old_set_grows_and_its_shards_stay(old: str, run: Run, tmp_path: Path, tiny: Path) -> None:
    root, images = tmp_path / old, tmp_path / f"{old}-images"
    shards = {path.name: path.read_bytes() for path in (root / "shards").iterdir()}
    Image.new("RGB", (32, 32), "red").save(images / "new.png")
    options = ["--shard-images", "2", "--device", "cpu", "--dtype", "float32", "--threads", "1", "--mix-versions"]
    done = run("encode", images, "-o", root, "--model", tiny, *options)
    assert done.code == (3 if old == "failed" else 0), done.stderr
    report = json.loads((root / "report.json").read_bytes())
    assert (report["images"]["this_run"], report["unchanged"]) == (1, len(KEYS[old]) + (old == "failed") * 0)
    now = {path.name: path.read_bytes() for path in (root / "shards").iterdir()}
    assert {name: now[name] for name in shards} == shards
    assert len(now) == len(shards) + 1
    rows = list(read_rows(root / "index.jsonl"))
    assert sorted(KEYS[old] + ["new.png"]) == [row.key for row in rows if row.is_ok]
    assert Manifest.read(root).provenance.model.name == "model"
    (root / "index.jsonl").read_bytes().decode().encode("ascii")
    for line in (root / "index.jsonl").read_bytes().splitlines():
        json.loads(line)["key"].encode()
    assert run("verify", root, "--data", "--against", images).code == 0
    assert run("decode", old, "-o", "again", "--model", tiny, "--device", "cpu", "--dtype", "float32").code == 0
    assert os.fsdecode(b"caf\xe9.png") in [row.key for row in rows] or old == "grown"
