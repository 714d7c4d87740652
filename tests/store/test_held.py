"""The rows that a set has, finished or not, by which sources find their keys again."""

import os
from pathlib import Path

import pytest

from semdis_cli.files.json_text import to_line
from semdis_cli.files.set_names import INDEX_FILE, MANIFEST_FILE
from semdis_cli.records import FileDigest, HeldImage
from semdis_cli.store.writing.held_rows import HeldRows

KEYS = sorted(
    [f"{n:03d}/photo.png" for n in range(0, 200, 2)] + ["grüße.png", "\U0001f600.png", os.fsdecode(b"caf\xe9.png")]
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    facts = {"status": "ok", "sha256": "0" * 64, "shard": "00000000-1x1.safetensors"}
    lines = [to_line({**facts, "key": key, "num_bytes": n, "row": n}) for n, key in enumerate(KEYS)]
    lines[3] = to_line({"key": KEYS[3], "status": "failed", "error": "x" * 1000})
    (tmp_path / INDEX_FILE).write_bytes(b"".join(lines))
    (tmp_path / MANIFEST_FILE).write_bytes(b"{}")
    return tmp_path


def test_a_row_is_found_by_its_key_wherever_it_stands(root: Path) -> None:
    held = HeldRows(root)
    for number, key in enumerate(KEYS):
        expected = HeldImage(key, None if number == 3 else FileDigest(number, "0" * 64))
        assert held.find(key) == expected
    assert [held.find(key) for key in ("", "001/photo.png", "000", "zzz", "\U0010ffff")] == [None] * 5
    assert [row.key for row in held.images()] == KEYS


@pytest.mark.parametrize("data", [b"", b"no index", b"[]\n{}\n", b"\n\n", to_line({"key": 5})[:-3]])
def test_what_cannot_be_read_counts_as_not_there(root: Path, data: bytes) -> None:
    (root / INDEX_FILE).write_bytes(data)
    assert HeldRows(root).find("000/photo.png") is None
    assert list(HeldRows(root).images()) == []
    (root / "journal").mkdir()
    (root / "journal" / "0.jsonl").write_bytes(data)
    assert HeldRows(root).is_set
    assert list(HeldRows(root).images()) == []


def test_a_folder_without_a_set_is_none(tmp_path: Path) -> None:
    assert not HeldRows(tmp_path).is_set
    assert not HeldRows(tmp_path / "gone").is_set
