"""What the journal notes of a shard: the JSON that it always was, and the lines of the index again."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semdis_cli.errors import StoreError
from semdis_cli.events import Failure
from semdis_cli.files.json_text import parse_json, to_line
from semdis_cli.records import FileDigest, Geometry, ImageRecord
from semdis_cli.store.checks import MALFORMED
from semdis_cli.store.index import IndexRow, image_line
from semdis_cli.store.shard_records import ShardRecords
from semdis_cli.store.statistics import ChannelSums
from semdis_cli.store.writing.entry_text import (
    NewLine,
    check_rows,
    count_rows,
    entry_lines,
    render_entry,
    row_identity,
    split_entry,
)
from semdis_cli.store.writing.journal_file import JournalEntry, proved_content
from semdis_cli.store.writing.seen import SeenFile

NAME = "00000007-256x256.safetensors"
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
# Quotes, braces and backslashes are what a line could be cut up at by mistake.
texts = st.one_of(
    st.text(st.sampled_from('ab"\\{}[],:'), min_size=1),
    st.sampled_from(['],"seen":[', '"status":"ok"}', '},{"geometry":{', '","row":1,"']),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
)
names = texts | st.text(st.sampled_from("a\udc80\udcff\ue080\uf000"), min_size=1)  # also of bytes that are no text
sides = st.tuples(st.integers(1, 4096), st.integers(1, 4096))
geometries = st.builds(lambda size, crop: Geometry(size, size, crop, size, size), sides, st.just((0, 0)))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner),
    max_leaves=6,
)
records = st.builds(
    ImageRecord,
    key=names,
    geometry=geometries,
    source=st.builds(FileDigest, st.integers(0, 2**40), digests),
    notes=st.lists(names, max_size=2).map(tuple),
    columns=st.dictionaries(texts, values, max_size=2),
    mask_sha256=st.none() | digests,
)
times = st.none() | st.integers(0, 2**62)
outcomes = st.one_of(records, st.builds(Failure, names, names))
sums = st.builds(lambda values: ChannelSums(3, tuple(values), tuple(map(abs, values))), st.lists(st.floats(-9, 9)))


@st.composite
def entries(draw: st.DrawFn) -> list[tuple[IndexRow, SeenFile | None]]:
    """Rows of a shard, of images and of failures, each with its file or none."""
    found = draw(st.lists(outcomes, min_size=1, max_size=6, unique_by=lambda one: one.key))
    rows = [
        IndexRow.of_failure(one) if isinstance(one, Failure) else IndexRow.of_image(one, NAME, number)
        for number, one in enumerate(found)
    ]
    files = [draw(st.none() | st.builds(SeenFile, st.just(row.key), st.integers(0, 99), times, times)) for row in rows]
    return list(zip(rows, files, strict=True))


def lines_of(rows: Sequence[tuple[IndexRow, SeenFile | None]]) -> list[tuple[bytes, SeenFile | None]]:
    return [(row.to_line().data, seen) for row, seen in rows]


@settings(deadline=None)
@given(record=records, row=st.integers(0, 65535))
def test_the_line_of_an_image_is_that_of_its_row(record: ImageRecord, row: int) -> None:
    assert image_line(record, NAME, row) == to_line(IndexRow.of_image(record, NAME, row).to_json())


def read(text: bytes, place: int, number: int) -> bytes:
    return text[place : place + number]


@settings(deadline=None)
@given(rows=entries(), file=st.none() | st.builds(FileDigest, st.integers(0, 2**40), digests), sums=sums)
def test_an_entry_is_canonical_json_and_gives_its_lines_again(
    rows: list[tuple[IndexRow, SeenFile | None]], file: FileDigest | None, sums: ChannelSums
) -> None:
    for version in (0, 3):
        content = render_entry(NAME, file, lines_of(rows), sums, version)
        fields = {
            "num_bytes": file and file.num_bytes,
            "rows": [row.to_json() for row, _ in rows],
            "seen": [seen and list(seen[1:]) for _, seen in rows],
            "sha256": file and file.sha256,
            "shard": NAME,
            "sums": sums.to_json(),
        }
        assert content + b"\n" == to_line(fields | ({"version": version} if version else {}))
        text = b"before" + content + b"behind"
        lines = entry_lines(partial(read, text), 6, content, len(rows))
        assert list(lines) == [NewLine.of_row(*each) for each in rows]
        rest = split_entry(content)
        assert JournalEntry.from_json(rest | {"seen": []}) == JournalEntry(NAME, file, (), sums, version)
        assert len(rest["seen"]) == len(rows)


@settings(deadline=None)
@given(captions=st.lists(st.text(max_size=3), min_size=1, max_size=9), length=st.sampled_from([1, 700, 3000]))
def test_rows_longer_than_what_is_held_are_read_whole(captions: list[str], length: int) -> None:
    size = (32, 32)
    source, geometry = FileDigest(3, "0" * 64), Geometry(size, size, (0, 0), size, size)
    rows = [
        (
            IndexRow.of_image(
                ImageRecord(f"{row}.png", geometry, source, (), {"caption": caption * length}), NAME, row
            ),
            None,
        )
        for row, caption in enumerate(captions)
    ]
    content = render_entry(NAME, None, lines_of(rows), ChannelSums.zero(1), 0)
    assert list(entry_lines(partial(read, content), 0, content, len(rows))) == [NewLine.of_row(*each) for each in rows]


def test_an_entry_is_read_as_what_was_written() -> None:
    size = (32, 32)
    record = ImageRecord("a.png", Geometry(size, size, (0, 0), size, size), FileDigest(3, "0" * 64))
    rows = [(IndexRow.of_image(record, NAME, 0), SeenFile("a.png", 3, 1, 2)), (IndexRow("b.png", "is empty"), None)]
    content = render_entry(NAME, None, lines_of(rows), ChannelSums.zero(1), 0)
    assert [tuple(row) for row in JournalEntry.from_json(parse_json(content)).rows] == rows


# --- what others have noted -----------------------------------------------------------------------------------------


REFUSED = (*MALFORMED, StoreError)


def read_slowly(content: bytes) -> JournalEntry:
    return JournalEntry.from_json(dict(parse_json(content)))


def read_quickly(content: bytes) -> tuple[JournalEntry, list[NewLine], bytes]:
    fields, num_rows, identity = check_rows(content)
    lines = entry_lines(partial(read, b"before" + content + b"behind"), 6, content, num_rows)
    return JournalEntry.from_json(fields), list(lines), identity


def assert_agrees(content: bytes) -> None:
    """The quick ways read what the parser reads, or refuse what it refuses."""
    try:
        entry = read_slowly(content)
    except REFUSED:
        with pytest.raises(REFUSED):
            read_quickly(content)
        return
    try:
        quick, lines, identity = read_quickly(content)
    except REFUSED:  # not as it is written: that is left to the parser
        return
    assert quick == JournalEntry(entry.name, entry.file, (), entry.sums, entry.version)
    records = ShardRecords.of([row.record for row, _ in entry.rows if row.record is not None])
    assert lines == [NewLine.of_row(*each) for each in entry.rows]
    assert identity == row_identity(records.keys, records.geometries)
    _, first_key, num_images, num_failed = count_rows(content)
    if entry.first_key == first_key:
        assert (num_images, num_failed) == (entry.num_images, entry.num_failed)


@settings(deadline=None)
@given(rows=entries(), file=st.none() | st.builds(FileDigest, st.integers(0, 2**40), digests), sums=sums)
def test_what_others_have_noted_is_read_as_the_parser_reads_it(
    rows: list[tuple[IndexRow, SeenFile | None]], file: FileDigest | None, sums: ChannelSums
) -> None:
    content = render_entry(NAME, file, lines_of(rows), sums, 2)
    assert_agrees(content)
    entry = read_slowly(content)
    assert read_quickly(content)[1] == [NewLine.of_row(*each) for each in rows]
    facts = entry.first_key, entry.num_images, entry.num_failed
    assert count_rows(content) == (check_rows(content)[0], *facts)


@settings(deadline=None, max_examples=200)
@given(rows=entries(), data=st.data())
def test_what_is_malformed_is_refused_as_the_parser_refuses_it(
    rows: list[tuple[IndexRow, SeenFile | None]], data: st.DataObject
) -> None:
    content = bytearray(render_entry(NAME, FileDigest(5, "0" * 64), lines_of(rows), ChannelSums.zero(3), 0))
    start = data.draw(st.integers(0, len(content) - 1))
    end = data.draw(st.integers(start, min(len(content), start + 40)))
    pieces = [b"", b"1", b"-1", b"null", b'"', b",", b"}", b"]", b'],"seen":[', b'"status":"failed"}', b"\xff", b"\\"]
    content[start:end] = data.draw(st.sampled_from([*pieces, bytes(content[start:end]) * 2]))
    assert_agrees(bytes(content))


RECORD = ImageRecord("a.png", Geometry((9, 8), (9, 8), (1, 2), (7, 5), (16, 16)), FileDigest(3, "0" * 64))
PLAIN = IndexRow.of_image(RECORD, NAME, 0)
HOSTILE = {
    "a box that leaves the picture": (b'"crop":[1,2]', b'"crop":[3,2]'),
    "an image that does not fit": (b'"image":[7,5]', b'"image":[17,5]'),
    "no side": (b'"bucket":[16,16]', b'"bucket":[16,0]'),
    "a side too many": (b'"bucket":[16,16]', b'"bucket":[16,16,16]'),
    "no hash": (b"0" * 64, b"0" * 63 + b"g"),
    "a path for a name": (b'"shard":"000', b'"shard":"../'),
    "another status": (b'"status":"ok"', b'"status":"no"'),
    "a number before 0": (b'"row":0', b'"row":-1'),
    "a row beyond all shards": (b'"row":0', b'"row":4294967296'),
    "a fraction": (b'"num_bytes":3,"row"', b'"num_bytes":3.5,"row"'),
    "a key that is none": (b'"key":"a.png"', b'"key":7'),
    "times of nothing": (b"[3,1,2]", b'[3,1,"2"]'),
    "too many times": (b"[3,1,2]", b"[3,1,2,4]"),
    "a file too many": (b"[[3,1,2]]", b"[[3,1,2],null]"),
    "a row too many": (b'"ok"}],', b'"ok"},{}],'),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_row_that_cannot_be_is_refused(case: str) -> None:
    content = render_entry(NAME, None, lines_of([(PLAIN, SeenFile("a.png", 3, 1, 2))]), ChannelSums.zero(3), 0)
    before, after = HOSTILE[case]
    assert before in content
    assert len(read_quickly(content)[1]) == 1
    hostile = content.replace(before, after, 1)
    for read in (read_slowly, read_quickly):
        with pytest.raises(REFUSED):
            read(hostile)


def test_columns_that_look_like_failures_are_none() -> None:
    record = replace(RECORD, columns={"x": [{"error": "a", "key": "b", "status": "failed"}]})
    rows = [(IndexRow.of_image(record, NAME, 0), None), (IndexRow("b.png", 'is "status":"failed"}'), None)]
    content = render_entry(NAME, None, lines_of(rows), ChannelSums.zero(3), 0)
    assert count_rows(content)[1:] == ("a.png", 2, 1)


def test_a_line_is_proved_by_its_bytes() -> None:
    content = render_entry(NAME, None, lines_of([(PLAIN, None)]), ChannelSums.zero(3), 0)
    line = b'{"content":%s,"sha256":"%s"}\n' % (content, hashlib.sha256(content + b"\n").hexdigest().encode())
    assert proved_content(line) == content
    for number in range(0, len(line), 7):
        assert proved_content(line[:number] + bytes([line[number] ^ 1]) + line[number + 1 :]) is None
    assert proved_content(b"") is None
