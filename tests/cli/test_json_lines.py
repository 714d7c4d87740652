"""What `--json` prints is what docs/json-lines.md says: its tables are the schema."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import PHOTOS, Run, semdis

PAGE = Path(__file__).parents[2] / "docs" / "json-lines.md"
EVERY_RUN, WITH_MODEL = ("Every run",), ("Every run", "Runs with a model")
TYPES: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "list": (list,),
    "object": (dict,),
}

Schema = dict[str, tuple[str, bool]]  # field -> its type, and whether it is always there


def schema(*titles: str) -> Schema:
    """The fields in the tables under some headings, backticks left out."""
    sections = dict(
        re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    )
    by_title = {title.replace("`", ""): text for title, text in sections.items()}
    pattern = re.compile(r"^\| `([^|]+)`(\??) \| ([a-z ]+) \|", re.MULTILINE)
    rows = [row for title in titles for row in pattern.findall(by_title[title])]
    return {name: (kind, not optional) for names, optional, kind in rows for name in names.split("`, `")}


def fields(value: dict[str, Any], fixed: Schema, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every field of an object with its path; what the schema calls an object is not looked into."""
    for name, inner in value.items():
        path = prefix + name
        if isinstance(inner, dict) and path not in fixed:
            yield from fields(inner, fixed, f"{path}.")
        else:
            yield path, inner


def problems(line: str, *titles: str) -> list[str]:
    """What is not as the page says."""
    fixed, value = schema(*titles), json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    found = dict(fields(value, fixed))
    wrong = [f"{path} is not on the page" for path in found if path not in fixed]
    wrong += [f"{path} is missing" for path, (_, is_fixed) in fixed.items() if is_fixed and path not in found]
    return wrong + [
        f"{path}: {found[path]!r}" for path in found.keys() & fixed if not fits(found[path], fixed[path][0])
    ]


def fits(value: object, kind: str) -> bool:
    return any(type(value) in TYPES[one] for one in kind.split(" or "))


def save_npy(path: Path, num_rows: int) -> None:
    path.parent.mkdir(exist_ok=True)
    np.save(path, np.ones((num_rows, 4), np.float16))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photographs, and a file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    with Image.open(PHOTOS / "lake-sherburne.jpg") as photo:
        for number in range(3):
            photo.resize((48 + number, 48)).save(folder / f"{number}.png")
    (folder / "bad.png").write_bytes(b"no image")
    return folder


def test_reports_of_encode_decode_and_roundtrip_are_as_documented(run: Run, tiny: Path, photos: Path) -> None:
    for options in (
        (),
        ("--dtype", "float32", "--batch-size", "2", "--threads", "1", "--shard-images", "1", "-o", "b"),
    ):
        done = run("encode", photos, "--model", tiny, "--json", "-q", "--threads", "1", *options)
        assert problems(done.stdout, *WITH_MODEL, "encode") == []
    assert (
        problems(
            run("encode", photos, "--model", tiny, "--json", "--dry-run", "--threads", "1").stdout, "encode --dry-run"
        )
        == []
    )
    assert problems(run("plan", photos, "--model", tiny, "--json", "-q", "-o", "c").stdout, "plan") == []
    assert problems(run("decode", "--json", "-q").stdout, *WITH_MODEL, "decode") == []
    done = run("roundtrip", photos, "--model", tiny, "--json", "-q")
    assert problems(done.stdout, *WITH_MODEL, "roundtrip") == []
    good = next(path for path in sorted(photos.rglob("*.png")) if path.name != "bad.png")
    Path("cut-off.png").write_bytes(good.read_bytes()[:-40])  # a whole header: only a run can tell
    done = run("roundtrip", "cut-off.png", "--model", tiny, "--json", "-q", "-o", "none")
    assert problems(done.stdout, *WITH_MODEL, "roundtrip") == []


def test_reports_with_filters_are_as_documented(run: Run, tiny: Path, photos: Path) -> None:
    (photos / "bad.png").unlink()
    filtered = ("encode", photos, "--model", tiny, "--json", "-q", "--threads", "1", "--size", "48", "--dedupe")
    assert problems(run(*filtered, "--max-aspect", "1.03", "--dry-run").stdout, "encode --dry-run") == []
    assert problems(run("plan", *filtered[1:], "--max-aspect", "1.03").stdout, "plan") == []
    assert problems(run(*filtered, "--max-aspect", "1.03").stdout, *WITH_MODEL, "encode") == []
    assert problems(run("inspect", "--json").stdout, "inspect") == []
    assert problems(run("verify", "--json", "-q").stdout, "verify") == []


def test_reports_of_a_set_with_all_that_there_is_are_as_documented(
    run: Run, tiny: Path, photos: Path, tmp_path: Path
) -> None:
    (photos / "bad.png").unlink()
    for number in range(3):
        (photos / f"{number}.cls").write_text(str(number))
        save_npy(tmp_path / "t5" / f"{number}.npy", number)
    parts = ("--masks", "masks", "--flip", "both", "--posterior", "moments", "--store-dtype", "int8", "--size", "48")
    shutil.copytree(photos, "masks")
    done = run("encode", photos, "--model", tiny, "--json", "-q", "--threads", "1", *parts)
    assert (done.code, problems(done.stdout, *WITH_MODEL, "encode")) == (0, [])
    for options in (("--tensors", "t5", "--as", "t5"), ("--tensors", "t5/0.npy", "--as", "t6"), ("--remove", "t6")):
        assert problems(run("attach", "--json", "-q", *options).stdout, "attach") == []
    assert problems(run("inspect", "--json").stdout, "inspect") == []
    assert problems(run("verify", "--data", "--json", "-q").stdout, "verify") == []
    for form in ("webdataset", "npy", "mds", "litdata", "lightningdit", "edm2", "mar", "kohya"):
        done = run("export", "--format", form, "-o", form, "--json", "-q")
        assert (done.code, problems(done.stdout, *EVERY_RUN, "export")) == (0, [])


def test_reports_of_what_works_on_latents_are_as_documented(run: Run, tiny: Path, photos: Path, tmp_path: Path) -> None:
    run("encode", photos, "--model", tiny, "-q")
    assert problems(run("inspect", "--json").stdout, "inspect") == []
    assert problems(run("eval", "latents", "--json", "-q").stdout, "eval of latents") == []
    for kind in ("webdataset", "safetensors", "npy", "mds", "litdata", "kohya"):
        done = run("export", "-o", kind, "--format", kind, "--json", "-q")
        assert problems(done.stdout, *EVERY_RUN, "export") == []
    assert problems(run("import", "webdataset", "-o", "again", "--json", "-q").stdout, *EVERY_RUN, "import") == []
    assert problems(run("verify", "--json", "-q").stdout, "verify") == []
    with (tmp_path / "latents" / "index.jsonl").open("ab") as index:
        index.write(b"more\n")
    done = run("verify", "--json", "-q")
    *lines, report = done.stdout.splitlines()
    assert lines
    assert [problems(line, "verify: a problem") for line in lines] == [[]] * len(lines)
    assert problems(report, "verify") == []


def test_reports_of_a_set_with_columns_and_tensors_are_as_documented(run: Run, tiny: Path, photos: Path) -> None:
    run("encode", photos, "--model", tiny, "-q", "--size", "48", "--flip", "both")
    rows = [{"key": f"{number}.png", "caption": "a", "label": "x"} for number in range(3)]
    lines = [*rows, {"key": "3", "status": "failed_to_download"}]
    Path("t.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in lines))
    Path("t5").mkdir()
    for number in range(2):
        np.save(Path("t5", f"{number}.npy"), np.ones((number, 4), np.float16))
    assert problems(run("attach", "latents", "t.jsonl", "--json", "-q").stdout, "attach") == []
    assert problems(run("attach", "latents", "--tensors", "t5", "--as", "t5", "--json", "-q").stdout, "attach") == []
    assert problems(run("inspect", "--json").stdout, "inspect") == []
    for kind, *options in (("lightningdit",), ("edm2", "--std", "zero"), ("mar", "--std", "zero")):
        done = run("export", "-o", kind, "--format", kind, *options, "--json", "-q")
        assert problems(done.stdout, *EVERY_RUN, "export") == []


@pytest.mark.slow
def test_a_report_of_train_is_as_documented(run: Run, tiny: Path, photos: Path) -> None:
    options = ("--init", tiny, "--steps", "1", "--batch-size", "1", "--crop", "32", "--dtype", "float32")
    done = run("train", photos, "-o", "model", *options, "--compile", "off", "--json", "-q")
    assert problems(done.stdout.splitlines()[-1], "train") == []


@pytest.mark.slow
def test_where_stdout_is_taken_the_report_is_the_last_line_of_stderr(tiny: Path, photos: Path) -> None:
    done = semdis("encode", photos, "-o", "-", "--model", tiny, "--json", cwd=photos.parent)
    assert problems(done.stderr.splitlines()[-1], *WITH_MODEL, "encode") == []
    one = semdis("encode", "-", "-o", "-", "--model", tiny, cwd=photos, stdin=(photos / "1.png").read_bytes())
    done = semdis("decode", "-", "--json", cwd=photos, stdin=one.stdout.encode("utf-8", "surrogateescape"))
    assert problems(done.stderr.splitlines()[-1], *WITH_MODEL, "decode") == []


def test_a_field_that_is_missing_surplus_or_of_another_type_is_noticed() -> None:
    good = {"event": "problem", "file": "a", "kind": "b", "what": "c"}
    assert problems(json.dumps(good), "verify: a problem") == []
    assert problems(json.dumps(good | {"more": 1}), "verify: a problem") == ["more is not on the page"]
    assert problems(json.dumps(good | {"what": None}), "verify: a problem") == ["what: None"]
    del good["file"]
    assert problems(json.dumps(good), "verify: a problem") == ["file is missing"]


@pytest.mark.slow
def test_the_report_of_bench_is_as_documented(run: Run, tiny: Path) -> None:
    done = run("bench", "--quick", "--json", "-q", "--model", tiny, "--size", "64", "--num-images", "2")
    assert problems(done.stdout, "bench") == []
