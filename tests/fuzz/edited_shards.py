"""Shards that somebody edited: with whole hashes where the edit is of somebody who knows the format."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

from semdis_cli.store.shard_header import canonical_json
from tests.store import PROVENANCE, geometry_of

Json = dict[str, Any]


def payload_start(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def header_of(data: bytes) -> Json:
    header = json.loads(data[8 : payload_start(data)])
    assert isinstance(header, dict)
    return header


def metadata_text(data: bytes) -> bytes:
    return bytes(header_of(data)["__metadata__"]["semdis"].encode())


def metadata_of(data: bytes) -> Json:
    metadata = json.loads(metadata_text(data))
    assert isinstance(metadata, dict)
    return metadata


def signed(record: Json) -> Json:
    """The record with the hash of all the rest of it."""
    rest = {name: value for name, value in record.items() if name != "record_sha256"}
    return {**rest, "record_sha256": hashlib.sha256(canonical_json(rest).encode()).hexdigest()}


def assemble(header: bytes | Json, payload: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + payload


def unaligned(data: bytes, num_spaces: int) -> bytes:
    """The shard with so many spaces more behind its header."""
    start = payload_start(data)
    return (start - 8 + num_spaces).to_bytes(8, "little") + data[8:start] + b" " * num_spaces + data[start:]


def edited_header(data: bytes, **changes: Any) -> bytes:
    return assemble({**header_of(data), **changes}, data[payload_start(data) :])


def edited_tensor(data: bytes, **changes: Any) -> bytes:
    return edited_header(data, latents={**header_of(data)["latents"], **changes})


def edited_metadata(data: bytes, **changes: Any) -> bytes:
    """The shard with another record, and the hash of that record: the edit of somebody who knows the format."""
    record = signed({**metadata_of(data), **changes})
    return edited_header(data, __metadata__={"semdis": canonical_json({**record, **changes})})


def without_settings(data: bytes) -> bytes:
    """The shard with a record in which `provenance` is not there at all, and that is hashed so."""
    record = {name: value for name, value in metadata_of(data).items() if name != "provenance"}
    return edited_header(data, __metadata__={"semdis": canonical_json(signed(record))})


NO_GEOMETRY: list[Any] = [
    None,
    [],
    {},
    {**geometry_of((32, 32)).to_json(), "more": [1, 1]},
    {**geometry_of((32, 32)).to_json(), "source": [0, 5]},
    {**geometry_of((32, 32)).to_json(), "source": [1.0, 5]},
    {**geometry_of((32, 32)).to_json(), "source": [True, 5]},
    {**geometry_of((32, 32)).to_json(), "source": [2**31, 5]},
    {**geometry_of((32, 32)).to_json(), "crop": [-1, 0]},
    {**geometry_of((32, 32)).to_json(), "crop": [0, 40]},
    {**geometry_of((32, 32)).to_json(), "image": [33, 31]},
    {**geometry_of((32, 32)).to_json(), "bucket": [32]},
    {**geometry_of((32, 32)).to_json(), "bucket": [32, 48]},
    {**geometry_of((32, 32)).to_json(), "source": [1, 2, 3]},
    {**geometry_of((32, 32)).to_json(), "source": [1, 2**64]},
    {**geometry_of((32, 32)).to_json(), "source": [1, 1.5]},
    {**geometry_of((32, 32)).to_json(), "image": [0, 3]},
    {"source": [1, 1]},
    [1, 2],
    "x" * 48,
]
THREE_ROWS: Json = {"keys": ["a", "b", "c"], "geometry": [geometry_of((32, 32)).to_json()] * 3}

EDITS: dict[str, Callable[[bytes], bytes]] = {
    "dtype of equal width": lambda data: edited_tensor(data, dtype="F16"),
    "dtype of integers": lambda data: edited_tensor(data, dtype="I16"),
    "dtype of another width": lambda data: edited_tensor(data, dtype="F32"),
    "dtype unknown": lambda data: edited_tensor(data, dtype="BF17"),
    "dtype in the metadata": lambda data: edited_metadata(data, dtype="float16"),
    "dtype unknown in the metadata": lambda data: edited_metadata(data, dtype="float64"),
    "dtype in the metadata no name": lambda data: edited_metadata(data, dtype=["bfloat16"]),
    "shape of equal size": lambda data: edited_tensor(data, shape=[3, 2, 2, 2]),
    "shape of another size": lambda data: edited_tensor(data, shape=[2, 3, 2, 3]),
    "shape of fewer axes": lambda data: edited_tensor(data, shape=[24]),
    "shape in the metadata": lambda data: edited_metadata(data, shape=[3, 2, 2, 2]),
    "shape in both": lambda data: edited_tensor(edited_metadata(data, shape=[3, 2, 2, 2]), shape=[3, 2, 2, 2]),
    "shape of five axes in both": lambda data: edited_tensor(
        edited_metadata(data, shape=[2, 3, 2, 2, 1]), shape=[2, 3, 2, 2, 1]
    ),
    "shape without axes in both": lambda data: assemble(
        {
            "latents": {"dtype": "BF16", "shape": [], "data_offsets": [0, 2]},
            "__metadata__": {"semdis": json.dumps({**metadata_of(data), "shape": []})},
        },
        b"\0\0",
    ),
    "shape of nothing beyond all bounds": lambda data: assemble(
        {**header_of(data), "latents": {"dtype": "BF16", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}}, b""
    ),
    "shape beyond 64 bits": lambda data: edited_tensor(data, shape=[2**64, 3, 2, 2]),
    "offsets that leave a gap": lambda data: assemble(
        {**header_of(data), "latents": {**header_of(data)["latents"], "data_offsets": [2, 50]}},
        b"\0\0" + data[payload_start(data) :],
    ),
    "offsets beyond the end": lambda data: edited_tensor(data, data_offsets=[0, 2**40]),
    "offsets reversed": lambda data: edited_tensor(data, data_offsets=[48, 0]),
    "offsets too short": lambda data: edited_tensor(data, data_offsets=[0, 46]),
    "bytes after the latents": lambda data: data + b"\0\0",
    "one more tensor": lambda data: assemble(
        {**header_of(data), "more": {"dtype": "BF16", "shape": [1], "data_offsets": [48, 50]}},
        data[payload_start(data) :] + b"\0\0",
    ),
    "one more tensor, empty": lambda data: edited_header(
        data, more={"dtype": "BF16", "shape": [0], "data_offsets": [48, 48]}
    ),
    "tensor of another name": lambda data: assemble(
        {"latent": header_of(data)["latents"], "__metadata__": header_of(data)["__metadata__"]},
        data[payload_start(data) :],
    ),
    "shape of fractions": lambda data: edited_tensor(data, shape=[2.0, 3, 2, 2]),
    "one more key beside the record": lambda data: edited_header(
        data, __metadata__={**header_of(data)["__metadata__"], "format": "pt"}
    ),
    "one more field in the tensor": lambda data: edited_tensor(data, more=1),
    "one more field in the record": lambda data: edited_metadata(data, more=1),
    "one field of the record less": without_settings,
    "header formatted anew": lambda data: assemble(
        json.dumps(header_of(data), indent=1).encode(), data[payload_start(data) :]
    ),
    "header without padding to eight bytes": lambda data: unaligned(data, 1),
    "header with more padding than to eight bytes": lambda data: unaligned(data, 8),
    "header in another order": lambda data: assemble(
        dict(reversed(header_of(data).items())), data[payload_start(data) :]
    ),
    "a key twice": lambda data: assemble(
        data[8 : payload_start(data)].replace(b'{"__metadata__"', b'{"__metadata__":{},"__metadata__"', 1),
        data[payload_start(data) :],
    ),
    "no tensor": lambda data: assemble({"__metadata__": header_of(data)["__metadata__"]}, b""),
    "no metadata": lambda data: assemble({"latents": header_of(data)["latents"]}, data[payload_start(data) :]),
    "empty metadata": lambda data: edited_header(data, __metadata__={}),
    "metadata of others": lambda data: edited_header(data, __metadata__={"format": "pt"}),
    "metadata not JSON": lambda data: edited_header(data, __metadata__={"semdis": "{"}),
    "metadata empty text": lambda data: edited_header(data, __metadata__={"semdis": ""}),
    "metadata a list": lambda data: edited_header(data, __metadata__={"semdis": "[]"}),
    "metadata null": lambda data: edited_header(data, __metadata__={"semdis": "null"}),
    "metadata without end": lambda data: edited_header(data, __metadata__={"semdis": "[" * 100_000}),
    "metadata of a later format": lambda data: edited_metadata(data, format=2),
    "metadata of no format": lambda data: edited_metadata(data, format=None),
    "sha256 of other latents": lambda data: edited_metadata(data, latents_sha256="0" * 64),
    "sha256 missing": lambda data: edited_metadata(data, latents_sha256=None),
    "fewer keys": lambda data: edited_metadata(data, keys=["a"]),
    "more keys": lambda data: edited_metadata(data, keys=["a", "b", "c"]),
    "more keys and geometries": lambda data: edited_metadata(data, **THREE_ROWS),
    "fewer geometries": lambda data: edited_metadata(data, geometry=[geometry_of((32, 32)).to_json()]),
    "keys a number": lambda data: edited_metadata(data, keys=2),
    "keys no texts": lambda data: edited_metadata(data, keys=["a", 2]),
    "keys one text": lambda data: edited_metadata(data, keys="ab"),
    "keys an object": lambda data: edited_metadata(data, keys={"a": 1, "b": 2}),
    "one key twice": lambda data: edited_metadata(data, keys=["a", "a"]),
    "provenance no object": lambda data: edited_metadata(data, provenance=[]),
    "shape in the record alone": lambda data: edited_metadata(data, shape=[2, 3, 4, 1]),
    "sources too few": lambda data: edited_metadata(data, sources=[{"num_bytes": 1, "sha256": "0" * 64, "notes": []}]),
    "another patch": lambda data: edited_metadata(data, provenance={**PROVENANCE, "patch_size": 32}),
    "other channels": lambda data: edited_metadata(data, provenance={**PROVENANCE, "channels": 4}),
    "another dtype in the settings": lambda data: edited_metadata(data, provenance={**PROVENANCE, "dtype": "float16"}),
    "settings that are null": lambda data: edited_metadata(data, provenance=None),
    "header not JSON": lambda data: assemble(b"latents!", data[payload_start(data) :]),
    "header a list": lambda _: assemble(b"[]", b""),
    "header without end": lambda _: assemble(b"[" * 1_000_000, b""),
    "text": lambda _: b"This is not a shard, but a letter about one.\n" * 20,
} | {
    f"geometry {number}": lambda data, bad=value: edited_metadata(data, geometry=[geometry_of((32, 32)).to_json(), bad])
    for number, value in enumerate(NO_GEOMETRY)
}
