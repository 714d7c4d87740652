"""Exports read by the packages that they are for, as these are installed by whoever uses them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from semdis_cli.parts import LATENTS_FLIP, LOG_SNR, PARTS
from semdis_cli.pipeline.export import export
from semdis_cli.settings import ExportSettings
from semdis_cli.store.reader import open_latents
from semdis_cli.store.shards import STORE_DTYPES
from tests.environments import Environments, environments
from tests.extras import needs
from tests.pipeline.test_export import latents_in
from tests.pipeline.test_export_columns import COLUMNS, expected, write_columns
from tests.pipeline.test_row_exports import write_uncut
from tests.store import GOOD_KEYS

pytestmark = pytest.mark.slow
__all__ = ["environments"]  # the fixture

DATASETS = ("datasets==5.2.0", "numpy==2.4.6", "pyarrow==26.0.1", "ml_dtypes==0.6.0")
SIMPLE = {"caption", "label"}
CLASSES = ("cat", "dog", "bird")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of eight images of two sizes in four shards, with columns, classes and parts."""
    root = tmp_path_factory.mktemp("sets") / "latents"
    return write_columns(root, COLUMNS, classes=CLASSES, parts=sorted(PARTS))


def exported(root: Path, output: Path, form: Any, **changes: Any) -> str:
    """The folder of an export."""
    for _ in export(open_latents(root), ExportSettings(format=form, **changes), output):
        pass
    return str(output)


def described(tensor: Tensor, dtype: str) -> list[Any]:
    """Shape and sha256 of the bytes of a tensor in a dtype."""
    data = tensor.to(STORE_DTYPES[dtype]).contiguous().view(torch.uint8).numpy().tobytes()
    return [list(tensor.shape), hashlib.sha256(data).hexdigest()]


def latents_as(root: Path, dtype: str) -> dict[str, list[Any]]:
    """Shape and sha256 of the bytes of each image's latents."""
    return {key: described(shard.latents[0], dtype) for key, shard in latents_in(root).items()}


def parts_as(root: Path, dtype: str) -> dict[str, dict[str, list[Any]]]:
    """The same and the dtype of all that lies beside them, where twins are written in `dtype`."""
    dtypes = {name: dtype if name == LATENTS_FLIP else "float16" for name in PARTS}
    return {
        key: {name: [*described(shard.parts[name][0], each), each] for name, each in dtypes.items()}
        for key, shard in latents_in(root).items()
    }


PARQUET = """
import hashlib, json, sys
from datasets import ClassLabel, load_dataset
data = load_dataset("parquet", data_files=sys.argv[1] + "/*.parquet", split="train", cache_dir=sys.argv[2])
label = data.features["label"]
rows = {}
for row in data:
    latents = row.pop("latents")
    assert isinstance(latents, bytes), type(latents)
    row["latents"] = [row.pop("shape"), hashlib.sha256(latents).hexdigest()]
    facts = json.loads(row["record"])["parts"]
    parts = {name: (each, hashlib.sha256(row.pop(name)).hexdigest()) for name, each in facts.items()}
    row["parts"] = {name: [each["shape"], sha256, each["dtype"]] for name, (each, sha256) in parts.items()}
    rows[row.pop("key")] = row
names = label.names if isinstance(label, ClassLabel) else None
print(json.dumps({"rows": rows, "names": names}))
"""


def test_datasets_reads_parquet_with_the_names_of_classes(
    root: Path, tmp_path: Path, environments: Environments
) -> None:
    out = exported(root, tmp_path / "out", "parquet")
    found = environments.ask(PARQUET, *DATASETS, arguments=(out, str(tmp_path / "cache")))
    assert found["names"] == [*CLASSES]
    assert {key: row["latents"] for key, row in found["rows"].items()} == latents_as(root, "bfloat16")
    assert {key: row["parts"] for key, row in found["rows"].items()} == parts_as(root, "bfloat16")
    for key, row in found["rows"].items():
        assert (row["dtype"], json.loads(row["record"])["key"]) == ("bfloat16", key)
        tags = expected(key)["tags"]
        columns = expected(key) | {"tags": tags and json.dumps(tags)}
        assert {name: row[name] for name in columns} == columns


WEBDATASET = """
import json, sys
from datasets import load_dataset
data = load_dataset("webdataset", data_files=sys.argv[1] + "/*.tar", split="train", cache_dir=sys.argv[2])
rows = {row["json"]["key"]: [row["txt"], row["cls"], len(row["safetensors"])] for row in data}
print(json.dumps({"columns": sorted(data.column_names), "rows": rows}))
"""


def test_datasets_reads_captions_and_labels_of_a_webdataset(tmp_path: Path, environments: Environments) -> None:
    simple = {key: {name: columns[name] for name in SIMPLE & columns.keys()} for key, columns in COLUMNS.items()}
    out = exported(write_columns(tmp_path / "set", simple), tmp_path / "out", "webdataset")
    found = environments.ask(WEBDATASET, *DATASETS, arguments=(out, str(tmp_path / "cache")))
    assert {"txt", "cls", "json", "safetensors"} <= set(found["columns"])
    assert found["rows"].keys() == {*GOOD_KEYS}
    for key, (caption, label, _) in found["rows"].items():
        assert (caption, label) == (simple.get(key, {}).get("caption") or "", simple.get(key, {}).get("label", -1))


ARRAYS = """
import json, sys
from datasets import load_dataset
data = load_dataset("webdataset", data_files=sys.argv[1] + "/*.tar", split="train", cache_dir=sys.argv[2])
print(json.dumps({row["json"]["key"]: row["log_snr.npy"] for row in data}))
"""


def test_datasets_reads_the_arrays_of_parts_in_a_webdataset(tmp_path: Path, environments: Environments) -> None:
    root = write_columns(tmp_path / "set", {}, parts=sorted(PARTS))
    out = exported(root, tmp_path / "out", "webdataset", tar_member="npy")
    found = environments.ask(ARRAYS, *DATASETS, arguments=(out, str(tmp_path / "cache")))
    assert found == {key: shard.parts[LOG_SNR][0].float().tolist() for key, shard in latents_in(root).items()}


# Pictures are read by torchvision, which cannot be imported beside every torch: what needs none does without.
MDS = """
import hashlib, json, sys, types
import transformers.feature_extraction_utils
for name in ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["torchvision.datasets"].VisionDataset = object
sys.modules["torchvision.transforms.functional"].to_tensor = None
import numpy as np
from streaming import StreamingDataset
rows = {}
data = StreamingDataset(local=sys.argv[1], batch_size=1, shuffle=False)
def described(found):
    return [list(found.shape), hashlib.sha256(found.tobytes()).hexdigest(), found.dtype.name]
for row in data:
    found = row.pop(sys.argv[2])
    if isinstance(found, bytes):
        found = np.frombuffer(found, np.float16).reshape(-1, 32, 32)
    row["latents"] = described(found)
    row["parts"] = {name: described(row.pop(name)) for name in row["record"].get("parts", ())}
    rows[row.pop("key")] = row
print(json.dumps({"length": len(data), "rows": rows}))
"""
MOSAICML = (
    *("mosaicml-streaming==0.13.0", "numpy==2.1.3", "boto3", "botocore", "brotli", "catalogue", "cramjam", "jmespath"),
    *("python-dateutil", "python-snappy", "s3transfer", "six", "tqdm", "urllib3", "xxhash", "zstd"),
)


def check_rows(rows: dict[str, dict[str, Any]], root: Path, dtype: str) -> None:
    """Rows with the same fields each are those of the set."""
    stored, parts = latents_as(root, dtype), parts_as(root, dtype)
    assert rows.keys() == stored.keys()
    for key, row in rows.items():
        assert (row["latents"], row["parts"]) == ([*stored[key], dtype], parts[key])
        columns = COLUMNS.get(key, {})
        assert (row["caption"], row["label"]) == (columns.get("caption") or "", columns.get("label", -1))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_streaming_reads_mds(root: Path, tmp_path: Path, environments: Environments, dtype: str) -> None:
    needs("transformers")  # streaming imports it
    out = exported(root, tmp_path / "out", "mds", dtype=dtype)
    found = environments.ask(MDS, *MOSAICML, beside=True, arguments=(out, "latents"))
    assert found["length"] == len(GOOD_KEYS)
    check_rows(found["rows"], root, dtype)
    for key, row in found["rows"].items():
        assert row["record"]["key"] == key
        assert {name: row[name] for name in expected(key) if name not in SIMPLE} == {
            name: value for name, value in expected(key).items() if name not in SIMPLE
        }


def test_streaming_reads_what_micro_diffusion_takes(tmp_path: Path, environments: Environments) -> None:
    needs("transformers")
    write_uncut(tmp_path / "one", (512, 512))
    out = exported(tmp_path / "one", tmp_path / "out", "micro_diffusion")
    found = environments.ask(MDS, *MOSAICML, beside=True, arguments=(out, "latents_256"))
    stored = latents_as(tmp_path / "one", "float16")
    assert {key: row["latents"] for key, row in found["rows"].items()} == {
        key: [*facts, "float16"] for key, facts in stored.items()
    }


LITDATA = """
import hashlib, json, sys
from litdata import StreamingDataLoader, StreamingDataset
rows = {}
data = StreamingDataset(sys.argv[1])
for row in data:
    found = {name: row.pop(name).numpy() for name in ["latents", *json.loads(row["record"])["parts"]]}
    parts = {name: [list(a.shape), hashlib.sha256(a.tobytes()).hexdigest(), a.dtype.name] for name, a in found.items()}
    row |= {"latents": parts.pop("latents"), "parts": parts}
    rows[row.pop("key")] = row
loader = StreamingDataLoader(StreamingDataset(sys.argv[1]), batch_size=1)
labels = [int(label) for batch in loader for label in batch["label"]]
print(json.dumps({"length": len(data), "rows": rows, "labels": labels}))
"""
LIGHTNING = (
    *("litdata==0.2.76", "lightning-utilities", "boto3", "botocore", "jmespath", "obstore", "python-dateutil"),
    *("s3transfer", "six", "tifffile", "urllib3"),
)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_litdata_reads_its_chunks(root: Path, tmp_path: Path, environments: Environments, dtype: str) -> None:
    out = exported(root, tmp_path / "out", "litdata", dtype=dtype)
    found = environments.ask(LITDATA, *LIGHTNING, beside=True, arguments=(out,))
    assert found["length"] == len(GOOD_KEYS)
    check_rows(found["rows"], root, dtype)
    assert sorted(found["labels"]) == sorted(row["label"] for row in found["rows"].values())
    for key, row in found["rows"].items():
        assert json.loads(row["record"])["key"] == key
        assert {name: json.loads(row[name]) for name in expected(key) if name not in SIMPLE} == {
            name: value for name, value in expected(key).items() if name not in SIMPLE
        }
