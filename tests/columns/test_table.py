"""Tables: rows are found by the keys of images, whatever is in them, and none of them costs another."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from semdis_cli.columns import json_table
from semdis_cli.columns.table import Table, TableFile, open_table, open_tables
from semdis_cli.errors import UsageError
from tests.extras import needs

TEXTS = st.text(st.characters(codec="utf-8"), max_size=30)
NAMES = st.text("ab./ ,\"\n'é\U0001f600", min_size=1, max_size=8).filter(lambda name: bool(name.strip("./")))
ROWS = st.lists(st.tuples(NAMES, TEXTS, TEXTS), max_size=20)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def troubles(table: Table) -> list[tuple[str, str]]:
    return [(trouble.key, trouble.reason) for trouble in table.bad_rows]


@in_one_folder
@given(rows=st.lists(st.tuples(NAMES, PLAIN), max_size=20))
def test_every_row_of_json_lines_is_found_by_its_key_and_the_first_of_a_key_counts(
    tmp_path: Path, rows: list[tuple[str, Any]]
) -> None:
    lines = [json.dumps({"key": name, "value": value}, ensure_ascii=False) for name, value in rows]
    table = open_table(write(tmp_path / "a.jsonl", "\n".join(lines)))
    expected: dict[str, Any] = {}
    for name, value in rows:
        expected.setdefault(key_of(name), value)
    found = {key: (table.find(key) or {})["value"] for key in expected}
    assert found == expected
    assert len(list(table.repeated())) == len(rows) - len(expected)
    assert list(table.unused(expected)) == []
    assert {trouble.key for trouble in table.unused([])} == set(expected)
    assert table.find("no such key") is None


def key_of(name: str) -> str:
    """The key of a name that people write: relative, without `.` and `..` in it."""
    parts: list[str] = []
    for part in name.split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part not in {"", "."}:
            parts += [part] if part != ".." or not name.startswith("/") else []
    return "/".join(parts) or ("" if name.startswith("/") else ".")


@in_one_folder
@given(rows=ROWS, suffix=st.sampled_from([".csv", ".tsv"]), mark=st.booleans())
def test_every_row_of_a_csv_is_found_with_its_cells_as_texts(
    tmp_path: Path, rows: list[tuple[str, str, str]], suffix: str, mark: bool
) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter="," if suffix == ".csv" else "\t", quoting=csv.QUOTE_ALL)
    writer.writerows([("text", "file_name", "other, with a comma"), *((one, name, other) for name, one, other in rows)])
    table = open_table(write(tmp_path / f"a{suffix}", "\ufeff" * mark + file.getvalue()))
    expected: dict[str, dict[str, str]] = {}
    for name, one, other in rows:
        cells = {"text": one, "file_name": name, "other, with a comma": other}
        expected.setdefault(key_of(name), {column: cell for column, cell in cells.items() if cell})
    assert {key: table.find(key) for key in expected} == expected
    assert troubles(table) == []


@in_one_folder
@given(data=st.binary(max_size=200) | st.text('{}[]",:\n ab1\\', max_size=60).map(str.encode))
def test_any_bytes_are_a_table_or_are_refused_in_a_line(tmp_path: Path, data: bytes) -> None:
    for name in ("any.jsonl", "any.csv"):
        try:
            table = open_table(write(tmp_path / name, data), "a" if name.endswith(".csv") else None)
        except UsageError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert len(table) + len(table.bad_rows) <= data.count(b"\n") + 1


def test_a_row_that_cannot_be_read_is_named_and_costs_no_other(tmp_path: Path) -> None:
    lines = [
        b'{"file_name": "a.jpg", "text": "one"}',
        b'{"file_name": "b.jpg", "text": "caf\xe9"}',
        b'{"file_name": "c.jpg", "score": NaN}',
        b"[1, 2]",
        b"",
        b'{"text": "whose?"}',
        b'{"file_name": 7}',
        b'{"file_name": "' + b"x" * (1 << 20) + b'"}',
        b'{"file_name": "d.jpg", "text": "four"}',
    ]
    table = open_table(write(tmp_path / "a.jsonl", b"\r\n".join(lines)))
    assert [(table.find(key) or {}).get("text") for key in ("a.jpg", "d.jpg")] == ["one", "four"]
    assert len(table) == 2
    assert troubles(table) == [
        ("a.jsonl, row 2", "is not UTF-8 (byte 35)"),
        ("a.jsonl, row 3", "is no JSON object (NaN is no JSON)"),
        ("a.jsonl, row 4", "is no JSON object ([1, 2] is no object)"),
        ("a.jsonl, row 6", "has no file_name"),
        ("a.jsonl, row 7", "has no file_name"),
        ("a.jsonl, row 8", "is larger than 1,024 KiB"),
    ]


def test_a_csv_says_which_row_is_none(tmp_path: Path) -> None:
    text = b'file_name,text\na.jpg,"two\nlines"\nb.jpg,one,too many\nc.jpg,caf\xe9\n\nd.jpg,fine\ne.jpg,"no end\n'
    table = open_table(write(tmp_path / "a.csv", text))
    assert table.find("a.jpg") == {"file_name": "a.jpg", "text": "two\nlines"}
    assert table.find("d.jpg") == {"file_name": "d.jpg", "text": "fine"}
    assert troubles(table) == [
        ("a.csv, row 2", "has 3 cells, but there are 2 columns"),
        ("a.csv, row 3", "is not UTF-8"),
        ("a.csv, row 6", "is no row (unexpected end of data)"),
    ]


def test_names_are_those_that_images_have_however_people_write_them(tmp_path: Path) -> None:
    names = ("./a.jpg", "b//c.jpg", "b/./d.jpg", "/data/e.jpg", "x/../f.jpg")
    lines = "".join(json.dumps({"file_name": name}) + "\n" for name in names)
    table = open_table(write(tmp_path / "a.jsonl", lines))
    assert [table.find(key) is not None for key in ("a.jpg", "b/c.jpg", "b/d.jpg", "data/e.jpg", "f.jpg")] == [True] * 5


def test_the_column_of_keys_is_found_or_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "image,file_name,text\n1.jpg,x/1.jpg,one\n")
    assert open_table(path).columns == ("image", "text")
    assert open_table(path).find("x/1.jpg") is not None
    assert open_table(path, "image").columns == ("file_name", "text")
    assert open_table(path, "image").find("1.jpg") is not None
    with pytest.raises(UsageError, match=r"a\.csv: has no column 'id' \(but 'image', 'file_name', 'text'\); --on says"):
        open_table(path, "id")
    with pytest.raises(UsageError, match=r"b\.jsonl: has no column 'key' or 'file_name' \(but 'name'\)"):
        open_table(write(tmp_path / "b.jsonl", '{"name": "x"}\n'))


def test_what_is_no_table_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.csv: cannot be read \(No such file"):
        open_table(tmp_path / "none.csv")
    with pytest.raises(UsageError, match=r"a\.xlsx: is no table by its suffix; known are \.jsonl"):
        open_table(write(tmp_path / "a.xlsx", "PK"))
    with pytest.raises(UsageError, match=r"folder\.csv: is a folder; name the tables in it"):
        open_table(make_folder(tmp_path / "folder.csv"))
    with pytest.raises(UsageError, match=r"a\.csv: its first row does not name the columns, each once"):
        open_table(write(tmp_path / "a.csv", "file_name,text,text\n"))
    with pytest.raises(UsageError, match=r"a\.jsonl: is no table: row 1,001 is no JSON object"):
        open_table(write(tmp_path / "a.jsonl", "no json\n" * 2000))


def make_folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_a_table_that_changes_while_it_is_used_is_not_believed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"key": "a.jpg", "text": "one"}\n')
    table = open_table(path)
    write(path, '{"key": "a.jpg", "text": "another"}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl was changed while the run was going on"):
        table.find("a.jpg")


def test_several_files_are_one_table_each_with_its_own_folder(tmp_path: Path) -> None:
    one = write(tmp_path / "one.csv", "file_name,text\n1.jpg,first\n2.jpg,second\n")
    other = write(tmp_path / "other.jsonl", '{"file_name": "1.jpg", "score": 3}\n')
    table = open_tables([TableFile(one, "cats/"), TableFile(other, "dogs/")], "metadata")
    assert table.find("cats/1.jpg") == {"file_name": "1.jpg", "text": "first"}
    assert table.find("dogs/1.jpg") == {"file_name": "1.jpg", "score": 3}
    assert table.find("1.jpg") is None
    assert table.columns == ("text", "score")
    assert [trouble.reason for trouble in table.unused(["cats/1.jpg", "cats/2.jpg"])] == [
        "has a row in other.jsonl, but is no image of this run"
    ]


@pytest.mark.parametrize(
    "value",
    [
        [{"file_name": "a.jpg", "caption": "one"}, {"file_name": "b.jpg", "caption": ["two", "three"]}, "no row"],
        {"a.jpg": "one", "b.jpg": ["two", "three"]},
        {"a.jpg": {"caption": "one"}, "b.jpg": {"caption": ["two", "three"]}},
    ],
)
def test_json_is_a_list_of_rows_or_gives_each_name_its_caption(tmp_path: Path, value: Any) -> None:
    table = open_table(write(tmp_path / "a.json", "\ufeff" + json.dumps(value)))
    assert table.find("a.jpg") == {"file_name": "a.jpg", "caption": "one"}
    assert table.find("b.jpg") == {"file_name": "b.jpg", "caption": ["two", "three"]}
    assert troubles(table) == (
        [("a.json, row 3", "is no JSON object ('no row' is no object)")] if "no row" in value else []
    )


def test_json_that_is_no_table_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("7", '{"a": NaN}', '{"a": "\xff', "[" * 100_000):
        with pytest.raises(UsageError, match=r"a\.json: is no table \("):
            open_table(write(tmp_path / "a.json", text.encode("latin-1")))
    with pytest.raises(UsageError, match=r"none\.json: cannot be read \(No such file"):
        open_table(tmp_path / "none.json")
    monkeypatch.setattr(json_table, "MAX_BYTES", 10 << 20)
    with pytest.raises(UsageError, match=r"is larger than 10 MiB: write it as JSON lines"):
        open_table(write(tmp_path / "a.json", "[" + " " * (10 << 20) + "]"))


def test_parquet_gives_its_values_and_the_names_of_its_classes_but_no_pictures(tmp_path: Path) -> None:
    needs("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "text": {"dtype": "string"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    columns = {
        "file_name": ["a.jpg", "b.jpg", None],
        "image": [{"bytes": b"\xff\xd8", "path": "a.jpg"}] * 3,
        "text": ["a cat", None, "nobody"],
        "score": [0.5, float("nan"), 1.0],
        "label": [0, 1, 1],
        "box": [[1, 2, 3, 4], None, []],
        "seen": pa.array([0, 1, 2], pa.date32()),
        "raw": [b"1", b"2", b"3"],
    }
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), tmp_path / "a.parquet", row_group_size=2)
    table = open_table(tmp_path / "a.parquet")
    assert table.find("a.jpg") == {
        "file_name": "a.jpg",
        "text": "a cat",
        "score": 0.5,
        "label": 0,
        "box": [1, 2, 3, 4],
        "seen": "1970-01-01",
    }
    assert table.find("b.jpg") == {"file_name": "b.jpg", "label": 1, "seen": "1970-01-02"}
    assert table.classes == {"label": ("cat", "dog")}
    assert troubles(table) == [("a.parquet, row 3", "has no file_name")]
    with pytest.raises(UsageError, match=r"b\.parquet: cannot be read as Parquet"):
        open_table(write(tmp_path / "b.parquet", "PAR1 and no more"))
    with pytest.raises(UsageError, match=r"none\.parquet: cannot be read"):
        open_table(tmp_path / "none.parquet")


def test_a_text_of_a_parquet_that_is_not_utf_8_costs_its_row_alone(tmp_path: Path) -> None:
    needs("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = pa.array([b"fine", b"caf\xe9", b"too"], pa.binary()).view(pa.string())
    rows = {"key": ["a.jpg", "b.jpg", "c.jpg"], "text": texts, "seen": pa.array([0, 2**60, None], pa.timestamp("ms"))}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    table = open_table(tmp_path / "a.parquet")
    assert table.find("a.jpg") == {"key": "a.jpg", "text": "fine", "seen": "1970-01-01T00:00:00"}
    assert table.find("c.jpg") == {"key": "c.jpg", "text": "too"}
    assert [key for key, reason in troubles(table) if "is not UTF-8" in reason] == ["a.parquet, row 2"]
