"""Tables and chunks of many images: latents to the last bit, columns as they were, and whole after whatever happens."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from semdis_cli.errors import MissingExtraError
from semdis_cli.events import ShardFailed
from semdis_cli.pipeline.export import export
from semdis_cli.records import FileDigest
from semdis_cli.settings import ExportSettings
from semdis_cli.store.index import read_rows
from semdis_cli.store.reader import open_latents
from semdis_cli.store.shards import STORE_DTYPES, write_shard
from tests.extras import needs
from tests.pipeline.test_export import failures_of, finished, latents_in, plan_of
from tests.pipeline.test_export_columns import COLUMNS, write_columns
from tests.store import GOOD_KEYS, lasting, make_shard, write_set

DTYPES = ("bfloat16", "float16", "float32")


def tensor_of(data: bytes, shape: list[int], dtype: str) -> Tensor:
    """The lines that the docs show."""
    return torch.frombuffer(bytearray(data), dtype=getattr(torch, dtype)).view(shape)


def read_parquet(out: Path) -> list[dict[str, Any]]:
    """All rows of all tables, as pyarrow reads them."""
    import pyarrow.parquet as pq

    rows = [row for path in sorted(out.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    for row in rows:
        row["latents"] = tensor_of(row["latents"], row.pop("shape"), row.pop("dtype"))
        row["record"] = json.loads(row["record"])
    return rows


READERS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {"parquet": read_parquet}
EXACT = {"parquet": DTYPES}  # what is written as it is stored; all else becomes float32
each_format = pytest.mark.parametrize("form", READERS)


@pytest.fixture(autouse=True)
def _installed() -> None:
    needs("pyarrow")


def export_to(output: Path, root: Path, form: Any, **changes: Any) -> list[Any]:
    return [*export(open_latents(root), ExportSettings(format=form, **changes), output)]


def rows_in(out: Path, form: str) -> dict[str, dict[str, Any]]:
    """The rows of an export by key, none twice."""
    rows = READERS[form](out)
    by_key = {row["key"]: row for row in rows}
    assert len(by_key) == len(rows)
    return by_key


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of eight images of two sizes in four shards, with columns; not to be touched."""
    return write_columns(tmp_path_factory.mktemp("sets") / "latents", COLUMNS)


# --- what is in it --------------------------------------------------------------------------------------------------


@each_format
@pytest.mark.parametrize("dtype", DTYPES)
def test_latents_come_back_to_the_last_bit(tmp_path: Path, form: str, dtype: str) -> None:
    write_set(tmp_path / "set", plan_of(dtype=dtype))
    assert finished(export_to(tmp_path / "out", tmp_path / "set", form)).report["lossless"] is True
    rows, latents = rows_in(tmp_path / "out", form), latents_in(tmp_path / "set")
    assert rows.keys() == latents.keys()
    for key, shard in latents.items():
        found = rows[key]["latents"]
        assert found.dtype == STORE_DTYPES[dtype if dtype in EXACT[form] else "float32"]
        assert torch.equal(found, shard.latents[0].to(found.dtype)), "widening loses nothing"
        record = rows[key]["record"]
        assert (record["key"], record["exact"], record["whitened"]) == (key, True, True)
        assert record["geometry"] == shard.records[0].geometry.to_json()
        assert record["file"] == FileDigest.of(found.view(torch.uint8).numpy().tobytes()).to_json()


@each_format
def test_half_precision_is_what_is_asked_for(root: Path, tmp_path: Path, form: str) -> None:
    done = finished(export_to(tmp_path / "out", root, form, dtype="float16"))
    assert done.report["lossless"] is False
    rows = rows_in(tmp_path / "out", form)
    for key, shard in latents_in(root).items():
        assert rows[key]["latents"].dtype == torch.float16
        assert torch.equal(rows[key]["latents"], shard.latents[0].half())


@each_format
def test_values_too_large_for_half_precision_cost_their_own_image(tmp_path: Path, form: str) -> None:
    shard = make_shard()
    shard.latents[0, 0, 0, 0] = 1e5
    write_shard(tmp_path / "one", shard)
    events = export_to(tmp_path / "out", tmp_path / "one", form, dtype="float16")
    assert failures_of(events) == {"a.png": "its latents are too large for float16"}
    assert rows_in(tmp_path / "out", form).keys() == {"b/c.png"}


@each_format
def test_a_set_without_columns_has_none(tmp_path: Path, form: str) -> None:
    write_set(tmp_path / "set", plan_of())
    export_to(tmp_path / "out", tmp_path / "set", form)
    assert {frozenset(row) for row in rows_in(tmp_path / "out", form).values()} == {
        frozenset({"key", "latents", "record"})
    }


@each_format
def test_columns_that_are_called_like_ours_get_another_name(tmp_path: Path, form: str) -> None:
    columns = {"a.png": {"key": "mine", "key_": "too", "latents": 1}}
    export_to(tmp_path / "out", write_columns(tmp_path / "set", columns), form)
    row = rows_in(tmp_path / "out", form)["a.png"]
    assert (row["key_"], row["key__"]) == ("mine", "too")
    assert row["latents_"] in {1, "1"}


def test_a_table_has_columns_and_the_names_of_classes(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    export_to(tmp_path / "out", write_columns(tmp_path / "set", COLUMNS, classes=("cat", "dog", "bird")), "parquet")
    rows = rows_in(tmp_path / "out", "parquet")
    for key, row in rows.items():
        columns = COLUMNS.get(key, {})
        for name in ("caption", "label", "score", "flag", "url"):
            assert row[name] == columns.get(name)
        assert row["tags"] == ('["one", {"two": null}]' if "tags" in columns else None)
    schema = pq.read_schema(tmp_path / "out" / "000000.parquet")
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert [*features] == schema.names
    assert features["label"] == {"names": ["cat", "dog", "bird"], "_type": "ClassLabel"}
    assert json.loads(schema.metadata[b"semdis"])["whitened"] is True


def test_several_captions_make_lists_of_all(tmp_path: Path) -> None:
    columns: dict[str, dict[str, Any]] = {"a.png": {"caption": ["one", "two"]}, "c.png": {"caption": "three"}}
    export_to(tmp_path / "out", write_columns(tmp_path / "set", columns), "parquet")
    captions = {key: row["caption"] for key, row in rows_in(tmp_path / "out", "parquet").items() if row["caption"]}
    assert captions == {"a.png": ["one", "two"], "c.png": ["three"]}


def test_a_table_has_groups_of_rows_that_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    monkeypatch.setattr("semdis_cli.store.exchange.parquet_writer._GROUP_BYTES", 2000)
    keys = tuple(f"{number}.png" for number in range(30))
    write_set(tmp_path / "set", plan_of(keys))
    export_to(tmp_path / "out", tmp_path / "set", "parquet")
    assert pq.ParquetFile(tmp_path / "out" / "000000.parquet").num_row_groups > 5
    assert len(rows_in(tmp_path / "out", "parquet")) == 30


def test_without_pyarrow_nothing_is_begun(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'semdis\[parquet\]'"):
        export_to(tmp_path / "out", root, "parquet")
    assert not (tmp_path / "out").exists()


# --- again, and after damage ----------------------------------------------------------------------------------------


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A set of images that take several files of a mebibyte."""
    keys = tuple(f"{number:03d}.png" for number in range(900))
    return write_columns(tmp_path / "many", {key: {"caption": f"image {key}"} for key in keys}, keys, (), 100)


def data_files(out: Path) -> dict[str, bytes]:
    """The files of rows."""
    return {path.name: path.read_bytes() for path in out.iterdir() if path.suffix in {".parquet", ".mds", ".bin"}}


@each_format
def test_files_are_about_as_large_as_asked_for_and_what_is_missing_is_made_again(
    many: Path, tmp_path: Path, form: str
) -> None:
    export_to(tmp_path / "out", many, form, tar_mib=1)
    whole, files = lasting(tmp_path / "out"), data_files(tmp_path / "out")
    assert 1 < len(files) < 5
    assert all(len(data) <= 2**20 for data in files.values())
    assert {row["key"]: row["caption"] for row in rows_in(tmp_path / "out", form).values()} == {
        row.key: f"image {row.key}" for row in read_rows(many / "index.jsonl")
    }
    for damage in (
        Path.unlink,
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
    ):
        path = tmp_path / "out" / min(files)
        damage(path)
        export_to(tmp_path / "out", many, form, tar_mib=1)
        assert lasting(tmp_path / "out") == whole


@each_format
def test_a_second_run_touches_nothing(root: Path, tmp_path: Path, form: str) -> None:
    export_to(tmp_path / "out", root, form)
    before = {path: path.stat().st_mtime_ns for path in files_of(tmp_path / "out")}
    second = export_to(tmp_path / "out", root, form)
    assert second[0].num_done == len(GOOD_KEYS)
    assert {path: path.stat().st_mtime_ns for path in files_of(tmp_path / "out")} == before


def files_of(out: Path) -> Iterator[Path]:
    return (path for path in out.iterdir() if path.name != "report.json")


@each_format
def test_a_damaged_shard_costs_its_own_images_until_it_is_mended(root: Path, tmp_path: Path, form: str) -> None:
    whole = tmp_path / "whole"
    export_to(whole, root, form)
    latents = shutil.copytree(root, tmp_path / "latents")
    damaged = min((latents / "shards").iterdir())
    good = damaged.read_bytes()
    damaged.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    events = export_to(tmp_path / "out", latents, form)
    [failed] = [event for event in events if isinstance(event, ShardFailed)]
    assert (failed.name, finished(events).num_failed) == (damaged.name, 3)
    assert len(rows_in(tmp_path / "out", form)) == len(GOOD_KEYS) - 3
    damaged.write_bytes(good)
    assert finished(export_to(tmp_path / "out", latents, form)).num_failed == 0
    assert lasting(tmp_path / "out") == lasting(whole)
