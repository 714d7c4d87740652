"""Reading latents: keys that stay in their folder, and sets and shards that are refused once they were touched."""

import hashlib
import os
import shutil
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semdis_cli.errors import StoreError
from semdis_cli.files.atomic import digest_file
from semdis_cli.files.spelling import check_key
from semdis_cli.store.index import read_rows
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.reader import open_latents, served_rows
from semdis_cli.store.shards import read_shard, write_shard
from tests.store import GOOD_KEYS, PROVENANCE, are_equal, edit_manifest, flip_last_bit, make_plan, make_shard, write_set

FIRST, SECOND, THIRD = "00000000-1x2.safetensors", "00000001-1x2.safetensors", "00000002-2x2.safetensors"


@pytest.fixture
def root(tmp_path: Path, finished_set: Path) -> Path:
    """A finished set: three images of which one failed, one image, three images, two images."""
    return Path(shutil.copytree(finished_set, tmp_path / "latents"))


# --- keys -----------------------------------------------------------------------------------------------------------

HOSTILE_KEYS = [
    "",
    "/",
    "/etc/passwd",
    "//server/share",
    ".",
    "..",
    "../a.png",
    "a/../../b.png",
    "a/..",
    "a/./b.png",
    "./a.png",
    "a//b.png",
    "a/",
    "a.png\0.txt",
    "\0",
    "no bytes stand for this: \ud800.png",
]

ORDINARY_KEYS = [
    "a.png",
    "a/b/c.png",
    "no suffix",
    ".hidden.png",
    "...",
    "..a.png",
    "a..",
    "-rf",
    "~",
    "~root/a.png",
    "$HOME.png",
    "ü/日本.png",
    "\U0001f600.png",
    os.fsdecode(b"latin-\xe9.png"),
    "2024-01-01 12:30:00.png",
    "C:/a.png",
    "..\\a.png",
    "two\nlines.png",
    "a\x1b[2J.png",
    "x" * 250 + ".png",
]


@pytest.mark.parametrize("key", HOSTILE_KEYS, ids=repr)
def test_a_key_that_leads_elsewhere_or_names_no_file_is_refused(key: str) -> None:
    with pytest.raises(StoreError, match="would leave the output folder, or is no file name"):
        check_key(key)


@pytest.mark.parametrize("key", ORDINARY_KEYS, ids=repr)
def test_an_ordinary_key_is_its_path(key: str) -> None:
    assert check_key(key) == PurePosixPath(key)


keys = st.one_of(
    st.text(max_size=20),
    st.text(st.sampled_from("a./\\:C~\n\0"), max_size=12),
    st.binary(max_size=12).map(os.fsdecode),
    st.lists(st.sampled_from(["..", ".", "", "a", "C:", "a.png"]), max_size=6).map("/".join),
)


@settings(max_examples=500, deadline=None)
@given(key=keys)
def test_a_key_stays_inside_the_folder_and_names_a_file_there_or_is_refused(key: str) -> None:
    try:
        path = check_key(key)
    except StoreError:
        return
    assert str(path) == key
    assert os.path.normpath(f"/etc/{path}") == f"/etc/{key}"
    assert os.fsdecode(os.fsencode(path)) == key


@given(parts=st.lists(st.binary(min_size=1, max_size=9).filter(lambda name: not {*name} & {*b"\0/"}), min_size=1))
@settings(deadline=None)
def test_the_name_of_any_file_is_a_key(parts: list[bytes]) -> None:
    names = [os.fsdecode(part) for part in parts if part not in {b".", b".."}]
    assert check_key("/".join(["a", *names])) == PurePosixPath("a", *names)


def test_a_long_key_is_not_shown_in_full() -> None:
    with pytest.raises(StoreError) as refused:
        check_key("../" + "x" * 10_000)
    assert len(str(refused.value)) < 200


# --- a set ----------------------------------------------------------------------------------------------------------


def test_a_finished_set_has_its_shards_its_keys_and_its_settings(root: Path) -> None:
    source = open_latents(root)
    assert source.keys == GOOD_KEYS
    assert source.provenance.to_json() == PROVENANCE
    assert source.sha256 == hashlib.sha256((root / "manifest.json").read_bytes()).hexdigest()
    assert [stored.path.name for stored in source.shards[:3]] == [FIRST, SECOND, THIRD]
    assert sorted(key for stored in source.shards for key in source.read(stored).keys) == sorted(GOOD_KEYS)


def test_the_latents_of_a_set_are_those_that_were_written(root: Path) -> None:
    source = open_latents(root)
    assert are_equal(source.read(source.shards[2]), make_shard(("c.png", "d.jpg", "d.png")))


@pytest.mark.parametrize("path", ["missing", "file"])
def test_what_is_neither_a_set_nor_a_shard_is_named(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("a letter")
    with pytest.raises(StoreError, match=f"^{tmp_path / path}: "):
        open_latents(tmp_path / path)


def test_a_folder_with_a_journal_and_no_manifest_is_an_unfinished_set(root: Path) -> None:
    (root / "manifest.json").unlink()
    with pytest.raises(StoreError, match="not a set of latents"):
        open_latents(root)
    (root / "journal").mkdir()
    with pytest.raises(StoreError, match="not a finished set"):
        open_latents(root)


def assert_only_refused(root: Path, name: str, reason: str) -> None:
    """Shard `name` is refused by its path, and every other one is read."""
    source = open_latents(root)
    for stored in source.shards:
        if stored.path.name == name:
            with pytest.raises(StoreError, match=rf"^{root / 'shards' / name}: {reason}"):
                source.read(stored)
        else:
            assert source.read(stored).keys


def test_a_missing_shard_is_named_and_the_others_are_read(root: Path) -> None:
    (root / "shards" / SECOND).unlink()
    assert_only_refused(root, SECOND, r"cannot be read \(No such file or directory\)")


def test_a_shard_of_another_size_is_named_and_the_others_are_read(root: Path) -> None:
    path = root / "shards" / SECOND
    path.write_bytes(path.read_bytes() + b"\0")
    assert_only_refused(root, SECOND, r"\d+ bytes, but the manifest says \d+; damaged")


def test_a_flipped_bit_is_found_and_the_others_are_read(root: Path) -> None:
    flip_last_bit(root / "shards" / SECOND)
    assert_only_refused(root, SECOND, "its bytes do not match the sha256 in the manifest")


def test_a_shard_of_another_set_with_the_same_keys_and_size_is_refused(root: Path, tmp_path: Path) -> None:
    write_set(tmp_path / "other", make_plan(whitened=False, posterior={"kind": "mod"}))  # of the same length
    other = tmp_path / "other" / "shards" / THIRD
    assert other.stat().st_size == (root / "shards" / THIRD).stat().st_size
    (root / "shards" / THIRD).write_bytes(other.read_bytes())
    assert_only_refused(root, THIRD, "its bytes do not match the sha256 in the manifest")


def test_two_shards_of_one_size_that_changed_places_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "latents"
    write_set(root, make_plan(("a.png", "b.png", "d.png", "e.png"), shard_images=1))
    one, other = (root / "shards" / f"0000000{number}-1x2.safetensors" for number in (0, 1))
    assert one.stat().st_size == other.stat().st_size
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)
    source = open_latents(root)
    for stored in source.shards[:2]:
        with pytest.raises(StoreError, match="do not match the sha256 in the manifest"):
            source.read(stored)
    assert [source.read(stored).keys for stored in source.shards[2:]] == [("d.png",), ("e.png",)]


def test_a_shard_that_the_manifest_does_not_know_is_not_read(root: Path) -> None:
    write_shard(root / "shards" / "00000099-2x2.safetensors", make_shard())
    source = open_latents(root)
    assert source.keys == GOOD_KEYS
    assert "00000099-2x2.safetensors" not in {stored.path.name for stored in source.shards}


def test_a_number_of_images_that_the_shard_does_not_have_is_refused(root: Path) -> None:
    edit_manifest(root, lambda fields: fields["shards"][1].update(num_images=2))
    edit_manifest(root, lambda fields: fields["shards"][0].update(num_images=1))
    source = open_latents(root)
    with pytest.raises(StoreError, match="holds 1 latents, but the manifest says 2"):
        source.read(source.shards[1])


def test_a_manifest_that_leaves_a_shard_out_is_refused(root: Path) -> None:
    edit_manifest(root, lambda fields: fields["shards"].pop())
    with pytest.raises(StoreError, match="do not add up"):
        open_latents(root)
    edit_manifest(root, lambda fields: fields["totals"].update(ok=fields["totals"]["ok"] - 2))
    with pytest.raises(StoreError, match="which is not in the manifest"):
        open_latents(root)


def test_other_settings_in_the_manifest_than_in_the_shards_are_refused(root: Path) -> None:
    edit_manifest(root, lambda fields: fields["provenance"].update(whitened=False))
    source = open_latents(root)
    with pytest.raises(StoreError, match="made with other settings than the set it lies in"):
        source.read(source.shards[0])


def test_every_row_of_the_index_finds_its_latents(root: Path) -> None:
    source = open_latents(root)
    shards = {stored.path.name: source.read(stored) for stored in source.shards}
    for row in read_rows(root / "index.jsonl"):
        if row.is_ok:
            assert row.shard is not None
            assert row.row is not None
            assert shards[row.shard].records[row.row] == row.record
    assert sum(len(shard.keys) for shard in shards.values()) == Manifest.read(root).num_ok


# --- a shard that came alone ----------------------------------------------------------------------------------------


def test_a_shard_alone_is_a_set_of_its_own(root: Path, tmp_path: Path) -> None:
    alone = tmp_path / "mailed"
    alone.write_bytes((root / "shards" / THIRD).read_bytes())
    source = open_latents(alone)
    assert source.keys == ("c.png", "d.jpg", "d.png")
    assert source.provenance.to_json() == PROVENANCE
    assert source.sha256 == digest_file(alone).sha256
    assert are_equal(source.read(*source.shards), make_shard(source.keys))


def test_a_damaged_shard_alone_is_refused_by_name(root: Path, tmp_path: Path) -> None:
    (tmp_path / "mailed").write_bytes((root / "shards" / THIRD).read_bytes())
    flip_last_bit(tmp_path / "mailed")
    with pytest.raises(StoreError, match=rf"^{tmp_path / 'mailed'}: .*do not match their sha256"):
        open_latents(tmp_path / "mailed")


def test_a_shard_alone_is_what_it_was_when_it_was_opened(root: Path) -> None:
    path = root / "shards" / THIRD
    before = read_shard(path)
    source = open_latents(path)
    path.write_bytes((root / "shards" / SECOND).read_bytes())
    assert are_equal(source.read(source.shards[0]), before)


def test_a_shard_in_the_topmost_folder_lies_in_no_set() -> None:
    assert served_rows(Path(Path.cwd().anchor, "00000000-2x2.safetensors")) is None
