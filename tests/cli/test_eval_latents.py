"""`semdis eval` of latents: tables, the report, and what is refused."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import PHOTOS, Run
from tests.evaluation.sets import write_latents
from tests.evaluation.test_latents import METHODS, labelled, noise, separable
from tests.store import contents, flip_last_bit
from tests.worlds import save_noise, save_tiny_model


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    good = write_latents(tmp_path / "good", separable(), labelled())
    return good, write_latents(tmp_path / "poor", {key: noise(key) for key in separable()}, labelled())


@pytest.mark.usefixtures("roots")
def test_tables_stand_side_by_side_within_80_columns(run: Run) -> None:
    done = run("eval", "good", "poor", "good", "poor", "-o", "figures")
    assert done.code == 0
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(done.stdout.split())
    for words in ("A 120 6 good", "D 120 6 poor", "k-NN, mean 100 (96.9–100)", "chance 25.0", "B - A probe, mean+std"):
        assert words in text
    assert done.stderr.endswith("semdis: the report is in figures\n")


@pytest.mark.usefixtures("roots")
def test_the_report_is_the_json(run: Run, tmp_path: Path) -> None:
    done = run("eval", "good", "poor", "--json", "-q")
    assert (done.code, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "eval-latents" / "report.json").read_bytes())
    assert [one["latents"] for one in report["sets"]] == ["good", "poor"]
    assert set(report["sets"][0]["accuracy"]) == METHODS
    assert report["method"]["knn"]["neighbours"] == 20
    assert len(report["differences"]) == len(METHODS)


@pytest.mark.usefixtures("roots")
def test_the_same_run_again_writes_the_same_report(run: Run, tmp_path: Path) -> None:
    assert run("eval", "good", "--max-images", "50").code == 0
    first = contents(tmp_path / "eval-latents")
    assert run("eval", "good", "--max-images", "50").code == 0
    assert contents(tmp_path / "eval-latents") == first
    other = run("eval", "good")
    assert other.code == 2
    what = "made with other settings (max_images: 50 -> 20000); give -o a new folder"
    assert other.stderr == f"semdis: eval-latents: {what}\n"
    assert contents(tmp_path / "eval-latents") == first


def test_a_sample_and_missing_labels_are_told(run: Run, tmp_path: Path) -> None:
    write_latents(tmp_path / "latents", separable())
    done = run("eval", "latents", "--max-images", "40")
    assert done.code == 0
    assert done.stderr.splitlines() == [
        "semdis: a sample of 40 of 120 images; --max-images takes more",
        "semdis: no k-NN and no probe: no image has a 'label'",
        "semdis: the report is in eval-latents",
    ]
    assert "k-NN" not in done.stdout
    assert "effective rank" in done.stdout


def test_a_single_shard_has_statistics(run: Run, roots: tuple[Path, Path]) -> None:
    done = run("eval", min((roots[0] / "shards").iterdir()), "-q")
    assert (done.code, done.stderr) == (0, "")
    assert "effective rank" in done.stdout


def test_the_photographs_can_be_told_from_their_crops(run: Run, tmp_path: Path) -> None:
    for name in ("lake-sherburne", "roman-colosseum", "the-spices-of-life"):
        with Image.open(PHOTOS / f"{name}.jpg") as photo:
            for number in range(20):
                left, top = 64 * (number % 5), 64 * (number // 5)
                path = tmp_path / "tiles" / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                photo.convert("RGB").crop((left, top, left + 64, top + 64)).save(path)
    model = save_tiny_model(tmp_path / "tiny")
    assert run("encode", "tiles", "--model", model, "--labels", "folders", "-q").code == 0
    done = run("eval", "latents", "--json", "-q")
    report = json.loads(done.stdout)
    assert report["labels"]["classes"] == 3
    assert report["labels"]["majority"]["all"] == pytest.approx(1 / 3)
    accuracy = report["sets"][0]["accuracy"]
    assert max(found["share"] for found in accuracy.values()) > 0.6
    assert accuracy["knn_mean_std"]["low"] > 1 / 3


@pytest.mark.usefixtures("roots")
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("missing.safetensors",), 4, "no such latents"),
        (("good", "-"), 2, "encode and decode alone read and write pipes"),
        (("good", "--label", "kind"), 2, "no image has a 'kind'; columns: label"),
        (
            ("good", "-o", "mine"),
            2,
            "mine: not empty, and not from an earlier run of this command; give -o a new folder",
        ),
        (("good", "-o", "good/eval"), 2, "lies in"),
        (("damaged",), 4, ".safetensors"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear", encoding="utf-8")
    flip_last_bit(min((write_latents(tmp_path / "damaged", separable()) / "shards").iterdir()))
    done = run("eval", *arguments, "-q")
    assert (done.code, done.stdout) == (code, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "eval-latents" / "report.json").exists()


@pytest.mark.usefixtures("roots")
@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (("good", "photos"), "SOURCE"),
        (("good", "--compare", "jpeg"), "--compare"),
        (("good", "--report", "r.html"), "--report"),
        (("good", "--size", "256"), "--size"),
        (("photos", "--label", "kind"), "--label"),
    ],
)
def test_options_of_the_other_kind_of_source_are_refused(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], flag: str
) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "a.png")
    done = run("eval", *arguments)
    assert done.code == 2
    assert f"Invalid value for {flag}" in done.stderr
    assert not (tmp_path / "eval-latents").exists()


@pytest.mark.usefixtures("roots")
def test_the_folder_of_images_is_none_for_latents_nor_the_other_way_round(run: Run, tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "tiny", 1)
    save_noise(tmp_path / "photos/a.png", 1, (16, 16))
    for output, first, second, reason in (
        ("one", ("photos", "--model", "tiny"), ("good",), "made of images, not of latents"),
        ("two", ("good",), ("photos", "--model", "tiny"), "made of latents, not of images"),
    ):
        assert run("eval", *first, "-o", output).code == 0
        done = run("eval", *second, "-o", output)
        assert done.code == 2
        assert done.stderr.splitlines()[-1] == f"semdis: {output}: {reason}; give -o a new folder"
