"""What untrusted bytes are put to: each reader of the store, on a file that holds them.

A target takes bytes and an empty folder, and must do nothing but return or raise a `SemdisError`. Those called
`vouched_*` sign what they are given, as somebody would who knows the format: so that hashes do not keep the rest of a
reader from being reached.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from semdis_cli.columns.settings import AttachSettings
from semdis_cli.errors import StoreError
from semdis_cli.files.json_text import to_line
from semdis_cli.pipeline.attach import attach
from semdis_cli.sources.named import NamedSources
from semdis_cli.sources.recorded import RecordedImages
from semdis_cli.store.index import read_rows
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.reader import open_latents
from semdis_cli.store.shard_header import canonical_json, read_shard_header
from semdis_cli.store.shards import read_shard, write_shard
from semdis_cli.store.tensors.reader import TensorReader
from semdis_cli.store.verifying.index_table import read_index
from semdis_cli.store.verifying.payload import read_payload
from semdis_cli.store.verifying.summary import summarise
from semdis_cli.store.verifying.unfinished import read_journals
from semdis_cli.store.writing.filed_plan import plan_of
from semdis_cli.store.writing.finished import Base
from semdis_cli.store.writing.journal import Journal
from semdis_cli.store.writing.plan_file import PlanFile, write_plan
from tests.fuzz.edited_shards import assemble, metadata_text, signed
from tests.store import GOOD_KEYS, contents, make_plan, make_shard, problems, write_set, write_some

Target = Callable[[bytes, Path], None]

_FORM = RecordedImages(NamedSources((Path("images"),)), has_beside=True)
_TENSORS = "columns/00000000-t5.safetensors"
_DTYPES = {
    "bfloat16": ("BF16", 2),
    "float16": ("F16", 2),
    "float32": ("F32", 4),
    "float8_e4m3": ("F8_E4M3", 1),
    "int8": ("I8", 1),
}


def shard(data: bytes, folder: Path) -> None:
    """The file of a shard. What is taken for whole is whole for every reader."""
    path = folder / "shard.safetensors"
    path.write_bytes(data)
    if not problems(path):
        assert len(read_shard(path).keys) == len(open_latents(path).keys)
        header = read_shard_header(path)
        assert read_payload(path, header).latents_sha256 == header.latents_sha256
        summarise(path)
    read_shard(path)


def vouched_shard(data: bytes, folder: Path) -> None:
    """The record of a shard: header and hashes are made to fit it, as far as it has a shape."""
    try:
        record = dict(json.loads(data))
        name, size = _DTYPES.get(str(record.get("dtype")), ("BF16", 2))
        shape = record.get("shape")
        num_values = _product(shape)
    except (RecursionError, TypeError, ValueError):
        return
    tensors: dict[str, Any] = {}
    start = 0
    if size == 1 and isinstance(shape, list):
        start = 4 * _product(shape[:2])
        tensors["scale"] = {"dtype": "F32", "shape": [*shape[:2], 1, 1], "data_offsets": [0, start]}
    payload = bytes(start + num_values * size)
    tensors["latents"] = {"dtype": name, "shape": shape, "data_offsets": [start, len(payload)]}
    record["latents_sha256"] = hashlib.sha256(payload).hexdigest()
    header = {"__metadata__": {"semdis": canonical_json(signed(record))}, **tensors}
    shard(assemble(header, payload), folder)


def manifest(data: bytes, folder: Path) -> None:
    """The manifest of a set that has nothing else."""
    (folder / "manifest.json").write_bytes(data)
    problems(folder)
    Manifest.read(folder)
    summarise(folder)


def vouched_index(data: bytes, folder: Path) -> None:
    """The index of a whole set, for which the manifest vouches."""
    fields = _write(_whole_set(), folder)
    (folder / "index.jsonl").write_bytes(data)
    fields["index"] = {"num_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(fields, sort_keys=True, indent=1) + "\n")
    problems(folder)
    summarise(folder)
    open_latents(folder)


def index(data: bytes, folder: Path) -> None:
    """The lines of an index."""
    path = folder / "index.jsonl"
    path.write_bytes(data)
    found = list(read_index(folder, None))
    try:
        rows = list(read_rows(path))
    except StoreError:
        assert found
        raise
    keys = [row.key for row in rows]
    assert found or keys == sorted(set(keys))


def journal(data: bytes, folder: Path) -> None:
    """The journal of an unfinished set."""
    path = folder / "journal" / "0.jsonl"
    path.parent.mkdir()
    path.write_bytes(data)
    list(read_journals(folder))
    problems(folder)
    Journal(folder).read()


def vouched_journal(data: bytes, folder: Path) -> None:
    """The contents of the lines of a journal, each of which is signed."""
    lines = []
    for line in data.split(b"\n"):
        try:
            fields = json.loads(line)
            lines.append(to_line({"content": fields, "sha256": hashlib.sha256(to_line(fields)).hexdigest()}))
        except (RecursionError, ValueError):
            lines.append(line + b"\n")
    journal(b"".join(lines), folder)


def plan(data: bytes, folder: Path) -> None:
    """A plan in a file. No image that it names lies beside the sources."""
    path = folder / "plan"
    path.write_bytes(data)
    file = PlanFile.read(path)
    found = plan_of(file, _FORM) if file is not None else None
    if found is not None:
        images = [image.source for shard in found.shards for image in shard.images]
        for image in (*images, *found.changes.kept):
            assert f"/{image.reader.locate(image)[0]}/".startswith("/images/")
        list(found.failures)
        list(found.left_out)


def vouched_plan(data: bytes, folder: Path) -> None:
    """The lines of a plan and its head, in which places and hashes are made to fit them, as far as it has a shape."""
    *lines, head = data.split(b"\n")
    try:
        fields = json.loads(head)
        rows, start = [*fields["shards"], *chain.from_iterable(fields["lists"].values())], 0
        rows.sort(key=lambda row: row[-3])
        for row, line in zip(rows, lines, strict=False):
            row[-3:] = [start, len(line) + 1, hashlib.sha256(line + b"\n").hexdigest()]
            start += len(line) + 1
        head = json.dumps(fields).encode()
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
        pass
    written = b"".join(line + b"\n" for line in lines)
    tail = to_line({"head": len(written), "sha256": hashlib.sha256(head + b"\n").hexdigest()})
    plan(written + head + b"\n" + tail, folder)


def vouched_tensors(data: bytes, folder: Path) -> None:
    """A file of tensors in a whole set, for whose size and sha256 the manifest vouches."""
    fields = _write(_set_with_tensors(), folder)
    (folder / _TENSORS).write_bytes(data)
    fields["tensors"]["t5"]["files"][0] |= {"num_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    _read_tensors(fields, folder)


def listed_tensors(data: bytes, folder: Path) -> None:
    """The list of tensors in the manifest of a whole set."""
    fields = _write(_set_with_tensors(), folder)
    try:
        fields["tensors"] = json.loads(data)
    except (RecursionError, ValueError):
        return
    _read_tensors(fields, folder)


def _read_tensors(fields: dict[str, Any], folder: Path) -> None:
    """Read all tensors; what `verify` takes for whole can be read."""
    (folder / "manifest.json").write_text(json.dumps(fields, sort_keys=True, indent=1) + "\n")
    found = [problem for problem in problems(folder) if problem.kind != "checksums"]
    latents = Manifest.read(folder)
    summarise(folder)
    try:
        for column in latents.tensors.values():
            reader = TensorReader(folder, column, verify=True)
            num_found = sum(reader.find(entry.name, row) is not None for entry in latents.shards for row in range(3))
            assert found or num_found == sum(file.num_images for file in column.files)
    except StoreError:
        assert found
        raise


TARGETS: tuple[Target, ...] = (
    *(shard, vouched_shard, manifest, index, vouched_index, journal, vouched_journal),
    *(vouched_tensors, listed_tensors, plan, vouched_plan),
)


def seeds(folder: Path) -> dict[Target, list[bytes]]:
    """Good input for each target, made in the empty `folder`."""
    root, begun = folder / "set", folder / "begun"
    write_set(root)
    write_some(begun)
    write_shard(folder / "shard", make_shard(dtype="float16"))
    write_shard(folder / "quantised", make_shard(dtype="float8_e4m3"))
    paths = folder / "shard", folder / "quantised", *sorted((root / "shards").iterdir())
    shards = [path.read_bytes() for path in paths]
    rows = (root / "index.jsonl").read_bytes()
    lines = (begun / "journal" / "0.jsonl").read_bytes()
    planned = make_plan(("a.png", "new.png", "x/b.png")).on(Base.read(root, root))
    write_plan(folder / "plan", planned, None, {}, _FORM)
    plan_lines = (folder / "plan").read_bytes().splitlines(keepends=True)
    return {
        shard: shards,
        vouched_shard: [metadata_text(data) for data in shards],
        manifest: [(root / "manifest.json").read_bytes(), _set_with_tensors()["manifest.json"]],
        vouched_tensors: [_set_with_tensors()[_TENSORS]],
        listed_tensors: [json.dumps(json.loads(_set_with_tensors()["manifest.json"])["tensors"]).encode()],
        index: [rows],
        vouched_index: [rows],
        plan: [b"".join(plan_lines)],
        vouched_plan: [b"".join(plan_lines[:-1]).removesuffix(b"\n")],
        journal: [lines],
        vouched_journal: [b"\n".join(json.dumps(json.loads(line)["content"]).encode() for line in lines.splitlines())],
    }


@cache
def _whole_set() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        write_set(Path(folder))
        return {name: data for name, data in contents(Path(folder)).items() if data is not None}


@cache
def _set_with_tensors() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_set(folder / "set")
        arrays: dict[str, Any] = {key: np.full((1 + len(key) % 3, 2), 7, "<f2") for key in GOOD_KEYS}
        np.savez(folder / "t5.npz", **arrays)
        list(attach(folder / "set", (), AttachSettings(tensors=(folder / "t5.npz",), tensor_name="t5")))
        return {name: data for name, data in contents(folder / "set").items() if data is not None}


def _write(files: Mapping[str, bytes], folder: Path) -> dict[str, Any]:
    """Write a set, and return what its manifest says."""
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    fields: dict[str, Any] = json.loads(files["manifest.json"])
    return fields


def _product(shape: Any) -> int:
    """Values in a tensor of `shape`; 1 where it is none, or a large one."""
    product = 1
    for side in shape if isinstance(shape, list) else []:
        product *= side if isinstance(side, int) and 0 <= side <= 1000 else 1
    return product if product <= 1_000_000 else 1
