"""Columns as plain values: the same columns come of them, from nothing but the sources and the table of the run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from semdis_cli.columns.find import find_columns
from semdis_cli.columns.maker import Columns
from semdis_cli.columns.record import RecordedColumns
from semdis_cli.errors import UsageError
from semdis_cli.files.url import Location
from semdis_cli.settings import ColumnSettings
from semdis_cli.sources.find import find_images
from semdis_cli.sources.named import NamedSources
from semdis_cli.sources.recorded import RecordedImages
from semdis_cli.store.checks import MALFORMED
from semdis_cli.store.columns import SetColumns
from tests.sources.test_tars import png, write_tar
from tests.sources.test_zips import write_zip


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def through_json(columns: Columns, form: RecordedColumns) -> Columns:
    return form.read(json.loads(json.dumps(form.describe(columns))), columns.classes)


def check_same(named: Sequence[Location], settings: ColumnSettings, known: SetColumns | None = None) -> Columns:
    """Make the columns of all images, and again by columns and images that went through JSON; return the latter."""
    found, sources = find_images(named), NamedSources(tuple(named))
    columns = find_columns(found, settings, found.images, known)
    again = through_json(columns, RecordedColumns(sources, settings.table))
    assert (again.classes, again.note) == (columns.classes, columns.note)
    form = RecordedImages(sources, has_beside=True)
    images = form.read(json.loads(json.dumps(form.describe(found.images, are_kept=False))))
    made = list(map(columns.columns_of, found.images))
    assert list(map(again.columns_of, images)) == made
    assert any(each.columns for each in made)
    return again


FILES = {f"n0000000{number % 2}/{number}.png": png(number + 1) for number in range(4)}


def test_sidecars_and_folders_of_classes(tmp_path: Path) -> None:
    beside = {f"n0000000{number % 2}/{number}.txt": f"one {number}\ntwo".encode() for number in range(4)}
    folder = write_files(tmp_path / "photos", {**FILES, **beside, "n00000000/0.json": b'{"score": 1.5}'})
    columns = check_same([folder], ColumnSettings())
    assert columns.classes == ("n00000000", "n00000001")
    check_same([folder], ColumnSettings(captions="txt", caption_lines=True, labels="none", columns="score"))
    check_same([folder], ColumnSettings(labels="folders"), SetColumns({"label": 2}, ("n00000001", "x")))


def test_tables_that_are_found_and_one_that_is_named(tmp_path: Path) -> None:
    rows = [{"file_name": f"{number}.png", "text": f"caption {number}", "label": number} for number in range(3)]
    lines = "\n".join(map(json.dumps, rows)).encode()
    images = {f"{number}.png": png(number + 1) for number in range(4)}
    one = write_files(tmp_path / "one", {**images, "metadata.jsonl": lines})
    other = write_files(tmp_path / "other", {**images, "deep/x.png": png(9), "deep/metadata.jsonl": lines})
    check_same([one], ColumnSettings())
    check_same([one, other], ColumnSettings(labels="label"))
    table = tmp_path / "table.csv"
    table.write_text("name,words,label\n0.png,some words,b\n1.png,others,a\n")
    settings = ColumnSettings(captions="words", labels="label", table=table, on="name")
    assert check_same([one], settings).classes == ("a", "b")


def test_members_of_tars_and_zips(tmp_path: Path) -> None:
    members = {f"{number}.{suffix}": b"5" for number in range(3) for suffix in ("txt", "cls")}
    members |= {f"{number}.png": png(number + 1) for number in range(3)}
    check_same([write_tar(tmp_path / "0.tar", list(members.items()))], ColumnSettings())
    labels = json.dumps({"labels": [["0.png", 3], ["1.png", 1]]}).encode()
    edm = {name: data for name, data in members.items() if name.endswith(".png")} | {"dataset.json": labels}
    check_same([write_zip(tmp_path / "0.zip", edm)], ColumnSettings(labels="label"))


def test_rows_of_parquet_whose_classes_have_names(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    features = {"label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    table = pa.table(
        {"image": [{"bytes": png(1), "path": "a.png"}, {"bytes": png(2), "path": "b.png"}], "label": [1, 0]}
    )
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "0.parquet")
    check_same([tmp_path / "0.parquet"], ColumnSettings(labels="label"))
    check_same([tmp_path / "0.parquet"], ColumnSettings(labels="label"), SetColumns({"label": 2}, ("bird", "dog")))


def test_no_columns(tmp_path: Path) -> None:
    form = RecordedColumns(NamedSources((tmp_path,)), None)
    assert through_json(Columns(note="nothing"), form) == Columns(note="nothing")


def column(**changes: Any) -> dict[str, Any]:
    column = {"name": "a", "provider": 0, "field": "txt", "make": {"kind": "caption"}, "is_needed": True}
    return {"note": "", "providers": [{"kind": "beside", "suffixes": ["txt"]}], "columns": [column | changes]}


def table(**file: Any) -> dict[str, Any]:
    return column() | {"providers": [{"kind": "table", "files": [file], "name": "t", "on": None}]}


BAD = [
    column(name=""),
    column(provider=1),
    column(provider=-1),
    column(field=3),
    column(make={"kind": "eval"}),
    column(make={"kind": []}),
    column(make=[]),
    column(make={"labels": [-1], "are_names": False}),
    column(make={"labels": None, "are_names": 1}),
    column(is_needed=1),
    column() | {"note": None},
    column() | {"providers": [{"kind": "beside", "suffixes": ["/../../../etc/passwd"]}]},
    column() | {"providers": [{"kind": "beside", "suffixes": "txt"}]},
    column() | {"providers": [{"kind": "folders", "prefixes": [1]}]},
    column() | {"providers": [{"kind": "other"}]},
    column() | {"providers": [[]]},
    table(),
    table(source=0, inside="../table.jsonl"),
    table(source=0, inside="/etc/passwd"),
    table(source=1, inside="table.jsonl"),
    table(source=0),
    {},
]


@pytest.mark.parametrize("fields", BAD)
def test_what_leads_elsewhere_or_is_none_is_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    with pytest.raises(MALFORMED):
        RecordedColumns(NamedSources((tmp_path,)), None).read(fields, ())


def test_a_table_of_a_source_that_is_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"table\.jsonl: cannot be read"):
        RecordedColumns(NamedSources((tmp_path,)), None).read(table(source=0, inside="table.jsonl"), ())
