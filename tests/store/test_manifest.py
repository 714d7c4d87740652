"""The manifest: read as it was written, and missed by name. What else may be in its place: tests/fuzz."""

import json
from pathlib import Path
from typing import Any

import pytest

from semdis_cli.errors import StoreError
from semdis_cli.files.atomic import publish
from semdis_cli.files.set_names import MANIFEST_FILE
from semdis_cli.provenance import Provenance
from semdis_cli.records import FileDigest
from semdis_cli.store.manifest import Manifest, ShardEntry
from semdis_cli.store.statistics import ChannelSums

Json = dict[str, Any]

MANIFEST = Manifest(
    provenance=Provenance.from_json(
        {"dtype": "bfloat16", "model": {"name": "ü \udcff", "revision": None}, "whitened": True}
    ),
    plan_sha256="ab" * 32,
    num_ok=5,
    num_failed=1,
    num_removed=0,
    num_superseded=0,
    shards=(
        ShardEntry("00000000-1x2.safetensors", 3, FileDigest(700, "01" * 32)),
        ShardEntry("00000001-2x2.safetensors", 2, FileDigest(600, "23" * 32)),
    ),
    index=FileDigest(400, "45" * 32),
    sums=ChannelSums(8, (1.0, -4.0), (8.125, 10.0)),
)


def fields() -> Json:
    parsed = json.loads(MANIFEST.to_bytes())
    assert isinstance(parsed, dict)
    return parsed


# --- as written -----------------------------------------------------------------------------------------------------


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    publish(tmp_path / MANIFEST_FILE, [MANIFEST.to_bytes()])
    assert Manifest.read(tmp_path) == MANIFEST


def test_a_manifest_is_sorted_json_that_people_can_read() -> None:
    text = MANIFEST.to_bytes().decode("ascii")
    assert text == json.dumps(json.loads(text), sort_keys=True, indent=1) + "\n"


def test_every_sha256_stands_beside_its_file_and_its_size() -> None:
    assert fields()["shards"][0] == {
        "name": "00000000-1x2.safetensors",
        "num_images": 3,
        "num_bytes": 700,
        "sha256": "01" * 32,
    }
    assert fields()["index"] == {"num_bytes": 400, "sha256": "45" * 32}
    assert fields()["totals"] == {"ok": 5, "failed": 1, "removed": 0, "superseded": 0}


# --- anything else --------------------------------------------------------------------------------------------------


def test_without_a_manifest_the_set_is_unfinished_and_the_error_says_how_to_finish_it(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    with pytest.raises(StoreError, match=rf"^{tmp_path}: no manifest\.json.*run the same semdis encode again"):
        Manifest.read(tmp_path)


def test_a_folder_in_the_place_of_the_manifest_is_named(tmp_path: Path) -> None:
    (tmp_path / MANIFEST_FILE).mkdir()
    with pytest.raises(StoreError, match=r"manifest\.json: cannot be read \(Is a directory\)"):
        Manifest.read(tmp_path)
