"""`semdis inspect --pca`, `--channel-pictures`: pictures of latents, and what their colours mean."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from semdis_cli.evaluation.pca import BasisFit
from semdis_cli.provenance import Provenance
from semdis_cli.store.reader import open_latents
from tests.cli.conftest import Run
from tests.store import GOOD_KEYS, KEYS, bucket_of, contents, flip_last_bit, make_plan, tensors_of, write_set

Json = dict[str, Any]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_set(tmp_path / "latents")
    return tmp_path / "latents"


def pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        return np.array(picture)


def values(key: str, dtype: str = "bfloat16") -> torch.Tensor:
    """The latents of an image of the small set, [Z,h,w], as they are stored."""
    layout = Provenance.from_json({**make_plan().provenance.to_json(), "dtype": dtype}).layout
    tensors = tensors_of(key, bucket_of(key), layout)
    stored = tensors["latents"].float()
    return stored * tensors["scale"] if "scale" in tensors else stored


def test_pictures_have_the_names_and_sizes_of_their_images(run: Run, root: Path, tmp_path: Path) -> None:
    done = run("inspect", root, "--pca", "colours")
    assert done.code == 0
    names = {"a.png", "b/a.png", "b/c.png", "c.png", "d.jpg.png", "d.png.png", "e.png", "ü.png"}
    found = contents(tmp_path / "colours")
    assert {name for name in found if name.endswith(".png")} == names
    for name in names:
        height, width = bucket_of(name)
        assert pixels(tmp_path / "colours" / name).shape == (height - 1, width - 1, 3)
    assert "semdis: 8 pictures in colours" in done.stderr
    assert "Explained variance" in done.stdout


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "int8", "float8_e4m3"])
def test_colours_are_those_of_one_basis_for_the_set(run: Run, tmp_path: Path, dtype: str) -> None:
    write_set(tmp_path / "latents", make_plan(dtype=dtype))
    assert run("inspect", "latents", "--pca", "colours", "--scale", "1", "-q").code == 0
    fit = BasisFit(3)
    for stored in open_latents(tmp_path / "latents").shards:
        for key in stored.rows:
            fit.add(values(key, dtype)[None])
    basis = fit.basis()
    legend = json.loads((tmp_path / "colours" / "legend.json").read_bytes())
    assert legend["explained_variance"] == pytest.approx(basis.explained)
    for name, key in (("a.png", "a.png"), ("d.jpg.png", "d.jpg")):
        assert (pixels(tmp_path / "colours" / name).transpose(2, 0, 1) == basis.picture(values(key, dtype))).all()


def test_a_legend_is_enough_to_colour_other_latents(run: Run, root: Path, tmp_path: Path) -> None:
    assert run("inspect", root, "--pca", "colours").code == 0
    legend = {
        name: np.array(value) for name, value in json.loads((tmp_path / "colours/legend.json").read_bytes()).items()
    }
    projected = legend["components"] @ (values("e.png").numpy().reshape(3, -1) - legend["mean"][:, None])
    low, high = legend["low"][:, None], legend["high"][:, None]
    expected = (255 * (projected - low) / (high - low)).round().clip(0, 255).reshape(3, 2, 2)
    picture = pixels(tmp_path / "colours" / "e.png").transpose(2, 0, 1)
    assert (picture[:, ::16, ::16] == expected).all()
    assert (picture[:, :16, :16] == picture[:, :1, :1]).all()


def test_channels_lie_side_by_side(run: Run, root: Path, tmp_path: Path) -> None:
    done = run("inspect", root, "--channel-pictures", "grey", "--scale", "2")
    assert done.code == 0
    picture, latents = pixels(tmp_path / "grey" / "c.png"), values("c.png").numpy()
    assert picture.shape == (4, 3 * 4 + 2, 3)
    legend = json.loads((tmp_path / "grey" / "legend.json").read_bytes())
    for channel in range(3):
        low, high = legend["low"][channel], legend["high"][channel]
        expected = (255 * (latents[channel] - low) / (high - low)).round().clip(0, 255)
        assert (picture[::2, 5 * channel : 5 * channel + 4 : 2, 0] == expected).all()


def test_legends_are_pictures_too(run: Run, root: Path, tmp_path: Path) -> None:
    assert run("inspect", root, "--pca", "colours", "--channel-pictures", "grey").code == 0
    for name, word in (("colours", "component 3"), ("grey", "percentile")):
        text = "".join(ET.parse(tmp_path / name / "legend.svg").getroot().itertext())
        assert word in text


def test_explained_variance_is_in_the_json(run: Run, root: Path) -> None:
    done = run("inspect", root, "--pca", "colours", "--json", "-q")
    assert (done.code, done.stderr) == (0, "")
    statistics = json.loads(done.stdout)["statistics"]
    assert sum(statistics["explained_variance"]) == pytest.approx(1)
    assert 1 <= statistics["participation_ratio"] <= statistics["effective_rank"] <= 3


def test_a_single_shard_has_pictures(run: Run, root: Path, tmp_path: Path) -> None:
    shard = min((root / "shards").iterdir())
    assert run("inspect", shard, "--pca", "colours").code == 0
    assert len(list((tmp_path / "colours").rglob("*.png"))) == 2


def test_a_second_run_goes_on(run: Run, root: Path, tmp_path: Path) -> None:
    assert run("inspect", root, "--pca", "colours").code == 0
    first = contents(tmp_path / "colours")
    (tmp_path / "colours" / "e.png").unlink()
    done = run("inspect", root, "--pca", "colours")
    assert "7 of 8 images done before" in done.stderr
    again = contents(tmp_path / "colours")
    assert first | {"report.json": b""} == again | {"report.json": b""}


def test_a_folder_of_others_is_refused_before_anything_is_read(run: Run, root: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear", encoding="utf-8")
    done = run("inspect", root, "--pca", "mine")
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr == (
        "semdis: mine: not empty, and not from an earlier run of this command; give --pca a new folder\n"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--pca", "one", "--channel-pictures", "one"), "need a folder each"),
        (("--scale", "2"), "goes with --pca and --channel-pictures"),
        (("--pca", "latents/pca"), "give --pca a folder of its own"),
        (
            ("--channel-pictures", "latents/shards/00000000-1x2.safetensors"),
            "give --channel-pictures a folder of its own",
        ),
    ],
)
def test_options_that_cannot_be_are_refused(run: Run, root: Path, options: tuple[str, ...], message: str) -> None:
    before = contents(root)
    done = run("inspect", root, *options)
    assert done.code == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert contents(root) == before


def test_other_settings_need_another_folder(run: Run, root: Path, tmp_path: Path) -> None:
    assert run("inspect", root, "--pca", "colours").code == 0
    done = run("inspect", root, "--pca", "colours", "--scale", "2")
    assert done.code == 2
    assert "scale: auto -> 2" in done.stderr
    write_set(root, make_plan((*KEYS, "f.png")))
    done = run("inspect", root, "--pca", "colours")
    assert done.code == 2
    assert "the latents have changed since" in done.stderr
    assert len(list((tmp_path / "colours").rglob("*.png"))) == len(GOOD_KEYS)


def test_a_damaged_shard_is_named_and_nothing_is_drawn(run: Run, root: Path, tmp_path: Path) -> None:
    shard = sorted((root / "shards").iterdir())[1]
    flip_last_bit(shard)
    done = run("inspect", root, "--pca", "colours")
    assert (done.code, done.stdout) == (4, "")
    assert shard.name in done.stderr.splitlines()[-1]
    assert not list(tmp_path.glob("colours/**/*.png"))


def test_pictures_of_latents_are_no_source(run: Run, root: Path) -> None:
    assert run("inspect", root, "--pca", "colours").code == 0
    done = run("encode", "colours", "-o", "again")
    assert done.code == 2
    assert "no images found in colours" in done.stderr


def test_a_set_without_images_has_a_legend_alone(run: Run, tmp_path: Path) -> None:
    write_set(tmp_path / "latents", make_plan(("bad.png",)))
    done = run("inspect", "latents", "--pca", "colours", "--channel-pictures", "grey")
    assert done.code == 0
    assert "0 pictures in colours" in done.stderr
    assert (tmp_path / "grey" / "legend.svg").is_file()


def test_names_that_differ_in_nothing_but_their_suffix_have_a_picture_each(run: Run, tmp_path: Path) -> None:
    keys = ("d.jpg", "d.png", "d/e.png", "legend.json", "legend.svg", "report.json")
    write_set(tmp_path / "latents", make_plan(keys))
    assert run("inspect", "latents", "--pca", "colours").code == 0
    assert len(list((tmp_path / "colours").rglob("*.png"))) == len(keys)
    assert b"explained_variance" in (tmp_path / "colours" / "legend.json").read_bytes()
