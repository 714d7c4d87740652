"""Tables and chunks of many images: latents to the last bit, columns as they were, and whole after whatever happens."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from semdis_cli.errors import MissingExtraError, UsageError
from semdis_cli.events import ShardFailed
from semdis_cli.option import OptionError
from semdis_cli.parts import LATENTS_FLIP, LOG_SNR, PARTS
from semdis_cli.pipeline.export import export
from semdis_cli.records import FileDigest, Geometry
from semdis_cli.settings import ExportSettings
from semdis_cli.store.exchange.samples import find_samples
from semdis_cli.store.index import read_rows
from semdis_cli.store.reader import open_latents
from semdis_cli.store.shards import STORE_DTYPES, read_shard, write_shard
from tests.extras import needs
from tests.pipeline.test_export import failures_of, finished, latents_in, plan_of
from tests.pipeline.test_export_columns import COLUMNS, write_columns
from tests.store import GOOD_KEYS, lasting, make_shard, values_of, write_set

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


def numbers(data: bytes, start: int, count: int, dtype: str = "<u4") -> list[int]:
    """Numbers in a file, from byte `start` on."""
    return [int(number) for number in np.frombuffer(data, dtype, count, start)]


def samples_in(path: Path, skip: int = 0) -> Iterator[bytes]:
    """The samples of a file that begins with how many there are, and where they are; `skip` bytes come before them."""
    data = path.read_bytes()
    [count] = numbers(data, 0, 1)
    places = numbers(data, 4, count + 1)
    assert (places[0], places[-1]) == (4 * (count + 2) + skip, len(data))
    yield from (data[start:end] for start, end in pairwise(places))


def read_mds(out: Path) -> list[dict[str, Any]]:
    """All samples, as the layout says: sizes of what has no fixed one, then the values."""
    index = json.loads((out / "index.json").read_bytes())
    assert index["version"] == 2
    samples = []
    for shard in index["shards"]:
        config = {name: shard[name] for name in shard if name not in {"samples", "raw_data", "zip_data"}}
        path = out / shard["raw_data"]["basename"]
        assert shard["raw_data"]["bytes"] == path.stat().st_size
        found = [mds_sample(shard, data) for data in samples_in(path, len(json.dumps(config)))]
        assert len(found) == shard["samples"]
        samples += found
    return samples


def mds_sample(shard: dict[str, Any], data: bytes) -> dict[str, Any]:
    fixed = shard["column_sizes"]
    given = iter(numbers(data, 0, fixed.count(None)))
    start, sample = 4 * fixed.count(None), {}
    for name, encoding, size in zip(shard["column_names"], shard["column_encodings"], fixed, strict=True):
        length = size or next(given)
        sample[name] = mds_value(encoding, data[start : start + length])
        start += length
    assert start == len(data)
    return sample


def mds_value(encoding: str, data: bytes) -> Any:
    if encoding.startswith("ndarray:"):
        num_axes, width = data[0] >> 2, 1 << data[0] % 4
        shape = numbers(data, 1, num_axes, f"<u{width}")
        return tensor_of(data[1 + num_axes * width :], shape, encoding.removeprefix("ndarray:"))
    as_number = {"int": "<i8", "float64": "<f8"}
    if encoding in as_number:
        return np.frombuffer(data, as_number[encoding])[0].item()
    decoders: dict[str, Callable[[bytes], Any]] = {"str": bytes.decode, "json": json.loads, "bytes": bytes}
    return decoders[encoding](data)


def read_litdata(out: Path) -> list[dict[str, Any]]:
    """All items, as the layout says: the sizes of the values, then these."""
    index = json.loads((out / "index.json").read_bytes())
    formats, [_, spec] = index["config"]["data_format"], json.loads(index["config"]["data_spec"])
    names, items = json.loads(spec["context"]), []
    for chunk in index["chunks"]:
        path = out / chunk["filename"]
        assert chunk["chunk_bytes"] == path.stat().st_size
        found = [*samples_in(path)]
        assert len(found) == chunk["chunk_size"]
        for data in found:
            places = [*accumulate(numbers(data, 0, len(names)), initial=4 * len(names))]
            assert places[-1] == len(data)
            values = [litdata_value(form, data[a:b]) for form, (a, b) in zip(formats, pairwise(places), strict=True)]
            items.append(dict(zip(names, values, strict=True)))
    for item in items:
        item["record"] = json.loads(item["record"])
    return items


def litdata_value(form: str, data: bytes) -> Any:
    if form == "tensor":
        number, num_axes = numbers(data, 0, 2, ">u4")
        shape = numbers(data, 8, num_axes, ">u4")
        return tensor_of(data[8 + 4 * num_axes :], shape, {1: "float32", 9: "float16"}[number])
    as_number = {"int": "<i8", "float": "<f8", "bool": "?"}
    return np.frombuffer(data, as_number[form])[0].item() if form in as_number else data.decode()


READERS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    "parquet": read_parquet,
    "mds": read_mds,
    "litdata": read_litdata,
}
# What is written as it is stored; all else becomes float32.
EXACT = {"parquet": DTYPES, "mds": ("float16", "float32"), "litdata": ("float16", "float32")}
each_chunked = pytest.mark.parametrize("form", [form for form in READERS if form != "parquet"])
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
@pytest.mark.parametrize("dtype", list(STORE_DTYPES))
def test_latents_come_back_to_the_last_bit(tmp_path: Path, form: str, dtype: str) -> None:
    write_set(tmp_path / "set", plan_of(dtype=dtype))
    assert finished(export_to(tmp_path / "out", tmp_path / "set", form)).report["lossless"] is True
    rows, latents = rows_in(tmp_path / "out", form), latents_in(tmp_path / "set")
    assert rows.keys() == latents.keys()
    for key, shard in latents.items():
        found = rows[key]["latents"]
        assert found.dtype == STORE_DTYPES[dtype if dtype in EXACT[form] else "float32"]
        assert torch.equal(found, values_of(shard, 0).to(found.dtype)), "widening loses nothing"
        record = rows[key]["record"]
        assert (record["key"], record["exact"], record["whitened"]) == (key, True, True)
        assert record["geometry"] == shard.records[0].geometry.to_json()
        assert record["file"] == FileDigest.of(found.view(torch.uint8).numpy().tobytes()).to_json()


@each_format
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("asked", [None, "float16"])
def test_parts_come_back_beside_the_latents(tmp_path: Path, form: str, dtype: str, asked: str | None) -> None:
    shard = make_shard(dtype=dtype, parts=PARTS)
    write_shard(tmp_path / "one", shard)
    report = finished(export_to(tmp_path / "out", tmp_path / "one", form, dtype=asked)).report
    assert report["lossless"] is (asked in {None, dtype})
    assert "parts_left_out" not in report
    rows = rows_in(tmp_path / "out", form)
    for number, key in enumerate(shard.keys):
        for name, stored in shard.parts.items():
            found, facts = rows[key][name], rows[key]["record"]["parts"][name]
            if isinstance(found, bytes):  # of a table, beside which the record says what they are
                found = tensor_of(found, facts["shape"], facts["dtype"])
            wanted = rows[key]["latents"].dtype if name == LATENTS_FLIP else stored.dtype
            assert found.dtype == wanted
            assert torch.equal(found, stored[number].to(wanted))
            digest = FileDigest.of(found.view(torch.uint8).numpy().tobytes()).to_json()
            assert facts == {**digest, "shape": [*found.shape], "dtype": str(wanted).removeprefix("torch.")}


@each_format
def test_a_column_that_is_called_like_a_part_gets_another_name(tmp_path: Path, form: str) -> None:
    root = write_columns(tmp_path / "set", {"a.png": {"mask": "mine"}}, parts=["mask"])
    export_to(tmp_path / "out", root, form)
    row = rows_in(tmp_path / "out", form)["a.png"]
    assert (row["mask_"].strip('"'), isinstance(row["mask"], bytes | Tensor)) == ("mine", True)


@each_format
@pytest.mark.parametrize("asked", [None, "float16"])
def test_parts_count_for_the_size_of_files(tmp_path: Path, form: str, asked: str | None) -> None:
    keys = tuple(f"{number}.png" for number in range(900))
    root = write_columns(tmp_path / "set", {}, keys, (), 100, dtype="float32", parts=PARTS)
    export_to(tmp_path / "out", root, form, tar_mib=1, dtype=asked)
    files = data_files(tmp_path / "out")
    assert len(files) > 1
    assert all(len(data) <= 2**20 for data in files.values())


def test_what_micro_diffusion_does_not_read_is_said_and_on_record(tmp_path: Path) -> None:
    write_uncut(tmp_path / "one", (512, 512), dtype="float16", parts=[LATENTS_FLIP, LOG_SNR])
    events = export_to(tmp_path / "out", tmp_path / "one", "micro_diffusion")
    report = finished(events).report
    assert events[0].note == "micro_diffusion has no place for latents_flip, log_snr: left out"
    assert (report["lossless"], report["parts_left_out"]) == (False, [LATENTS_FLIP, LOG_SNR])
    assert [*read_mds(tmp_path / "out")[0]] == ["key", "latents_256", "record"]


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
    assert [str(row[name]).strip('"') for name in ("key_", "key__", "latents_")] == ["mine", "too", "1"]


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


@each_chunked
def test_fields_are_the_same_for_all_samples(root: Path, tmp_path: Path, form: str) -> None:
    export_to(tmp_path / "out", root, form)
    rows = rows_in(tmp_path / "out", form)
    assert len({tuple(row) for row in rows.values()}) == 1
    for key, row in rows.items():
        columns = COLUMNS.get(key, {})
        assert (row["caption"], row["label"]) == (columns.get("caption") or "", columns.get("label", -1))
        for name in ("score", "flag", "tags", "url"):
            assert as_json(row[name]) == columns.get(name)


def as_json(value: Any) -> Any:
    """A value of a field that some images lack: JSON, or its text."""
    return json.loads(value) if isinstance(value, str) and value[:1] in set('"[{n') | set("0123456789tf") else value


@each_chunked
def test_columns_that_all_images_have_keep_their_type(tmp_path: Path, form: str) -> None:
    columns: dict[str, dict[str, Any]] = {key: {"n": 2**40, "x": 1.5, "s": "é", "b": True} for key in GOOD_KEYS}
    columns["a.png"] = {"n": -1, "x": 2, "s": "", "b": False}
    export_to(tmp_path / "out", write_columns(tmp_path / "set", columns), form)
    rows = rows_in(tmp_path / "out", form)
    found = {key: {name: row[name] for name in ("n", "x", "s", "b")} for key, row in rows.items()}
    assert found == columns
    assert {tuple(map(type, values.values())) for values in found.values()} == {(int, float, str, bool)}


@each_chunked
def test_of_several_captions_the_first_is_the_text_beside_all(tmp_path: Path, form: str) -> None:
    columns: dict[str, dict[str, Any]] = {"a.png": {"caption": ["one", "two"]}, "c.png": {"caption": "three"}}
    export_to(tmp_path / "out", write_columns(tmp_path / "set", columns), form)
    rows = rows_in(tmp_path / "out", form)
    found = {key: (row["caption"], as_json(row["captions"])) for key, row in rows.items() if row["caption"]}
    assert found == {"a.png": ("one", ["one", "two"]), "c.png": ("three", ["three"])}


@each_chunked
def test_there_is_no_index_while_a_file_is_left(many: Path, tmp_path: Path, form: Any) -> None:
    export_to(tmp_path / "out", many, form, tar_mib=1)
    min(path for path in (tmp_path / "out").iterdir() if path.suffix in {".mds", ".bin"}).unlink()
    events = export(open_latents(many), ExportSettings(format=form, tar_mib=1), tmp_path / "out")
    next(events)
    assert not (tmp_path / "out" / "index.json").exists()
    for _ in events:
        pass
    assert len(rows_in(tmp_path / "out", form)) == 900


@each_chunked
def test_files_whose_places_would_not_fit_are_refused(form: Any) -> None:
    with pytest.raises(OptionError, match="--tar-size"):
        ExportSettings(format=form, tar_mib=4096)


@pytest.mark.parametrize(("side", "name"), [(512, "latents_256"), (1024, "latents_512")])
def test_micro_diffusion_gets_the_column_that_it_takes_for_the_grid(tmp_path: Path, side: int, name: str) -> None:
    write_uncut(tmp_path / "one", (side, side))
    export_to(tmp_path / "out", tmp_path / "one", "micro_diffusion")
    for sample in read_mds(tmp_path / "out"):
        grid = side // 16
        found = torch.frombuffer(bytearray(sample[name]), dtype=torch.float16).reshape(-1, grid, grid)
        assert torch.equal(found, latents_in_shard(tmp_path / "one")[sample["key"]].half())


def write_uncut(path: Path, size: tuple[int, int], **settings: Any) -> None:
    """A shard of images of one size, nothing cut off."""
    shard = make_shard(bucket=size, **settings)
    geometry = Geometry(source=size, resized=size, crop=(0, 0), image=size, bucket=size)
    write_shard(path, replace(shard, records=tuple(replace(record, geometry=geometry) for record in shard.records)))


def latents_in_shard(path: Path) -> dict[str, Tensor]:
    shard = read_shard(path)
    return dict(zip(shard.keys, shard.latents, strict=True))


@pytest.mark.parametrize("bucket", [(256, 256), (512, 1024)])
def test_a_grid_that_micro_diffusion_would_scramble_is_refused(tmp_path: Path, bucket: tuple[int, int]) -> None:
    write_uncut(tmp_path / "one", bucket)
    with pytest.raises(
        UsageError, match=r"micro_diffusion reads 32x32 or 64x64, and others wrongly; .*--size 512 or 1024"
    ):
        export_to(tmp_path / "out", tmp_path / "one", "micro_diffusion")
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
def test_rows_are_not_imported_and_say_so(root: Path, tmp_path: Path, form: str) -> None:
    export_to(tmp_path / "out", root, form)
    with pytest.raises(UsageError, match=f"an export as {form}, which cannot be imported; export the set as webdata"):
        find_samples(tmp_path / "out")


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
