"""All JSON that the command writes is strict, whatever bytes names are made of, and leads back to these names."""

import importlib.util
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semdis_cli.files.json_text import unescape_name
from tests.cli.conftest import Outcome, Run

# Undecodable bytes, names that look like their escapes, and names that must stay as they are.
NAMES = [
    b"caf\xe9.png",
    "caf\ue0e9.png".encode(),
    "ü \U0001f600.png".encode(),
    b"a\\udce9.png",
    b"b%E9.png",
    b"\xff\x80/x.png",
]
LONE_SURROGATE = re.compile(
    rb"(?<!\\)(?:\\\\)*(?:\\ud[89ab][0-9a-f]{2}(?!\\ud[c-f])|(?<!\\ud[89ab][0-9a-f]{2})\\ud[c-f][0-9a-f]{2})"
)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / os.fsdecode(b"ph\xf6tos")
    for number, name in enumerate(NAMES):
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), number * 20, np.uint8)).save(path)
    (root / os.fsdecode(b"bad\xe9.png")).write_bytes(b"no image")
    return root


def documents(path: Path) -> Iterator[bytes]:
    """The JSON in a file: each line, the whole, or the header of a shard and the record in that."""
    data = path.read_bytes()
    if path.suffix == ".jsonl":
        yield from data.splitlines()
    elif path.suffix == ".json":
        yield data
    elif path.suffix == ".safetensors":
        header = data[8 : 8 + int.from_bytes(data[:8], "little")]
        yield from (header, json.loads(header)["__metadata__"]["semdis"].encode())


def check(data: bytes) -> None:
    """Fail unless a strict parser reads `data`."""
    assert not LONE_SURROGATE.search(data), data

    def refuse(name: str) -> None:
        raise AssertionError(name)

    json.dumps(json.loads(data, parse_constant=refuse), ensure_ascii=False).encode()
    if importlib.util.find_spec("orjson") is not None:
        importlib.import_module("orjson").loads(data)


def check_all(root: Path) -> None:
    files = [path for path in root.rglob("*") if path.suffix in {".json", ".jsonl", ".safetensors"}]
    assert files
    for document in (document for path in files for document in documents(path)):
        check(document)


def ok(outcome: Outcome, code: int = 0) -> Outcome:
    assert outcome.code == code, outcome.stderr
    return outcome


def test_a_lone_surrogate_is_seen_by_the_check_itself() -> None:
    for text in ('"caf\udce9"', '"\ud83d"', '"\\\\\udc80"'):
        with pytest.raises(AssertionError):
            check(json.dumps(json.loads(json.dumps(text)))[3:-3].join(['"', '"']).encode())
    check(json.dumps("ü \U0001f600 \\udce9 \ue0e9").encode())


def test_whatever_is_written_is_strict_and_names_come_back(
    run_bytes: Run, tmp_path: Path, tiny: Path, photos: Path
) -> None:
    run = run_bytes
    how = ["--model", tiny, "--threads", "1"]
    for index in range(2):  # a second run that grows the set
        check(ok(run("encode", photos, "-o", "latents", *how, "--json"), 3).stdout.encode())
        if index == 0:
            Image.new("RGB", (16, 16), "red").save(photos / os.fsdecode(b"new\x80.png"))
    expected = sorted([*map(os.fsdecode, NAMES), os.fsdecode(b"new\x80.png")])
    rows = [json.loads(line) for line in (tmp_path / "latents" / "index.jsonl").read_bytes().splitlines()]
    texts = [row["key"] for row in rows]
    assert texts == sorted(set(texts)), "unique, and in the order of the texts too"
    keys = [unescape_name(row["key"]) if row.get("escaped") else row["key"] for row in rows]
    assert sorted(key for key, row in zip(keys, rows, strict=True) if row["status"] == "ok") == expected
    for line in ok(run("verify", "latents", "--data", "--against", photos, "--json")).stdout.splitlines():
        check(line.encode())
    for path in photos.rglob("*.png"):  # problems, on stdout
        path.write_bytes(b"longer than it was" * 100)
    for line in ok(run("verify", "latents", "--against", photos, "--json"), 4).stdout.splitlines():
        check(line.encode())
    check(ok(run("inspect", "latents", "--json")).stdout.encode())
    ok(run("decode", "latents", "-o", "decoded", "--model", tiny, "--threads", "1"))
    assert sorted(p.relative_to("decoded").as_posix() for p in Path("decoded").rglob("*.png")) == expected
    ok(run("export", "latents", "-o", "arrays", "--format", "npy"))
    for number, options in enumerate((["--format", "webdataset"], ["--format", "safetensors"])):
        ok(run("export", "latents", "-o", f"export-{number}", *options))
        ok(run("import", f"export-{number}", "-o", f"imported-{number}"))
        imported = (tmp_path / f"imported-{number}" / "index.jsonl").read_bytes().splitlines()
        assert [json.loads(line)["key"] for line in imported] == [row["key"] for row in rows if row["status"] == "ok"]
    check_all(tmp_path)


def test_a_run_that_was_stopped_leaves_strict_json_too(
    run_bytes: Run, tmp_path: Path, tiny: Path, photos: Path
) -> None:
    run = run_bytes
    stopped = run(
        "encode", photos, "-o", "latents", "--model", tiny, "--shard-images", "1", "--max-errors", "0", "--size", "16"
    )
    assert stopped.code == 3
    check_all(tmp_path / "latents" / "journal")
    ok(run("roundtrip", photos, "-o", "roundtrip", "--model", tiny), 3)
    check_all(tmp_path)
    ok(run("encode", photos, "-o", "latents", "--model", tiny, "--shard-images", "1", "--size", "16"), 3)
    ok(run("decode", "latents", "-o", "decoded", "--model", tiny))
    check_all(tmp_path)
