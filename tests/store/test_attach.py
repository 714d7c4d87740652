"""Other columns for a finished set: its lists are replaced whole, or not at all, and every other file stays."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semdis_cli.errors import StoreError, UsageError
from semdis_cli.files import atomic
from semdis_cli.files.json_text import key_fields, to_line
from semdis_cli.files.lock import FolderLock
from semdis_cli.records import FileDigest, ImageRecord
from semdis_cli.store.columns import SetColumns
from semdis_cli.store.index import IndexRow
from semdis_cli.store.index_columns import columns_text, join_line, split_line
from semdis_cli.store.item_table import read_items
from semdis_cli.store.items import find_items
from semdis_cli.store.latent_set import LatentSet
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.writing import state
from semdis_cli.store.writing.attach import NewLine, SetEditor
from semdis_cli.store.writing.journal import Journal
from tests.store import KEYS, contents, geometry_of, make_plan, problems, write_next, write_set
from tests.store.test_columns import columns_in

SHA256 = "0123456789abcdef" * 4
TEXTS = st.text(max_size=10)
UNICODE = st.text(st.characters(codec="utf-8"), max_size=10)
COLUMNS = st.dictionaries(UNICODE.filter(bool), UNICODE | st.integers() | st.lists(st.floats(-9, 9)), max_size=3)


# --- lines ----------------------------------------------------------------------------------------------------------


@given(
    key=TEXTS.filter(bool), notes=st.lists(UNICODE, max_size=2), columns=COLUMNS, new=COLUMNS, is_removed=st.booleans()
)
def test_a_line_is_taken_apart_and_put_together_as_it_is_written(
    key: str, notes: list[str], columns: dict[str, Any], new: dict[str, Any], is_removed: bool
) -> None:
    record = ImageRecord(key, geometry_of((32, 32)), FileDigest(7, SHA256), tuple(notes), columns)
    row = IndexRow(key, None, record, "00000001-2x2.safetensors", 3, is_removed)
    try:
        line = to_line(row.to_json())
    except ValueError:  # no key that a file can have
        return
    parsed = json.loads(line)
    found, shard, is_ok, had, rest = split_line(line)
    assert (key_fields(found)["key"], shard, is_ok) == (parsed["key"], row.shard, not is_removed)
    assert had == columns
    text = columns_text(new).encode() if new else b""
    changed = {name: value for name, value in parsed.items() if name != "columns"} | ({"columns": new} if new else {})
    assert join_line(text, rest) == to_line(changed)


def test_a_line_of_a_failure_has_no_shard() -> None:
    line = to_line({"key": "a", "status": "failed", "error": '"shard":"no" \\'})
    assert split_line(line)[:4] == ("a", None, False, {})
    assert join_line(b"", split_line(line)[4]) == line


# --- a set ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_set(tmp_path / "set")
    return tmp_path / "set"


def with_captions(editor: SetEditor, captions: Mapping[str, str]) -> Iterator[list[NewLine]]:
    """The lines of the index with these captions, by key, and no other columns."""
    for line in editor.index_lines():
        key, shard, is_ok, _, rest = split_line(line)
        has_one = shard is not None and key in captions
        text = columns_text({"caption": captions[key]}).encode() if has_one else b""
        yield [(join_line(text, rest), shard if is_ok else None, ("caption",) if has_one else ())]


def attach(root: Path, captions: Mapping[str, str]) -> Manifest:
    with SetEditor(root) as editor:
        return editor.replace(with_captions(editor, captions), (), 1000)


def test_columns_come_and_go_and_all_but_the_lists_stays(root: Path) -> None:
    before = contents(root)
    manifest = attach(root, {"a.png": "a cat", "d.png": "a dog", "z.png": "a failure", "no such key": "nothing"})
    assert manifest == Manifest.read(root)
    assert manifest.columns == SetColumns({"caption": 2})
    assert columns_in(root) == {"a.png": {"caption": "a cat"}, "d.png": {"caption": "a dog"}}
    assert problems(root) == []
    after = contents(root)
    assert after.keys() == before.keys()
    assert {name for name in before if before[name] != after[name]} == {
        *("index.jsonl", "items.table", "seen.jsonl", "manifest.json", "SHA256SUMS")
    }
    attach(root, {})
    back = contents(root)
    assert {name for name in before if before[name] != back[name]} == {"manifest.json", "items.table", "SHA256SUMS"}
    assert Manifest.read(root).columns == SetColumns()


def test_the_table_of_the_items_is_that_of_the_new_index(root: Path) -> None:
    attach(root, {"a.png": "a cat"})
    latents = LatentSet.read(root)
    table, found = read_items(root, latents.manifest, latents.sha256), find_items(latents).table
    assert table is not None
    assert (list(table.offsets), list(table.shards), table.headers) == (
        *(list(found.offsets), list(found.shards)),
        found.headers,
    )


def test_what_changes_nothing_writes_nothing(root: Path) -> None:
    attach(root, {"a.png": "a cat"})
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    attach(root, {"a.png": "a cat"})
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()} == times


def test_a_set_that_was_attached_to_grows_and_one_that_has_grown_is_attached_to(root: Path) -> None:
    attach(root, {"a.png": "a cat"})
    write_set(root, make_plan((*KEYS, "new.png")))
    assert columns_in(root) == {"a.png": {"caption": "a cat"}}
    attach(root, {"a.png": "a cat", "new.png": "another"})
    assert Manifest.read(root).columns == SetColumns({"caption": 2})
    write_set(root, make_plan((*KEYS, "new.png")))  # nothing to do
    assert Manifest.read(root).columns == SetColumns({"caption": 2})
    assert problems(root) == []


def test_times_of_the_sources_are_still_known(root: Path) -> None:
    _, *before = (root / "seen.jsonl").read_bytes().splitlines()
    attach(root, {"a.png": "a cat"})
    first, *after = (root / "seen.jsonl").read_bytes().splitlines()
    assert after == before
    assert json.loads(first) == {"index": Manifest.read(root).index.sha256}


def test_a_copy_without_times_and_table_is_attached_to(root: Path) -> None:
    (root / "seen.jsonl").unlink()
    (root / "items.table").unlink()
    attach(root, {"a.png": "a cat"})
    assert not (root / "seen.jsonl").exists()
    assert problems(root) == []


# --- what is refused ------------------------------------------------------------------------------------------------


def test_an_unfinished_set_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with make_plan().open(tmp_path / "set") as latents:
        write_next(latents)
    before = contents(tmp_path / "set")
    with pytest.raises(StoreError, match="run the same semdis encode again to finish it"), SetEditor(tmp_path / "set"):
        pass
    assert contents(tmp_path / "set") == before


def test_a_set_that_is_growing_is_refused_with_what_to_do(root: Path) -> None:
    with make_plan((*KEYS, "new.png")).open(root) as latents:
        write_next(latents)
    with pytest.raises(UsageError, match="run the same semdis encode again to finish it, then this"), SetEditor(root):
        pass


def test_a_second_run_is_refused(root: Path) -> None:
    with FolderLock(root), pytest.raises(UsageError, match="another semdis run"), SetEditor(root):
        pass


@pytest.mark.parametrize("name", ["manifest.json", "index.jsonl"])
def test_a_damaged_set_is_refused_by_name(root: Path, name: str) -> None:
    (root / name).write_bytes((root / name).read_bytes() + b" ")
    if name == "manifest.json":
        (root / name).write_bytes(b"{}")
    with pytest.raises(StoreError, match=name), SetEditor(root):
        pass


def test_a_folder_that_is_no_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not a set of latents"), SetEditor(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_shard_is_no_set(root: Path) -> None:
    shard = next((root / "shards").iterdir())
    with pytest.raises(StoreError, match="a file, not a set of latents; give the folder"), SetEditor(shard):
        pass


# --- killed ---------------------------------------------------------------------------------------------------------


class KilledError(BaseException):
    """The end of a run."""


@pytest.mark.parametrize("name", ["index.jsonl", "items.table", "seen.jsonl", "SHA256SUMS", "manifest.json", "journal"])
@pytest.mark.parametrize("then", ["attach", "encode", "attach other captions"])
def test_a_run_that_is_killed_while_the_lists_are_moved_is_done_again_or_undone(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str, then: str
) -> None:
    before = contents(root)
    move, remove = atomic.move, Journal.remove

    def stop_before(path: Path, folder: Path) -> None:
        if path.name == name:
            raise KilledError
        move(path, folder)

    def stop(journal: Journal) -> None:
        if name == "journal":
            raise KilledError
        remove(journal)

    with monkeypatch.context() as patched:
        patched.setattr(state, "move", stop_before)
        patched.setattr(Journal, "remove", stop)
        with pytest.raises(KilledError):
            attach(root, {"a.png": "a cat"})
    if then == "encode":
        write_set(root)
        assert name == "journal" or contents(root) == before
        assert problems(root) == []
        return
    caption = {"attach": "a cat"}.get(then, "a dog")
    attach(root, {"a.png": caption})
    assert columns_in(root) == {"a.png": {"caption": caption}}
    assert problems(root) == []
    assert contents(root).keys() == before.keys()


def test_after_a_kill_what_takes_the_change_back_restores_the_set(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(root)

    def stop_at_manifest(path: Path, folder: Path) -> None:
        if path.name == "manifest.json":
            raise KilledError
        move(path, folder)

    move = atomic.move
    with monkeypatch.context() as patched:
        patched.setattr(state, "move", stop_at_manifest)
        with pytest.raises(KilledError):
            attach(root, {"a.png": "a cat"})
    attach(root, {})
    assert contents(root) == before
