"""Collections as people have them, to what trainers read: the commands of docs/datasets.md, each as it stands there."""

import io
import json
import shlex
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from semdis_cli.dataset.latent_dataset import LatentDataset
from tests.cli.conftest import PHOTOS, Run
from tests.extras import needs
from tests.test_readme import PROJECT, blocks

SECTION = "## From a download to a trainer"
CLASSES = ("n01440764", "n01443537")
NUM_IMAGES = 6


def commands() -> list[list[str]]:
    """The commands of the section, without `semdis`."""
    page = (PROJECT / "docs" / "datasets.md").read_text(encoding="utf-8")
    [block] = blocks(page[page.index(SECTION) :].split("\n## ")[0])
    return [shlex.split(line.removeprefix("$ semdis ")) for line in block.text.splitlines()]


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """Small photographs by name; every other one is of the second class."""
    found: dict[str, bytes] = {}
    for number, path in enumerate(sorted(PHOTOS.rglob("*.jpg"))[:NUM_IMAGES]):
        file = io.BytesIO()
        with Image.open(path) as image:
            image.resize((48, 40)).save(file, "JPEG")
        found[f"{number:09d}"] = file.getvalue()
    return found


def make_tars(folder: Path, files: dict[str, bytes]) -> None:
    """Two tars of samples as img2dataset writes them, with a class and a caption each."""
    folder.mkdir()
    for number in range(2):
        members: dict[str, bytes] = {}
        for name, data in list(files.items())[number::2]:
            members |= {f"{name}.jpg": data, f"{name}.txt": b"a photograph", f"{name}.cls": f"{int(name) % 2}".encode()}
        with tarfile.open(folder / f"{number:05d}.tar", "w") as tar:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def make_parquet(folder: Path, files: dict[str, bytes]) -> None:
    """A Parquet file as the Hub has it, with the names of its classes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    image = pa.array([{"bytes": data, "path": f"{name}.jpg"} for name, data in files.items()])
    table = pa.table({"image": image, "label": pa.array([int(name) % 2 for name in files])})
    features = {"image": {"_type": "Image"}, "label": {"names": list(CLASSES), "_type": "ClassLabel"}}
    said = json.dumps({"info": {"features": features}}).encode()
    folder.mkdir()
    pq.write_table(table.replace_schema_metadata({b"huggingface": said}), folder / "train-00000-of-00001.parquet")


def make_folders(folder: Path, files: dict[str, bytes]) -> None:
    """A folder for each class, as ImageNet has it."""
    for name, data in files.items():
        path = folder / CLASSES[int(name) % 2] / f"{name}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def labels_of(root: Path) -> dict[str, int]:
    """The label of each photograph in a set, by its name."""
    dataset = LatentDataset(root, columns=["label"])
    return {Path(item.key).stem: int(item.columns["label"]) for item in dataset}


def test_each_collection_goes_to_each_trainer_with_its_labels(
    files: dict[str, bytes], tmp_path: Path, tiny: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("pyarrow")
    monkeypatch.chdir(tmp_path)
    make_tars(Path("laion"), files)
    make_parquet(Path("imagenet-1k"), files)
    make_folders(Path("ILSVRC/train"), files)
    expected = {name: int(name) % 2 for name in files}
    for verb, *arguments in commands():
        done = run(verb, *arguments, *(("--model", tiny, "--threads", "1") if verb == "encode" else ()))
        assert (done.code, done.stderr.count("failed:")) == (0, 0), done.stderr
    for root in ("from-tars", "from-parquet", "from-folders"):
        assert labels_of(Path(root)) == expected
    for root in ("from-tars", "from-parquet"):  # the page shows the last one alone
        assert run("export", root, "-o", f"{root}-lit", "--format", "lightningdit").code == 0
        assert run("export", root, "-o", f"{root}-edm2", "--format", "edm2").code == 0
        assert_same(Path(f"{root}-lit"), Path(f"{root}-edm2"), Path(root))
    assert_same(Path("for-lightningdit"), Path("for-edm2"), Path("from-folders"))


def assert_same(lightningdit: Path, edm2: Path, root: Path) -> None:
    """What both exports give is what the set has."""
    images = LatentDataset(root, whitened=False, dtype=torch.float32, columns=["label"])
    twins = LatentDataset(root, whitened=False, dtype=torch.float32, flip=True)
    expected = {key_of(item.latents): (item, twin.latents) for item, twin in zip(images, twins, strict=True)}
    tensors = load_file(lightningdit / "000000.safetensors")
    for latents, twin, label in zip(tensors["latents"], tensors["latents_flip"], tensors["labels"], strict=True):
        item, expected_twin = expected.pop(key_of(latents))
        assert torch.equal(twin, expected_twin)
        assert int(label) == int(item.columns["label"])
    assert not expected
    labels = json.loads((edm2 / "dataset.json").read_bytes())["labels"]
    for (name, label), item in zip(labels, images, strict=True):
        mean, std = np.split(np.load(edm2 / name, allow_pickle=False), 2)  # noqa: TID251 # as that reader does
        assert np.array_equal(mean, item.latents.numpy())
        assert std.min() > 0
        assert label == int(item.columns["label"])


def key_of(latents: Tensor) -> bytes:
    """What tells latents from others: all of them."""
    return latents.numpy().tobytes()
