"""`items.table`: the same latents with and without it, whatever bytes it holds, and the same bytes however it came."""

import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semdis_cli.dataset.latent_dataset import LatentDataset
from semdis_cli.errors import StoreError
from semdis_cli.files.atomic import digest_file, publish
from semdis_cli.files.json_text import to_line
from semdis_cli.files.set_names import INDEX_FILE, ITEMS_FILE, MANIFEST_FILE
from semdis_cli.provenance import Provenance
from semdis_cli.records import FileDigest
from semdis_cli.store.index import parse_place
from semdis_cli.store.item_table import ItemColumns, ItemTable, read_items
from semdis_cli.store.items import SetItems, find_items, open_items
from semdis_cli.store.latent_set import LatentSet, open_set
from semdis_cli.store.manifest import Manifest, ShardEntry
from semdis_cli.store.shards import read_shard, write_shard
from semdis_cli.store.statistics import ChannelSums
from tests.store import KEYS, PROVENANCE, contents, make_plan, problems, with_keys, write_set, write_some

HEAD_BYTES, MANIFEST_SHA256 = 88, slice(24, 56)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A set of two shards in each of two buckets."""
    write_set(tmp_path / "set")
    return tmp_path / "set"


def items_of(root: Path) -> list[tuple[object, ...]]:
    """All that a dataset gives, latents included."""
    return [
        (item.key, item.latents.tolist(), item.source_size.tolist(), item.image_size.tolist())
        for item in LatentDataset(root)
    ]


def table_of(root: Path) -> ItemTable | None:
    return read_items(root, Manifest.read(root), digest_file(root / MANIFEST_FILE).sha256)


def resealed(data: bytes, change: bytes, at: int) -> bytes:
    """The bytes of a table, changed behind its head, with the sha256 that they have then."""
    data = data[:at] + change + data[at + len(change) :]
    return data[:56] + hashlib.sha256(data[HEAD_BYTES:]).digest() + data[HEAD_BYTES:]


def test_it_says_where_the_line_of_each_latent_begins_and_in_which_shard_it_is(root: Path) -> None:
    table, lines = table_of(root), (root / "index.jsonl").read_bytes()
    assert table is not None
    names = [shard.name for shard in Manifest.read(root).shards]
    places = [parse_place(lines[offset:].splitlines()[0]) for offset in table.offsets.tolist()]
    rows = [fields for fields in map(json.loads, lines.splitlines()) if fields["status"] == "ok"]
    assert [place.key for place in places if place] == [fields["key"] for fields in rows]
    assert [names[number] for number in table.shards.tolist()] == [fields["shard"] for fields in rows]


def test_its_bytes_are_those_of_the_documentation(root: Path) -> None:
    table, data = table_of(root), (root / ITEMS_FILE).read_bytes()
    assert table is not None
    num_items, num_shards = struct.unpack_from("<QQ", data, 8)
    assert (data[:8], num_items, num_shards) == (b"SEMDIS\0\1", len(table), len(Manifest.read(root).shards))
    assert data[24:56] == hashlib.sha256((root / MANIFEST_FILE).read_bytes()).digest()
    assert data[56:88] == hashlib.sha256(data[88:]).digest()
    headers = [path.read_bytes() for path in sorted((root / "shards").iterdir())]
    sha256s = [hashlib.sha256(file[: 8 + int.from_bytes(file[:8], "little")]).digest() for file in headers]
    assert data[88:] == b"".join(sha256s) + struct.pack(f"<{num_items}Q{num_items}I", *table.offsets, *table.shards)


def test_a_set_opens_to_the_same_latents_without_it_and_readers_write_nothing(root: Path) -> None:
    expected = items_of(root)
    (root / ITEMS_FILE).unlink()
    before = contents(root)
    assert items_of(root) == expected
    assert problems(root) == []
    assert contents(root) == before


def test_what_opens_by_it_looks_at_no_record_of_a_shard(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semdis_cli.store.items.read_shard_header", None)
    assert len(LatentDataset(root)) == len(items_of(root))


def test_its_bytes_follow_from_the_set_not_from_the_way_to_it(root: Path, tmp_path: Path) -> None:
    write_some(tmp_path / "stopped", 1)
    write_set(tmp_path / "stopped")
    assert (tmp_path / "stopped" / ITEMS_FILE).read_bytes() == (root / ITEMS_FILE).read_bytes()
    for keys in (KEYS[2:], (*KEYS, "new.png")):
        write_set(root, make_plan(keys))
        finished = open_set(root)
        written = b"".join(find_items(finished).table.to_chunks(finished.sha256))
        assert (root / ITEMS_FILE).read_bytes() == written


def edit_index(root: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Edit the fields of the first row, as one does who makes the manifest agree; there is no table then."""
    first, *rest = map(json.loads, (root / INDEX_FILE).read_bytes().splitlines())
    edit(first)
    index = publish(root / INDEX_FILE, map(to_line, (first, *rest)))
    publish(root / MANIFEST_FILE, [replace(Manifest.read(root), index=index).to_bytes()])
    (root / ITEMS_FILE).unlink(missing_ok=True)


@pytest.mark.parametrize("size", [[-3, 5], [0, 5], [10**30, 5], [1 << 31, 5], [True, 5], [5], "ab", None])
def test_a_size_of_the_index_that_is_none_is_refused_by_its_line(root: Path, size: object) -> None:
    edit_index(root, lambda fields: fields["geometry"].update(source=size))
    with pytest.raises(StoreError, match=r"index\.jsonl: line 1: not an index row"):
        LatentDataset(root)


@pytest.mark.parametrize("which", ["source", "image"])
def test_a_size_of_the_index_that_is_not_the_one_of_the_shard_is_refused(root: Path, which: str) -> None:
    edit_index(root, lambda fields: fields["geometry"].update({which: [7, 5]}))
    with pytest.raises(StoreError, match=r"1x2\.safetensors: the index says another size of 'a\.png'"):
        LatentDataset(root)


@pytest.mark.parametrize("data", [None, b"", b"damaged"])
def test_a_run_with_nothing_to_do_writes_it_where_it_is_missing_or_damaged(root: Path, data: bytes | None) -> None:
    before = (root / ITEMS_FILE).read_bytes()
    (root / ITEMS_FILE).unlink()
    if data is not None:
        (root / ITEMS_FILE).write_bytes(data)
    write_set(root)
    assert (root / ITEMS_FILE).read_bytes() == before


def test_a_set_without_it_gets_one_when_it_grows(root: Path) -> None:
    (root / ITEMS_FILE).unlink()
    write_set(root, make_plan((*KEYS, "new.png")))
    assert table_of(root) is not None


def test_a_damaged_header_is_found_by_the_reader_and_never_vouched_for(root: Path) -> None:
    shard = min((root / "shards").iterdir())
    data = bytearray(shard.read_bytes())
    data[data.index(b"a.png")] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreError, match=shard.name):
        LatentDataset(root)
    write_set(root, make_plan((*KEYS, "new.png")))
    with pytest.raises(StoreError, match=shard.name):
        LatentDataset(root)
    (root / ITEMS_FILE).unlink(missing_ok=True)
    write_set(root, make_plan(KEYS))
    assert table_of(root) is None
    with pytest.raises(StoreError, match=shard.name):
        LatentDataset(root)


def test_a_shard_that_holds_other_images_than_the_journal_says_is_never_vouched_for(root: Path) -> None:
    write_some(root, 1, make_plan((*KEYS, "f.png", "g.png")))
    path = max((root / "shards").iterdir())
    shard = read_shard(path)
    assert shard.keys == ("f.png", "g.png")
    write_shard(path, with_keys(shard, ["g.png", "f.png"]))
    write_set(root, make_plan((*KEYS, "f.png", "g.png")))
    with pytest.raises(StoreError, match=rf"{path.name}: has no latents of 'f\.png' in row 0, but the index says so"):
        LatentDataset(root)


@pytest.mark.parametrize("field", [{"status": "other"}, {"status": ["ok"]}, {"shard": [1]}, {"shard": None}])
def test_a_set_with_a_line_that_is_no_row_is_refused_when_it_is_to_grow(root: Path, field: dict[str, object]) -> None:
    edit_index(root, lambda fields: fields.update(field))
    with pytest.raises(StoreError, match=r"index\.jsonl: not an index row"):
        write_set(root, make_plan((*KEYS, "new.png")))


def test_a_number_that_cannot_be_written_again_is_refused_before_a_set_grows(root: Path) -> None:
    edit_index(root, lambda fields: fields.update(columns={"score": "1e999"}))
    lines = (root / INDEX_FILE).read_bytes().replace(b'"1e999"', b"1e999")
    index = publish(root / INDEX_FILE, [lines])
    publish(root / MANIFEST_FILE, [replace(Manifest.read(root), index=index).to_bytes()])
    with pytest.raises(StoreError, match=r"1e999 is beyond all numbers"):
        write_set(root, make_plan(KEYS[1:]))
    assert (root / INDEX_FILE).read_bytes() == lines


def test_a_row_in_no_shard_of_the_set_is_never_vouched_for(root: Path) -> None:
    table = find_items(open_set(root)).table
    edit_index(root, lambda fields: fields.update(shard="00000009-1x2.safetensors"))
    publish(root / ITEMS_FILE, table.to_chunks(open_set(root).sha256))
    write_set(root, make_plan((*KEYS, "new.png")))
    assert table_of(root) is None


def test_a_manifest_that_was_edited_is_not_covered_by_it(root: Path) -> None:
    path = root / MANIFEST_FILE
    path.write_bytes(path.read_bytes().replace(b'"name": "made up"', b'"name": "another"'))
    assert table_of(root) is None
    with pytest.raises(StoreError, match="other settings"):
        LatentDataset(root)


def test_each_kind_of_damage_is_a_problem_of_its_own_kind(root: Path) -> None:
    whole = (root / ITEMS_FILE).read_bytes()
    table = table_of(root)
    assert table is not None
    offset = HEAD_BYTES + 32 * len(table.headers)
    later = int(table.offsets[1] - 1).to_bytes(8, "little")
    cases = {
        whole[:-1]: "damaged",
        whole[:-1] + b"\xff": "damaged",
        resealed(whole, later, offset + 8): "something else than the index",
        resealed(whole, b"\0" * 32, HEAD_BYTES): "another header",
    }
    for data, what in cases.items():
        (root / ITEMS_FILE).write_bytes(data)
        assert [(problem.file, problem.kind) for problem in problems(root)] == [(ITEMS_FILE, "table")], what
        assert what in problems(root)[0].what
        assert "delete it" in problems(root)[0].what
        (root / ITEMS_FILE).unlink()
        write_set(root)
        assert (root / ITEMS_FILE).read_bytes() == whole


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_hostile_bytes_give_the_right_latents_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = _SETS.setdefault("root", tmp_path_factory.mktemp("sets") / "set")
    if not root.exists():
        write_set(root)
        _SETS["whole"] = Path(shutil.copy(root / ITEMS_FILE, root.parent / "whole"))
        (root / ITEMS_FILE).unlink()
        EXPECTED[:] = items_of(root)
    whole = _SETS["whole"].read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    change = data.draw(st.binary(min_size=1, max_size=min(16, len(whole) - at)))
    hostile = resealed(whole, change, max(at, HEAD_BYTES)) if at >= HEAD_BYTES else whole[:at] + change
    (root / ITEMS_FILE).write_bytes(hostile[: len(whole)])
    assert items_or_error(root) in (EXPECTED, f"{root / 'index.jsonl'}: has no item")


def items_or_error(root: Path) -> list[tuple[object, ...]] | str:
    """What a dataset gives, or the beginning of what it says."""
    try:
        return items_of(root)
    except StoreError as error:
        return str(error).partition(" item")[0] + " item"


_SETS: dict[str, Path] = {}
EXPECTED: list[tuple[object, ...]] = []

row = st.tuples(st.text(max_size=20), st.sampled_from(["ok", "failed", "removed"]), st.integers(0, 3))


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(row, max_size=40))
def test_a_table_of_any_rows_is_the_rows_of_the_index(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("tables")
    names = [f"{number:08d}-1x1.safetensors" for number in (3, 1, 2, 0)]
    columns, expected, offset = ItemColumns(), [], 0
    for key, status, shard in rows:
        if status == "ok":
            columns.add(offset, names[shard])
            expected.append((offset, shard))
        offset += len(to_line({"key": key, "status": status, "shard": names[shard]}))
    num_ok, file = len(expected), FileDigest(offset, "0" * 64)
    entries = tuple(ShardEntry(name, 1, FileDigest(0, "0" * 64)) for name in names)
    manifest = Manifest(Provenance.from_json(PROVENANCE), "0" * 64, num_ok, 0, 0, 0, entries, file, ChannelSums.zero(3))
    headers = tuple(bytes([number]) * 32 for number in range(4))
    table = columns.finish(manifest, headers)
    (folder / ITEMS_FILE).write_bytes(b"".join(table.to_chunks("a" * 64)))
    read = read_items(folder, manifest, "a" * 64)
    assert read is not None
    assert list(zip(read.offsets.tolist(), read.shards.tolist(), strict=True)) == expected
    assert read.headers == headers
    assert read_items(folder, manifest, "b" * 64) is None


@pytest.mark.parametrize("can_map", [True, False])
def test_a_set_by_a_relative_path_stays_the_one_that_was_opened(
    root: Path, monkeypatch: pytest.MonkeyPatch, can_map: bool
) -> None:
    expected = items_of(root)
    monkeypatch.chdir(root.parent)
    if not can_map:
        monkeypatch.setattr("semdis_cli.store.mapped_file._map", lambda *_: None)
    dataset = LatentDataset(root.name)
    monkeypatch.chdir("/")
    sent = bytes(ForkingPickler.dumps(dataset))
    assert b"b/a.png" not in sent
    for each in (dataset, ForkingPickler.loads(sent)):
        assert [item.key for item in each] == [key for key, *_ in expected]


def test_a_set_that_grows_while_it_is_opened_is_not_half_the_old_and_half_the_new_one(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(root, make_plan(KEYS[1:]))
    (root / ITEMS_FILE).unlink()

    def grow_and_open(latents: LatentSet) -> SetItems:
        write_set(root, make_plan(KEYS[:-1]))  # as many, and all of them in shards that were there
        return open_items(latents)

    monkeypatch.setattr("semdis_cli.store.random_access.open_items", grow_and_open)
    with pytest.raises(StoreError, match=r"index\.jsonl: was replaced while it was opened; open it again"):
        LatentDataset(root)


def test_a_dataset_travels_small_and_stays_what_it_was_when_the_set_grows(root: Path) -> None:
    dataset, expected = LatentDataset(root), items_of(root)
    sent = bytes(ForkingPickler.dumps(dataset))
    assert b"b/a.png" not in sent  # neither keys nor rows
    assert [item.key for item in ForkingPickler.loads(sent)] == [key for key, *_ in expected]
    write_set(root, make_plan((*KEYS, "new.png")))
    assert [item.key for item in dataset] == [key for key, *_ in expected]
    assert [item.key for item in ForkingPickler.loads(bytes(ForkingPickler.dumps(dataset)))] == [
        key for key, *_ in expected
    ]
    with pytest.raises(StoreError, match="replaced"):
        ForkingPickler.loads(sent)
