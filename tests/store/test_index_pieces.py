"""An index in pieces: what a piece holds, which of them a run writes anew, and that all who read a set find the same.

Pieces have three rows here, in place of a million.
"""

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semdis_cli.dataset.latent_dataset import LatentDataset
from semdis_cli.errors import StoreError
from semdis_cli.events import Problem
from semdis_cli.files import atomic, disk
from semdis_cli.files.json_text import to_line
from semdis_cli.records import FileDigest
from semdis_cli.store.index import IndexRow, read_rows
from semdis_cli.store.latent_set import LatentSet, open_set
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.reader import open_latents
from semdis_cli.store.set_index import IndexPiece, RowCounts, SetIndex, digest_pieces, piece_name
from semdis_cli.store.verifying.verify import NO_DATA, VerifySettings, verify_latents
from semdis_cli.store.writing import index_writer, latent_set, state
from semdis_cli.store.writing.attach import SetEditor
from semdis_cli.store.writing.held_rows import HeldRows
from tests.store import KEYS, contents, edit_manifest, make_plan, peak_bytes, problems, write_set, write_some
from tests.store.test_attach import TEXTS, attach

ROWS = sorted([*KEYS, "b/b.png", "z.png"])  # images, and what was known to be unusable


@pytest.fixture(autouse=True)
def _three_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_writer, "PIECE_ROWS", 3)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A set of eleven rows, in pieces of 3, 3, 3 and 2."""
    write_set(tmp_path / "set")
    return tmp_path / "set"


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same set, with an index of one file."""
    with monkeypatch.context() as patched:
        patched.setattr(index_writer, "PIECE_ROWS", 1_000_000)
        write_set(tmp_path / "whole")
    return tmp_path / "whole"


def pieces_of(root: Path) -> tuple[IndexPiece, ...]:
    return Manifest.read(root).pieces


def keys_of(root: Path) -> list[list[str]]:
    """The keys of each piece."""
    return [[row.key for row in read_rows(root / piece.name)] for piece in pieces_of(root)]


def names_of(root: Path) -> list[str]:
    return [Path(piece.name).stem[-1] for piece in pieces_of(root)]


def rows_of(root: Path) -> list[IndexRow]:
    return list(open_set(root).rows())


def identities(root: Path) -> dict[str, tuple[int, int]]:
    """Which file each list is, by name: one that is written anew is another one."""
    paths = [*root.glob("index/*"), *root.glob("seen/*"), root / "index.jsonl", root / "seen.jsonl"]
    status = {path.relative_to(root).as_posix(): path.stat() for path in paths if path.exists()}
    return {name: (one.st_ino, one.st_mtime_ns) for name, one in status.items()}


# --- What there is --------------------------------------------------------------------------------------------------


def test_there_are_pieces_and_times_of_each_and_nothing_else(root: Path, whole: Path) -> None:
    assert keys_of(root) == [ROWS[:3], ROWS[3:6], ROWS[6:9], ROWS[9:]]
    numbers = [f"{number:08d}.jsonl" for number in range(4)]
    assert sorted(path.name for path in (root / "index").iterdir()) == numbers
    assert sorted(path.name for path in (root / "seen").iterdir()) == numbers
    assert not (root / "index.jsonl").exists()
    assert not (root / "seen.jsonl").exists()
    assert (
        b"".join((root / piece.name).read_bytes() for piece in pieces_of(root)) == (whole / "index.jsonl").read_bytes()
    )
    for piece in pieces_of(root):
        first, *lines = (root / piece.seen_name).read_bytes().splitlines()
        assert json.loads(first) == {"index": piece.file.sha256}
        keys = [json.loads(line)[0] for line in lines]
        assert keys == [row.key for row in read_rows(root / piece.name) if row.key not in {"b/b.png", "z.png"}]


def test_the_manifest_says_what_is_in_each_and_is_of_a_format_that_older_versions_refuse(root: Path) -> None:
    fields = json.loads((root / "manifest.json").read_bytes())
    assert fields["format"] == 2
    first, second, *_ = fields["index"]["pieces"]
    assert (first["name"], first["rows"]) == ("index/00000000.jsonl", {"ok": 2, "failed": 1})
    assert "key" not in first
    assert second["key"] == ROWS[3]
    assert fields["index"]["num_bytes"] == sum(piece["num_bytes"] for piece in fields["index"]["pieces"])


def test_a_set_of_no_more_rows_than_a_piece_is_as_it_always_was(tmp_path: Path) -> None:
    plan = replace(make_plan(("a.png", "c.png")), failures=())
    write_set(tmp_path / "set", plan)
    assert (tmp_path / "set" / "index.jsonl").is_file()
    assert not (tmp_path / "set" / "index").exists()
    fields = json.loads((tmp_path / "set" / "manifest.json").read_bytes())
    assert (fields["format"], fields["index"].keys()) == (1, {"num_bytes", "sha256"})


def test_other_programs_can_check_it(root: Path) -> None:
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=root, capture_output=True, text=True, check=True)
    assert "index/00000002.jsonl: OK" in done.stdout


# --- Who reads it ---------------------------------------------------------------------------------------------------


def test_all_who_read_a_set_find_what_is_in_one_file(root: Path, whole: Path) -> None:
    assert rows_of(root) == rows_of(whole)
    assert list(open_latents(root).images()) == list(open_latents(whole).images())
    one, other = LatentDataset(root), LatentDataset(whole)
    assert [item.key for item in one] == [item.key for item in other]
    assert problems(root) == problems(whole) == []
    held = HeldRows(root)
    assert [held.find(key) for key in (*ROWS, "0", "b/aa", "~")] == [
        HeldRows(whole).find(key) for key in (*ROWS, "0", "b/aa", "~")
    ]
    assert list(held.images()) == list(HeldRows(whole).images())


def test_a_set_opens_to_the_same_items_without_its_table(root: Path) -> None:
    before = [(item.key, item.latents.tolist()) for item in LatentDataset(root)]
    (root / "items.table").unlink()
    assert [(item.key, item.latents.tolist()) for item in LatentDataset(root)] == before


def test_lines_are_found_by_their_places_over_all_pieces(root: Path) -> None:
    latents = open_set(root)
    for offset, place in latents.places():
        assert json.loads(latents.line_at(offset))["key"] == place.key


def test_labels_are_read_across_the_ends_of_pieces(root: Path) -> None:
    with SetEditor(root) as editor:
        lines = [json.loads(line) for line in editor.index_lines()]
        rows = [fields | ({"columns": {"label": n}} if "shard" in fields else {}) for n, fields in enumerate(lines)]
        new = [(to_line(row), row.get("shard"), ("label",) if "shard" in row else ()) for row in rows]
        editor.replace([new[:5], new[5:]], (), 1000)
    dataset = LatentDataset(root, columns=["label"])
    assert [item.columns["label"] for item in dataset] == [row["columns"]["label"] for row in rows if "shard" in row]
    assert problems(root) == []


# --- Growing --------------------------------------------------------------------------------------------------------


def test_what_does_not_change_is_not_written(root: Path) -> None:
    before, all_before = identities(root), contents(root)
    write_set(root, make_plan((*KEYS, "b/bb.png")))
    assert names_of(root) == ["0", "4", "5", "2", "3"]
    after, all_after = identities(root), contents(root)
    assert {name for name in before if after.get(name) != before[name] and name.startswith("index")} == {piece_name(1)}
    gone = {name for name in before if all_after.get(name) != all_before[name]}
    assert gone == {piece_name(1), "seen/00000001.jsonl"}
    assert problems(root) == []
    assert list(open_latents(root).keys) == sorted(key for key in (*KEYS, "b/bb.png") if "bad" not in key)


def test_a_piece_whose_last_row_is_followed_by_more_stays_if_it_is_full(root: Path) -> None:
    before = identities(root)
    write_set(root, make_plan((*KEYS, "c1.png")))
    assert names_of(root) == ["0", "1", "4", "2", "3"]
    indexes = {name: one for name, one in before.items() if name.startswith("index")}
    assert identities(root).items() >= indexes.items()
    assert problems(root) == []


def test_what_comes_first_is_in_the_first_piece_and_what_comes_last_in_the_last(root: Path) -> None:
    write_set(root, make_plan((*KEYS, "0.png", "ÿ.png")))
    first, *_, last = keys_of(root)
    assert (first[0], last[-1]) == ("0.png", "ÿ.png")
    assert problems(root) == []
    assert pieces_of(root)[0].first_key == ""


def test_pieces_that_have_become_small_take_in_what_follows(root: Path) -> None:
    """A row more in a full piece leaves a piece of one; the next one that comes there goes with that."""
    keys = list(KEYS)
    for number in range(6):
        keys.append(f"b/a{number}.png")
        write_set(root, make_plan(tuple(keys)))
        sizes = [sum(piece.rows) for piece in pieces_of(root)]
        assert max(sizes) <= 3
        assert all(one + other > 3 for one, other in itertools.pairwise(sizes)) or number == 0
    assert problems(root) == []
    assert [row.key for row in rows_of(root)] == sorted([*keys, "b/b.png", "z.png"])


def test_a_change_of_a_row_is_a_new_piece_and_its_undoing_another(root: Path) -> None:
    before = [piece.file for piece in pieces_of(root)]
    write_set(root, make_plan(tuple(key for key in KEYS if key != "d.jpg")))
    assert names_of(root) == ["0", "1", "4", "3"]
    write_set(root)
    assert names_of(root) == ["0", "1", "5", "3"]
    assert [piece.file for piece in pieces_of(root)] == before
    assert problems(root) == []


def test_an_index_of_one_file_falls_into_pieces_once_it_grows(whole: Path) -> None:
    write_set(whole)
    assert (whole / "index.jsonl").is_file()  # nothing is new, nothing is written
    write_set(whole, make_plan((*KEYS, "zz.png")))
    assert not (whole / "index.jsonl").exists()
    assert not (whole / "seen.jsonl").exists()
    assert [len(keys) for keys in keys_of(whole)] == [3, 3, 3, 3]
    assert problems(whole) == []
    assert sorted(path.name for path in whole.iterdir()) == [
        *("SHA256SUMS", "index", "items.table", "manifest.json", "seen", "shards")
    ]


def test_a_failure_that_is_tried_again_in_vain_leaves_the_set_as_it_is(root: Path) -> None:
    before = contents(root)
    write_set(root, replace(make_plan(), more_bytes={"b/bad.png": 1}))
    after = contents(root)
    times = {f"seen/{number:08d}.jsonl" for number in range(4)}
    assert {name for name in before | after if before.get(name) != after.get(name)} <= times


def test_a_disk_that_has_no_links_takes_copies(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linked = shutil.copytree(root, tmp_path / "linked")
    write_set(linked, make_plan((*KEYS, "c1.png")))
    monkeypatch.setattr(disk, "try_link", lambda *_: False)
    write_set(root, make_plan((*KEYS, "c1.png")))
    assert contents(root) == contents(linked)


def test_columns_change_the_pieces_that_have_them(root: Path) -> None:
    before = identities(root)
    attach(root, {"a.png": "a cat"})
    assert names_of(root) == ["4", "1", "2", "3"]
    assert [dict(piece.columns) for piece in pieces_of(root)] == [{"caption": 1}, {}, {}, {}]
    assert identities(root).items() >= {name: one for name, one in before.items() if "00000000" not in name}.items()
    assert problems(root) == []
    attach(root, {})
    assert [piece.file for piece in pieces_of(root)] == [piece.file for piece in pieces_of(root)]
    write_set(root, make_plan((*KEYS, "new.png")))
    assert problems(root) == []


# --- Killed ---------------------------------------------------------------------------------------------------------


class KilledError(BaseException):
    """The end of a run."""


@pytest.mark.parametrize("kind", ["set", "whole"])
@pytest.mark.parametrize("num_moved", range(13))
def test_a_set_that_is_stopped_while_its_lists_are_moved_serves_one_state_and_ends_with_the_same_bytes(
    tmp_path: Path, root: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, kind: str, num_moved: int
) -> None:
    start = {"set": root, "whole": whole}[kind]
    plan = make_plan((*KEYS[1:], "0.png", "c1.png", "zz.png"))
    expected = shutil.copytree(start, tmp_path / "expected")
    write_set(expected, plan)
    moved: list[str] = []
    move = atomic.move

    def move_some(path: Path, folder: Path) -> None:
        if len(moved) == num_moved:
            raise KilledError
        moved.append(path.name)
        move(path, folder)

    with monkeypatch.context() as patched:
        patched.setattr(state, "move", move_some)
        try:
            write_set(start, plan)
        except KilledError:
            assert len(moved) == num_moved
    if kind == "set":  # lists of both lie there, and the manifest says which of them count
        served = list(open_latents(start).keys)
        assert served in ([key for key in sorted(KEYS) if "bad" not in key], list(open_latents(expected).keys))
    write_set(start, plan)
    assert contents(start) == contents(expected)
    assert problems(start) == []


def test_another_plan_after_one_that_was_stopped_takes_up_its_shards(root: Path) -> None:
    for number in range(4):
        write_some(root, 1, make_plan((*KEYS, *(f"c{n}.png" for n in range(number + 1)))))
    keys = (*KEYS, *(f"c{number}.png" for number in range(4)))
    write_set(root, make_plan(keys))
    assert list(open_latents(root).keys) == sorted(key for key in keys if "bad" not in key)
    assert problems(root) == []
    assert sorted(path.name for path in (root / "index").iterdir()) == sorted(
        Path(piece.name).name for piece in pieces_of(root)
    )


# --- Damaged --------------------------------------------------------------------------------------------------------


def told(root: Path) -> list[tuple[str, str]]:
    return [(problem.file, problem.kind) for problem in problems(root)]


@pytest.mark.parametrize("number", range(4))
def test_a_piece_that_was_changed_or_is_gone_is_named(root: Path, number: int) -> None:
    path = root / piece_name(number)
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"status"', b'"status" ', 1))
    assert (piece_name(number), "index") in told(root)
    with pytest.raises(StoreError, match=rf"{number}\.jsonl: does not match the sha256 in the manifest"):
        open_latents(root)
    with pytest.raises(StoreError, match=rf"{number}\.jsonl: does not match the sha256 in the manifest; damaged"):
        write_set(root)
    path.unlink()
    assert (piece_name(number), "index") in told(root)
    with pytest.raises(StoreError, match=rf"{number}\.jsonl: cannot be read"):
        open_latents(root)


def test_a_piece_that_belongs_to_nothing_is_told_and_swept(root: Path) -> None:
    shutil.copy(root / piece_name(0), root / piece_name(7))
    shutil.copy(root / "seen/00000000.jsonl", root / "seen/00000007.jsonl")
    assert told(root) == [(piece_name(7), "surplus"), ("seen/00000007.jsonl", "surplus")]
    write_set(root)
    assert told(root) == []


@pytest.mark.parametrize("name", ["index/notes.txt", "seen/0.jsonl", "index/00000009.jsonl.bak"])
def test_a_file_of_somebody_else_is_not_swept(root: Path, name: str) -> None:
    (root / name).write_text("mine")
    assert (name, "surplus") in told(root)
    with pytest.raises(Exception, match=rf"holds other files \({Path(name).name}"):
        write_set(root)
    assert (root / name).read_text() == "mine"


def edit_pieces(root: Path, edit: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Edit what the manifest says of pieces, as one does who makes all of it agree."""

    def change(fields: dict[str, Any]) -> None:
        edit(fields["index"]["pieces"])
        digest = digest_pieces(map(IndexPiece.from_json, fields["index"]["pieces"]))
        fields["index"] |= digest.to_json()

    edit_manifest(root, change)


def move_a_row(pieces: list[dict[str, Any]]) -> None:
    pieces[1]["rows"]["ok"] -= 1
    pieces[2]["rows"]["ok"] += 1


def rename_a_key(pieces: list[dict[str, Any]]) -> None:
    pieces[2]["key"] += "a"


@pytest.mark.parametrize("edit", [move_a_row, rename_a_key])
def test_a_manifest_that_says_something_else_of_a_piece_is_found(
    root: Path, edit: Callable[[list[dict[str, Any]]], None]
) -> None:
    edit_pieces(root, edit)
    whats = [problem.what for problem in problems(root) if problem.kind == "manifest"]
    assert any("says other numbers of rows, or another first key" in what for what in whats)


def leave(root: Path, edit: Callable[[list[dict[str, Any]]], object]) -> None:
    edit_manifest(root, lambda fields: edit(fields["index"]["pieces"]))


@pytest.mark.parametrize(
    "edit",
    [
        lambda pieces: pieces.clear(),
        lambda pieces: pieces.pop(),
        lambda pieces: pieces.append(pieces[0]),
        lambda pieces: pieces.reverse(),
        lambda pieces: pieces[0].update(name="../index/00000000.jsonl"),
        lambda pieces: pieces[0].update(name="index.jsonl"),
        lambda pieces: pieces[0].update(key="a"),
        lambda pieces: pieces[1].pop("key"),
        lambda pieces: pieces[1].update(key=ROWS[9]),
        lambda pieces: pieces[1]["rows"].update(ok=-1),
        lambda pieces: pieces[1]["rows"].update(ok=7),
        lambda pieces: pieces[1]["rows"].update(lost=1),
        lambda pieces: pieces[1].update(rows=[]),
        lambda pieces: pieces[1].update(columns={"caption": 1}),
        lambda pieces: pieces[1].update(num_bytes=1),
    ],
)
def test_a_manifest_with_pieces_that_cannot_be_is_refused(
    root: Path, edit: Callable[[list[dict[str, Any]]], Any]
) -> None:
    whole = contents(root)["manifest.json"]
    for change in (leave, edit_pieces):
        (root / "manifest.json").write_bytes(whole or b"")
        try:
            change(root, edit)
        except (StoreError, ValueError, TypeError, LookupError):
            continue  # nobody can make it agree
        assert told(root) != []


def test_a_piece_that_is_missing_is_not_blamed_on_the_manifest(root: Path) -> None:
    (root / piece_name(0)).unlink()
    assert {kind for _, kind in told(root)} == {"index"}


def test_what_is_needed_of_the_disk_is_three_times_what_changes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(latent_set, "check_free_space", lambda _, needed: asked.append(needed))
    sizes = [piece.file.num_bytes for piece in pieces_of(root)]
    failed = 3 * (sizes[0] + sizes[3])  # in which there are inputs that failed
    for number, key in enumerate(("b/bb.png", "d.jpg2")):
        with replace(make_plan((*KEYS, key))).open(root) as writer:
            shards = sum(writer._remaining_bytes())
            writer.check_space()
        assert asked[-1] - shards == failed + 3 * sizes[number + 1]
        shutil.rmtree(root / "journal")
    monkeypatch.setattr(disk, "try_link", lambda *_: False)
    with make_plan((*KEYS, "b/bb.png")).open(root) as writer:
        writer.check_space()
        assert asked[-1] == 3 * sum(sizes) + sum(writer._remaining_bytes())


def wrong_key(pieces: list[dict[str, Any]], key: str) -> None:
    pieces[2]["key"] = key


@pytest.mark.parametrize("key", ["c.png", "d.jpg", "d.jpg0", "dz"])
@pytest.mark.parametrize("change", [write_set, attach])
def test_a_set_whose_manifest_says_another_first_key_of_a_piece_is_refused_before_it_is_changed(
    root: Path, key: str, change: Callable[..., Any]
) -> None:
    arguments = {write_set: (make_plan((*KEYS[1:], "d.jpg1")),), attach: ({"a.png": "a cat"},)}[change]
    if key == json.loads((root / "manifest.json").read_bytes())["index"]["pieces"][2]["key"]:
        change(root, *arguments)
        return
    edit_pieces(root, partial(wrong_key, key=key))
    before = contents(root)
    with pytest.raises(StoreError, match=r"has other rows than the manifest says; damaged or edited"):
        change(root, *arguments)
    assert contents(root) == before


def test_a_set_whose_manifest_counts_rows_wrongly_is_refused_before_it_is_changed(root: Path) -> None:
    edit_pieces(root, move_a_row)
    with pytest.raises(StoreError, match=r"has other rows than the manifest says; damaged or edited"):
        write_set(root, make_plan((*KEYS, "zz.png")))


def fail_another(fields: dict[str, Any]) -> None:
    """Say of two pieces that an image of one failed and a failure of the other is served."""
    first, second = fields["index"]["pieces"][:2]
    first["rows"] = {"ok": first["rows"]["ok"] + 1}
    second["rows"] = {"ok": second["rows"]["ok"] - 1, "failed": second["rows"].get("failed", 0) + 1}


@pytest.mark.parametrize("has_table", [True, False])
def test_a_manifest_that_takes_failures_for_images_ends_a_run_in_a_line(root: Path, has_table: bool) -> None:
    edit_manifest(root, fail_another)
    if not has_table:
        (root / "items.table").unlink()
    try:
        write_set(root, make_plan((*KEYS, "zz.png")))
    except StoreError as error:
        text = str(error)
        assert "damaged or edited" in text
    else:
        assert problems(root) == []


@pytest.mark.parametrize("failed", [0, 2, 3])
def test_no_row_is_lost_where_the_totals_of_a_set_are_wrong(whole: Path, failed: int) -> None:
    edit_manifest(whole, lambda fields: fields["totals"].update(failed=failed))
    rows = rows_of(whole)
    attach(whole, {"a.png": "a cat"})
    assert [row.key for row in rows_of(whole)] == [row.key for row in rows]


def test_pieces_of_the_last_number_are_followed_by_free_ones(root: Path) -> None:
    for folder in ("index", "seen"):
        (root / folder / "00000003.jsonl").rename(root / folder / "99999999.jsonl")
    edit_pieces(root, lambda pieces: pieces[3].update(name="index/99999999.jsonl"))
    write_set(root)  # the checksums
    write_set(root, make_plan((*KEYS, "b/bb.png")))
    names = [Path(piece.name).stem for piece in pieces_of(root)]
    assert names == ["00000000", "00000003", "00000004", "00000002", "99999999"]
    assert problems(root) == []


def test_a_manifest_beside_an_empty_folder_of_pieces_has_no_index(root: Path) -> None:
    (root / "manifest.json").unlink()
    shutil.rmtree(root / "index")
    (root / "index").mkdir()
    assert ("index.jsonl", "index") in told(root)


def test_bad_lines_are_told_as_they_come_and_not_kept(tmp_path: Path) -> None:
    write_set(tmp_path / "set", replace(make_plan(("a.png",)), failures=()))
    (tmp_path / "set" / "index.jsonl").write_bytes(b"\n" * 30_000)
    events = verify_latents(tmp_path / "set", VerifySettings(NO_DATA))
    assert peak_bytes(lambda: sum(isinstance(event, Problem) for event in events)) < 3 * 2**20


# --- Places ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(TEXTS, st.integers(1, 9)), min_size=1, max_size=6, unique_by=lambda one: one[0]), TEXTS)
def test_keys_and_bytes_are_found_in_their_piece(some: list[tuple[str, int]], key: str) -> None:
    some = sorted(some)
    index = SetIndex(
        [
            IndexPiece(piece_name(number), FileDigest(size, "0" * 64), RowCounts(1), {}, first if number else "")
            for number, (first, size) in enumerate(some)
        ]
    )
    number = index.number_of(key)
    first, end = index.range_of(number)
    assert first <= key
    assert end is None or key < end
    assert number in index.numbers_between(key, None)
    assert [index.number_at(offset) for offset in range(index.starts[-1])] == [
        number for number, (_, size) in enumerate(some) for _ in range(size)
    ]
    fields = json.loads(json.dumps([piece.to_json() for piece in index.pieces]))
    assert tuple(map(IndexPiece.from_json, fields)) == index.pieces


def test_a_set_that_is_read_while_it_grows_stays_what_it_was(root: Path) -> None:
    dataset = LatentDataset(root)
    before = [item.key for item in dataset]
    write_set(root, make_plan((*KEYS[2:], "0.png")))
    assert [item.key for item in dataset] == before
    assert LatentSet.read(root).manifest.num_ok == len(LatentDataset(root))
    assert os.path.lexists(root / "index")
