"""Rows of the index: whatever a file may be called survives, nonsense is refused, and groups merge in order."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semdis_cli.errors import StoreError
from semdis_cli.events import Failure, LeftOut
from semdis_cli.files.json_text import to_line
from semdis_cli.records import FileDigest, Geometry, ImageRecord
from semdis_cli.store.index import (
    _PLAIN_LINE,
    IndexRow,
    Place,
    _parse_place,
    parse_place,
    parse_row,
    read_rows,
)
from semdis_cli.store.writing.merge import merge_rows
from tests.store import geometry_of

FAILED = IndexRow.of_failure(Failure("bad.png", "is truncated"))
RECORD = ImageRecord("a.png", geometry_of((32, 32)), FileDigest(10, "ab" * 32), ("a note",))
OK = IndexRow.of_image(RECORD, "00000000-2x2.safetensors", 0)

quick = settings(deadline=None)

file_names = st.one_of(
    st.binary(min_size=1, max_size=12).map(os.fsdecode),
    st.text(st.sampled_from('a\n\r\t\0"\\/\u2028\U0001f600é\udc80\udcff'), min_size=1, max_size=8),
)


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    def pair(smallest: int = 1, largest: int = 2**31 - 1) -> tuple[int, int]:
        side = st.integers(smallest, largest)
        return draw(side), draw(side)

    image, crop = pair(largest=2**30), pair(smallest=0, largest=2**30 - 1)
    resized = crop[0] + image[0], crop[1] + image[1]
    bucket = image[0] + draw(st.integers(0, 99)), image[1] + draw(st.integers(0, 99))
    return Geometry(source=pair(), resized=resized, crop=crop, image=image, bucket=bucket)


images = st.builds(
    ImageRecord,
    key=file_names,
    geometry=geometries(),
    source=st.builds(FileDigest, st.integers(0, 2**63), st.text("0123456789abcdef", min_size=64, max_size=64)),
    notes=st.lists(st.text(), max_size=2).map(tuple),
    columns=st.dictionaries(
        st.text(min_size=1, max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=4,
        ),
        max_size=3,
    ),
    mask_sha256=st.none() | st.just("cd" * 32),
)
sides = st.integers(1, 2**31 - 1)
left_out = st.one_of(
    st.builds(LeftOut, file_names, st.just("min_size"), st.just(0), size=st.tuples(sides, sides)),
    st.builds(LeftOut, file_names, st.just("dedupe"), st.integers(0, 2**63), sha256=st.just("ab" * 32)),
)
rows = st.one_of(
    st.builds(IndexRow, key=file_names, error=st.text()),
    left_out.map(IndexRow.of_left_out),
    st.builds(IndexRow.of_image, images, st.just("00000001-2x2.safetensors"), st.integers(0, 10**6)),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
FIELDS = (
    "key",
    "status",
    "error",
    "num_bytes",
    "sha256",
    "geometry",
    "shard",
    "row",
    "notes",
    "columns",
    "mask_sha256",
    "reason",
)


# --- one row --------------------------------------------------------------------------------------------------------


@quick
@given(row=rows)
def test_a_row_survives_its_line_whatever_its_key(row: IndexRow) -> None:
    line = to_line(row.to_json())
    assert line.isascii()
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert IndexRow.from_json(json.loads(line)) == row


@quick
@given(found=st.lists(rows, max_size=5))
def test_rows_survive_their_file(found: list[IndexRow], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "index.jsonl"
    path.write_bytes(b"".join(to_line(row.to_json()) for row in found))
    assert list(read_rows(path)) == found


PLAIN = ImageRecord("a/b c.jpg", geometry_of((64, 64)), FileDigest(10, "ab" * 32))
PLAIN_LINE = to_line(IndexRow.of_image(PLAIN, "00000001-4x4.safetensors", 3).to_json())


def place_or_none(parse: Callable[[bytes], Place | None], line: bytes) -> list[Any] | None:
    try:
        place = parse_row(parse, line)
    except StoreError:
        return None
    return place and [place.key, place.shard, place.row, *map(list, place.geometry), place.columns]


@given(row=rows)
def test_the_place_in_a_plain_line_is_that_of_any(row: IndexRow) -> None:
    line = to_line(row.to_json())
    assert place_or_none(parse_place, line) == place_or_none(_parse_place, line)


@settings(max_examples=300)
@given(
    start=st.integers(0, len(PLAIN_LINE)),
    num_bytes=st.integers(0, 3),
    other=st.one_of(st.binary(max_size=3), st.text('0123456789-.,:"\\[]{}e ', max_size=3).map(str.encode)),
)
def test_a_line_that_is_nearly_plain_is_read_as_json_or_refused(start: int, num_bytes: int, other: bytes) -> None:
    assert _PLAIN_LINE.fullmatch(PLAIN_LINE)
    line = PLAIN_LINE[:start] + other + PLAIN_LINE[start + num_bytes :]
    assert place_or_none(parse_place, line) == place_or_none(_parse_place, line)


def test_a_row_says_what_became_of_its_input_and_leaves_out_what_is_not_known() -> None:
    assert FAILED.to_json() == {"key": "bad.png", "status": "failed", "error": "is truncated"}
    assert OK.to_json()["status"] == "ok"
    assert "error" not in OK.to_json()
    assert OK.is_ok
    assert not FAILED.is_ok


def from_json_or_none(fields: Any) -> IndexRow | None:
    """The row, or None for a `StoreError`; any other exception is a failure."""
    try:
        return IndexRow.from_json(fields)
    except StoreError:
        return None


@quick
@given(fields=json_values)
def test_nonsense_is_no_row(fields: Any) -> None:
    assert from_json_or_none(fields) is None


@quick
@given(row=rows, field=st.sampled_from(FIELDS), value=json_values)
def test_a_row_with_nonsense_in_it_is_refused_or_reads_the_same_again(row: IndexRow, field: str, value: Any) -> None:
    parsed = from_json_or_none({**row.to_json(), field: value})
    if parsed is not None:
        assert IndexRow.from_json(json.loads(to_line(parsed.to_json()))) == parsed


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


NOT_ROWS: dict[str, dict[str, Any]] = {
    "no key": {"key": None},
    "a key that is no text": {"key": 5},
    "no status": {"status": None},
    "a status of neither kind": {"status": "skipped"},
    "failed without a reason": {"status": "failed"},
    "ok with a reason": {"error": "is truncated"},
    "ok without a shard": {"shard": None},
    "ok without a row": {"row": None},
    "ok without a geometry": {"geometry": None},
    "a shard outside the folder": {"shard": "../../00000000-2x2.safetensors"},
    "a row before the first": {"row": -1},
    "a row that is no number": {"row": True},
    "a fraction of a byte": {"num_bytes": 1.5},
    "a geometry that is none": {"geometry": {}},
    "a geometry that does not fit": {"geometry": {**geometry_of((32, 32)).to_json(), "crop": [40, 40]}},
    "notes that are one text": {"notes": "a note"},
    "notes that are an object": {"notes": {"a": "note"}},
    "a note that is no text": {"notes": [5]},
    "columns that are no object": {"columns": ["a caption"]},
    "columns that are nothing": {"columns": None},
    "a column without a name": {"columns": {"": "a caption"}},
    "a caption that is no Unicode text": {"columns": {"caption": "\ud800"}},
    "a name that is no Unicode text": {"columns": {"\udc80": "a caption"}},
    "a number that is none": {"columns": {"score": float("nan")}},
    "a column in which a picture lies": {"columns": {"picture": "0" * 100_000}},
    "columns nested without end": {"columns": {"deep": nested(100_000)}},
    "a mask without its sha256": {"mask_sha256": None},
    "a mask with the sha256 of nothing": {"mask_sha256": "ab"},
}


@pytest.mark.parametrize("change", list(NOT_ROWS))
def test_a_row_is_refused_that_has(change: str) -> None:
    assert from_json_or_none({**OK.to_json(), **NOT_ROWS[change]}) is None


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"{\n", id="not JSON"),
        pytest.param(b"\n", id="empty"),
        pytest.param(b"\xff\n", id="not UTF-8"),
        pytest.param(b"5\n", id="a number"),
        pytest.param(b"[" * 100_000 + b"\n", id="nested without end"),
        pytest.param(to_line(OK.to_json())[:-10], id="torn"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "index.jsonl"
    path.write_bytes(to_line(FAILED.to_json()) + line)
    found = read_rows(path)
    assert next(found) == FAILED
    with pytest.raises(StoreError, match=rf"^{path}: line 2: "):
        next(found)


def test_a_missing_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"index\.jsonl: cannot be read \(No such file or directory\)"):
        list(read_rows(tmp_path / "index.jsonl"))


# --- merging --------------------------------------------------------------------------------------------------------


def failed_rows(keys: Iterable[str]) -> list[IndexRow]:
    return [IndexRow.of_failure(Failure(key, "is empty")) for key in sorted(keys)]


groups_of_keys = st.lists(st.lists(file_names, min_size=1, max_size=8), max_size=8)


@quick
@given(groups=groups_of_keys)
def test_merging_is_sorting(groups: list[list[str]]) -> None:
    sorted_groups = sorted((failed_rows(keys) for keys in groups), key=lambda group: group[0].key)
    merged = merge_rows((group[0].key, group) for group in sorted_groups)
    assert [row.key for row in merged] == sorted(key for keys in groups for key in keys)


@quick
@given(groups=groups_of_keys)
def test_a_group_is_opened_only_when_its_first_key_is_next_and_read_one_row_ahead(groups: list[list[str]]) -> None:
    sorted_groups = sorted((failed_rows(keys) for keys in groups), key=lambda group: group[0].key)
    num_read = [0] * len(sorted_groups)

    def reading(number: int) -> Iterator[IndexRow]:
        for row in sorted_groups[number]:
            num_read[number] += 1
            yield row

    merged = merge_rows((group[0].key, reading(number)) for number, group in enumerate(sorted_groups))
    for row in merged:
        for number, group in enumerate(sorted_groups):
            if group[0].key > row.key:
                assert num_read[number] == 0
            num_due = sum(other.key <= row.key for other in group)
            assert num_read[number] <= num_due + 1
    assert num_read == [len(group) for group in sorted_groups]


def test_empty_groups_do_no_harm() -> None:
    assert list(merge_rows([])) == []
    assert list(merge_rows([("a", []), ("b", failed_rows(["b"]))])) == failed_rows(["b"])
