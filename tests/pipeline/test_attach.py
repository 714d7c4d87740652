"""Tables to columns: every row finds its image, classes keep their numbers, and what is wrong costs nothing else."""

import csv
import io
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from semdis_cli.columns.settings import AttachSettings
from semdis_cli.errors import UsageError
from semdis_cli.events import ColumnsAttached, ColumnTrouble
from semdis_cli.option import OptionError
from semdis_cli.pipeline.attach import attach
from semdis_cli.provenance import Provenance
from semdis_cli.records import MAX_COLUMNS_BYTES, View
from semdis_cli.store.columns import SetColumns
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.views import file_key
from tests.extras import needs
from tests.store import KEYS, PROVENANCE, contents, make_plan, problems, write_set
from tests.store.test_columns import columns_in

WITH_LATENTS = [key for key in KEYS if "bad" not in key]
Json = dict[str, Any]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_set(tmp_path / "set")
    return tmp_path / "set"


def write(path: Path, rows: Iterable[Json | str]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def run(root: Path, *tables: Path, **options: Any) -> tuple[list[tuple[str, str]], Json]:
    """The troubles and the report of a run."""
    *events, last = attach(root, tables, AttachSettings(**options))
    assert isinstance(last, ColumnsAttached)
    assert problems(root) == []
    return [(event.key, event.reason) for event in events if isinstance(event, ColumnTrouble)], last.report


def captions(keys: Iterable[str]) -> list[Json]:
    return [{"key": key, "caption": f"about {key}"} for key in keys]


# --- rows and images ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_rows_come_in_any_order_and_each_finds_its_image(root: Path, tmp_path: Path, seed: int) -> None:
    rows = captions(WITH_LATENTS)
    random.Random(seed).shuffle(rows)
    troubles, report = run(root, write(tmp_path / "t.jsonl", rows))
    assert troubles == []
    assert columns_in(root) == {key: {"caption": f"about {key}"} for key in WITH_LATENTS}
    assert report["images"] == {"ok": len(WITH_LATENTS), "changed": len(WITH_LATENTS), "without_row": 0}
    assert report["rows"] == {"used": len(WITH_LATENTS), "second": 0, "unused": 0, "bad": 0}


VIEWED: Json = {"preprocessing": {"geometry": {"size": [256, 512], "max_pixels": None, "crop_seed": 0}}}
VIEWS = [View(size, crop) for size in (256, 512) for crop in (1, 2)]


def test_a_row_about_a_file_is_about_all_its_views_unless_they_have_rows_of_their_own(tmp_path: Path) -> None:
    keys = [view.key_of(file) for file in ("a.jpg", "b/c.jpg") for view in VIEWS]
    write_set(tmp_path / "set", make_plan(tuple(sorted(keys)), **VIEWED))
    rows = [
        {"key": "a.jpg", "caption": "all"},
        {"key": "a#512crop2.jpg", "caption": "own"},
        {"key": "b/c", "caption": "c"},
    ]
    troubles, report = run(tmp_path / "set", write(tmp_path / "t.jsonl", rows))
    expected = {key: "all" if key.startswith("a") else "c" for key in keys} | {"a#512crop2.jpg": "own"}
    assert columns_in(tmp_path / "set") == {key: {"caption": caption} for key, caption in expected.items()}
    assert (troubles, report["images"]["without_row"]) == ([], 0)


@given(stem=st.text("ab#./1", max_size=8), suffix=st.sampled_from(["", ".jpg", ".j#1"]), view=st.sampled_from(VIEWS))
def test_the_file_of_a_view_is_found_again(stem: str, suffix: str, view: View) -> None:
    key = f"x{stem}{suffix}"
    assert file_key(Provenance.from_json({**PROVENANCE, **VIEWED}), view.key_of(key)) == key
    assert file_key(Provenance.from_json(PROVENANCE), view.key_of(key)) == view.key_of(key)


def test_a_row_may_leave_out_the_suffix_and_is_about_all_images_of_that_name(tmp_path: Path) -> None:
    write_set(tmp_path / "set", make_plan(("a.jpg", "a.png", "b/c.d.png")))
    troubles, _ = run(tmp_path / "set", write(tmp_path / "t.jsonl", captions(["a", "./b/c.d"])))
    assert troubles == []
    about = {"a.jpg": "about a", "a.png": "about a", "b/c.d.png": "about ./b/c.d"}
    assert columns_in(tmp_path / "set") == {key: {"caption": text} for key, text in about.items()}


@pytest.mark.parametrize("folder", ["", "job1/"])
def test_a_table_of_img2dataset_is_about_the_tar_of_its_name(tmp_path: Path, folder: str) -> None:
    keys = [f"{folder}{tar}/{number:09d}.jpg" for tar in ("00000", "00001") for number in (0, 1)]
    write_set(tmp_path / "set", make_plan(tuple(keys)))
    tables = [
        write(tmp_path / f"{tar}.jsonl", [{"key": f"{n:09d}", "caption": f"{tar} {n}"} for n in (1, 0)])
        for tar in ("00000", "00001")
    ]
    assert run(tmp_path / "set", *tables)[0] == []
    assert columns_in(tmp_path / "set") == {
        key: {"caption": f"{key.split('/')[-2]} {int(key[-13:-4])}"} for key in keys
    }


def test_rows_of_downloads_that_failed_are_counted_and_no_trouble(tmp_path: Path) -> None:
    write_set(tmp_path / "set", make_plan(("00000/0.jpg",)))
    statuses = "success", "failed_to_download", "failed_to_resize"
    rows: list[Json] = [{"key": str(n), "caption": "a", "status": status} for n, status in enumerate(statuses)]
    table = write(tmp_path / "00000.jsonl", [*rows, {"key": "3", "status": "success"}])
    troubles, report = run(tmp_path / "set", table, columns="none")
    assert troubles == [("3", "is no image of the set, but has 00000.jsonl, row 4")]
    assert report["rows"] == {"used": 1, "second": 0, "unused": 1, "bad": 0, "not_downloaded": 2}


def test_the_first_row_for_an_image_counts_and_every_other_is_listed(root: Path, tmp_path: Path) -> None:
    rows = [*captions(WITH_LATENTS), {"key": "a.png", "caption": "again"}, {"key": "no.png", "caption": "none"}]
    first, second = (
        write(tmp_path / "1.jsonl", rows),
        write(tmp_path / "2.jsonl", [{"key": "d.png", "caption": "again"}]),
    )
    troubles, report = run(root, first, second)
    assert troubles == [
        ("a.png", f"has another row before 1.jsonl, row {len(rows) - 1}, which is not used"),
        ("no.png", f"is no image of the set, but has 1.jsonl, row {len(rows)}"),
        ("d.png", "has another row before 2.jsonl, row 1, which is not used"),
    ]
    assert columns_in(root)["a.png"] == {"caption": "about a.png"}
    assert report["rows"] == {"used": len(WITH_LATENTS), "second": 2, "unused": 1, "bad": 0}


def test_images_without_a_row_are_listed_and_keep_what_they_have(root: Path, tmp_path: Path) -> None:
    run(root, write(tmp_path / "1.jsonl", captions(WITH_LATENTS)))
    some = write(tmp_path / "2.jsonl", [{"key": "a.png", "caption": "better"}])
    troubles, report = run(root, some)
    assert troubles == [(key, "has no row") for key in WITH_LATENTS if key != "a.png"]
    assert columns_in(root) == {key: {"caption": f"about {key}"} for key in WITH_LATENTS} | {
        "a.png": {"caption": "better"}
    }
    assert report["images"]["changed"] == 1
    troubles, report = run(root, some, is_partial=True)
    assert (troubles, report["images"]["changed"]) == ([], 0)
    assert report["images"]["without_row"] == len(WITH_LATENTS) - 1


def test_an_image_that_failed_or_is_gone_may_have_a_row(root: Path, tmp_path: Path) -> None:
    write_set(root, make_plan(tuple(key for key in KEYS if key != "e.png")))
    assert run(root, write(tmp_path / "t.jsonl", captions(KEYS)))[0] == []
    write_set(root, make_plan())
    assert columns_in(root)["e.png"] == {"caption": "about e.png"}
    assert Manifest.read(root).columns == SetColumns({"caption": len(WITH_LATENTS)})


def test_a_table_about_none_of_the_images_is_refused_and_the_set_stays(root: Path, tmp_path: Path) -> None:
    before = contents(root)
    with pytest.raises(
        UsageError, match=r"t\.jsonl: no row is about an image: the first one says 'x\.png', and an image"
    ):
        run(root, write(tmp_path / "t.jsonl", captions(["x.png"])))
    assert contents(root) == before


NAMES = st.text('ab/.\t\n"\\é\ud800\U0001f600', min_size=1, max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(names=st.lists(NAMES, min_size=1, max_size=12), texts=st.lists(st.text(), min_size=12, max_size=12))
def test_a_spool_finds_the_rows_of_any_keys(names: list[str], texts: list[str]) -> None:
    from semdis_cli.columns.row_spool import NO_LABEL, RowSpool

    spool = RowSpool()
    spool.begin_table("t")
    rows = [(json.dumps({"x": text})[1:-1], None, "", ("x",), ()) for text in texts[: len(names)]]
    spool.add(range(1, len(names) + 1), names, rows, [NO_LABEL] * len(names))
    spool.finish()
    found = spool.find([*names, "not there"])
    assert [[row[0] for row in rows] for rows in found[:-1]] == [
        [at for at, other in enumerate(names) if other == name] for name in names
    ]
    assert all(json.loads(b"{%b}" % row[3])["x"] == texts[row[0]] for rows in found for row in rows)
    assert [spool.place(at) for at in range(len(names))] == [(name, 0, at + 1) for at, name in enumerate(names)]


# --- columns --------------------------------------------------------------------------------------------------------


def test_captions_and_labels_are_found_under_their_usual_names_and_the_rest_keeps_its_own(
    root: Path, tmp_path: Path
) -> None:
    rows = [
        {"file_name": key, "text": "t", "cls": 3, "width": 7, "tags": ["a", None], "url": None} for key in WITH_LATENTS
    ]
    assert run(root, write(tmp_path / "t.jsonl", rows))[0] == []
    assert columns_in(root)["a.png"] == {"caption": "t", "label": 3, "width": 7, "tags": ["a", None]}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"columns": "none"}, {"caption": "c", "label": 1}),
        ({"captions": "none", "labels": "none", "columns": "width"}, {"width": 7}),
        ({"captions": "long", "columns": "none"}, {"caption": "l", "label": 1}),
        ({"labels": "width", "columns": "none"}, {"caption": "c", "label": 7}),
        ({"captions": "none", "labels": "none"}, {"long": "l", "width": 7}),
    ],
)
def test_columns_are_chosen_by_name(root: Path, tmp_path: Path, options: Json, expected: Json) -> None:
    rows = [{"key": key, "caption": "c", "label": 1, "long": "l", "width": 7} for key in WITH_LATENTS]
    assert run(root, write(tmp_path / "t.jsonl", rows), **options)[0] == []
    assert columns_in(root)["a.png"] == expected


@pytest.mark.parametrize("flag", ["captions", "labels", "columns"])
def test_a_column_that_no_row_has_is_refused(root: Path, tmp_path: Path, flag: str) -> None:
    with pytest.raises(UsageError, match=f"--{flag} nope: there is no such column in t.jsonl"):
        run(root, write(tmp_path / "t.jsonl", captions(KEYS)), **{flag: "nope"})


def test_another_column_may_name_the_images(root: Path, tmp_path: Path) -> None:
    rows = [{"id": key, "key": "nothing", "caption": "c"} for key in WITH_LATENTS]
    assert run(root, write(tmp_path / "t.jsonl", rows), on="id")[0] == []
    assert columns_in(root)["a.png"] == {"caption": "c"}
    with pytest.raises(UsageError, match="has no column 'nope'"):
        run(root, tmp_path / "t.jsonl", on="nope")


def test_columns_are_removed_before_others_come(root: Path, tmp_path: Path) -> None:
    run(root, write(tmp_path / "1.jsonl", [{"key": key, "caption": "c", "width": 1} for key in WITH_LATENTS]))
    run(root, write(tmp_path / "2.jsonl", [{"key": "a.png", "width": 2}]), remove="width", is_partial=True)
    assert columns_in(root) == {key: {"caption": "c"} for key in WITH_LATENTS} | {"a.png": {"caption": "c", "width": 2}}
    run(root, remove="caption,width,not there")
    assert columns_in(root) == {}
    assert Manifest.read(root).columns == SetColumns()


def test_removing_nothing_that_is_there_is_refused(root: Path, tmp_path: Path) -> None:
    run(root, write(tmp_path / "1.jsonl", [{"key": key, "caption": "c", "width": 1} for key in WITH_LATENTS]))
    with pytest.raises(UsageError, match="has no column 'captoin' to remove; its columns: caption, width"):
        run(root, remove="captoin")


def test_csv_is_text_and_what_is_empty_is_none(root: Path, tmp_path: Path) -> None:
    file = io.StringIO()
    table = csv.writer(file)
    table.writerow(["file_name", "caption", "label", "width"])
    table.writerows([[key, 'a "b",\nc' if key == "a.png" else "", "2", "7"] for key in WITH_LATENTS])
    (tmp_path / "t.csv").write_text(file.getvalue())
    assert run(root, tmp_path / "t.csv")[0] == []
    assert columns_in(root)["a.png"] == {"caption": 'a "b",\nc', "label": 2, "width": "7"}
    assert columns_in(root)["d.png"] == {"label": 2, "width": "7"}


def test_parquet_has_types_and_the_names_of_its_classes(root: Path, tmp_path: Path) -> None:
    needs("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    features = {"label": {"names": ["zebra", "ant"], "_type": "ClassLabel"}}
    schema = pa.schema(
        [("file_name", pa.string()), ("label", pa.int64()), ("score", pa.float32()), ("data", pa.binary())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    rows = [{"file_name": key, "label": n % 2, "score": 0.5, "data": b"\0"} for n, key in enumerate(WITH_LATENTS)]
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "t.parquet")
    assert run(root, tmp_path / "t.parquet")[0] == []
    assert columns_in(root)["a.png"] == {"label": 0, "score": 0.5}
    assert Manifest.read(root).columns.classes == ("zebra", "ant")


# --- labels ---------------------------------------------------------------------------------------------------------


def labels(root: Path, tmp_path: Path, values: Json, **options: Any) -> list[tuple[str, str]]:
    rows = [{"key": key, "label": value} for key, value in values.items()]
    return run(root, write(tmp_path / "t.jsonl", rows), is_partial=True, **options)[0]


def labels_in(root: Path) -> Json:
    return {key: columns["label"] for key, columns in columns_in(root).items() if "label" in columns}


def test_names_become_classes_that_keep_their_numbers(root: Path, tmp_path: Path) -> None:
    assert labels(root, tmp_path, {"a.png": "owl", "d.png": "cat"}) == []
    assert (labels_in(root), Manifest.read(root).columns.classes) == ({"a.png": 1, "d.png": 0}, ("cat", "owl"))
    assert labels(root, tmp_path, {"a.png": "bee", "e.png": "ant", "d.png": "owl"}) == []
    assert labels_in(root) == {"a.png": 3, "d.png": 1, "e.png": 2}
    assert Manifest.read(root).columns.classes == ("cat", "owl", "ant", "bee")


def test_new_classes_are_told(root: Path, tmp_path: Path) -> None:
    labels(root, tmp_path, {"a.png": "owl"})
    table = write(tmp_path / "2.jsonl", [{"key": "a.png", "label": name} for name in ("owl", "ant", "bee")])
    assert run(root, table, is_partial=True)[1]["new_classes"] == {"number": 2, "from": 1, "first": ["ant", "bee"]}


def test_numbers_are_labels_within_the_classes(root: Path, tmp_path: Path) -> None:
    assert labels(root, tmp_path, {"a.png": 7}) == []
    assert (labels_in(root), Manifest.read(root).columns.classes) == ({"a.png": 7}, ())
    with pytest.raises(UsageError, match="numbers without names"):
        labels(root, tmp_path, {"a.png": "owl"})
    assert labels(root, tmp_path, {"a.png": "owl"}, remove="label") == []
    assert labels(root, tmp_path, {"a.png": 0, "d.png": 1, "e.png": -1, "c.png": 0.5}) == [
        ("e.png", "has no label: its label is -1, and labels go from 0 to 2,147,483,647"),
        ("c.png", "has no label: its label is 0.5, neither a whole number nor a name"),
        ("d.png", "has no label: it is 1, and the set has 1 classes"),
    ]
    assert labels_in(root) == {"a.png": 0}


# --- what cannot be kept --------------------------------------------------------------------------------------------


def test_a_value_that_cannot_be_kept_costs_nothing_else(root: Path, tmp_path: Path) -> None:
    bad: dict[str, Any] = {
        "caption": 5,
        "half": "\ud800",
        "large": "x" * (MAX_COLUMNS_BYTES + 1),
    }
    rows: list[Json | str] = [{"key": "a.png", "width": 1, "label": 2, **bad}]
    rows += [{"key": key, "width": 1} for key in WITH_LATENTS if key != "a.png"]
    troubles, _ = run(root, write(tmp_path / "t.jsonl", rows))
    assert [key for key, _ in troubles] == ["a.png"] * 3
    assert [reason.split(":")[0] for _, reason in troubles] == ["has no caption", "has no half", "has no large"]
    assert columns_in(root) == {key: {"width": 1} for key in WITH_LATENTS} | {"a.png": {"width": 1, "label": 2}}


def test_a_row_that_cannot_be_read_is_listed_by_its_number(root: Path, tmp_path: Path) -> None:
    rows: list[Json | str] = ["{", '{"key": "a.png", "x": NaN}', '{"caption": "whose?"}', "", *captions(WITH_LATENTS)]
    troubles, report = run(root, write(tmp_path / "t.jsonl", rows))
    assert [key for key, _ in troubles] == ["t.jsonl, row 1", "t.jsonl, row 2", "t.jsonl, row 3"]
    assert report["rows"]["bad"] == 3
    assert len(columns_in(root)) == len(WITH_LATENTS)


def test_columns_that_are_too_much_together_are_left_as_they_were(root: Path, tmp_path: Path) -> None:
    half = "x" * (MAX_COLUMNS_BYTES // 2)
    run(root, write(tmp_path / "1.jsonl", [{"key": "a.png", "one": half}]), is_partial=True)
    troubles, _ = run(root, write(tmp_path / "2.jsonl", [{"key": "a.png", "two": half}]), is_partial=True)
    assert troubles == [("a.png", "columns of 65,558 bytes; at most 65,536 are kept")]
    assert columns_in(root) == {"a.png": {"one": half}}


def test_a_line_that_never_ends_costs_itself(root: Path, tmp_path: Path) -> None:
    rows: list[Json | str] = [{"key": "a.png", "x": "y" * (1 << 21)}, *captions(WITH_LATENTS)]
    troubles, _ = run(root, write(tmp_path / "t.jsonl", rows))
    assert [key for key, _ in troubles] == ["t.jsonl, row 1"]
    assert len(columns_in(root)) == len(WITH_LATENTS)


@pytest.mark.parametrize(
    "options", [{"columns": "a,a"}, {"columns": "caption"}, {"columns": "auto,b"}, {"remove": ""}, {"remove": "a,,b"}]
)
def test_options_that_make_no_sense_are_refused(options: Json) -> None:
    with pytest.raises(OptionError):
        AttachSettings(**options)
