"""`semdis eval` of images: contenders on the same pixels, their differences, tables and the page."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from semdis_cli.errors import NoSpaceError
from semdis_cli.metrics.inception import NETWORK
from tests.cli.conftest import PHOTOS, Outcome, Run, semdis
from tests.metrics.random_weights import random_tensors, write
from tests.worlds import save_noise

COMPARED = ("--compare", "store-dtype=int8", "--compare", "steps=2", "--compare", "jpeg")


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Crops of photographs, one of them smaller than the window of SSIM."""
    (tmp_path / "photos").mkdir()
    for number, path in enumerate(sorted(PHOTOS.rglob("*.jpg"))):
        with Image.open(path) as photo:
            photo.crop((0, 0, 64 + number, 64)).save(tmp_path / f"photos/{path.stem}.png")
    save_noise(tmp_path / "photos/small.png", 1, (10, 10))
    return tmp_path / "photos"


def find_disk_full(*_: object) -> None:
    raise NoSpaceError("no space left")


def ok(done: Outcome) -> Outcome:
    assert done.code == 0, done.stderr
    return done


def test_contenders_are_measured_on_the_same_images_and_compared_image_by_image(
    run: Run, tiny: Path, photos: Path
) -> None:
    report = json.loads(ok(run("eval", photos, "--model", tiny, "--json", "-q", *COMPARED)).stdout)
    titles = [one["title"] for one in report["contenders"]]
    assert len(set(titles)) == 4
    rows = lines_of(Path("eval/figures.jsonl"))
    assert len(rows) == len(list(photos.iterdir()))
    by_title = {title: [row["contenders"][title] for row in rows] for title in titles}
    first = np.array([one["psnr_db"] for one in by_title[titles[0]]])
    for one in report["contenders"]:
        values = np.array([figures["psnr_db"] for figures in by_title[one["title"]]])
        assert one["figures"]["psnr_db"]["mean"] == pytest.approx(values.mean(), abs=1e-5)
        assert one["figures"]["ssim"]["num"] == len(rows) - 1, "one is too small"
        if one["title"] == titles[0]:
            assert one["differences"] == {}
            continue
        found = one["differences"]["psnr_db"]
        assert found["mean"] == pytest.approx((values - first).mean(), abs=1e-5)
        assert found["low"] <= found["mean"] <= found["high"]
        assert found["num_better"] == int((values > first).sum())


def test_the_first_contender_has_the_figures_of_roundtrip(run: Run, tiny: Path, photos: Path) -> None:
    how = ("--model", tiny, "--steps", "2", "--store-dtype", "float16", "-q")
    ok(run("roundtrip", photos, *how))
    ok(run("eval", photos, *how))
    assert Path("roundtrip/figures.jsonl").read_bytes() == Path("eval/figures.jsonl").read_bytes()
    ok(run("eval", photos, *how, "-o", "both", "--compare", "steps=1"))
    title = json.loads(Path("both/report.json").read_bytes())["contenders"][0]["title"]
    alone = lines_of(Path("eval/figures.jsonl"))
    assert [row["contenders"][title] for row in lines_of(Path("both/figures.jsonl"))] == [
        {name: row[name] for name in row if name != "key"} for row in alone
    ]


def test_a_contender_has_the_figures_that_it_has_alone(run: Run, tiny: Path, photos: Path) -> None:
    ok(run("eval", photos, "--model", tiny, "-q", "-o", "both", "--compare", "steps=3,store-dtype=int8"))
    ok(run("eval", photos, "--model", tiny, "-q", "-o", "alone", "--steps", "3", "--store-dtype", "int8"))
    second = json.loads(Path("both/report.json").read_bytes())["contenders"][1]["title"]
    assert [row["contenders"][second] for row in lines_of(Path("both/figures.jsonl"))] == [
        {name: row[name] for name in row if name != "key"} for row in lines_of(Path("alone/figures.jsonl"))
    ]


def test_only_figures_are_written_and_tables_fit_80_columns(run: Run, tiny: Path, photos: Path) -> None:
    done = ok(run("eval", photos, "--model", tiny, *COMPARED))
    names = {path.name for path in Path("eval").iterdir()}
    assert names >= {"figures.jsonl", "report.json", "eval.json"}
    assert not any(path.suffix == ".png" for path in Path("eval").rglob("*"))
    assert not [name for name in names if name.startswith(".semdis")]
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80, "\n".join(lines)
    report = json.loads(Path("eval/report.json").read_bytes())
    for one in report["contenders"]:
        assert any(line.strip().startswith(one["title"]) for line in lines)
        assert f"{one['figures']['psnr_db']['mean']:.2f}" in done.stdout
    assert report["worst"][0]["key"] in done.stdout


def test_the_page_has_all_contenders_and_images(run: Run, tiny: Path, photos: Path) -> None:
    done = ok(run("eval", photos, "--model", tiny, "--report", "r.html", *COMPARED))
    page = Path("r.html").read_text(encoding="utf-8")
    report = json.loads(Path("eval/report.json").read_bytes())
    assert report["page"] == {
        "path": "r.html", "folder": None, "images": len(list(photos.iterdir())), "bytes": Path("r.html").stat().st_size,
    }  # fmt: skip
    assert all(one["title"] in page for one in report["contenders"])
    assert all(path.name in page for path in photos.iterdir())
    assert "r.html" in done.stderr


def test_of_many_images_the_page_shows_a_sample_and_the_worst(run: Run, tiny: Path, tmp_path: Path) -> None:
    for number in range(80):
        save_noise(tmp_path / f"many/{number:02}.png", number, (16, 16))
    ok(run("eval", "many", "--model", tiny, "-q", "--report", "r.html", "--report-images", "20"))
    report = json.loads(Path("eval/report.json").read_bytes())
    page = Path("r.html").read_text(encoding="utf-8")
    shown = set(re.findall(r"\b\d\d\.png", page))
    assert 10 <= report["page"]["images"] == len(shown) <= 30
    assert {row["key"] for row in report["worst"][:5]} <= shown


def test_the_pictures_of_a_page_are_no_images_of_the_folder_that_it_lies_in(run: Run, tiny: Path, photos: Path) -> None:
    how = ("--model", tiny, "-q", "--report", photos / "r.html", "--report-mib", "0")
    ok(run("eval", photos, *how))
    assert list((photos / "r-files").glob("*.png"))
    before = Path("eval/figures.jsonl").read_bytes()
    ok(run("eval", photos, *how))
    assert Path("eval/figures.jsonl").read_bytes() == before


@pytest.mark.parametrize("place", ["taken/", "nowhere/r.html", "file/r.html"])
def test_a_page_that_cannot_be_written_is_told_before_work(run: Run, tiny: Path, photos: Path, place: str) -> None:
    Path("taken").mkdir()
    Path("file").write_text("x")
    done = run("eval", photos, "--model", tiny, "--report", place)
    if done.code == 0:  # a folder that is made
        assert Path(place).is_file()
        return
    assert done.code == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert not Path("eval").exists()


def test_a_page_is_called_after_its_first_sources(tmp_path: Path, tiny: Path, photos: Path) -> None:
    files = sorted(photos.iterdir())
    how = ("--model", tiny, "-q", "--report", "r.html")
    ok(semdis("eval", *files, *how, cwd=tmp_path))
    title = ", ".join([*map(str, files[:3]), f"{len(files) - 3} more"])
    assert f"<title>{title}</title>" in (tmp_path / "r.html").read_text(encoding="utf-8")
    ok(semdis("eval", "--files-from", "-", "-o", "o", *how, cwd=tmp_path, stdin=f"{files[0]}\n".encode()))
    assert "<title>a list on stdin</title>" in (tmp_path / "r.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("verb", ["eval", "roundtrip"])
@pytest.mark.parametrize(
    ("output", "report"), [("r.html", "r.html"), ("r.html/x", "r.html"), ("o", "o/.semdis-figures/r.html")]
)
def test_a_page_in_the_place_of_the_runs_own_files_is_refused_before_work(
    run: Run, tiny: Path, photos: Path, verb: str, output: str, report: str
) -> None:
    done = run(verb, photos, "--model", tiny, "-o", output, "--report", report)
    assert done.code == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert report in done.stderr
    assert not Path(output).exists()


@pytest.mark.parametrize("verb", ["eval", "roundtrip"])
@pytest.mark.parametrize("flag", ["--inception", "--lpips-weights"])
def test_weights_that_cannot_be_used_are_told_before_headers_are_read(
    run: Run, tiny: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, verb: str, flag: str
) -> None:
    def plan(*_: object, **__: object) -> None:
        pytest.fail("headers are read")

    monkeypatch.setattr("semdis_cli.pipeline.encode_plan.plan_encode", plan)
    done = run(verb, photos, "--model", tiny, "-q", flag, photos / "small.png")
    assert done.code == 4
    assert "small.png: not a whole safetensors file" in done.stderr


def test_too_few_images_for_rfid_are_told_before_work(run: Run, tiny: Path, photos: Path) -> None:
    weights = write(photos.parent / "inception.safetensors", random_tensors(NETWORK))
    done = ok(run("eval", photos / "small.png", "--model", tiny, "--inception", weights))
    told = [number for number, line in enumerate(done.stderr.splitlines()) if "rFID needs 2,049 images" in line]
    closing = next(number for number, line in enumerate(done.stderr.splitlines()) if "1 image measured" in line)
    assert len(told) == 2
    assert told[0] < closing == told[1]


def test_where_no_image_can_be_measured_it_says_so(run: Run, tiny: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_noise(tmp_path / f"photos/{name}.png", 1, (16, 16))
        data = (tmp_path / f"photos/{name}.png").read_bytes()
        (tmp_path / f"photos/{name}.png").write_bytes(data[:-60])
    done = run("eval", "photos", "--model", tiny, "--report", "r.html")
    assert done.code == 3
    assert "no image could be measured" in done.stderr
    assert [row.keys() for row in lines_of(Path("eval/figures.jsonl"))] == [{"key", "error"}] * 2


@pytest.mark.parametrize("spec", ["", "steps=0", "jpg", "steps=10,steps=20", "model=nowhere", "crops=17"])
def test_what_cannot_be_compared_is_refused_in_a_line(run: Run, tiny: Path, photos: Path, spec: str) -> None:
    done = run("eval", photos, "--model", tiny, "--compare", spec, "-q")
    assert done.code in {2, 4}
    assert "Traceback" not in done.stderr
    assert not Path("eval/figures.jsonl").exists()


def test_tables_name_files_as_they_are_called_and_say_how_many_have_a_figure(
    tmp_path: Path, tiny: Path, photos: Path
) -> None:
    save_noise(photos / "a\nb.png", 2, (64, 64))
    save_noise(photos / "c\udcff.png", 3, (64, 64))
    done = ok(semdis("eval", photos, "--model", tiny, "-q", "--metrics", "ssim,ms-ssim", cwd=tmp_path))
    lines = done.stdout.splitlines()
    assert lines[0] == "Mean over 10 images (SSIM: 9, MS-SSIM: none)"
    names = [line.split("  ")[-1] for line in lines]
    assert {"a\\nb.png", "c\udcff.png", "small.png"} <= set(names)


def test_of_one_image_there_is_no_table_of_differences(run: Run, tiny: Path, photos: Path) -> None:
    done = ok(run("eval", photos / "small.png", "--model", tiny, "-q", *COMPARED))
    assert "Mean over 1 image (SSIM: none)" in done.stdout
    assert "Difference" not in done.stdout


def test_a_run_that_began_on_a_terminal_is_gone_on_with_elsewhere(
    run: Run, tiny: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as first:
        first.setattr("semdis_cli.cli.eval_images.can_show", lambda: True)
        first.setattr("semdis_cli.pipeline.roundtrip.write_figures", find_disk_full)
        assert run("eval", photos, "--model", tiny).code == 5
    report = json.loads(ok(run("eval", photos, "--model", tiny, "--json")).stdout)
    assert report["images"]["this_run"] == 0


@pytest.mark.parametrize("other", [("--metrics", "psnr"), ("--compare", "jpeg"), ("--report", "r.html")])
def test_it_is_told_when_what_was_measured_does_not_count(
    run: Run, tiny: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, other: tuple[str, str]
) -> None:
    with monkeypatch.context() as first:
        first.setattr("semdis_cli.pipeline.roundtrip.write_figures", find_disk_full)
        assert run("eval", photos, "--model", tiny).code == 5
    assert "all images are measured anew" in ok(run("eval", photos, "--model", tiny, *other)).stderr
    assert "measured anew" not in ok(run("eval", photos, "--model", tiny, *other)).stderr
